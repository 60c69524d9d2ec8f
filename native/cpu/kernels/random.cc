// Random numbers and dropout: each element is a function of key, stream and its position (stream.h).
#include "../elementwise.h"
#include "../stream.h"

namespace auxgrad {
namespace {

constexpr int64_t kGrain = 256 * kGroup;

// f(words, values) makes kGroup values of kGroup words; y gets as many as it has room for.
template <class T, class F>
void generate(const Call& call, const F& f) {
  const Stream stream = stream_of(call.in[0], call.number[0]);
  T* y = static_cast<T*>(call.out[0].data);
  parallel_ranges(call, call.out[0].count(), kGrain, [&](int64_t begin, int64_t end) {
    uint32_t words[kGroup];
    T values[kGroup];
    for (int64_t at = begin; at < end; at += kGroup) {
      stream.words(at, words);
      f(words, values);
      memcpy(y + at, values, static_cast<size_t>(min64(kGroup, end - at)) * sizeof(T));
    }
  });
}

template <class T, class F>
void generate_each(const Call& call, const F& f) {
  generate<T>(call, [&](const uint32_t* words, T* values) {
    for (int i = 0; i < kGroup; i++) values[i] = f(words[i]);
  });
}

// random_bits: key -> y i32; numbers: stream
bool random_bits(const Call& call) {
  generate_each<int32_t>(call, [](uint32_t w) { return static_cast<int32_t>(w); });
  return true;
}

// random_uniform: key -> y in [low, high), 24 bits; numbers: stream, low, high
bool random_uniform(const Call& call) {
  const float low = call.real(1), high = call.real(2), range = high - low;
  // Rounding may reach `high`; such a value becomes `low`.
  generate_each<float>(call, [=](uint32_t w) {
    const float v = low + uniform_from_bits(w) * range;
    return v < high ? v : low;
  });
  return true;
}

// random_integer: key -> y i32 in [low, low + range); numbers: stream, low, range (1 to 2^32). Multiply-shift (Lemire
// 2019 without rejection): probabilities differ by less than range / 2^32.
bool random_integer(const Call& call) {
  const int64_t low = call.integer(1);
  const uint64_t range = static_cast<uint64_t>(call.integer(2));
  generate_each<int32_t>(
      call, [=](uint32_t w) { return static_cast<int32_t>(low + static_cast<int64_t>((w * range) >> 32)); });
  return true;
}

// random_normal: key -> y; numbers: stream, mean, deviation. Box & Muller 1958: two words make two values, |z| < 5.8.
bool random_normal(const Call& call) {
  const float mean = call.real(1), deviation = call.real(2);
  generate<float>(call, [=](const uint32_t* words, float* values) {
    for (int i = 0; i < kGroup / 2; i++) {
      const float u = 1.0f - uniform_from_bits(words[2 * i]);  // (0, 1]
      const float radius = deviation * __builtin_sqrtf(-2.0f * log_f32(u));
      // A turn in quarters: quarter q, and the angle in it within 45 degrees of its axis.
      const float turn = uniform_from_bits(words[2 * i + 1]) * 4.0f;
      const int32_t q = static_cast<int32_t>(turn + 0.5f);
      const float r = (turn - static_cast<float>(q)) * 1.57079633f, z = r * r;
      const float s = r + r * z * (-1.6666654611e-1f + z * (8.3321608736e-3f - z * 1.9515295891e-4f));
      const float c =
          1.0f - 0.5f * z + z * z * (4.166664568298827e-2f + z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f));
      const float sine = q & 1 ? c : s, cosine = q & 1 ? s : c;
      values[2 * i] = mean + radius * ((q + 1) & 2 ? -cosine : cosine);
      values[2 * i + 1] = mean + radius * (q & 2 ? -sine : sine);
    }
  });
  return true;
}

// erf^-1(x) from x and log((1 - x)(1 + x)), relative error below 1e-6 (Giles 2010, single precision).
inline float inverse_erf(float x, float log_rest) {
  const float w = -log_rest, a = w - 2.5f, b = __builtin_sqrtf(w) - 3.0f;
  float p = 2.81022636e-08f;
  p = 3.43273939e-07f + p * a;
  p = -3.5233877e-06f + p * a;
  p = -4.39150654e-06f + p * a;
  p = 0.00021858087f + p * a;
  p = -0.00125372503f + p * a;
  p = -0.00417768164f + p * a;
  p = 0.246640727f + p * a;
  p = 1.50140941f + p * a;
  float q = -0.000200214257f;
  q = 0.000100950558f + q * b;
  q = 0.00134934322f + q * b;
  q = -0.00367342844f + q * b;
  q = 0.00573950773f + q * b;
  q = -0.0076224613f + q * b;
  q = 0.00943887047f + q * b;
  q = 1.00167406f + q * b;
  q = 2.83297682f + q * b;
  return (w < 5.0f ? p : q) * x;
}

// random_truncated_normal: key -> y in [a, b]; numbers: stream, mean, deviation, a, b, erf of the standardised a / sqrt 2,
// the same of b. By inversion, so each element takes one word.
bool random_truncated_normal(const Call& call) {
  const double from = call.number[5], range = call.number[6] - from;
  const float mean = call.real(1), scale = static_cast<float>(call.number[2] * 1.4142135623730951), a = call.real(3),
              b = call.real(4);
  generate_each<float>(call, [=](uint32_t w) {
    const double x = from + (static_cast<double>(w) + 0.5) * (1.0 / 4294967296.0) * range;
    const float v =
        mean + scale * inverse_erf(static_cast<float>(x), log_f32(static_cast<float>((1.0 - x) * (1.0 + x))));
    return v < a ? a : (v > b ? b : v);
  });
  return true;
}

// dropout: x, key -> y = x keep / (1 - p), keep = uniform >= p; numbers: stream, p. Its own gradient, on dy.
bool dropout(const Call& call) {
  const Stream stream = stream_of(call.in[1], call.number[0]);
  // uniform >= p, in words: the upper 24 bits are at least p 2^24.
  const double level = static_cast<double>(call.real(1)) * 16777216.0;
  const uint32_t whole = static_cast<uint32_t>(level), marks = whole + (whole < level);
  if (marks >= 1u << 24) {
    memset(call.out[0].data, 0, static_cast<size_t>(call.out[0].count()) * sizeof(float));
    return true;
  }
  const uint32_t least = marks << 8;
  const float scale = static_cast<float>(1 / (1 - call.number[1]));
  const bool past = too_large(call.out[0], kGroup) && call.in[0].data != call.out[0].data;
  parallel_ranges(call, call.out[0].count(), kGrain, [&](int64_t begin, int64_t end) {
    // Copies: to the compiler, what is captured might change with every store.
    const float *x = call.in[0].f32(), up = scale;
    const uint32_t limit = least;
    float* y = call.out[0].f32();
    uint32_t words[kGroup];
    float values[kGroup];
    const auto group = [&](int64_t at, int64_t n) {
      constexpr int64_t kAhead = 8 * kGroup, kBytes = kGroup * static_cast<int64_t>(sizeof(float));
      fetch(x + at + kAhead, kBytes);
      if (!past) fetch(y + at + kAhead, kBytes);
      stream.words(at, words);
      float* kept = past && n == kGroup ? values : y + at;
      for (int64_t i = 0; i < n; i++) kept[i] = words[i] >= limit ? x[at + i] * up : 0.0f;
      if (kept == values) bypass_copy(y + at, values, kBytes);
    };
    int64_t at = begin;
    for (; at + kGroup <= end; at += kGroup) group(at, kGroup);
    if (at < end) group(at, end - at);
    if (past) end_bypass();
  });
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"random_bits", random_bits}, {"random_uniform", random_uniform}, {"random_integer", random_integer},
                {"random_normal", random_normal}, {"random_truncated_normal", random_truncated_normal},
                {"dropout", dropout})
