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

// The least element and the distance to the largest; NaN, NaN if one of them is NaN.
inline void range_of(const float* x, int64_t n, float* range) {
  float low = infinity(), high = -infinity();
  bool nan = false;
  int64_t i = 0;
  if (n >= kLanes) {
    Vec least = load(x), most = least;
    IntVec odd = {};
    for (; i + kLanes <= n; i += kLanes) {
      __builtin_prefetch(x + i + 1024);  // a processor of itself reads ahead to the end of a page only
      const Vec v = load(x + i);
      least = v < least ? v : least;
      most = v > most ? v : most;
      odd |= v != v;
    }
    for (int k = 0; k < kLanes; k++) {
      low = least[k] < low ? least[k] : low;
      high = most[k] > high ? most[k] : high;
      nan = nan || odd[k];
    }
  }
  for (; i < n; i++) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
    nan = nan || x[i] != x[i];
  }
  range[0] = nan ? not_a_number() : low;
  range[1] = nan ? not_a_number() : high - low;
}

// The whole part of q, at least 0 and at most 3; 0 of NaN.
inline IntVec codes_of(Vec q) {
#if defined(__AVX512F__)
  q = (Vec)_mm512_min_ps(_mm512_max_ps((__m512)q, _mm512_setzero_ps()), _mm512_set1_ps(3.0f));
#else
  q = q > 0.0f ? q : Vec{};
  q = q < 3.0f ? q : Vec{} + 3.0f;
#endif
  return __builtin_convertvector(q, IntVec);
}

// Words [first, last) of the codes of x [tokens, channels]; every `span` tokens share one range [2]. Codes beyond the last
// token are 0.
inline void pack_codes(const float* x, const float* ranges, int64_t span, int64_t tokens, int64_t channels,
                       uint32_t* words, int64_t first, int64_t last) {
  for (int64_t w = first; w < last; w++) {
    uint32_t* out = words + w * channels;
    const int n = static_cast<int>(min64(tokens - w * 16, 16));
    float low[16], scale[16];
    for (int t = 0; t < n; t++) {
      const float* range = ranges + 2 * ((w * 16 + t) / span);
      low[t] = range[0];
      scale[t] = code_scale(range);
    }
    const float* rows = x + w * 16 * channels;
    const int64_t whole = channels / kLanes * kLanes;
    for (int begin = 0; begin < n; begin += 8) {  // more rows at a time could share one set of the cache
      const int end = n < begin + 8 ? n : begin + 8;
      for (int64_t c = 0; c < whole; c += kLanes) {
        IntVec word = {}, before = {};
        for (int t = end - 1; t >= begin; t--) {
          __builtin_prefetch(rows + (t + 16) * channels + c, 0, 2);  // the next word's, while memory would rest
          word = word << 2 | codes_of((load(rows + t * channels + c) - low[t]) * scale[t] + 0.5f);
        }
        if (begin) memcpy(&before, out + c, sizeof(before));
        word = before | word << (2 * begin);
        memcpy(out + c, &word, sizeof(word));
      }
    }
    int64_t c = whole;
    for (; c < channels; c++) {
      uint32_t word = 0;
      for (int t = 0; t < n; t++) word |= code_of(rows[t * channels + c], low[t], scale[t]) << (2 * t);
      out[c] = word;
    }
  }
}

}  // namespace
}  // namespace auxgrad
