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

// m and r so that all elements of a group lie in [m, m + r], given the least and the largest.
AUXGRAD_HOST_DEVICE inline uint32_t range_of(float least, float most) {
  // The bfloat16 next to it towards minus infinity.
  const uint32_t bits = bits_of(least), upper = bits & 0xffff0000u;
  const uint32_t minimum = upper + (bits != upper && least < 0 ? 0x10000u : 0u);
  // A range that exceeds a bfloat16 by rounding alone stays at it: values that have a code keep it.
  const float width = (most - minimum_of(minimum)) * (1.0f - 1.0f / (1 << 20));
  return minimum | (width > 0 ? (bits_of(width) + 0xffffu) >> 16 : 0u);
}

// Random draws have 16 bits, four to a word: those of elements j and j + 128 of a group are the halves of its word j < 64,
// those of j + 64 and j + 192 the halves of the word turned so. Each draw has upper bits of its own, which decide but for
// one value in 256, and shares the lower ones with the upper ones of another.
constexpr int kDrawWords = kElements / 4;
AUXGRAD_HOST_DEVICE inline uint32_t turned(uint32_t word) { return word >> 8 | word << 24; }

template <int kBits>
struct Codes {
  static constexpr int kWords = 8 * kBits;  // of a group
  static constexpr uint32_t kTop = (1u << kBits) - 1;

  // Of a value over m: its place between the codes, in 2^-16; with any draw below 2^16 added no more than the last code.
  AUXGRAD_HOST_DEVICE static float scale(float width) {
    const float ratio = kTop * 65536.0f / width;
    return width > 0 && ratio < infinity() ? ratio : 0.0f;
  }
  AUXGRAD_HOST_DEVICE static float step(float width) { return width * (1.0f / static_cast<float>(kTop)); }
};

}  // namespace
}  // namespace auxgrad
