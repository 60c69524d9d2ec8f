// The least and the largest of floats, by integers: instructions that fit any port, and what is not finite shows without
// further ones. Floats from 0 on are in the order of their bits, those below in the opposite one.
#pragma once
#include "vector.h"

namespace auxgrad {
namespace {

constexpr auto larger = [](auto a, auto b) { return a > b ? a : b; };
constexpr auto smaller = [](auto a, auto b) { return a < b ? a : b; };

typedef int32_t FourInts __attribute__((vector_size(16)));
typedef uint32_t Four __attribute__((vector_size(16)));
typedef float FourFloats __attribute__((vector_size(16)));

// Of the bits the largest as signed numbers, the largest and the least as unsigned ones.
template <class Int, class Word>
struct Extremes {
  Int most;
  Word top, bottom;

  void add(const Extremes& e) {
    most = larger(e.most, most);
    top = larger(e.top, top);
    bottom = smaller(e.bottom, bottom);
  }
  void add(Word bits) { add({(Int)bits, bits, bits}); }

  Word least() const { return top >= 0x80000000u ? top : bottom; }
  Word largest() const { return most < 0 ? bottom : (Word)most; }
  // All bits set where there is a number of that magnitude or more, or NaN.
  Word reach(uint32_t magnitude) const {
    return (Word)(most >= static_cast<int32_t>(magnitude)) | (Word)(top >= (magnitude | 0x80000000u));
  }
};
typedef Extremes<IntVec, BitWords> VecExtremes;
typedef Extremes<FourInts, Four> FourExtremes;

// Lanes merged until there are four.
template <class V, class Merge>
inline auto to_four(V v, [[maybe_unused]] const Merge& merge) {
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
  const auto bits = [](const float* p) { return (BitWords)load(p); };
  float few[kLanes];
  if (n < kLanes) {
    for (int64_t i = 0; i < kLanes; i++) few[i] = x[i < n ? i : 0];
    x = few;
  }
  VecExtremes chain[kChains];
  const bool all = n >= kStep;
  for (int c = 0; c < kChains; c++) {
    const BitWords first = bits(x + (all ? c * kLanes : 0));
    chain[c] = {(IntVec)first, first, first};
  }
  int64_t i = all ? kStep : kLanes;
#pragma GCC unroll 1  // else each element would be loaded three times
  for (; i + kStep <= n; i += kStep) {
    AUXGRAD_UNROLL
    for (int c = 0; c < kChains; c++) chain[c].add(bits(x + i + c * kLanes));
  }
#pragma GCC unroll 1
  for (; i + kLanes <= n; i += kLanes) chain[0].add(bits(x + i));
  if (i < n) chain[1].add(bits(x + n - kLanes));
  chain[2].add(chain[3]);
  chain[0].add(chain[1]);
  chain[0].add(chain[2]);
  return {to_four(chain[0].most, larger), to_four(chain[0].top, larger), to_four(chain[0].bottom, smaller)};
}

// Lane i: the lanes of v[i] merged.
template <class V, class Merge>
inline V each_to_one(const V& a, const V& b, const V& c, const V& d, const Merge& merge) {
  const V first = merge(__builtin_shufflevector(a, b, 0, 4, 1, 5), __builtin_shufflevector(a, b, 2, 6, 3, 7));
  const V second = merge(__builtin_shufflevector(c, d, 0, 4, 1, 5), __builtin_shufflevector(c, d, 2, 6, 3, 7));
  return merge(__builtin_shufflevector(first, second, 0, 1, 4, 5), __builtin_shufflevector(first, second, 2, 3, 6, 7));
}
inline FourExtremes each_to_one(const FourExtremes (&e)[4]) {
  return {each_to_one(e[0].most, e[1].most, e[2].most, e[3].most, larger),
          each_to_one(e[0].top, e[1].top, e[2].top, e[3].top, larger),
          each_to_one(e[0].bottom, e[1].bottom, e[2].bottom, e[3].bottom, smaller)};
}

}  // namespace
}  // namespace auxgrad
