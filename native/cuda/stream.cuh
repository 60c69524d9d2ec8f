// Streams of random words, the same as the processor's (../cpu/stream.h): element i is word i % 4 of the Philox block
// with counter (i / 4, stream, step low, step high).
#pragma once
#include "unit.cuh"

namespace auxgrad {
namespace {

struct Stream {
  const int32_t* key;  // i32[4], in the device's memory
  int64_t key_step;
  uint32_t number;

  Stream() = default;
  Stream(const View& v, double stream)
      : key(v.i32()), key_step(v.stride[0]), number(static_cast<uint32_t>(static_cast<int64_t>(stream))) {}

  // The words of elements 4 block, ... 4 block + 3.
  __device__ void words(int64_t block, uint32_t (&out)[4]) const {
    uint32_t c0 = static_cast<uint32_t>(block), c1 = number, c2 = static_cast<uint32_t>(key[2 * key_step]),
             c3 = static_cast<uint32_t>(key[3 * key_step]);
    uint32_t k0 = static_cast<uint32_t>(key[0]), k1 = static_cast<uint32_t>(key[key_step]);
#pragma unroll
    for (int round = 0; round < 10; round++) {
      const uint32_t high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
      const uint32_t high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
      c0 = high1 ^ c1 ^ k0;
      c1 = low1;
      c2 = high0 ^ c3 ^ k1;
      c3 = low0;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
  }
};

__device__ inline float uniform_from_bits(uint32_t bits) {
  return static_cast<float>(bits >> 8) * (1.0f / 16777216.0f);
}

}  // namespace
}  // namespace auxgrad
