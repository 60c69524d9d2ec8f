// Philox4x32 (Salmon et al. 2011): a number is a pure function of key and counter, so the same seed gives the same
// numbers on any device, for any thread count, and again in recomputation.
#pragma once
#include "arithmetic.h"

namespace auxgrad {
namespace {

constexpr int kPhiloxRounds = 10;  // of numbers that are the result: the authors' margin
constexpr int kNoiseRounds = 7;    // of what is dropped, and of rounding: from here on all of BigCrush is passed
constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u, kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxKeyStep0 = 0x9E3779B9u, kPhiloxKeyStep1 = 0xBB67AE85u;  // from round to round

// The upper half of a b.
AUXGRAD_HOST_DEVICE inline uint32_t upper_product(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
  return __umulhi(a, b);
#else
  return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32);
#endif
}

struct Philox {
  uint32_t key[2];
  int rounds = kPhiloxRounds;

  // Four random words for one counter value.
  AUXGRAD_HOST_DEVICE void operator()(const uint32_t (&counter)[4], uint32_t (&out)[4]) const {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    AUXGRAD_UNROLL
    for (int round = 0; round < rounds; round++) {
      const uint32_t high0 = upper_product(kPhiloxMultiplier0, c0), low0 = kPhiloxMultiplier0 * c0;
      const uint32_t high1 = upper_product(kPhiloxMultiplier1, c2), low1 = kPhiloxMultiplier1 * c2;
      c0 = high1 ^ c1 ^ k0;
      c1 = low1;
      c2 = high0 ^ c3 ^ k1;
      c3 = low0;
      k0 += kPhiloxKeyStep0;
      k1 += kPhiloxKeyStep1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
  }
};

// Uniform in [0, 1) with 24 bits.
AUXGRAD_HOST_DEVICE inline float uniform_from_bits(uint32_t bits) {
  return static_cast<float>(bits >> 8) * (1.0f / 16777216.0f);
}

}  // namespace
}  // namespace auxgrad
