// Two bits an element: the nearest of four levels between the least and the largest of its group (spec section 15b).
// Layout: u32 words [ceil(T/16), C]; bits 2 (t % 16) and the next of word [t / 16][c] are the code q of token t, channel c.
// ranges [G, 2]: minimum m and range r of each T / G tokens in turn; the value of a code is q r / 3 + m.
#pragma once
#include "arithmetic.h"
#include "kernel.h"

namespace auxgrad {
namespace {

inline bool check_ranges(const Call& call, const View& ranges, int64_t tokens) {
  const int64_t groups = ranges.rank > 0 ? ranges.shape[0] : 0;
  if (tokens == 0 || (groups > 0 && tokens % groups == 0)) return true;
  return call.failure->set(ErrorCode::invalid_argument,
                           "code2: expected a number of ranges that divides %lld tokens, got %lld",
                           static_cast<long long>(tokens), static_cast<long long>(groups));
}

// Codes a unit of x: 3 / r, or 0 where the range is empty or not finite.
AUXGRAD_HOST_DEVICE inline float code_scale(const float* range) {
  const float scale = 3.0f / range[1];
  return range[1] > 0 && scale < infinity() ? scale : 0.0f;
}

// The code of x in the range (m, m + r): the nearest of its four levels.
AUXGRAD_HOST_DEVICE inline uint32_t code_of(float x, float low, float scale) {
  const float q = (x - low) * scale + 0.5f;
  return q >= 3.0f ? 3u : q >= 1.0f ? static_cast<uint32_t>(q) : 0u;
}

}  // namespace
}  // namespace auxgrad
