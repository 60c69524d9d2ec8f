// Packing along tokens: signs (one bit) and codes of two bits.
#pragma once
#include "../../core/code2.h"
#include "../vector.h"

namespace auxgrad {
namespace {

// word | (x > 0 ? bit : 0) lane by lane; NaN is not above zero.
inline IntVec mark_positive(IntVec word, Vec x, uint32_t bit) {
#if defined(__AVX512F__)
  const __mmask16 positive = _mm512_cmp_ps_mask((__m512)x, _mm512_setzero_ps(), _CMP_GT_OQ);
  return (IntVec)_mm512_mask_or_epi32((__m512i)word, positive, (__m512i)word, _mm512_set1_epi32(static_cast<int>(bit)));
#else
  return word | ((x > Vec{}) & static_cast<int32_t>(bit));
#endif
}

// Words [first, last) of the signs of x [tokens, channels]; bits beyond the last token are 0. Rows are read eight at a
// time from end to end, the order memory likes.
inline void pack_signs(const float* x, int64_t tokens, int64_t channels, uint32_t* words, int64_t first, int64_t last) {
  for (int64_t w = first; w < last; w++) {
    uint32_t* out = words + w * channels;
    const int64_t end = min64(tokens - w * 32, 32);
    for (int64_t t = 0; t < end; t += 8) {
      const float* rows = x + (w * 32 + t) * channels;
      const int n = static_cast<int>(min64(8, end - t));
      int64_t c = 0;
      for (; c + kLanes <= channels; c += kLanes) {
        IntVec word = {};
        if (t) memcpy(&word, out + c, sizeof(word));
        if (n == 8) {
#pragma GCC unroll 8
          for (int i = 0; i < 8; i++) word = mark_positive(word, load(rows + i * channels + c), 1u << (t + i));
        } else {
          for (int i = 0; i < n; i++) word = mark_positive(word, load(rows + i * channels + c), 1u << (t + i));
        }
        memcpy(out + c, &word, sizeof(word));
      }
      for (; c < channels; c++) {
        uint32_t word = t ? out[c] : 0;
        for (int i = 0; i < n; i++) word |= static_cast<uint32_t>(rows[i * channels + c] > 0) << (t + i);
        out[c] = word;
      }
    }
  }
}

// Codes of the tokens [t0, t0 + 4) of x [tokens, channels], among them in its word; t0 is a multiple of 4. Every `span`
// tokens share one range [2]. Codes beyond the last token are 0.
__attribute__((noinline)) inline void pack_codes(const float* x, const float* ranges, int64_t span, int64_t tokens,
                                                 int64_t channels, uint32_t* words, int64_t t0) {
  const float* row[4];
  Vec low[4], scale[4];
  for (int64_t i = 0; i < 4; i++) {
    const int64_t t = min64(t0 + i, tokens - 1);
    const float* range = ranges + 2 * (t / span);
    row[i] = x + t * channels;
    low[i] = broadcast(range[0]);
    scale[i] = t == t0 + i ? broadcast(code_scale(range)) : Vec{};
  }
  float* out = reinterpret_cast<float*>(words + t0 / 16 * channels);
  const int32_t shift = static_cast<int32_t>(t0 % 16 * 2);
  each_vector(0, channels, [&](int64_t c, auto lanes) {
    IntVec word = {};
    AUXGRAD_UNROLL
    for (int i = 3; i >= 0; i--) {
      // Within its range this is code_of(); NaN becomes a number whose lower bits are 0.
      const Vec place = (lanes.load(row[i] + c) - low[i]) * scale[i] + 0.5f;
      word = word << 2 | (__builtin_convertvector(place, IntVec) & 3);
    }
    word <<= shift;
    if (shift > 0) word |= (IntVec)lanes.load(out + c);
    lanes.store(out + c, (Vec)word);
  });
}

}  // namespace
}  // namespace auxgrad
