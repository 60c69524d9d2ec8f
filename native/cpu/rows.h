// Sums and maxima along a row. Float sums of some hundred terms are added up in double: exact enough for any length.
#pragma once
#include "conv/vec.h"

namespace auxgrad {
namespace {

inline float sum_lanes(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#endif
  float s[kLanes];
  store(s, v);
  AUXGRAD_UNROLL
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) s[i] += s[i + half];
  return s[0];
}

// Sum over i < n of term(i, lanes), a vector of terms from i on.
template <class Term>
inline double sum_terms(int64_t n, const Term& term) {
  constexpr int64_t kPiece = 32 * kLanes;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kPiece) {
    const int64_t end = min64(n, begin + kPiece);
    Vec sum[4] = {};
    int64_t i = begin;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes) {
      AUXGRAD_UNROLL
      for (int v = 0; v < 4; v++) sum[v] += term(i + v * kLanes, WholeLanes());
    }
    for (; i + kLanes <= end; i += kLanes) sum[0] += term(i, WholeLanes());
    if (i < end) {
      const PartLanes rest{end - i};
      sum[1] += rest.keep(term(i, rest));
    }
    total += sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
  return total;
}

inline double row_sum(const float* x, int64_t n) {
  return sum_terms(n, [x](int64_t i, auto lanes) { return lanes.load(x + i); });
}

// The largest (or smallest) number of a row, -inf (inf) if there is none; *nan tells whether there was a NaN.
template <bool kMax>
inline float row_extreme(const float* x, int64_t n, bool* nan) {
  const float none = kMax ? -__builtin_inff() : __builtin_inff();
  float best = none;
  bool odd = false;
  int64_t i = 0;
  if (n >= kLanes) {
    Vec top[4] = {broadcast(none), broadcast(none), broadcast(none), broadcast(none)};
    IntVec bad = {};
    const auto take = [&](Vec& t, Vec v) {
      t = (kMax ? v > t : v < t) ? v : t;
      bad |= v != v;
    };
    for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
      AUXGRAD_UNROLL
      for (int v = 0; v < 4; v++) take(top[v], load(x + i + v * kLanes));
    }
    for (; i + kLanes <= n; i += kLanes) take(top[0], load(x + i));
    float lanes[4 * kLanes];
    memcpy(lanes, top, sizeof(lanes));
    for (int k = 0; k < 4 * kLanes; k++) best = (kMax ? lanes[k] > best : lanes[k] < best) ? lanes[k] : best;
    int32_t any[kLanes];
    memcpy(any, &bad, sizeof(any));
    for (int k = 0; k < kLanes; k++) odd |= any[k] != 0;
  }
  for (; i < n; i++) {
    best = (kMax ? x[i] > best : x[i] < best) ? x[i] : best;
    odd |= x[i] != x[i];
  }
  *nan = odd;
  return best;
}

// The largest number of a row, whatever NaN there is.
inline float row_max(const float* x, int64_t n) {
  bool nan;
  return row_extreme<true>(x, n, &nan);
}

}  // namespace
}  // namespace auxgrad
