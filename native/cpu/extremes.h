// The least and the largest of floats; NaN and NaN if one of them is NaN.
#pragma once
#include "vector.h"

namespace auxgrad {
namespace {

typedef uint32_t Four __attribute__((vector_size(16)));
typedef float FourFloats __attribute__((vector_size(16)));

struct FourExtremes {
  FourFloats least, largest;
};

constexpr auto lesser_of = [](auto a, auto b) { return a < b ? a : b; };
constexpr auto greater_of = [](auto a, auto b) { return a > b ? a : b; };

// Of vectors that are added, two at a time: one comparison finds a NaN in either.
struct VecExtremes {
  Vec least, largest;
#if defined(__AVX512F__)
  __mmask16 ordered = 0xffff;
  bool nan() const { return ordered != 0xffff; }
#else
  IntVec odd = {};
  bool nan() const { return any_lane(odd); }
#endif

  explicit VecExtremes(Vec v) : least(v), largest(v) { look(v, v); }
  void look(Vec a, Vec b) {
#if defined(__AVX512F__)
    ordered = _mm512_mask_cmp_ps_mask(ordered, (__m512)a, (__m512)b, _CMP_ORD_Q);
#elif defined(__AVX2__)
    odd |= (IntVec)_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_UNORD_Q);
#else
    odd |= (a != a) | (b != b);
#endif
  }
  void add(Vec v) {
    least = lesser(v, least);
    largest = greater(v, largest);
  }
};

// Lanes merged until there are four.
template <class Merge>
inline FourFloats to_four(Vec v, [[maybe_unused]] const Merge& merge) {
#if defined(__AVX512F__)
  const auto eight = merge(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
                           __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
#elif defined(__AVX2__)
  const auto eight = v;
#endif
#if defined(__AVX2__)
  return merge(__builtin_shufflevector(eight, eight, 0, 1, 2, 3), __builtin_shufflevector(eight, eight, 4, 5, 6, 7));
#else
  return v;
#endif
}

// Of n floats, some in each lane; at least one.
__attribute__((noinline)) inline FourExtremes extremes_of(const float* x, int64_t n) {
  constexpr int kChains = 4;  // side by side
  constexpr int64_t kStep = kChains * kLanes;
  float few[kLanes];
  if (n < kLanes) {
    for (int64_t i = 0; i < kLanes; i++) few[i] = x[i < n ? i : 0];
    x = few;
  }
  VecExtremes chain[kChains] = {VecExtremes(load(x)), VecExtremes(load(x)), VecExtremes(load(x)), VecExtremes(load(x))};
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    Vec v[kChains];
    AUXGRAD_UNROLL
    for (int c = 0; c < kChains; c++) chain[c].add(v[c] = load(x + i + c * kLanes));
    AUXGRAD_UNROLL
    for (int c = 0; c < kChains; c += 2) chain[c].look(v[c], v[c + 1]);
  }
  const auto add = [&](const float* p) {
    const Vec v = load(p);
    chain[1].add(v);
    chain[1].look(v, v);
  };
#pragma GCC unroll 1
  for (; i + kLanes <= n; i += kLanes) add(x + i);
  if (i < n && n > kLanes) add(x + n - kLanes);
  bool nan = false;
  Vec least = chain[0].least, largest = chain[0].largest;
  for (const VecExtremes& c : chain) {
    nan = nan || c.nan();
    least = lesser(c.least, least);
    largest = greater(c.largest, largest);
  }
  if (nan) least = largest = broadcast(not_a_number());
  return {to_four(least, lesser_of), to_four(largest, greater_of)};
}

// Lane i: the lanes of v[i] merged.
template <class Merge>
inline FourFloats each_to_one(FourFloats a, FourFloats b, FourFloats c, FourFloats d, const Merge& merge) {
  const auto first = merge(__builtin_shufflevector(a, b, 0, 4, 1, 5), __builtin_shufflevector(a, b, 2, 6, 3, 7));
  const auto second = merge(__builtin_shufflevector(c, d, 0, 4, 1, 5), __builtin_shufflevector(c, d, 2, 6, 3, 7));
  return merge(__builtin_shufflevector(first, second, 0, 1, 4, 5), __builtin_shufflevector(first, second, 2, 3, 6, 7));
}
// Zeros have no sign: which of both comes out would depend on the order.
inline FourExtremes each_to_one(const FourExtremes (&e)[4]) {
  return {each_to_one(e[0].least, e[1].least, e[2].least, e[3].least, lesser_of) + 0.0f,
          each_to_one(e[0].largest, e[1].largest, e[2].largest, e[3].largest, greater_of) + 0.0f};
}

}  // namespace
}  // namespace auxgrad
