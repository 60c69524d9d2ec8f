// Streams of random words. A word is f(key, stream, element): key i32[4] (seed low, seed high, step low, step high)
// comes as an operand, the stream as a number; element i is word i % 4 of the Philox block with counter
// (i / 4, stream, step low, step high). Recomputation repeats it, whatever the threads or instruction set.
#pragma once
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#include "unit.h"

namespace auxgrad {
namespace {

constexpr int kBlocks = 16, kGroup = 4 * kBlocks;  // blocks computed side by side, and their words

// 64-bit lanes: a word in the lower half of each, whatever is in the upper.
#if defined(__AVX512F__)
typedef __m512i WordLanes;
inline WordLanes word_product(WordLanes a, uint32_t b) { return _mm512_mul_epu32(a, _mm512_set1_epi64(b)); }
#elif defined(__AVX2__)
typedef __m256i WordLanes;
inline WordLanes word_product(WordLanes a, uint32_t b) { return _mm256_mul_epu32(a, _mm256_set1_epi64x(b)); }
#else
typedef uint64_t WordLanes __attribute__((vector_size(16)));
inline WordLanes word_product(WordLanes a, uint32_t b) { return (a & 0xffffffffu) * b; }
#endif
typedef uint64_t Lanes __attribute__((vector_size(sizeof(WordLanes))));
constexpr int kWordLanes = sizeof(Lanes) / 8;
constexpr int kSets = 2;  // vectors of blocks side by side: they share the keys of a round

struct Stream {
  uint32_t key[4], stream;

  // The words of elements [first, first + kGroup); first is a multiple of 4.
  void words(int64_t first, uint32_t* out) const {
    Lanes lane;
    for (int k = 0; k < kWordLanes; k++) lane[k] = static_cast<uint64_t>(k);
    for (int i = 0; i < kBlocks; i += kSets * kWordLanes) {
      Lanes c0[kSets], c1[kSets], c2[kSets], c3[kSets];
      for (int s = 0; s < kSets; s++) {
        c0[s] = lane + static_cast<uint64_t>(first / 4 + i + s * kWordLanes);
        c1[s] = Lanes{} + stream;
        c2[s] = Lanes{} + key[2];
        c3[s] = Lanes{} + key[3];
      }
      uint32_t k0 = key[0], k1 = key[1];
      for (int round = 0; round < 10; round++) {
        const Lanes key0 = Lanes{} + k0, key1 = Lanes{} + k1;
        for (int s = 0; s < kSets; s++) {
          const Lanes p0 = (Lanes)word_product((WordLanes)c0[s], 0xD2511F53u);
          const Lanes p1 = (Lanes)word_product((WordLanes)c2[s], 0xCD9E8D57u);
          c0[s] = (p1 >> 32) ^ c1[s] ^ key0;
          c2[s] = (p0 >> 32) ^ c3[s] ^ key1;
          c1[s] = p1;
          c3[s] = p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
      }
      for (int s = 0; s < kSets; s++, out += 4 * kWordLanes) {
        const Lanes low = (c0[s] & 0xffffffffu) | c1[s] << 32, high = (c2[s] & 0xffffffffu) | c3[s] << 32;
        uint64_t pairs[2 * kWordLanes];
        for (int k = 0; k < kWordLanes; k++) {
          pairs[2 * k] = low[k];
          pairs[2 * k + 1] = high[k];
        }
        memcpy(out, pairs, sizeof(pairs));
      }
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
