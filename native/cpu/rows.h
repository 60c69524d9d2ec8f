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

// Calls f(number, i, lanes) for the vectors that are left of a row. Where vectors are long numbers are known when it is
// compiled: an accumulator with one that is not would not stay in a register.
template <int kVecs, class F>
inline __attribute__((always_inline)) void each_rest(int64_t i, int64_t end, const F& f) {
  if constexpr (kLanes == 4) {
    for (int v = 0; i < end; v++, i += kLanes) f(v, i, PartLanes{min64(kLanes, end - i)});
    return;
  }
  AUXGRAD_UNROLL
  for (int v = 0; v < kVecs; v++, i += kLanes) {
    if (i >= end) return;
    f(v, i, PartLanes{min64(kLanes, end - i)});
  }
}

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
    each_rest<kSideVecs>(i, end, [&](int v, int64_t at, auto lanes) { sum[v] += lanes.keep(term(at, lanes)); });
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
    each_rest<kVecs>(i, end, [&](int k, int64_t at, auto lanes) {
      terms(at, lanes, u, v);
      a[k] += lanes.keep(u);
      b[k] += lanes.keep(v);
    });
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
  const Vec none = broadcast(kMax ? -__builtin_inff() : __builtin_inff());
  const auto better = [](Vec v, Vec best) { return (kMax ? v > best : v < best) ? v : best; };
  Vec top[kSideVecs];
  IntVec bad = {};
  AUXGRAD_UNROLL
  for (int v = 0; v < kSideVecs; v++) top[v] = none;
  int64_t i = 0;
  for (; i + kSide <= n; i += kSide) {
    AUXGRAD_UNROLL
    for (int v = 0; v < kSideVecs; v++) {
      const Vec given = load(x + i + v * kLanes);
      top[v] = better(given, top[v]);
      if (kNan) bad |= given != given;
    }
  }
  each_vector(i, n, [&](int64_t at, auto lanes) {
    const Vec given = lanes.load(x + at);
    top[0] = better(first_lanes(lanes.count()) ? given : none, top[0]);
    if (kNan) bad |= given != given;
  });
  *nan = kNan && any_lane(bad);
  return fold(top, better);
}

// The largest number of a row, whatever NaN there is.
inline float row_max(const float* x, int64_t n) {
  bool nan;
  return row_extreme<true, false>(x, n, &nan);
}

// The place of the largest number of a row; the first of equals wins, the first NaN beats all.
inline int32_t row_place(const float* x, int64_t n) {
  constexpr int kChains = 4;
  Vec top[kChains];
  IntVec at[kChains] = {};
  for (int k = 0; k < kChains; k++) top[k] = broadcast(-__builtin_inff());
  int64_t i = 0;
  for (; i + kChains * kLanes <= n; i += kChains * kLanes) {
    fetch_next(x + i, n);
    AUXGRAD_UNROLL
    for (int k = 0; k < kChains; k++)
      take_larger(load(x + i + k * kLanes), static_cast<int32_t>(i) + k * kLanes, &top[k], &at[k]);
  }
  each_vector(i, n, [&](int64_t c, auto lanes) {
    const Vec given = first_lanes(lanes.count()) ? lanes.load(x + c) : broadcast(-__builtin_inff());
    take_larger(given, static_cast<int32_t>(c), &top[0], &at[0]);
  });
  IntVec odd = {};
  for (int k = 0; k < kChains; k++) odd |= top[k] != top[k];
  const bool nan = any_lane(odd);
  const Vec best = broadcast(fold(top, [](Vec a, Vec b) { return greater(a, b); }));
  Vec place[kChains];
  for (int k = 0; k < kChains; k++)
    place[k] = (Vec)((nan ? top[k] != top[k] : top[k] == best) ? at[k] + lane_numbers() : INT32_MAX);
  return static_cast<int32_t>(bits_of(fold(place, [](Vec a, Vec b) { return (IntVec)a < (IntVec)b ? a : b; })));
}

// Rows of at most kLanes elements that follow each other, several in one vector: each in the first lanes of a group of
// `width`, a power of two. Sums of a group are, bit by bit, those of sum_terms.
struct ShortRows {
  int64_t n;                                     // elements of a row
  int64_t width = 1;                             // lanes of a group
  int64_t together = 0;                          // rows of a vector: none if they are longer
  bool loose = false;                            // not as in memory
  IntVec inside = {}, spread = {}, packed = {};  // lanes that are there; where elements of each lie in the other order

  __attribute__((noinline)) explicit ShortRows(int64_t columns) : n(columns) {
    if (n > kLanes) return;
    int log = 0;
    while (1 << log < n) log++;
    width = 1 << log;
    together = kLanes / width;
    loose = together > 1 && n < width;
    const int32_t step = static_cast<int32_t>(n), share = 65536 / static_cast<int32_t>(max64(1, n)) + 1;
    const IntVec lane = lane_numbers(), group = lane >> log, place = lane - (group << log), row = lane * share >> 16;
    inside = place < step;
    spread = group * step + place;
    packed = (row << log) + lane - row * step;
  }
  explicit operator bool() const { return together > 0; }

  // The first `rows` rows from x on; `none` in lanes that are not there.
  Vec load(const float* x, int64_t rows, Vec none) const {
    const Vec v = load_first(x, rows * n);
    return inside ? (loose ? permute(v, spread) : v) : none;
  }
  void store(float* y, int64_t rows, Vec v) const {
    if (loose) v = permute(v, packed);
    if (rows * n == kLanes) auxgrad::store(y, v);
    else store_part(y, v, rows * n);
  }
  // A number of each row, from the lanes of its group.
  void store_first(float* y, int64_t rows, Vec v) const {
    float lanes[kLanes];
    auxgrad::store(lanes, v);
    for (int64_t r = 0; r < rows; r++) y[r] = lanes[r * width];
  }
  Vec sum(Vec v) const {
    return join_lanes(v, width, [](Vec a, Vec b) { return a + b; });
  }
  // Whatever NaN there is.
  Vec largest(Vec v) const {
    return join_lanes(v, width, [](Vec a, Vec b) { return greater(a, b); });
  }
};

}  // namespace
}  // namespace auxgrad
