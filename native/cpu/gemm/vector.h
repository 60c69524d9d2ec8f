// What a matrix product does with vectors, and its register tile.
#pragma once
#include "../vector.h"

namespace auxgrad {
namespace {

// The tile: kTileRows x kTileVecs accumulators, the vectors of one step and one broadcast fill the register file.
// A wide tile, kWideRows x kWideVecs, broadcasts less; it is for right operands short enough to be read in place.
constexpr int kTileVecs = 2;
#if defined(__AVX512F__)
constexpr int kWideRows = 6, kWideVecs = 4;
#elif defined(__AVX2__)
constexpr int kWideRows = 2, kWideVecs = 4;
#else
constexpr int kWideRows = 0, kWideVecs = 0;
#endif
constexpr int kTileColumns = kTileVecs * kLanes;

// `least` where v is below it; NaN stays NaN.
inline Vec max_of(Vec least, Vec v) {
#if defined(__AVX512F__)
  return (Vec)_mm512_max_ps((__m512)least, (__m512)v);  // the second operand, if either is NaN
#elif defined(__AVX2__)
  return (Vec)_mm256_max_ps((__m256)least, (__m256)v);
#else
  return v < least ? least : v;
#endif
}

// `word`, the bits of `rows` rows (or a vector of such words), into what is at `to` from bit `bit` on, and what there is
// no room for to `to + next`. Of a word the lowest bits come first: the others are cleared.
template <class Word>
__attribute__((noinline)) void place_bits(Word word, uint32_t* to, int64_t next, int64_t bit, int64_t rows) {
  Word there = {};
  if (bit > 0) memcpy(&there, to, sizeof there);
  there |= word << static_cast<uint32_t>(bit);
  memcpy(to, &there, sizeof there);
  if (bit + rows <= 32) return;
  word = word >> static_cast<uint32_t>(32 - bit);
  memcpy(to + next, &word, sizeof word);
}

// Memory is read and written in the order of the source here, and the compiler knows nothing of `v`.
inline void in_order(BitWords& v) {
#if defined(__AVX512F__)
  asm volatile("" : "+v"(v) : : "memory");
#elif defined(__AVX2__)
  asm volatile("" : "+x"(v) : : "memory");
#elif defined(AUXGRAD_NEON)
  asm volatile("" : "+w"(v) : : "memory");
#else
  asm volatile("" : "+m"(v) : : "memory");
#endif
}

// Four vectors whose lanes are groups of 4: from group l of v[q] = (row 4 l + q, columns 0..3) to group l of v[s] =
// (rows 4 l..4 l + 3, column s).
inline void transpose_groups(Vec (&v)[4]) {
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
inline Vec load_groups(const Row& row) {
#if defined(__AVX512F__)
  const auto pair = [&](int l) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row(l))), _mm_loadu_ps(row(l + 1)), 1);
  };
  return (Vec)_mm512_insertf32x8(_mm512_castps256_ps512(pair(0)), pair(2), 1);
#elif defined(__AVX2__)
  return (Vec)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row(0))), _mm_loadu_ps(row(1)), 1);
#else
  return load(row(0));
#endif
}

}  // namespace
}  // namespace auxgrad
