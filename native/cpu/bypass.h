// Stores past the caches. What is too large to be found in a cache when it is read again need not be read before it is
// written: of a copy that is a third of all that moves.
#pragma once
#include "vector.h"

namespace auxgrad {
namespace {

#if defined(__AVX2__)
constexpr bool kCanBypass = true;
#else
constexpr bool kCanBypass = false;
#endif

constexpr int64_t kLineFloats = 16;  // of a line

// Whole lines only: where all rows of y start with one, `pitch` elements apart.
inline bool lines_apart(const void* p, int64_t pitch_bytes) {
  return (reinterpret_cast<uintptr_t>(p) | static_cast<uintptr_t>(pitch_bytes)) % 64 == 0;
}

// Whether to store an output so: it takes half of the last cache or more, its operands will take the rest.
inline bool too_large(const View& y) {
  return kCanBypass && y.count() > 0 && y.count() * dtype_size(y.dtype) >= cache_bytes() / 2;
}
inline bool too_large(const View& y, int64_t pitch) {
  return too_large(y) && lines_apart(y.data, pitch * dtype_size(y.dtype));
}

inline void bypass(float* p, Vec v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, (__m512)v);
#elif defined(__AVX2__)
  _mm256_stream_ps(p, (__m256)v);
#else
  store(p, v);
#endif
}
// Whole lines.
inline void bypass_copy(void* to, const void* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += static_cast<int64_t>(sizeof(Vec))) {
    Vec v;
    memcpy(&v, static_cast<const char*>(from) + i, sizeof(v));
    bypass(reinterpret_cast<float*>(static_cast<char*>(to) + i), v);
  }
}
// Ends a task: other threads see its stores from here on.
inline void end_bypass() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// lanes.store(), past the caches if `past`.
template <class Lanes>
inline void put(bool past, Lanes lanes, float* p, Vec v) {
  if (kCanBypass && past && lanes.count() == kLanes) bypass(p, v);
  else lanes.store(p, v);
}

}  // namespace
}  // namespace auxgrad
