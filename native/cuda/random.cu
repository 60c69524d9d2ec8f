// Random numbers and dropout: each element is a function of key, stream and its position (stream.cuh).
#include "../core/distributions.h"
#include "stream.cuh"

namespace auxgrad {
namespace {

// f(words, values) makes the four values of a block.
template <class T, class F>
__global__ void generate_blocks(Stream stream, F f, T* y, int64_t n) {
  for (int64_t block = first_item(); block * 4 < n; block += item_step()) {
    uint32_t words[4];
    T values[4];
    stream.words(block, words);
    const int count = static_cast<int>(min64(4, n - block * 4));
    f(words, values);
    for (int k = 0; k < count; k++) y[block * 4 + k] = values[k];
  }
}
template <class T, class F>
bool generate(const Call& call, const F& f) {
  const int64_t n = call.out[0].count();
  return launch_items(call, ceil_div(n, 4), generate_blocks<T, F>, Stream(call.in[0], call.number[0]), f,
                      static_cast<T*>(call.out[0].data), n);
}
// f(word) makes each value.
template <class T, class F>
struct EachWord {
  F f;
  __device__ void operator()(const uint32_t (&words)[4], T (&values)[4]) const {
    for (int k = 0; k < 4; k++) values[k] = f(words[k]);
  }
};
template <class T, class F>
bool generate_each(const Call& call, const F& f) {
  return generate<T>(call, EachWord<T, F>{f});
}

// random_bits: key -> y i32; numbers: stream
bool random_bits(const Call& call) { return generate_each<int32_t>(call, Bits()); }

// random_uniform: key -> y; numbers: those of Uniform
bool random_uniform(const Call& call) { return generate_each<float>(call, Uniform(call)); }

// random_integer: key -> y i32; numbers: those of Whole
bool random_integer(const Call& call) { return generate_each<int32_t>(call, Whole(call)); }

// random_normal: key -> y; numbers: those of BoxMuller
struct Normals {
  BoxMuller pair;
  __device__ void operator()(const uint32_t (&words)[4], float (&values)[4]) const {
    for (int i = 0; i < 4; i += 2) pair(words + i, values + i);
  }
};
bool random_normal(const Call& call) { return generate<float>(call, Normals{BoxMuller(call)}); }

// random_truncated_normal: key -> y; numbers: those of TruncatedNormal
bool random_truncated_normal(const Call& call) { return generate_each<float>(call, TruncatedNormal(call)); }

// dropout: x, key -> y = x keep / (1 - p); numbers: those of Kept
__global__ void drop(Stream stream, Kept kept, const float* x, float* y, int64_t n) {
  for (int64_t block = first_item(); block * 8 < n; block += item_step()) {
    uint32_t words[4], more[4] = {};
    stream.words(block, words);
    bool tied = false;
    for (int k = 0; k < 8; k++) tied = tied || half_of(words, k) == kept.upper;
    if (tied) stream.words(block + kLowerHalves, more);
    const int count = static_cast<int>(min64(8, n - block * 8));
    for (int k = 0; k < count; k++) {
      const bool stays = kept.stays(half_of(words, k), half_of(more, k));
      y[block * 8 + k] = stays ? x[block * 8 + k] * kept.scale : 0.0f;
    }
  }
}
bool dropout(const Call& call) {
  const int64_t n = call.out[0].count();
  return launch_items(call, ceil_div(n, 8), drop, Stream(call.in[1], call.number[0], kNoiseRounds), Kept(call),
                      call.in[0].f32(), call.out[0].f32(), n);
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"random_bits", random_bits}, {"random_uniform", random_uniform}, {"random_integer", random_integer},
                {"random_normal", random_normal}, {"random_truncated_normal", random_truncated_normal},
                {"dropout", dropout})
