// Streams of random words. A word is f(key, stream, element): key i32[4] (seed low, seed high, step low, step high)
// comes as an operand, the stream as a number; element i is word i % 4 of the Philox block with counter
// (i / 4, stream, step low, step high). Recomputation repeats it, whatever the threads or instruction set.
#pragma once
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#include "../core/philox.h"
#include "unit.h"

namespace auxgrad {
namespace {

constexpr int kBlocks = 32, kGroup = 4 * kBlocks;  // blocks at a time, and their words

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
// Vectors of blocks side by side, as many as registers hold: a round waits for the one before.
constexpr int kSets = kWordLanes == 8 ? 4 : 2;
constexpr int kRounds = 10;

struct Stream {
  uint64_t round_key[kRounds][2], stream, step[2];

  // The words of elements [first, first + kGroup); first is a multiple of 4.
  __attribute__((noinline)) void words(int64_t first, uint32_t* out) const {
    Lanes lane;
    for (int k = 0; k < kWordLanes; k++) lane[k] = static_cast<uint64_t>(k);
    for (int i = 0; i < kBlocks; i += kSets * kWordLanes) {
      Lanes c0[kSets], c1[kSets], c2[kSets], c3[kSets];
      for (int s = 0; s < kSets; s++) {
        c0[s] = lane + static_cast<uint64_t>(first / 4 + i + s * kWordLanes);
        c1[s] = Lanes{} + stream;
        c2[s] = Lanes{} + step[0];
        c3[s] = Lanes{} + step[1];
      }
      for (const uint64_t(&key)[2] : round_key) {
        const Lanes key0 = Lanes{} + key[0], key1 = Lanes{} + key[1];
        for (int s = 0; s < kSets; s++) {
          const Lanes p0 = (Lanes)word_product((WordLanes)c0[s], 0xD2511F53u);
          const Lanes p1 = (Lanes)word_product((WordLanes)c2[s], 0xCD9E8D57u);
          c0[s] = (p1 >> 32) ^ c1[s] ^ key0;
          c2[s] = (p0 >> 32) ^ c3[s] ^ key1;
          c1[s] = p1;
          c3[s] = p0;
        }
      }
      AUXGRAD_UNROLL
      for (int s = 0; s < kSets; s++, out += 4 * kWordLanes) {
        const Lanes low = (c0[s] & 0xffffffffu) | c1[s] << 32, high = (c2[s] & 0xffffffffu) | c3[s] << 32;
        uint64_t pairs[2 * kWordLanes];
        AUXGRAD_UNROLL
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
  uint32_t word[4];
  for (int i = 0; i < 4; i++) word[i] = static_cast<uint32_t>(key.i32()[i * key.stride[0]]);
  Stream s;
  for (uint64_t(&k)[2] : s.round_key) {
    k[0] = word[0], k[1] = word[1];
    word[0] += 0x9E3779B9u, word[1] += 0xBB67AE85u;
  }
  s.stream = static_cast<uint32_t>(static_cast<int64_t>(number));
  s.step[0] = word[2], s.step[1] = word[3];
  return s;
}

}  // namespace
}  // namespace auxgrad
