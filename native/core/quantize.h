// A few bits an element (Chen et al. 2021, ActNN): groups of 256 elements in row-major order, each with its minimum m
// and range r, both in bfloat16; code q of b bits stands for m + q r / (2^b - 1).
// Layout: of each group 8 b words; bits [b k, b k + b) of word j are the code of element j + 8 b k. ranges u32 [groups]:
// m in the upper half, r in the lower.
#pragma once
#include "arithmetic.h"

namespace auxgrad {
namespace {

constexpr int kElements = 256;  // of a group

constexpr uint32_t kNoRange = 0x7fc07fc0u;  // NaN and NaN, where an element is not finite

AUXGRAD_HOST_DEVICE inline float minimum_of(uint32_t range) { return float_of(range & 0xffff0000u); }
AUXGRAD_HOST_DEVICE inline float width_of(uint32_t range) { return float_of(range << 16); }

template <class To, class From>
AUXGRAD_HOST_DEVICE inline To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

// m and r so that all elements of a group lie in [m, m + r], given the bits of the least and of the largest, where zeros
// have no sign; of several groups, where Word and Float are vectors.
template <class Float, class Word>
AUXGRAD_HOST_DEVICE inline Word range_of(Word least, Word most) {
  // The bfloat16 next to it towards minus infinity.
  const Word minimum = (least + (0xffffu & (0u - (least >> 31)))) & 0xffff0000u;
  // A range that exceeds a bfloat16 by rounding alone stays at it: values that have a code keep it.
  const Float width = (same_bits<Float>(most) - same_bits<Float>(minimum)) * (1.0f - 1.0f / (1 << 20));
  return minimum | (same_bits<Word>(width) + 0xffffu) >> 16;
}

// The place of a value among the codes is found in units of 2^-15 and cut to 2^-8, a draw of as many bits is added, and
// the whole part is the code. Byte e / 64 of the group's random word e % 64 is the draw of element e, but it is odd: at
// least one from both ends, so that a value which has a code keeps it, whatever rounding did to its place.
constexpr int kFraction = 15, kDrawBits = 8;
constexpr int kDrawWords = kElements / 4;
AUXGRAD_HOST_DEVICE inline uint32_t draw_of(uint32_t word, int quarter) {
  return (word >> (kDrawBits * quarter) & 0xffu) | 1u;
}

// The low 23 bits are the place of x: scale x + origin, rounded once, to a whole number of units. origin is even and below
// 2^26; where there is no instruction for that, the product is exact in double and rounded alone, with the same result.
AUXGRAD_HOST_DEVICE inline uint32_t place_of(float x, float scale, float origin) {
#if defined(AUXGRAD_FMA)
  return bits_of(__builtin_fmaf(x, scale, origin));
#else
  constexpr double kRound = 6755399441055744.0;  // 1.5 2^52
  return bits_of(static_cast<float>(static_cast<double>(x) * static_cast<double>(scale) + kRound - kRound +
                                    static_cast<double>(origin)));
#endif
}

// The code at a place, with a draw; above it are bits of no meaning.
AUXGRAD_HOST_DEVICE inline uint32_t code_at(uint32_t place, uint32_t draw) {
  return ((place >> (kFraction - kDrawBits)) + draw) >> kDrawBits;
}

template <int kBits>
struct Codes {
  static constexpr int kWords = 8 * kBits;  // of a group
  static constexpr uint32_t kTop = (1u << kBits) - 1;

  // Units to one; of several groups, where Float is a vector.
  template <class Float>
  AUXGRAD_HOST_DEVICE static Float scale(Float width) {
    const Float ratio = static_cast<float>(kTop << kFraction) / width;
    return ratio < infinity() ? ratio : Float{};
  }
  // Whether the minimum is so many widths from 0 that it must be subtracted before scaling.
  AUXGRAD_HOST_DEVICE static bool far(float minimum, float scale) {
    return (minimum < 0 ? -minimum : minimum) * scale > 16777216.0f;
  }
  // What takes the minimum to place 0; without draws (all words are 0) to a half.
  AUXGRAD_HOST_DEVICE static float origin(float minimum, float scale, bool random) {
    constexpr double kRound = 6755399441055744.0;
    constexpr int kHalf = 1 << (kFraction - 1), kZeroDraw = 1 << (kFraction - kDrawBits);
    const double place = 8388608.0 - static_cast<double>(minimum) * static_cast<double>(scale);
    return static_cast<float>(2 * (place / 2 + kRound - kRound) + (random ? 0 : kHalf - kZeroDraw));
  }
  AUXGRAD_HOST_DEVICE static float step(float width) { return width * (1.0f / static_cast<float>(kTop)); }
};

}  // namespace
}  // namespace auxgrad
