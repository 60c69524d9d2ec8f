// Sums and maxima along a row. Float sums of some hundred terms are added up in double: exact enough for any length.
// Terms go to a fixed number of accumulators, whatever the length of a vector: every instruction set gives the same bits.
#pragma once
#include "vector.h"

namespace auxgrad {
namespace {

constexpr int64_t kSide = 64;  // accumulators: element i of a row goes to number i % kSide
constexpr int kSideVecs = kSide / kLanes;

// Asks the memory for the same place in the next row, which is `step` away: while a row is worked on in the cache, it
// would rest.
inline void fetch_next(const float* x, int64_t step) { __builtin_prefetch(x + step); }

// Sum over i < n of term(i, lanes), a vector of terms from i on.
template <class Term>
inline double sum_terms(int64_t n, const Term& term) {
  constexpr int64_t kPiece = 8 * kSide;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kPiece) {
    const int64_t end = min64(n, begin + kPiece);
    Vec sum[kSideVecs] = {};
    int64_t i = begin;
    for (; i + kSide <= end; i += kSide) {
      AUXGRAD_UNROLL
      for (int v = 0; v < kSideVecs; v++) sum[v] += term(i + v * kLanes, WholeLanes());
    }
    if (i < end) {
      // Aside: an accumulator with a number that is not known would not stay in a register.
      Vec last[kSideVecs] = {};
      for (int v = 0; i < end; v++, i += kLanes) {
        const PartLanes rest{end - i};
        last[v] = end - i >= kLanes ? term(i, WholeLanes()) : rest.keep(term(i, rest));
      }
      AUXGRAD_UNROLL
      for (int v = 0; v < kSideVecs; v++) sum[v] += last[v];
    }
    total += fold(sum, [](Vec a, Vec b) { return a + b; });
  }
  return total;
}

// Two sums at once, of terms(i, lanes, u, v): accumulators for half as many terms each.
template <class Terms>
inline void sum_pairs(int64_t n, const Terms& terms, double* first, double* second) {
  constexpr int64_t kStep = kSide / 2, kPiece = 16 * kStep;
  constexpr int kVecs = kSideVecs / 2;
  *first = *second = 0;
  for (int64_t begin = 0; begin < n; begin += kPiece) {
    const int64_t end = min64(n, begin + kPiece);
    Vec a[kVecs] = {}, b[kVecs] = {}, u, v;
    int64_t i = begin;
    for (; i + kStep <= end; i += kStep) {
      AUXGRAD_UNROLL
      for (int k = 0; k < kVecs; k++) {
        terms(i + k * kLanes, WholeLanes(), u, v);
        a[k] += u;
        b[k] += v;
      }
    }
    if (i < end) {
      Vec c[kVecs] = {}, d[kVecs] = {};
      for (int k = 0; i < end; k++, i += kLanes) {
        const PartLanes rest{min64(kLanes, end - i)};
        terms(i, rest, u, v);
        c[k] = rest.keep(u);
        d[k] = rest.keep(v);
      }
      AUXGRAD_UNROLL
      for (int k = 0; k < kVecs; k++) a[k] += c[k], b[k] += d[k];
    }
    const auto add = [](Vec x, Vec y) { return x + y; };
    *first += fold(a, add);
    *second += fold(b, add);
  }
}

inline double row_sum(const float* x, int64_t n) {
  return sum_terms(n, [x](int64_t i, auto lanes) { return lanes.load(x + i); });
}

// The largest (or smallest) number of a row, -inf (inf) if there is none; *nan tells whether there was a NaN, if kNan.
template <bool kMax, bool kNan = true>
inline float row_extreme(const float* x, int64_t n, bool* nan) {
  const float none = kMax ? -__builtin_inff() : __builtin_inff();
  const auto better = [](auto v, auto best) { return kMax ? v > best : v < best; };
  float best = none;
  bool odd = false;
  int64_t i = 0;
  if (n >= kSide) {
    Vec top[kSideVecs];
    IntVec bad = {};
    for (int v = 0; v < kSideVecs; v++) top[v] = broadcast(none);
    for (; i + kSide <= n; i += kSide) {
      AUXGRAD_UNROLL
      for (int v = 0; v < kSideVecs; v++) {
        const Vec given = load(x + i + v * kLanes);
        top[v] = better(given, top[v]) ? given : top[v];
        if (kNan) bad |= given != given;
      }
    }
    best = fold(top, [&](Vec a, Vec b) { return better(b, a) ? b : a; });
    odd = kNan && any_lane(bad);
  }
  for (; i < n; i++) {
    best = better(x[i], best) ? x[i] : best;
    odd |= x[i] != x[i];
  }
  *nan = odd;
  return best;
}

// The largest number of a row, whatever NaN there is.
inline float row_max(const float* x, int64_t n) {
  bool nan;
  return row_extreme<true, false>(x, n, &nan);
}

}  // namespace
}  // namespace auxgrad
