// Sums of two-bit codes in multiply-adds, for machines without tables in vectors: what a code stands for is found in
// registers, once for all outputs.
#pragma once
#include "lookup.h"

namespace auxgrad {
namespace {

// Output channels at a time: as many sums as there are registers for.
constexpr int kCodeOutputs = 8;

// 2 q - 3 of the code q in the low two bits of each lane.
inline Vec code_values(IntVec codes) {
  const Vec q = __builtin_convertvector(codes & 3, Vec);
  return q + q - 3.0f;
}

// Adds those of a part's tokens, times their deltas. A part is summed by itself: long sums round less often.
inline void add_codes(const float (*delta)[kCodeOutputs], const Words* codes, float (*sums)[kColumns]) {
  for (int lane = 0; lane < kColumns; lane += kLanes) {
    Vec sum[kCodeOutputs];
    AUXGRAD_UNROLL
    for (int o = 0; o < kCodeOutputs; o++) sum[o] = Vec{};
    const float* d = delta[0];
    for (int w = 0; w < kPart / 16; w++) {
      IntVec word;
      memcpy(&word, reinterpret_cast<const uint32_t*>(codes + w) + lane, sizeof(word));
      for (int t = 0; t < 16; t++, word >>= 2, d += kCodeOutputs) {
        const Vec value = code_values(word);
        AUXGRAD_UNROLL
        for (int o = 0; o < kCodeOutputs; o++) sum[o] = fma(value, broadcast(d[o]), sum[o]);
      }
    }
    AUXGRAD_UNROLL
    for (int o = 0; o < kCodeOutputs; o++) store(sums[o] + lane, load(sums[o] + lane) + sum[o]);
  }
}

}  // namespace
}  // namespace auxgrad
