// Products of float32 matrices on the AMX matrix unit, which multiplies bfloat16 and sums in float32.
//
// A float has 24 significant bits, a bfloat16 has 8: x = high + middle + low without a rest, each the nearest bfloat16
// to what the ones before leave. Of the nine products of two such sums six are computed, smallest first; those left out
// are at most 2^-25 of |a b|, half of what rounding a float costs. The unit sums 32 products into a float at a time,
// so that long sums round less often than a chain of multiply-adds does. It does 16 times the multiply-adds of the
// vector units in a cycle: with six of them 2.7 times as many remain.
//
// What differs from multiply-adds: numbers below 2^-126 count as zero, also as parts of others (full precision from
// 2^-102 on). Infinities would meet zeros: a block with a NaN in its sums is summed again in multiply-adds.
#pragma once
#include "tiles.h"

#if defined(AUXGRAD_HAS_AMX)
namespace auxgrad {
namespace {

constexpr int64_t kSplitDepth = 32;  // of a step: a row of a tile holds so many bfloat16
constexpr int kPlanes = 3;           // high, middle, low

// The parts of 16 floats, each as a float with an empty lower half.
struct Split {
  __m512i plane[kPlanes];
};

inline __attribute__((always_inline)) Split split(__m512 x) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000)), half = _mm512_set1_epi32(0x8000);
  const __m512i bits = _mm512_castps_si512(x);
  // The largest numbers are cut rather than rounded up to infinity.
  const __mmask16 small = _mm512_cmplt_epu32_mask(_mm512_add_epi32(bits, bits), _mm512_set1_epi32(0xfe000000));
  Split s;
  s.plane[0] = _mm512_and_si512(_mm512_mask_add_epi32(bits, small, bits, half), upper);
  const __m512 rest = _mm512_sub_ps(x, _mm512_castsi512_ps(s.plane[0]));
  s.plane[1] = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(rest), half), upper);
  s.plane[2] = _mm512_castps_si512(_mm512_sub_ps(rest, _mm512_castsi512_ps(s.plane[1])));
  return s;
}

// 32 neighbours of a row, in order, for each plane: a row of a left tile.
inline __attribute__((always_inline)) void store_row(char* to, int64_t plane, const Split& first, const Split& second) {
  const __m512i odd = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27, 25,
                                       23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
#pragma GCC unroll 3
  for (int p = 0; p < kPlanes; p++)
    _mm512_storeu_si512(to + p * plane, _mm512_permutex2var_epi16(first.plane[p], odd, second.plane[p]));
}

// Rows k and k + 1 of 16 columns, in pairs, for each plane: a row of a right tile.
inline __attribute__((always_inline)) void store_pair(char* to, int64_t plane, const Split& even, const Split& odd) {
#pragma GCC unroll 3
  for (int p = 0; p < kPlanes; p++)
    _mm512_storeu_si512(to + p * plane,
                        _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(even.plane[p], 16), odd.plane[p]));
}

// Lane j of vector i becomes lane i of vector j.
inline __attribute__((always_inline)) void transpose16(__m512 (&v)[16]) {
  __m512 a[16];
  // Pairs, then pairs of pairs within the four quarters of the vectors, then the quarters.
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
    a[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const __m512d r0 = _mm512_castps_pd(a[i]), r1 = _mm512_castps_pd(a[i + 1]), r2 = _mm512_castps_pd(a[i + 2]),
                  r3 = _mm512_castps_pd(a[i + 3]);
    v[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(r0, r2));
    v[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(r0, r2));
    v[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(r1, r3));
    v[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(r1, r3));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const __m512 low0 = _mm512_shuffle_f32x4(v[i], v[i + 4], 0x88), high0 = _mm512_shuffle_f32x4(v[i], v[i + 4], 0xdd);
    const __m512 low1 = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0x88),
                 high1 = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0xdd);
    a[i] = _mm512_shuffle_f32x4(low0, low1, 0x88);
    a[i + 8] = _mm512_shuffle_f32x4(low0, low1, 0xdd);
    a[i + 4] = _mm512_shuffle_f32x4(high0, high1, 0x88);
    a[i + 12] = _mm512_shuffle_f32x4(high0, high1, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) v[i] = a[i];
}

// A block of M x N tiles of sums. The left operand may lie anywhere: row r of its tile i, plane p, at byte
// left[i] + p * left_plane + r * left_row + the place of the step; steps are those of `length`, 64 bytes apart unless
// `step` says otherwise, in runs of runs. The right one lies in the order of the steps: [step][N][plane][tile].
struct SplitBlock {
  const char* left[2];
  int64_t left_row, left_plane;
  int64_t outer = 1, outer_step = 0, inner = 1, inner_step = 0, length, step = 64;
  const char* right;
  // What multiply_split() brings near step by step, as much as there is of `right`; by default the step after this one.
  const char* ahead = nullptr;
  bool fetch = true;  // whether to: what lies in the second cache comes fast enough by itself
  // Places of the steps, `length` of them, where they are not as regular as that.
  const int32_t* places = nullptr;
};

constexpr int64_t kSumStep = 32;  // floats between rows of sums
typedef float Sums[32 * kSumStep];

// Calls f(left offset) for every step.
template <class F>
inline __attribute__((always_inline)) void each_step(const SplitBlock& b, const F& f) {
  if (b.places) {
    for (int64_t k = 0; k < b.length; k++) f(b.places[k]);
    return;
  }
  for (int64_t i = 0; i < b.outer; i++)
    for (int64_t j = 0; j < b.inner; j++) {
      int64_t at = i * b.outer_step + j * b.inner_step;
      for (int64_t k = 0; k < b.length; k++, at += b.step) f(at);
    }
}

// 16 floats from their parts; of an infinity the others are nothing.
inline __m512 join(__m512i high, __m512i middle, __m512i low) {
  const __m512 h = _mm512_castsi512_ps(high);
  const __mmask16 infinite = _mm512_fpclass_ps_mask(h, 0x18);
  const __m512 rest = _mm512_add_ps(_mm512_castsi512_ps(middle), _mm512_castsi512_ps(low));
  return _mm512_mask_mov_ps(_mm512_add_ps(h, rest), infinite, h);
}

// The sums of a block in multiply-adds.
template <int M, int N>
__attribute__((noinline)) void sum_exceptional(const SplitBlock& b, float* sums) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  for (int r = 0; r < 16 * M; r++) {
    __m512 sum[N];
    for (int n = 0; n < N; n++) sum[n] = _mm512_setzero_ps();
    const char* right = b.right;
    each_step(b, [&](int64_t at) {
      const char* row = b.left[r / 16] + at + r % 16 * b.left_row;
      for (int pair = 0; pair < 16; pair++) {
        int32_t word[kPlanes];
        for (int p = 0; p < kPlanes; p++) memcpy(&word[p], row + p * b.left_plane + pair * 4, 4);
        const auto left = [&](int shift) {
          __m512i x[kPlanes];
          for (int p = 0; p < kPlanes; p++)
            x[p] =
                _mm512_and_si512(_mm512_set1_epi32(static_cast<int>(static_cast<uint32_t>(word[p]) << shift)), upper);
          return join(x[0], x[1], x[2]);
        };
        const __m512 even = left(16), odd = left(0);
        for (int n = 0; n < N; n++) {
          __m512i x[kPlanes];
          for (int p = 0; p < kPlanes; p++)
            x[p] = _mm512_loadu_si512(right + (n * kPlanes + p) * kTileBytes + pair * 64);
          sum[n] = _mm512_fmadd_ps(
              even, join(_mm512_slli_epi32(x[0], 16), _mm512_slli_epi32(x[1], 16), _mm512_slli_epi32(x[2], 16)),
              sum[n]);
          sum[n] = _mm512_fmadd_ps(
              odd, join(_mm512_and_si512(x[0], upper), _mm512_and_si512(x[1], upper), _mm512_and_si512(x[2], upper)),
              sum[n]);
        }
      }
      right += N * kPlanes * kTileBytes;
    });
    for (int n = 0; n < N; n++) _mm512_storeu_ps(sums + r * kSumStep + 16 * n, sum[n]);
  }
}

// Where there are fewer than four tiles of sums, each is summed in two or four, lest products wait for each other.
#define AUXGRAD_TILE_PRODUCTS(odd, quarter) \
  do {                                      \
    if (M > 1 && N > 1) {                   \
      _tile_dpbf16ps(0, 4, 6);              \
      AUXGRAD_APART;                        \
      _tile_dpbf16ps(1, 4, 7);              \
      AUXGRAD_APART;                        \
      _tile_dpbf16ps(2, 5, 6);              \
      AUXGRAD_APART;                        \
      _tile_dpbf16ps(3, 5, 7);              \
    } else if (N > 1) {                     \
      if (odd) _tile_dpbf16ps(2, 4, 6);     \
      else _tile_dpbf16ps(0, 4, 6);         \
      AUXGRAD_APART;                        \
      if (odd) _tile_dpbf16ps(3, 4, 7);     \
      else _tile_dpbf16ps(1, 4, 7);         \
    } else if (M > 1) {                     \
      if (odd) _tile_dpbf16ps(1, 4, 6);     \
      else _tile_dpbf16ps(0, 4, 6);         \
      AUXGRAD_APART;                        \
      if (odd) _tile_dpbf16ps(3, 5, 6);     \
      else _tile_dpbf16ps(2, 5, 6);         \
    } else {                                \
      _tile_dpbf16ps(quarter, 4, 6);        \
    }                                       \
  } while (0)
#define AUXGRAD_LOAD_LEFT(plane)                                                                         \
  do {                                                                                                   \
    AUXGRAD_TILE_LOAD(4, left0 + at + (plane)*b.left_plane, static_cast<size_t>(b.left_row));            \
    if (M > 1) AUXGRAD_TILE_LOAD(5, left1 + at + (plane)*b.left_plane, static_cast<size_t>(b.left_row)); \
  } while (0)
#define AUXGRAD_LOAD_RIGHT(plane)                                                  \
  do {                                                                             \
    AUXGRAD_TILE_LOAD(6, right + (plane)*kTileBytes, 64);                          \
    if (N > 1) AUXGRAD_TILE_LOAD(7, right + (kPlanes + (plane)) * kTileBytes, 64); \
  } while (0)

template <int Lines>
inline __attribute__((always_inline)) void fetch_tile(const char* p) {
#pragma GCC unroll 16
  for (int i = 0; i < Lines; i++) _mm_prefetch(p + kTileBytes / Lines * i, _MM_HINT_T0);
}

// The products of a block. Its sums stay in the tiles: they go to memory with the next block, each just before its tile
// is needed, or by store_sums(). So this call puts those of the block before into `before` (of the first block: anything).
// meanwhile() is called three times a step, first after they are on their way: 100 or so instructions each cost no time
// there, while the matrix unit works. They must settle() the sums, then may use them, and may pack what comes next.
// Between start_tiles() and stop_tiles(). Lines: those of a tile's 16 that are fetched ahead; few are enough where right
// operands follow each other in memory, and what fetching more takes is lost to meanwhile().
template <int M, int N, int Lines = 16, class F>
AUXGRAD_AMX __attribute__((noinline)) void multiply_split(const SplitBlock& b, float* before, const F& meanwhile) {
  alignas(64) char nowhere[kTileBytes];
  memory_barrier();
  const char *left0 = b.left[0], *left1 = b.left[M - 1], *right = b.right;
  const int64_t ahead = b.ahead ? b.ahead - b.right : N * kPlanes * kTileBytes;
  const bool fetch = b.fetch;
  int since = 0;
  bool first = true;
  for (int64_t i = 0; i < b.outer; i++)
    for (int64_t j = 0; j < b.inner; j++) {
      int64_t at = i * b.outer_step + j * b.inner_step;
      // In an order that changes one operand at a time.
      for (int64_t k = 0; k < b.length; k++, at += b.step, right += N * kPlanes * kTileBytes) {
        if (b.places) at = b.places[k];
        AUXGRAD_LOAD_LEFT(2);
        AUXGRAD_LOAD_RIGHT(0);
        if (first) {
          first = false;
          _tile_stored(0, before, kSumStep * 4);
          _tile_zero(0);
          if (M > 1 && N > 1) _tile_dpbf16ps(0, 4, 6);
          _tile_stored(1, before + 16, kSumStep * 4);
          _tile_zero(1);
          if (M > 1 && N > 1) _tile_dpbf16ps(1, 4, 7);
          _tile_stored(2, before + 16 * kSumStep, kSumStep * 4);
          _tile_zero(2);
          if (M > 1 && N > 1) _tile_dpbf16ps(2, 5, 6);
          _tile_stored(3, before + 16 * kSumStep + 16, kSumStep * 4);
          _tile_zero(3);
          if (M > 1 && N > 1) _tile_dpbf16ps(3, 5, 7);
          else AUXGRAD_TILE_PRODUCTS(false, 0);
        } else {
          // The first store of a tile after some 2000 cycles without one takes 1000 (measured).
          if (++since % 4 == 0) _tile_stored(6, nowhere, 64);
          AUXGRAD_TILE_PRODUCTS(false, 0);
        }
        if (fetch) fetch_tile<Lines>(right + ahead);
        AUXGRAD_LOAD_LEFT(1);
        AUXGRAD_TILE_PRODUCTS(true, 1);
        if (fetch) fetch_tile<Lines>(right + ahead + kTileBytes);
        meanwhile();
        AUXGRAD_LOAD_RIGHT(1);
        AUXGRAD_TILE_PRODUCTS(false, 2);
        if (fetch) fetch_tile<Lines>(right + ahead + 2 * kTileBytes);
        AUXGRAD_LOAD_LEFT(0);
        AUXGRAD_TILE_PRODUCTS(true, 3);
        if (N > 1 && fetch) fetch_tile<Lines>(right + ahead + 3 * kTileBytes);
        meanwhile();
        AUXGRAD_LOAD_RIGHT(2);
        AUXGRAD_TILE_PRODUCTS(false, 0);
        if (N > 1 && fetch) fetch_tile<Lines>(right + ahead + 4 * kTileBytes);
        AUXGRAD_LOAD_RIGHT(0);
        AUXGRAD_TILE_PRODUCTS(true, 1);
        if (N > 1 && fetch) fetch_tile<Lines>(right + ahead + 5 * kTileBytes);
        meanwhile();
      }
    }
  memory_barrier();
}

// The sums of the last block.
AUXGRAD_AMX inline void store_sums(float* sums) {
  _tile_stored(0, sums, kSumStep * 4);
  _tile_stored(1, sums + 16, kSumStep * 4);
  _tile_stored(2, sums + 16 * kSumStep, kSumStep * 4);
  _tile_stored(3, sums + 16 * kSumStep + 16, kSumStep * 4);
  memory_barrier();
}

#undef AUXGRAD_TILE_PRODUCTS
#undef AUXGRAD_LOAD_LEFT
#undef AUXGRAD_LOAD_RIGHT

// sums[16 * M rows][16 * N columns], rows kSumStep apart, from the tiles of block `b`. With a NaN among them they are
// summed again: an infinity may be behind it. The block's operands must still be there.
template <int M, int N>
inline void settle(const SplitBlock& b, float* sums) {
  __m512 all[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
#pragma GCC unroll 4
  for (int r = 0; r < 16 * M; r++) {
    float* row = sums + r * kSumStep;
#pragma GCC unroll 2
    for (int n = 0; n < N; n++) {
      __m512 x = _mm512_load_ps(row + 16 * n);
      if (M == 1) x = _mm512_add_ps(x, _mm512_load_ps(row + 16 * kSumStep + 16 * n));
      if (N == 1) x = _mm512_add_ps(x, _mm512_load_ps(row + 16));
      if (M == 1 && N == 1) x = _mm512_add_ps(x, _mm512_load_ps(row + 16 * kSumStep + 16));
      if (M == 1 || N == 1) _mm512_store_ps(row + 16 * n, x);
      all[(r * N + n) % 4] = _mm512_add_ps(all[(r * N + n) % 4], x);
    }
  }
  const __m512 sum = _mm512_add_ps(_mm512_add_ps(all[0], all[1]), _mm512_add_ps(all[2], all[3]));
  if (_mm512_cmp_ps_mask(sum, sum, _CMP_UNORD_Q)) sum_exceptional<M, N>(b, sums);
}
inline void settle(int m, int n, const SplitBlock& b, float* sums) {
  if (m > 1) n > 1 ? settle<2, 2>(b, sums) : settle<2, 1>(b, sums);
  else n > 1 ? settle<1, 2>(b, sums) : settle<1, 1>(b, sums);
}

// multiply_split<rows, columns> for 1 or 2 tiles of each.
template <int Lines = 16, class F>
inline void multiply_split(int m, int n, const SplitBlock& b, float* before, const F& meanwhile) {
  if (m > 1)
    n > 1 ? multiply_split<2, 2, Lines>(b, before, meanwhile) : multiply_split<2, 1, Lines>(b, before, meanwhile);
  else n > 1 ? multiply_split<1, 2, Lines>(b, before, meanwhile) : multiply_split<1, 1, Lines>(b, before, meanwhile);
}

}  // namespace
}  // namespace auxgrad
#endif
