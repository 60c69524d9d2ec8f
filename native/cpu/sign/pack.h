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

// The signs of tokens t... of a word, kRows of them, among those before them.
template <int kRows>
inline void mark_rows(const float* rows, int64_t t, int64_t channels, uint32_t* words) {
  each_vector(0, channels, [&](int64_t c, auto lanes) {
    float* out = reinterpret_cast<float*>(words + c);
    IntVec word = {};
    if (t > 0) word = (IntVec)lanes.load(out);
    AUXGRAD_UNROLL
    for (int i = 0; i < kRows; i++) word = mark_positive(word, lanes.load(rows + i * channels + c), 1u << (t + i));
    lanes.store(out, (Vec)word);
  });
}

// Words [first, last) of the signs of x [tokens, channels]; bits beyond the last token are 0. Memory is read from end to
// end while the words of a row stay in the first cache; of longer rows some together, so that words are moved less.
inline void pack_signs(const float* x, int64_t tokens, int64_t channels, uint32_t* words, int64_t first, int64_t last) {
  constexpr int kTogether = 8;
  const bool stay = kFallback || channels <= 2048;
  for (int64_t w = first; w < last; w++) {
    uint32_t* out = words + w * channels;
    const float* rows = x + w * 32 * channels;
    const int64_t end = min64(tokens - w * 32, 32);
    for (int64_t t = 0; t < end;) {
      if (stay || end - t < kTogether) mark_rows<1>(rows + t * channels, t, channels, out), t++;
      else mark_rows<kTogether>(rows + t * channels, t, channels, out), t += kTogether;
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
