// Random numbers and dropout: each element is a function of key, stream and its position (stream.h).
#include "../../core/distributions.h"
#include "../elementwise.h"
#include "../stream.h"

namespace auxgrad {
namespace {

constexpr int64_t kGrain = 256 * kGroup;

// f(words, values) makes kGroup values of kGroup words; y gets as many as it has room for.
template <class T, class F>
bool generate(const Call& call, const F& f) {
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
  return true;
}

template <class T, class F>
bool generate_each(const Call& call, const F& f) {
  return generate<T>(call, [&](const uint32_t* words, T* values) {
    for (int i = 0; i < kGroup; i++) values[i] = f(words[i]);
  });
}

// random_bits: key -> y i32; numbers: stream
bool random_bits(const Call& call) { return generate_each<int32_t>(call, Bits()); }

// random_uniform: key -> y; numbers: those of Uniform
bool random_uniform(const Call& call) { return generate_each<float>(call, Uniform(call)); }

// random_integer: key -> y i32; numbers: those of Whole
bool random_integer(const Call& call) { return generate_each<int32_t>(call, Whole(call)); }

// random_normal: key -> y; numbers: those of BoxMuller
bool random_normal(const Call& call) {
  const BoxMuller pair(call);
  return generate<float>(call, [=](const uint32_t* words, float* values) {
    for (int i = 0; i < kGroup; i += 2) pair(words + i, values + i);
  });
}

// random_truncated_normal: key -> y; numbers: those of TruncatedNormal
bool random_truncated_normal(const Call& call) { return generate_each<float>(call, TruncatedNormal(call)); }

// dropout: x, key -> y = x keep / (1 - p), keep = uniform >= p; numbers: stream, p. Its own gradient, on dy.
bool dropout(const Call& call) {
  const Stream stream = stream_of(call.in[1], call.number[0]);
  const Kept kept(call);
  if (kept.none) {
    memset(call.out[0].data, 0, static_cast<size_t>(call.out[0].count()) * sizeof(float));
    return true;
  }
  const bool past = too_large(call.out[0], kGroup) && call.in[0].data != call.out[0].data;
  parallel_ranges(call, call.out[0].count(), kGrain, [&](int64_t begin, int64_t end) {
    // Copies: to the compiler, what is captured might change with every store.
    const float *x = call.in[0].f32(), up = kept.scale;
    const uint32_t limit = kept.least;
    float* y = call.out[0].f32();
    uint32_t words[kGroup];
    float values[kGroup];
    const auto group = [&](int64_t at, int64_t n) {
      constexpr int64_t kAhead = 8 * kGroup, kBytes = kGroup * static_cast<int64_t>(sizeof(float));
      fetch(x + at + kAhead, kBytes);
      if (!past) fetch(y + at + kAhead, kBytes);
      stream.words(at, words);
      float* to = past && n == kGroup ? values : y + at;
      for (int64_t i = 0; i < n; i++) to[i] = words[i] >= limit ? x[at + i] * up : 0.0f;
      if (to == values) bypass_copy(y + at, values, kBytes);
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
