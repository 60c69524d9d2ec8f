// Bits of "is positive", packed along tokens: bit t % 32 of word [t / 32][c] is element (t, c).
#pragma once
#include "vec.h"

namespace auxgrad {
namespace {

typedef uint32_t BitWords __attribute__((vector_size(4 * kLanes)));

// Sets `bit` in the words of lanes above zero.
inline BitWords mark_positive(BitWords words, Vec x, BitWords bit) {
#if defined(__AVX512F__)
  const __mmask16 above = _mm512_cmp_ps_mask((__m512)x, _mm512_setzero_ps(), _CMP_GT_OQ);
  return (BitWords)_mm512_mask_or_epi32((__m512i)words, above, (__m512i)words, (__m512i)bit);
#else
  return words | ((BitWords)(x > Vec{}) & bit);
#endif
}

// One word of V vectors of columns.
template <int V>
inline void pack_word(const float* rows, int64_t n, int64_t channels, uint32_t* out) {
  BitWords words[V] = {}, bit = BitWords{} + 1;
  for (int64_t t = 0; t < n; t++, rows += channels, bit += bit) {
    AUXGRAD_UNROLL
    for (int v = 0; v < V; v++) words[v] = mark_positive(words[v], load(rows + v * kLanes), bit);
  }
  memcpy(out, words, sizeof(words));
}

// Words [first, last) of columns [from, to) of x [tokens, channels]; bits beyond the last token are 0.
__attribute__((noinline)) inline void pack_positive(const float* x, int64_t tokens, int64_t channels, uint32_t* words,
                                                    int64_t first, int64_t last, int64_t from, int64_t to) {
  for (int64_t w = first; w < last; w++) {
    const float* rows = x + w * 32 * channels;
    const int64_t n = min64(32, tokens - w * 32);
    uint32_t* out = words + w * channels;
    int64_t c = from;
    for (; c + 8 * kLanes <= to; c += 8 * kLanes) pack_word<8>(rows + c, n, channels, out + c);
    for (; c + kLanes <= to; c += kLanes) pack_word<1>(rows + c, n, channels, out + c);
    for (; c < to; c++) {
      uint32_t word = 0;
      for (int64_t t = 0; t < n; t++) word |= static_cast<uint32_t>(rows[t * channels + c] > 0) << t;
      out[c] = word;
    }
  }
}

}  // namespace
}  // namespace auxgrad
