// One vector of floats of the instruction set at hand, in the compilers' vector extensions: +, *, <, ?: work on it.
#pragma once
#include "unit.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(AUXGRAD_NEON)
#include <arm_neon.h>
#endif

namespace auxgrad {
namespace {

// kTileRows x 2 accumulators, two right operands and a broadcast fill the register file.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kTileRows = 14;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kTileRows = 6;
#elif defined(AUXGRAD_NEON)
constexpr int kLanes = 4, kTileRows = 12;
#else
constexpr int kLanes = 4, kTileRows = 4;
#endif
// Where size counts, code for special shapes is left out.
#if defined(AUXGRAD_FALLBACK)
constexpr bool kFallback = true;
#else
constexpr bool kFallback = false;
#endif

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t IntVec __attribute__((vector_size(4 * kLanes)));
typedef uint32_t BitWords __attribute__((vector_size(4 * kLanes)));

inline Vec load(const float* p) {
  Vec v;
  memcpy(&v, p, sizeof(v));
  return v;
}
inline void store(float* p, Vec v) { memcpy(p, &v, sizeof(v)); }

inline Vec broadcast(float x) {
#if defined(__AVX512F__)
  return (Vec)_mm512_set1_ps(x);
#elif defined(__AVX2__)
  return (Vec)_mm256_set1_ps(x);
#else
  return Vec{x, x, x, x};
#endif
}

// a * b + c, rounded once where the machine can.
inline Vec fma(Vec a, Vec b, Vec c) {
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

// The lesser and the greater number; y where one is NaN.
inline Vec lesser(Vec x, Vec y) {
#if defined(__AVX512F__)
  return (Vec)_mm512_min_ps((__m512)x, (__m512)y);
#elif defined(__AVX2__)
  return (Vec)_mm256_min_ps((__m256)x, (__m256)y);
#else
  return x < y ? x : y;
#endif
}
inline Vec greater(Vec x, Vec y) {
#if defined(__AVX512F__)
  return (Vec)_mm512_max_ps((__m512)x, (__m512)y);
#elif defined(__AVX2__)
  return (Vec)_mm256_max_ps((__m256)x, (__m256)y);
#else
  return x > y ? x : y;
#endif
}

// Zero where y is below it; NaN stays NaN.
inline Vec relu(Vec y) { return greater(Vec{}, y); }

// 1 / x of normal numbers, to within a unit of the last place.
inline Vec inverse(Vec x) {
#if defined(__AVX512F__)
  const Vec y = (Vec)_mm512_maskz_rcp14_ps(0xffff, (__m512)x);
  return fma(fma(-x, y, broadcast(1.0f)), y, y);
#else
  return 1.0f / x;
#endif
}

inline Vec root(Vec x) {
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_sqrt_ps(0xffff, (__m512)x);
#elif defined(__AVX2__)
  return (Vec)_mm256_sqrt_ps((__m256)x);
#else
  AUXGRAD_UNROLL
  for (int k = 0; k < kLanes; k++) x[k] = __builtin_sqrtf(x[k]);
  return x;
#endif
}

// Sets `bit` in the words of lanes above zero.
inline BitWords mark_positive(BitWords words, Vec x, BitWords bit) {
#if defined(__AVX512F__)
  const __mmask16 above = _mm512_cmp_ps_mask((__m512)x, _mm512_setzero_ps(), _CMP_GT_OQ);
  return (BitWords)_mm512_mask_or_epi32((__m512i)words, above, (__m512i)words, (__m512i)bit);
#else
  return words | ((BitWords)(x > Vec{}) & bit);
#endif
}

// v + (v > 0 ? positive : negative).
inline Vec add_signs(Vec v, Vec positive, Vec negative) {
#if defined(__AVX512F__)
  const __mmask16 on = _mm512_cmp_ps_mask((__m512)v, _mm512_setzero_ps(), _CMP_GT_OQ);
  return v + (Vec)_mm512_mask_blend_ps(on, (__m512)negative, (__m512)positive);
#else
  return v + (v > Vec{} ? positive : negative);
#endif
}

// Whether a lane has any bit set.
inline bool any_lane(IntVec v) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)v, (__m512i)v) != 0;
#elif defined(__AVX2__)
  return !_mm256_testz_si256((__m256i)v, (__m256i)v);
#else
  int32_t bits = 0;
  for (int i = 0; i < kLanes; i++) bits |= v[i];
  return bits != 0;
#endif
}

inline void set_zero(float* target, int64_t n) {
  if (n > 0) memset(target, 0, static_cast<size_t>(n) * 4);
}

inline IntVec lane_numbers() {
#if defined(__AVX512F__)
  return IntVec{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif defined(__AVX2__)
  return IntVec{0, 1, 2, 3, 4, 5, 6, 7};
#else
  return IntVec{0, 1, 2, 3};
#endif
}
// All bits set where a lane is one of the first n.
inline IntVec first_lanes(int64_t n) { return lane_numbers() < static_cast<int32_t>(n); }

// The first n lanes (n <= kLanes) from memory, zeros behind them; nothing behind them is read.
inline Vec load_part(const float* p, int64_t n) {
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
#elif defined(__AVX2__)
  return (Vec)_mm256_maskload_ps(p, (__m256i)first_lanes(n));
#else
  Vec v = {};
  for (int64_t i = 0; i < n; i++) v[i] = p[i];
  return v;
#endif
}
inline void store_part(float* p, Vec v, int64_t n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), (__m512)v);
#elif defined(__AVX2__)
  _mm256_maskstore_ps(p, (__m256i)first_lanes(n), (__m256)v);
#else
  for (int64_t i = 0; i < n; i++) p[i] = v[i];
#endif
}
inline Vec load_first(const float* p, int64_t n) { return n >= kLanes ? load(p) : load_part(p, n); }

// Bytes as numbers of 32 bits, and back.
inline IntVec load_bytes(const uint8_t* p) {
#if defined(__AVX512F__)
  return (IntVec)_mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__AVX2__)
  return (IntVec)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#else
  return IntVec{p[0], p[1], p[2], p[3]};
#endif
}
inline void store_bytes(uint8_t* p, IntVec v) {
#if defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)v));
#elif defined(__AVX2__)
  const __m256i words = _mm256_packus_epi32((__m256i)v, (__m256i)v), bytes = _mm256_packus_epi16(words, words);
  const int low = _mm256_extract_epi32(bytes, 0), high = _mm256_extract_epi32(bytes, 4);
  memcpy(p, &low, 4);
  memcpy(p + 4, &high, 4);
#else
  for (int k = 0; k < kLanes; k++) p[k] = static_cast<uint8_t>(v[k]);
#endif
}

// Takes the values that are larger than the best ones, or NaN where those are none, and notes where they are from.
inline void take_larger(Vec value, int32_t tap, Vec* best, IntVec* at) {
#if defined(__AVX512F__)
  const __m512 old = (__m512)*best;
  const __mmask16 better =
      _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(old, old, _CMP_ORD_Q), (__m512)value, old, _CMP_NLE_UQ);
  *best = (Vec)_mm512_mask_mov_ps(old, better, (__m512)value);
  *at = (IntVec)_mm512_mask_mov_epi32((__m512i)*at, better, _mm512_set1_epi32(tap));
#else
  const IntVec better = ~(value <= *best) & (*best == *best);
  *best = better ? value : *best;
  *at = better ? IntVec{} + tap : *at;
#endif
}

// Access to a whole vector, and to the ragged end of a row: code over channels is written once for both.
struct WholeLanes {
  Vec load(const float* p) const { return auxgrad::load(p); }
  void store(float* p, Vec v) const { auxgrad::store(p, v); }
  Vec keep(Vec v) const { return v; }
  static constexpr int64_t count() { return kLanes; }
};
struct PartLanes {
  int64_t n;
  Vec load(const float* p) const { return load_part(p, n); }
  void store(float* p, Vec v) const { store_part(p, v, n); }
  // Zeros in the lanes that are not there.
  Vec keep(Vec v) const { return first_lanes(n) ? v : Vec{}; }
  int64_t count() const { return n; }
};
template <class F>
inline void each_vector(int64_t begin, int64_t end, const F& f) {
  int64_t c = begin;
  for (; c + kLanes <= end; c += kLanes) f(c, WholeLanes());
  if (c < end) f(c, PartLanes{end - c});
}

// Lanes i and i ^ kDistance in each other's place.
template <int kDistance>
inline Vec exchange(Vec x) {
#if defined(__AVX512F__)
  if constexpr (kDistance == 8) return (Vec)_mm512_maskz_shuffle_f32x4(0xffff, (__m512)x, (__m512)x, 0x4e);
  else if constexpr (kDistance == 4) return (Vec)_mm512_maskz_shuffle_f32x4(0xffff, (__m512)x, (__m512)x, 0xb1);
  else return (Vec)_mm512_maskz_permute_ps(0xffff, (__m512)x, kDistance == 2 ? 0x4e : 0xb1);
#elif defined(__AVX2__)
  if constexpr (kDistance == 4) return (Vec)_mm256_permute2f128_ps((__m256)x, (__m256)x, 1);
  else return (Vec)_mm256_permute_ps((__m256)x, kDistance == 2 ? 0x4e : 0xb1);
#else
  if constexpr (kDistance == 2) return __builtin_shufflevector(x, x, 2, 3, 0, 1);
  else return __builtin_shufflevector(x, x, 1, 0, 3, 2);
#endif
}

// Lane i: lane place[i] of x.
inline Vec permute(Vec x, IntVec place) {
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)place, (__m512)x);
#elif defined(__AVX2__)
  return (Vec)_mm256_permutevar8x32_ps((__m256)x, (__m256i)place);
#else
  return Vec{x[place[0] & 3], x[place[1] & 3], x[place[2] & 3], x[place[3] & 3]};
#endif
}

// All lanes of a group of `width` joined by f, in each of them: first those that are half a group apart. A power of two.
template <class F>
inline __attribute__((always_inline)) Vec join_lanes(Vec x, int64_t width, const F& f) {
  if constexpr (kLanes >= 16)
    if (width > 8) x = f(x, exchange<8>(x));
  if constexpr (kLanes >= 8)
    if (width > 4) x = f(x, exchange<4>(x));
  if (width > 2) x = f(x, exchange<2>(x));
  if (width > 1) x = f(x, exchange<1>(x));
  return x;
}

// One number of all lanes of some vectors, a power of two: each of the first half becomes f(it, its partner in the second),
// until one is left.
template <int kVecs, class F>
inline __attribute__((always_inline)) float fold(const Vec (&vecs)[kVecs], const F& f) {
  Vec v[kVecs];
  memcpy(v, vecs, sizeof(v));
  AUXGRAD_UNROLL
  for (int half = kVecs / 2; half > 0; half /= 2)
    for (int k = 0; k < half; k++) v[k] = f(v[k], v[k + half]);
  return join_lanes(v[0], kLanes, f)[0];
}

// The lanes of a and b in turn.
inline __attribute__((always_inline)) void interleave(Vec a, Vec b, Vec& low, Vec& high) {
#if defined(__AVX512F__)
  low = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  high = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif defined(__AVX2__)
  low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
}
// The first half of the vectors with the second.
inline __attribute__((always_inline)) void interleave(const Vec (&in)[kLanes], Vec (&out)[kLanes]) {
  AUXGRAD_UNROLL
  for (int i = 0; i < kLanes / 2; i++) interleave(in[i], in[i + kLanes / 2], out[2 * i], out[2 * i + 1]);
}

// Turns kLanes vectors: lane j of vector i becomes lane i of vector j. Each interleaving turns the bits of the index
// of an element round by one.
inline __attribute__((always_inline)) void transpose(Vec (&v)[kLanes]) {
  Vec a[kLanes], b[kLanes];
  interleave(v, a);
  if constexpr (kLanes == 4) return interleave(a, v);
  interleave(a, b);
  if constexpr (kLanes == 8) return interleave(b, v);
  interleave(b, a);
  interleave(a, v);
}

}  // namespace
}  // namespace auxgrad
