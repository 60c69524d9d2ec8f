// Random numbers and dropout: each element is a function of key, stream and its position (stream.cuh).
#include "elementary.cuh"
#include "stream.cuh"

namespace auxgrad {
namespace {

// f(words, values, i) makes the four values of a block that begins with element i.
template <class T, class F>
__global__ void generate_blocks(Stream stream, F f, T* y, int64_t n) {
  for (int64_t block = first_item(); block * 4 < n; block += item_step()) {
    uint32_t words[4];
    T values[4];
    stream.words(block, words);
    const int count = static_cast<int>(min64(4, n - block * 4));
    f(words, values, block * 4, count);
    for (int k = 0; k < count; k++) y[block * 4 + k] = values[k];
  }
}
template <class T, class F>
bool generate(const Call& call, const View& key, const F& f) {
  const int64_t n = call.out[0].count();
  return launch_items(call, ceil_div(n, 4), generate_blocks<T, F>, Stream(key, call.number[0]), f,
                      static_cast<T*>(call.out[0].data), n);
}
// f(word) makes each value.
template <class T, class F>
struct EachWord {
  F f;
  __device__ void operator()(const uint32_t (&words)[4], T (&values)[4], int64_t, int) const {
    for (int k = 0; k < 4; k++) values[k] = f(words[k]);
  }
};
template <class T, class F>
bool generate_each(const Call& call, const F& f) {
  return generate<T>(call, call.in[0], EachWord<T, F>{f});
}

// random_bits: key -> y i32; numbers: stream
struct Bits {
  __device__ int32_t operator()(uint32_t w) const { return static_cast<int32_t>(w); }
};
bool random_bits(const Call& call) { return generate_each<int32_t>(call, Bits()); }

// random_uniform: key -> y in [low, high), 24 bits; numbers: stream, low, high
struct Uniform {
  float low, high, range;
  __device__ float operator()(uint32_t w) const {
    const float v = low + uniform_from_bits(w) * range;
    return v < high ? v : low;
  }
};
bool random_uniform(const Call& call) {
  const float low = call.real(1), high = call.real(2);
  return generate_each<float>(call, Uniform{low, high, high - low});
}

// random_integer: key -> y i32 in [low, low + range); numbers: stream, low, range (1 to 2^32)
struct Whole {
  int64_t low;
  uint64_t range;
  __device__ int32_t operator()(uint32_t w) const {
    return static_cast<int32_t>(low + static_cast<int64_t>((w * range) >> 32));
  }
};
bool random_integer(const Call& call) {
  return generate_each<int32_t>(call, Whole{call.integer(1), static_cast<uint64_t>(call.integer(2))});
}

// random_normal: key -> y; numbers: stream, mean, deviation
struct BoxMuller {
  float mean, deviation;
  __device__ void operator()(const uint32_t (&words)[4], float (&values)[4], int64_t, int) const {
    for (int i = 0; i < 2; i++) {
      const float u = 1.0f - uniform_from_bits(words[2 * i]);  // (0, 1]
      const float radius = deviation * sqrtf(-2.0f * log_f32(u));
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
  }
};
bool random_normal(const Call& call) {
  return generate<float>(call, call.in[0], BoxMuller{call.real(1), call.real(2)});
}

// erf^-1(x) from x and log((1 - x)(1 + x)).
__device__ inline float inverse_erf(float x, float log_rest) {
  const float w = -log_rest, a = w - 2.5f, b = sqrtf(w) - 3.0f;
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
// the same of b
struct Truncated {
  double from, range;
  float mean, scale, a, b;
  __device__ float operator()(uint32_t w) const {
    const double x = from + (static_cast<double>(w) + 0.5) * (1.0 / 4294967296.0) * range;
    const float v =
        mean + scale * inverse_erf(static_cast<float>(x), log_f32(static_cast<float>((1.0 - x) * (1.0 + x))));
    return v < a ? a : (v > b ? b : v);
  }
};
bool random_truncated_normal(const Call& call) {
  const double from = call.number[5];
  return generate_each<float>(
      call, Truncated{from, call.number[6] - from, call.real(1),
                      static_cast<float>(call.number[2] * 1.4142135623730951), call.real(3), call.real(4)});
}

// dropout: x, key -> y = x keep / (1 - p), keep = uniform >= p; numbers: stream, p
struct Dropout {
  const float* x;
  uint32_t least;
  bool none;
  float scale;
  __device__ void operator()(const uint32_t (&words)[4], float (&values)[4], int64_t i, int count) const {
    for (int k = 0; k < count; k++) values[k] = !none && words[k] >= least ? x[i + k] * scale : 0.0f;
  }
};
bool dropout(const Call& call) {
  const double level = static_cast<double>(call.real(1)) * 16777216.0;
  const uint32_t whole = static_cast<uint32_t>(level), marks = whole + (whole < level);
  return generate<float>(
      call, call.in[1],
      Dropout{call.in[0].f32(), marks << 8, marks >= 1u << 24, static_cast<float>(1 / (1 - call.number[1]))});
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"random_bits", random_bits}, {"random_uniform", random_uniform}, {"random_integer", random_integer},
                {"random_normal", random_normal}, {"random_truncated_normal", random_truncated_normal},
                {"dropout", dropout})
