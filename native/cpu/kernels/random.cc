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

constexpr int64_t kDraws = 2 * kGroup;

// Elements whose draw is above `upper` or the same, times `up`; zeros for the others. Whether any draw was the same.
inline bool keep(const uint16_t* draws, uint32_t upper, float up, bool past, const float* x, float* y) {
  const Vec scale = broadcast(up);
#if defined(__AVX512F__)
  const __m512i least = _mm512_set1_epi16(static_cast<int16_t>(upper));
  __mmask32 same = 0;
  for (int64_t i = 0; i < kDraws; i += 2 * kLanes) {
    const __m512i draw = _mm512_loadu_si512(draws + i);
    const __mmask32 kept = _mm512_cmpge_epu16_mask(draw, least);
    same |= _mm512_cmpeq_epi16_mask(draw, least);
    for (int half = 0; half < 2; half++) {
      const int64_t at = i + half * kLanes;
      const __mmask16 lanes = static_cast<__mmask16>(kept >> (16 * half));
      put(past, WholeLanes(), y + at, (Vec)_mm512_maskz_mul_ps(lanes, (__m512)load(x + at), (__m512)scale));
    }
  }
  return same != 0;
#else
  typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
  const IntVec least = IntVec{} + static_cast<int32_t>(upper);
  IntVec same = {};
  for (int64_t i = 0; i < kDraws; i += kLanes) {
    Halves halves;
    memcpy(&halves, draws + i, sizeof(halves));
    const IntVec draw = __builtin_convertvector(halves, IntVec);
    same |= draw == least;
    put(past, WholeLanes(), y + i, draw < least ? Vec{} : load(x + i) * scale);
  }
  return any_lane(same);
#endif
}

// dropout: x, key -> y = x keep / (1 - p); numbers: those of Kept. Its own gradient, on dy.
bool dropout(const Call& call) {
  const Stream stream = stream_of(call.in[1], call.number[0], kNoiseRounds);
  const Kept kept(call);
  if (kept.none) {
    memset(call.out[0].data, 0, static_cast<size_t>(call.out[0].count()) * sizeof(float));
    return true;
  }
  const bool past = too_large(call.out[0], kDraws) && call.in[0].data != call.out[0].data;
  parallel_ranges(call, call.out[0].count(), kGrain, [&](int64_t begin, int64_t end) {
    uint16_t draws[kDraws], lower[kDraws];
    float values[kDraws] = {};
    for (int64_t at = begin; at < end; at += kDraws) {
      constexpr int64_t kAhead = 4 * kDraws, kBytes = kDraws * static_cast<int64_t>(sizeof(float));
      const float* x = call.in[0].f32() + at;
      float *const y = call.out[0].f32() + at, *to = y;
      const int64_t n = min64(kDraws, end - at), bytes = n * static_cast<int64_t>(sizeof(float));
      fetch(x + kAhead, kBytes);
      if (!past) fetch(y + kAhead, kBytes);
      if (n < kDraws) {
        memcpy(values, x, static_cast<size_t>(bytes));
        x = to = values;
      }
      stream.halves(at, draws);
      if (keep(draws, kept.upper, kept.scale, past && n == kDraws, x, to)) {  // of kDraws draws one time in 256
        stream.halves(at + int64_t{8} * kLowerHalves, lower);
        for (int64_t i = 0; i < n; i++)
          if (draws[i] == kept.upper && lower[i] < kept.lower) to[i] = 0;
      }
      if (to == values) memcpy(y, values, static_cast<size_t>(bytes));
    }
    if (past) end_bypass();
  });
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"random_bits", random_bits}, {"random_uniform", random_uniform}, {"random_integer", random_integer},
                {"random_normal", random_normal}, {"random_truncated_normal", random_truncated_normal},
                {"dropout", dropout})
