// One vector register of floats, and the fused multiply-add, per instruction set.
#pragma once
#include "../unit.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace auxgrad {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
using Vec = __m512;
inline Vec vec_load(const float* p) { return _mm512_loadu_ps(p); }
inline void vec_store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline Vec vec_set(float x) { return _mm512_set1_ps(x); }
inline Vec vec_fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
constexpr int kTileRows = 12, kTileVecs = 2;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
using Vec = __m256;
inline Vec vec_load(const float* p) { return _mm256_loadu_ps(p); }
inline void vec_store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline Vec vec_set(float x) { return _mm256_set1_ps(x); }
inline Vec vec_fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
constexpr int kTileRows = 6, kTileVecs = 2;
#elif defined(__ARM_NEON)
constexpr int kLanes = 4;
using Vec = float32x4_t;
inline Vec vec_load(const float* p) { return vld1q_f32(p); }
inline void vec_store(float* p, Vec v) { vst1q_f32(p, v); }
inline Vec vec_set(float x) { return vdupq_n_f32(x); }
inline Vec vec_fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
constexpr int kTileRows = 8, kTileVecs = 2;
#else
constexpr int kLanes = 4;
typedef float Vec __attribute__((vector_size(16)));
inline Vec vec_load(const float* p) {
  Vec v;
  memcpy(&v, p, sizeof v);
  return v;
}
inline void vec_store(float* p, Vec v) { memcpy(p, &v, sizeof v); }
inline Vec vec_set(float x) { return Vec{x, x, x, x}; }
inline Vec vec_fma(Vec a, Vec b, Vec c) { return a * b + c; }
constexpr int kTileRows = 4, kTileVecs = 2;
#endif

constexpr int kTileColumns = kTileVecs * kLanes;

}  // namespace
}  // namespace auxgrad
