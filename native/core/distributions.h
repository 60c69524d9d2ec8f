// Random numbers of some distributions, made of random words.
#pragma once
#include "elementary.h"
#include "kernel.h"
#include "philox.h"

namespace auxgrad {
namespace {

struct Bits {
  AUXGRAD_HOST_DEVICE int32_t operator()(uint32_t w) const { return static_cast<int32_t>(w); }
};

// In [low, high), 24 bits; numbers: stream, low, high
struct Uniform {
  float low, high, range;

  explicit Uniform(const Call& call) : low(call.real(1)), high(call.real(2)), range(high - low) {}
  // Rounding may reach `high`; such a value becomes `low`.
  AUXGRAD_HOST_DEVICE float operator()(uint32_t w) const {
    const float v = low + uniform_from_bits(w) * range;
    return v < high ? v : low;
  }
};

// In [low, low + range); numbers: stream, low, range (1 to 2^32). Multiply-shift (Lemire 2019 without rejection):
// probabilities differ by less than range / 2^32.
struct Whole {
  int64_t low;
  uint64_t range;

  explicit Whole(const Call& call) : low(call.integer(1)), range(static_cast<uint64_t>(call.integer(2))) {}
  AUXGRAD_HOST_DEVICE int32_t operator()(uint32_t w) const {
    return static_cast<int32_t>(low + static_cast<int64_t>((w * range) >> 32));
  }
};

// Normal; numbers: stream, mean, deviation. Box & Muller 1958: two words make two values, |z| < 5.8.
struct BoxMuller {
  float mean, deviation;

  explicit BoxMuller(const Call& call) : mean(call.real(1)), deviation(call.real(2)) {}
  AUXGRAD_HOST_DEVICE void operator()(const uint32_t* words, float* values) const {
    const float u = 1.0f - uniform_from_bits(words[0]);  // (0, 1]
    const float radius = deviation * __builtin_sqrtf(-2.0f * log_f32(u));
    // A turn in quarters: quarter q, and the angle in it within 45 degrees of its axis.
    const float turn = uniform_from_bits(words[1]) * 4.0f;
    const int32_t q = static_cast<int32_t>(turn + 0.5f);
    const float r = (turn - static_cast<float>(q)) * 1.57079633f, z = r * r;
    const float s = r + r * z * (-1.6666654611e-1f + z * (8.3321608736e-3f - z * 1.9515295891e-4f));
    const float c =
        1.0f - 0.5f * z + z * z * (4.166664568298827e-2f + z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f));
    const float sine = q & 1 ? c : s, cosine = q & 1 ? s : c;
    values[0] = mean + radius * ((q + 1) & 2 ? -cosine : cosine);
    values[1] = mean + radius * (q & 2 ? -sine : sine);
  }
};

// Normal within [a, b]; numbers: stream, mean, deviation, a, b, erf of the standardised a / sqrt 2, the same of b. By
// inversion, so each element takes one word.
struct TruncatedNormal {
  double from, range;
  float mean, scale, a, b;

  explicit TruncatedNormal(const Call& call)
      : from(call.number[5]),
        range(call.number[6] - from),
        mean(call.real(1)),
        scale(static_cast<float>(call.number[2] * 1.4142135623730951)),
        a(call.real(3)),
        b(call.real(4)) {}
  AUXGRAD_HOST_DEVICE float operator()(uint32_t w) const {
    const double x = from + (static_cast<double>(w) + 0.5) * (1.0 / 4294967296.0) * range;
    const float v =
        mean + scale * inverse_erf(static_cast<float>(x), log_f32(static_cast<float>((1.0 - x) * (1.0 + x))));
    return v < a ? a : (v > b ? b : v);
  }
};

// Dropout: an element stays, times `scale`, where its draw of 32 bits is at least p 2^32. numbers: stream, p
// The upper half of the draw of element i is half i % 8 of Philox block i / 8 (lower halves of words first), and mostly
// decides; the lower half is the same one of the block kLowerHalves further on.
constexpr uint32_t kLowerHalves = 1u << 31;

struct Kept {
  uint32_t upper, lower;  // halves of p 2^32
  bool none;
  float scale;

  explicit Kept(const Call& call) {
    const double level = call.number[1] * 4294967296.0;
    const uint64_t whole = static_cast<uint64_t>(level), least = whole + (static_cast<double>(whole) < level);
    upper = static_cast<uint32_t>(least >> 16);
    lower = static_cast<uint32_t>(least & 0xffffu);
    none = least >> 32 != 0;
    scale = static_cast<float>(1 / (1 - call.number[1]));
  }
  AUXGRAD_HOST_DEVICE bool stays(uint32_t upper_draw, uint32_t lower_draw) const {
    return !none && (upper_draw != upper ? upper_draw > upper : lower_draw >= lower);
  }
};

// Half k of a block of words, lower halves first.
AUXGRAD_HOST_DEVICE inline uint32_t half_of(const uint32_t (&words)[4], int k) {
  return words[k / 2] >> (16 * (k % 2)) & 0xffffu;
}

}  // namespace
}  // namespace auxgrad
