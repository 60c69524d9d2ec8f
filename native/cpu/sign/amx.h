// Sums of codes on the AMX matrix unit, in integers.
//
// Each output channel's deltas of a step are rounded to multiples of 2^(e - 30), e the exponent of the largest: a
// 32-bit integer, the largest 1/128 of them exact. Its four bytes ("limbs") are multiplied separately with the code
// values, bytes themselves, and summed exactly; so the error of a step is at most 2^-31 of its largest delta a token.
// The matrix unit sums 1024 products of bytes a cycle where the vector units do 32 of floats: with four limbs still
// eight times as many.
#pragma once
#include <immintrin.h>

#include "codes.h"

// GCC bug 105593: its own intrinsics' undefined operands.
#pragma GCC diagnostic ignored "-Wuninitialized"

#define AUXGRAD_AMX __attribute__((target("amx-tile,amx-int8,avx512vbmi")))

namespace auxgrad {
namespace {

constexpr int kTileTokens = 64, kTiles = kStep / kTileTokens, kTileBytes = 1024;
constexpr int kAmxOutputs = 16, kLimbs = 4;

// To GCC the tile intrinsics do not read memory: what was written before must be written by here.
inline void memory_barrier() { __asm__ volatile("" ::: "memory"); }

struct alignas(64) TileConfig {
  uint8_t palette, start, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

AUXGRAD_AMX inline void start_tiles() {
  TileConfig config;
  memset(&config, 0, sizeof(config));
  config.palette = 1;
  for (int i = 0; i < 8; i++) config.row_bytes[i] = 64, config.rows[i] = 16;
  memory_barrier();
  _tile_loadconfig(&config);
}

// The tap of each column of a block, counted from its first.
struct RowTaps {
  int of[16];
  explicit RowTaps(const ColumnBlock& b) {
    for (int r = 0; r < 16; r++) of[r] = b.taps == 1 ? 0 : static_cast<int>(min64(r / b.channels, b.taps - 1));
  }
};

// Code values of a block: tiles [16 columns][64 tokens] of bytes.
AUXGRAD_AMX inline void expand_signs(const CodeGradient& g, const ColumnBlock& b, const Words* words,
                                     const uint64_t (*valid)[kStep / 64], int tiles, int8_t* out) {
  const __m512i one = _mm512_set1_epi8(1), low = _mm512_set1_epi8(g.zero_one ? 0 : -1);
  const RowTaps tap(b);
  for (int k = 0; k < tiles; k++) {
    const __m512i first = _mm512_load_si512(words + 2 * k), second = _mm512_load_si512(words + 2 * k + 1);
    alignas(64) uint64_t bits[16];
    _mm512_store_si512(bits, _mm512_unpacklo_epi32(first, second));
    _mm512_store_si512(bits + 8, _mm512_unpackhi_epi32(first, second));
    for (int r = 0; r < 16; r++) {
      const __m512i base = _mm512_maskz_mov_epi8(valid[tap.of[r]][k], low);
      const int at = (r / 4 * 2 + r % 2) + (r & 2 ? 8 : 0);
      _mm512_store_si512(out + k * kTileBytes + r * 64, _mm512_mask_mov_epi8(base, bits[at], one));
    }
  }
}

AUXGRAD_AMX inline void expand_codes(const ColumnBlock& b, const Words* words, const uint64_t (*valid)[kStep / 64],
                                     int tiles, int8_t* out) {
  alignas(64) uint8_t spread[64];  // bytes 2j, 2j + 1 of the 16 to the j-th quad word, whose codes they are
  for (int i = 0; i < 64; i++) spread[i] = static_cast<uint8_t>(i / 8 * 2 + i % 2);
  const __m512i spreading = _mm512_load_si512(spread), offsets = _mm512_set1_epi64(0x0e0c0a0806040200);
  const RowTaps tap(b);
  const __m512i three = _mm512_set1_epi8(3), value = _mm512_set1_epi32(0x0301fffd);  // -3, -1, 1, 3
  for (int k = 0; k < tiles; k++) {
    alignas(64) uint32_t codes[4][16];
    for (int i = 0; i < 4; i++) _mm512_store_si512(codes[i], _mm512_load_si512(words + 4 * k + i));
    for (int r = 0; r < 16; r++) {
      const __m128i own = _mm_setr_epi32(static_cast<int>(codes[0][r]), static_cast<int>(codes[1][r]),
                                         static_cast<int>(codes[2][r]), static_cast<int>(codes[3][r]));
      const __m512i q = _mm512_multishift_epi64_epi8(offsets, _mm512_shuffle_epi8(_mm512_broadcast_i32x4(own), spreading));
      _mm512_store_si512(out + k * kTileBytes + r * 64,
                         _mm512_maskz_shuffle_epi8(valid[tap.of[r]][k], value, _mm512_and_si512(q, three)));
    }
  }
}

// deltas of 16 output channels as tiles [tile][limb][16 quads of tokens][16 outputs][4 tokens]; returns 2^(e - 30).
AUXGRAD_AMX inline __m512 pack_delta(const CodeGradient& g, int64_t t0, int64_t count, int64_t o0, int64_t outputs,
                                     uint8_t* out) {
  const __mmask16 lanes = static_cast<__mmask16>((1u << outputs) - 1);
  const float* rows = g.delta + t0 * g.outputs + o0;
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i largest = _mm512_setzero_si512();
  float factor[kStep];
  if (g.bits == 2)
    for (int64_t t = 0; t < count; t++) factor[t] = token_factor(g, t0 + t);
#define AUXGRAD_DELTA(t)                                                       \
  (g.bits == 1 ? _mm512_maskz_loadu_ps(lanes, rows + (t) * g.outputs)          \
               : _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, rows + (t) * g.outputs), _mm512_set1_ps(factor[t])))
  for (int64_t t = 0; t < count; t++)
    largest = _mm512_max_epi32(largest, _mm512_and_si512(_mm512_castps_si512(AUXGRAD_DELTA(t)), magnitude));
  const __mmask16 finite = _mm512_cmplt_epi32_mask(largest, _mm512_set1_epi32(0x7f800000));
  const __m512i exponent = _mm512_max_epi32(_mm512_srli_epi32(largest, 23), _mm512_set1_epi32(31));
  const __m512 up =
      _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_sub_epi32(_mm512_set1_epi32(284), exponent), 23));
  const int64_t whole = ceil_div(count, kTileTokens) * kTileTokens;
  for (int64_t t = 0; t < whole; t += 4) {
    __m512i q[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
      q[i] = t + i < count ? _mm512_cvtps_epi32(_mm512_mul_ps(AUXGRAD_DELTA(t + i), up)) : _mm512_setzero_si512();
    const __m512i low02 = _mm512_mask_blend_epi16(0xaaaaaaaa, q[0], _mm512_slli_epi32(q[2], 16));
    const __m512i low13 = _mm512_mask_blend_epi16(0xaaaaaaaa, q[1], _mm512_slli_epi32(q[3], 16));
    const __m512i high02 = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(q[0], 16), q[2]);
    const __m512i high13 = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(q[1], 16), q[3]);
    const __mmask64 odd = 0xaaaaaaaaaaaaaaaa;
    uint8_t* to = out + t / kTileTokens * kLimbs * kTileBytes + t % kTileTokens / 4 * 64;
    _mm512_store_si512(to, _mm512_mask_blend_epi8(odd, low02, _mm512_slli_epi16(low13, 8)));
    _mm512_store_si512(to + kTileBytes, _mm512_mask_blend_epi8(odd, _mm512_srli_epi16(low02, 8), low13));
    _mm512_store_si512(to + 2 * kTileBytes, _mm512_mask_blend_epi8(odd, high02, _mm512_slli_epi16(high13, 8)));
    _mm512_store_si512(to + 3 * kTileBytes, _mm512_mask_blend_epi8(odd, _mm512_srli_epi16(high02, 8), high13));
  }
#undef AUXGRAD_DELTA
  const __m512 down = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_sub_epi32(exponent, _mm512_set1_epi32(30)), 23));
  return _mm512_mask_blend_ps(finite, _mm512_set1_ps(__builtin_nanf("")), down);
}

// One block's sums: limb l of column c and output o at sums[l][c][o].
AUXGRAD_AMX inline void sum_tiles(const int8_t* codes, const uint8_t* delta, int tiles, int32_t (*sums)[16][16]) {
  memory_barrier();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int k = 0; k < tiles; k++, codes += kTileBytes, delta += kLimbs * kTileBytes) {
    _tile_loadd(4, codes, 64);
    _tile_loadd(5, delta, 64);
    _tile_dpbsud(0, 4, 5);
    _tile_loadd(6, delta + kTileBytes, 64);
    _tile_dpbsud(1, 4, 6);
    _tile_loadd(7, delta + 2 * kTileBytes, 64);
    _tile_dpbsud(2, 4, 7);
    _tile_loadd(5, delta + 3 * kTileBytes, 64);
    _tile_dpbssd(3, 4, 5);
  }
  _tile_stored(0, sums[0], 64);
  _tile_stored(1, sums[1], 64);
  _tile_stored(2, sums[2], 64);
  _tile_stored(3, sums[3], 64);
  memory_barrier();
}

inline void transpose(__m512 (&r)[16]) {
  __m512 t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
      const __m512d a = _mm512_castps_pd(t[i + j]), b = _mm512_castps_pd(t[i + j + 2]);
      r[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      r[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {  // r[4 j + i]: columns i, 4 + i, 8 + i, 12 + i of rows 4 j ... 4 j + 3
    const __m512 a = _mm512_shuffle_f32x4(r[i], r[4 + i], 0x88), b = _mm512_shuffle_f32x4(r[i], r[4 + i], 0xdd);
    const __m512 c = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0x88), d = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0xdd);
    t[i] = _mm512_shuffle_f32x4(a, c, 0x88);
    t[4 + i] = _mm512_shuffle_f32x4(b, d, 0x88);
    t[8 + i] = _mm512_shuffle_f32x4(a, c, 0xdd);
    t[12 + i] = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) r[i] = t[i];
}

// dw[o][column] (+)= unit[o] * (limbs put together) + shift[o][column] for outputs [first, last) of the sixteen.
inline void add_sums(const int32_t (*sums)[16][16], __m512 unit, const float (*shift)[16], float* dw, int64_t stride,
                     int first, int last, int64_t columns, bool add) {
  const __m512 high_unit = _mm512_mul_ps(unit, _mm512_set1_ps(65536.0f));
  __m512 r[16];
#pragma GCC unroll 16
  for (int c = 0; c < 16; c++) {
    const __m512i low = _mm512_add_epi32(_mm512_slli_epi32(_mm512_load_si512(sums[1][c]), 8), _mm512_load_si512(sums[0][c]));
    const __m512i high = _mm512_add_epi32(_mm512_slli_epi32(_mm512_load_si512(sums[3][c]), 8), _mm512_load_si512(sums[2][c]));
    r[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), high_unit, _mm512_mul_ps(_mm512_cvtepi32_ps(low), unit));
  }
  transpose(r);
  const __mmask16 lanes = static_cast<__mmask16>((1u << columns) - 1);
#pragma GCC unroll 16
  for (int o = 0; o < 16; o++) {
    if (o < first || o >= last) continue;
    float* p = dw + o * stride;
    if (shift) r[o] = _mm512_add_ps(r[o], _mm512_loadu_ps(shift[o]));
    if (add) r[o] = _mm512_add_ps(r[o], _mm512_maskz_loadu_ps(lanes, p));
    _mm512_mask_storeu_ps(p, lanes, r[o]);
  }
}

}  // namespace
}  // namespace auxgrad
