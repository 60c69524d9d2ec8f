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
// With a mask, of all lanes: gcc 12 warns of its own header otherwise.
inline WordLanes word_product(WordLanes a, uint32_t b) { return _mm512_maskz_mul_epu32(0xff, a, _mm512_set1_epi64(b)); }
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

// Words of the lower halves of lanes side by side: those of `second` above those of `first`.
inline Lanes word_pairs(Lanes first, Lanes second) {
#if defined(__AVX512F__)
  return (Lanes)_mm512_mask_shuffle_epi32((__m512i)first, 0xaaaa, (__m512i)second, _MM_PERM_CCAA);
#else
  return (first & 0xffffffffu) | second << 32;
#endif
}

// Every second lane of a and b, in turn.
#if defined(__AVX512F__)
inline Lanes even_lanes(Lanes a, Lanes b) { return __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14); }
inline Lanes odd_lanes(Lanes a, Lanes b) { return __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15); }
#elif defined(__AVX2__)
inline Lanes even_lanes(Lanes a, Lanes b) { return __builtin_shufflevector(a, b, 0, 4, 2, 6); }
inline Lanes odd_lanes(Lanes a, Lanes b) { return __builtin_shufflevector(a, b, 1, 5, 3, 7); }
#else
inline Lanes even_lanes(Lanes a, Lanes b) { return Lanes{a[0], b[0]}; }
inline Lanes odd_lanes(Lanes a, Lanes b) { return Lanes{a[1], b[1]}; }
#endif

struct Stream {
  int rounds;
  uint64_t round_key[kPhiloxRounds][2];
  // Of the counter only the first word differs from block to block: of the first two rounds, what is the same for all.
  uint64_t same[4];

  // The words of elements [first, first + kGroup); first is a multiple of 4.
  __attribute__((noinline)) void words(int64_t first, void* to) const {
    char* out = static_cast<char*>(to);
    Lanes lane;
    // Blocks in the order that leaves their words sorted.
    for (int k = 0; k < kWordLanes; k++) lane[k] = static_cast<uint64_t>(k / 2 + k % 2 * kWordLanes / 2);
    for (int i = 0; i < kBlocks; i += kSets * kWordLanes) {
      Lanes c0[kSets], c1[kSets], c2[kSets], c3[kSets];
      for (int s = 0; s < kSets; s++) {
        const Lanes counter = lane + static_cast<uint64_t>(first / 4 + i + s * kWordLanes);
        const Lanes p0 = (Lanes)word_product((WordLanes)counter, kPhiloxMultiplier0);
        c1[s] = (Lanes)word_product((WordLanes)((p0 >> 32) ^ same[0]), kPhiloxMultiplier1);
        c0[s] = (c1[s] >> 32) ^ same[1];
        c2[s] = p0 ^ same[2];
        c3[s] = Lanes{} + same[3];
      }
#pragma GCC unroll 1
      for (int round = 2; round < rounds; round++) {
        const Lanes key0 = Lanes{} + round_key[round][0], key1 = Lanes{} + round_key[round][1];
        for (int s = 0; s < kSets; s++) {
          const Lanes p0 = (Lanes)word_product((WordLanes)c0[s], kPhiloxMultiplier0);
          const Lanes p1 = (Lanes)word_product((WordLanes)c2[s], kPhiloxMultiplier1);
          c0[s] = (p1 >> 32) ^ c1[s] ^ key0;
          c2[s] = (p0 >> 32) ^ c3[s] ^ key1;
          c1[s] = p1;
          c3[s] = p0;
        }
      }
      AUXGRAD_UNROLL
      for (int s = 0; s < kSets; s++, out += 2 * sizeof(Lanes)) {
        const Lanes low = word_pairs(c0[s], c1[s]), high = word_pairs(c2[s], c3[s]);
        const Lanes sorted[2] = {even_lanes(low, high), odd_lanes(low, high)};
        memcpy(out, sorted, sizeof(sorted));
      }
    }
  }

  // The halves of those words, lower ones first: of elements [first, first + 2 kGroup).
  void halves(int64_t first, uint16_t* out) const {
    words(first / 2, out);
  }
};

inline Stream stream_of(const View& key, double number, int rounds = kPhiloxRounds) {
  uint32_t word[4];
  for (int i = 0; i < 4; i++) word[i] = static_cast<uint32_t>(key.i32()[i * key.stride[0]]);
  Stream s;
  s.rounds = rounds;
  for (uint64_t(&k)[2] : s.round_key) {
    k[0] = word[0], k[1] = word[1];
    word[0] += kPhiloxKeyStep0, word[1] += kPhiloxKeyStep1;
  }
  const uint64_t p1 = uint64_t{kPhiloxMultiplier1} * word[2];
  const uint32_t c0 =
      static_cast<uint32_t>(p1 >> 32 ^ s.round_key[0][0]) ^ static_cast<uint32_t>(static_cast<int64_t>(number));
  const uint64_t p0 = uint64_t{kPhiloxMultiplier0} * c0;
  s.same[0] = word[3] ^ s.round_key[0][1];
  s.same[1] = static_cast<uint32_t>(p1) ^ s.round_key[1][0];
  s.same[2] = p0 >> 32 ^ s.round_key[1][1];
  s.same[3] = static_cast<uint32_t>(p0);
  return s;
}

}  // namespace
}  // namespace auxgrad
