// One vector register of floats per instruction set, what a matrix product does with it, and the register tile.
// Sums, differences and comparisons are the compilers' own operators on vector types.
#pragma once
#include "../unit.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(AUXGRAD_NEON)
#include <arm_neon.h>
#endif

namespace auxgrad {
namespace {

// The tile: kTileRows x kTileVecs accumulators, the vectors of one step and one broadcast fill the register file.
// A wide tile, kWideRows x kWideVecs, broadcasts less; it is for right operands short enough to be read in place.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kTileRows = 14, kTileVecs = 2, kWideRows = 6, kWideVecs = 4;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kTileRows = 6, kTileVecs = 2, kWideRows = 0, kWideVecs = 0;
#elif defined(AUXGRAD_NEON)
constexpr int kLanes = 4, kTileRows = 12, kTileVecs = 2, kWideRows = 0, kWideVecs = 0;
#else
constexpr int kLanes = 4, kTileRows = 4, kTileVecs = 2, kWideRows = 0, kWideVecs = 0;
#endif
constexpr int kTileColumns = kTileVecs * kLanes;

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef uint32_t IntVec __attribute__((vector_size(4 * kLanes)));

inline Vec vec_load(const float* p) {
  Vec v;
  memcpy(&v, p, sizeof v);
  return v;
}
inline void vec_store(float* p, Vec v) { memcpy(p, &v, sizeof v); }

inline Vec vec_set(float x) {
#if defined(__AVX512F__)
  return (Vec)_mm512_set1_ps(x);
#elif defined(__AVX2__)
  return (Vec)_mm256_set1_ps(x);
#else
  return Vec{x, x, x, x};
#endif
}

// a * b + c, rounded once where the machine can.
inline Vec vec_fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(AUXGRAD_NEON)
  return (Vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

// The first n lanes, 0 < n <= kLanes; zeros behind them.
#if defined(__AVX512F__)
inline __mmask16 vec_mask(int64_t n) { return static_cast<__mmask16>(0xffffu >> (kLanes - n)); }
inline Vec vec_load_part(const float* p, int64_t n) { return (Vec)_mm512_maskz_loadu_ps(vec_mask(n), p); }
inline void vec_store_part(float* p, Vec v, int64_t n) { _mm512_mask_storeu_ps(p, vec_mask(n), (__m512)v); }
#elif defined(__AVX2__)
inline __m256i vec_mask(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vec vec_load_part(const float* p, int64_t n) { return (Vec)_mm256_maskload_ps(p, vec_mask(n)); }
inline void vec_store_part(float* p, Vec v, int64_t n) { _mm256_maskstore_ps(p, vec_mask(n), (__m256)v); }
#else
inline Vec vec_load_part(const float* p, int64_t n) {
  Vec v = {};
  for (int64_t i = 0; i < n; i++) v[i] = p[i];
  return v;
}
inline void vec_store_part(float* p, Vec v, int64_t n) {
  for (int64_t i = 0; i < n; i++) p[i] = v[i];
}
#endif

// v + (v > 0 ? positive : negative).
inline Vec vec_add_signs(Vec v, Vec positive, Vec negative) {
#if defined(__AVX512F__)
  const __mmask16 on = _mm512_cmp_ps_mask((__m512)v, _mm512_setzero_ps(), _CMP_GT_OQ);
  return v + (Vec)_mm512_mask_blend_ps(on, (__m512)negative, (__m512)positive);
#else
  return v + (v > Vec{} ? positive : negative);
#endif
}

// `least` where v is below it; NaN stays NaN.
inline Vec vec_max(Vec least, Vec v) {
#if defined(__AVX512F__)
  return (Vec)_mm512_max_ps((__m512)least, (__m512)v);  // the second operand, if either is NaN
#elif defined(__AVX2__)
  return (Vec)_mm256_max_ps((__m256)least, (__m256)v);
#else
  return v < least ? least : v;
#endif
}
inline Vec vec_relu(Vec v) { return vec_max(Vec{}, v); }

// word | (v > 0 ? bit : 0), lane by lane.
inline IntVec vec_or_positive(IntVec word, Vec v, IntVec bit) {
#if defined(__AVX512F__)
  const __mmask16 on = _mm512_cmp_ps_mask((__m512)v, _mm512_setzero_ps(), _CMP_GT_OQ);
  return (IntVec)_mm512_mask_or_epi32((__m512i)word, on, (__m512i)word, (__m512i)bit);
#else
  return word | ((IntVec)(v > Vec{}) & bit);
#endif
}

// Four vectors whose lanes are groups of 4: from group l of v[q] = (row 4 l + q, columns 0..3) to group l of v[s] =
// (rows 4 l..4 l + 3, column s).
inline void vec_transpose_groups(Vec (&v)[4]) {
#if defined(__AVX512F__)
  const __m512d a = (__m512d)_mm512_unpacklo_ps((__m512)v[0], (__m512)v[1]);
  const __m512d b = (__m512d)_mm512_unpacklo_ps((__m512)v[2], (__m512)v[3]);
  const __m512d c = (__m512d)_mm512_unpackhi_ps((__m512)v[0], (__m512)v[1]);
  const __m512d d = (__m512d)_mm512_unpackhi_ps((__m512)v[2], (__m512)v[3]);
  v[0] = (Vec)_mm512_unpacklo_pd(a, b);
  v[1] = (Vec)_mm512_unpackhi_pd(a, b);
  v[2] = (Vec)_mm512_unpacklo_pd(c, d);
  v[3] = (Vec)_mm512_unpackhi_pd(c, d);
#elif defined(__AVX2__)
  const __m256d a = (__m256d)_mm256_unpacklo_ps((__m256)v[0], (__m256)v[1]);
  const __m256d b = (__m256d)_mm256_unpacklo_ps((__m256)v[2], (__m256)v[3]);
  const __m256d c = (__m256d)_mm256_unpackhi_ps((__m256)v[0], (__m256)v[1]);
  const __m256d d = (__m256d)_mm256_unpackhi_ps((__m256)v[2], (__m256)v[3]);
  v[0] = (Vec)_mm256_unpacklo_pd(a, b);
  v[1] = (Vec)_mm256_unpackhi_pd(a, b);
  v[2] = (Vec)_mm256_unpacklo_pd(c, d);
  v[3] = (Vec)_mm256_unpackhi_pd(c, d);
#elif defined(AUXGRAD_NEON)
  const float64x2_t a = (float64x2_t)vzip1q_f32((float32x4_t)v[0], (float32x4_t)v[1]);
  const float64x2_t b = (float64x2_t)vzip1q_f32((float32x4_t)v[2], (float32x4_t)v[3]);
  const float64x2_t c = (float64x2_t)vzip2q_f32((float32x4_t)v[0], (float32x4_t)v[1]);
  const float64x2_t d = (float64x2_t)vzip2q_f32((float32x4_t)v[2], (float32x4_t)v[3]);
  v[0] = (Vec)vzip1q_f64(a, b);
  v[1] = (Vec)vzip2q_f64(a, b);
  v[2] = (Vec)vzip1q_f64(c, d);
  v[3] = (Vec)vzip2q_f64(c, d);
#else
  const Vec a = v[0], b = v[1], c = v[2], d = v[3];
  for (int s = 0; s < 4; s++) v[s] = Vec{a[s], b[s], c[s], d[s]};
#endif
}

// Group l of the result is the 4 floats at row(l); groups are put in place on their way from memory.
template <class Row>
inline Vec vec_load_groups(const Row& row) {
#if defined(__AVX512F__)
  __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(row(0)));
  v = _mm512_insertf32x4(v, _mm_loadu_ps(row(1)), 1);
  v = _mm512_insertf32x4(v, _mm_loadu_ps(row(2)), 2);
  return (Vec)_mm512_insertf32x4(v, _mm_loadu_ps(row(3)), 3);
#elif defined(__AVX2__)
  return (Vec)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row(0))), _mm_loadu_ps(row(1)), 1);
#else
  return vec_load(row(0));
#endif
}

}  // namespace
}  // namespace auxgrad
