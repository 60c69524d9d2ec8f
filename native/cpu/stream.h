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

// The upper words to the lower places: where there are shuffles, another port than that of products does them.
#if defined(__AVX512F__)
inline Lanes upper_words(Lanes a) { return (Lanes)_mm512_maskz_shuffle_epi32(0xffff, (__m512i)a, _MM_PERM_DDBB); }
#elif defined(__AVX2__)
inline Lanes upper_words(Lanes a) { return (Lanes)_mm256_shuffle_epi32((__m256i)a, 0xf5); }
#else
inline Lanes upper_words(Lanes a) { return a >> 32; }
#endif

// Of each 128 bits, the even words of a and behind them those of b; and the odd ones.
#if defined(__AVX512F__)
inline Lanes even_words(Lanes a, Lanes b) { return (Lanes)_mm512_maskz_shuffle_ps(0xffff, (__m512)a, (__m512)b, 0x88); }
inline Lanes odd_words(Lanes a, Lanes b) { return (Lanes)_mm512_maskz_shuffle_ps(0xffff, (__m512)a, (__m512)b, 0xdd); }
#elif defined(__AVX2__)
inline Lanes even_words(Lanes a, Lanes b) { return (Lanes)_mm256_shuffle_ps((__m256)a, (__m256)b, 0x88); }
inline Lanes odd_words(Lanes a, Lanes b) { return (Lanes)_mm256_shuffle_ps((__m256)a, (__m256)b, 0xdd); }
#else
typedef uint32_t FourWords __attribute__((vector_size(16)));
inline Lanes even_words(Lanes a, Lanes b) {
  return (Lanes)__builtin_shufflevector((FourWords)a, (FourWords)b, 0, 2, 4, 6);
}
inline Lanes odd_words(Lanes a, Lanes b) {
  return (Lanes)__builtin_shufflevector((FourWords)a, (FourWords)b, 1, 3, 5, 7);
}
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
    AUXGRAD_UNROLL
    for (int k = 0; k < kWordLanes; k++) lane[k] = static_cast<uint64_t>(k / 2 + k % 2 * kWordLanes / 2);
    for (int i = 0; i < kBlocks; i += kSets * kWordLanes) {
      Lanes c0[kSets], c1[kSets], c2[kSets], c3[kSets];
      for (int s = 0; s < kSets; s++) {
        const Lanes counter = lane + static_cast<uint64_t>(first / 4 + i + s * kWordLanes);
        const Lanes p0 = (Lanes)word_product((WordLanes)counter, kPhiloxMultiplier0);
        c1[s] = (Lanes)word_product((WordLanes)(upper_words(p0) ^ same[0]), kPhiloxMultiplier1);
        c0[s] = upper_words(c1[s]) ^ same[1];
        c2[s] = p0 ^ same[2];
        c3[s] = Lanes{} + same[3];
      }
#pragma GCC unroll 1
      for (int round = 2; round < rounds; round++) {
        const Lanes key0 = Lanes{} + round_key[round][0], key1 = Lanes{} + round_key[round][1];
        for (int s = 0; s < kSets; s++) {
          const Lanes p0 = (Lanes)word_product((WordLanes)c0[s], kPhiloxMultiplier0);
          const Lanes p1 = (Lanes)word_product((WordLanes)c2[s], kPhiloxMultiplier1);
          c0[s] = (c1[s] ^ key0) ^ upper_words(p1);
          c2[s] = (c3[s] ^ key1) ^ upper_words(p0);
          c1[s] = p1;
          c3[s] = p0;
        }
      }
      AUXGRAD_UNROLL
      for (int s = 0; s < kSets; s++, out += 2 * sizeof(Lanes)) {
        const Lanes low = even_words(c0[s], c1[s]), high = even_words(c2[s], c3[s]);
        const Lanes first_half = even_words(low, high), second_half = odd_words(low, high);
        memcpy(out, &first_half, sizeof(Lanes));
        memcpy(out + sizeof(Lanes), &second_half, sizeof(Lanes));
      }
    }
  }

  // The halves of those words, lower ones first: of elements [first, first + 2 kGroup).
  void halves(int64_t first, uint16_t* out) const { words(first / 2, out); }
};

__attribute__((noinline)) inline Stream stream_of(const View& key, double number, int rounds = kPhiloxRounds) {
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
