// Streams of random words. A word is f(key, stream, element): key i32[4] (seed low, seed high, step low, step high)
// comes as an operand, the stream as a number; element i is word i % 4 of the Philox block with counter
// (i / 4, stream, step low, step high). Recomputation repeats it, whatever the threads or instruction set.
#pragma once
#include "unit.h"

namespace auxgrad {
namespace {

constexpr int kBlocks = 16, kGroup = 4 * kBlocks;  // blocks computed side by side, and their words

struct Stream {
  uint32_t key[4], stream;

  // The words of elements [first, first + kGroup); first is a multiple of 4.
  void words(int64_t first, uint32_t* out) const {
    uint32_t c0[kBlocks], c1[kBlocks], c2[kBlocks], c3[kBlocks], k0 = key[0], k1 = key[1];
    for (int i = 0; i < kBlocks; i++) {
      c0[i] = static_cast<uint32_t>(first / 4) + static_cast<uint32_t>(i);
      c1[i] = stream;
      c2[i] = key[2];
      c3[i] = key[3];
    }
    for (int round = 0; round < 10; round++) {
      for (int i = 0; i < kBlocks; i++) {
        const uint64_t p0 = 0xD2511F53ull * c0[i], p1 = 0xCD9E8D57ull * c2[i];
        c0[i] = static_cast<uint32_t>(p1 >> 32) ^ c1[i] ^ k0;
        c2[i] = static_cast<uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
        c1[i] = static_cast<uint32_t>(p1);
        c3[i] = static_cast<uint32_t>(p0);
      }
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < kBlocks; i++) {
      out[4 * i] = c0[i];
      out[4 * i + 1] = c1[i];
      out[4 * i + 2] = c2[i];
      out[4 * i + 3] = c3[i];
    }
  }
};

inline Stream stream_of(const View& key, double number) {
  Stream s;
  for (int i = 0; i < 4; i++) s.key[i] = static_cast<uint32_t>(key.i32()[i * key.stride[0]]);
  s.stream = static_cast<uint32_t>(static_cast<int64_t>(number));
  return s;
}

}  // namespace
}  // namespace auxgrad
