// Sums of codes on the AMX matrix unit, in integers.
//
// Each output channel's deltas of a step are rounded to multiples of 2^(e - 22), e the exponent of the largest: integers
// of three bytes ("limbs"), which are multiplied separately with the code values, bytes themselves, and summed exactly.
// The matrix unit sums 1024 products of bytes a cycle where the vector units do 32 of floats: with three limbs still
// ten times as many.
//
// Rounding errs by at most 2^-23 of the largest delta a token. With signs that know nothing of it, n tokens err together
// by 2^(e - 22) sqrt(n / 12), and their sum is as large as the deltas are long, the root of their squares. Where few are
// so much larger than the others that this is more than kRounding of it, sixteen outputs take four limbs: 2^(e - 30).
#pragma once
#include "../amx/tiles.h"
#include "codes.h"

#if defined(AUXGRAD_HAS_AMX)
namespace auxgrad {
namespace {

constexpr int kTileTokens = 64, kTiles = kStep / kTileTokens;
constexpr int kMostLimbs = 4;
constexpr float kRounding = 0x1p-21f;
constexpr int64_t kPackedBytes = kMostLimbs * kTiles * kTileBytes;  // of the deltas of 16 outputs
constexpr int kBundle = 4, kAmxOutputs = 16 * kBundle;              // of a task

// Brings rows of deltas near before they are packed.
struct Ahead {
  const char* row;
  int64_t stride, rows;
  int lines;
  // Few at a time: more than memory gives meanwhile would be waited for.
  void operator()(int64_t count) {
    for (count = min64(count, rows), rows -= count; count > 0; count--, row += stride) {
#pragma GCC unroll 4
      for (int i = 0; i < kBundle; i++)
        if (i < lines) _mm_prefetch(row + 64 * i, _MM_HINT_T1);
    }
  }
};

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
      const __m512i q =
          _mm512_multishift_epi64_epi8(offsets, _mm512_shuffle_epi8(_mm512_broadcast_i32x4(own), spreading));
      _mm512_store_si512(out + k * kTileBytes + r * 64,
                         _mm512_maskz_shuffle_epi8(valid[tap.of[r]][k], value, _mm512_and_si512(q, three)));
    }
  }
}

// Rows t0 ... t0 + count of deltas of 16 * n output channels (lanes of the last), times their factors if `scaled`.
template <int n, bool scaled>
struct DeltaRows {
  const float* rows;
  int64_t stride;
  __mmask16 lanes;
  const Scales& scales;
  __m512 plain(int64_t t, int i) const {
    const float* p = rows + t * stride + 16 * i;
    return i + 1 < n ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(lanes, p);
  }
  __m512 load(int64_t t, int i) const {
    return scaled ? _mm512_mul_ps(plain(t, i), _mm512_set1_ps(scales.factor[t])) : plain(t, i);
  }
};

// What 16 outputs of a step are packed as. unit: what an integer 1 stands for; middle: the sum of deltas times the middles
// of their tokens, of two-bit codes.
struct Packed {
  alignas(64) float unit[16];
  float middle[16];
  int limbs;
};

// Packs them for each 16 channels as tiles [tile][limb][16 quads of tokens][16 outputs][4 tokens].
template <int n, bool scaled>
inline void pack_rows(const DeltaRows<n, scaled> rows, int64_t count, uint8_t* out, Packed* packed, Ahead& later) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i largest[n];
  __m512 middle[n], squares[n];
#pragma GCC unroll 4
  for (int i = 0; i < n; i++) {
    largest[i] = _mm512_setzero_si512();
    middle[i] = squares[i] = _mm512_setzero_ps();
  }
  for (int64_t t = 0; t < count; t++) {
    const float* ahead = rows.rows + min64(t + 32, count - 1) * rows.stride;
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) {
      _mm_prefetch(reinterpret_cast<const char*>(ahead + 16 * i), _MM_HINT_T0);
      const __m512 x = rows.load(t, i);
      largest[i] = _mm512_max_epi32(largest[i], _mm512_and_si512(_mm512_castps_si512(x), magnitude));
      squares[i] = _mm512_fmadd_ps(x, x, squares[i]);
      if (scaled) middle[i] = _mm512_fmadd_ps(rows.plain(t, i), _mm512_set1_ps(rows.scales.middle[t]), middle[i]);
    }
  }
  __m512 up[n];
  __m512i most[n];  // the largest delta may be rounded up to one more than there is
  int limbs[n];
#pragma GCC unroll 4
  for (int i = 0; i < n; i++) {
    if (scaled) _mm512_store_ps(packed[i].middle, middle[i]);
    const __mmask16 finite = _mm512_cmplt_epi32_mask(largest[i], _mm512_set1_epi32(0x7f800000));
    const __m512i exponent = _mm512_max_epi32(_mm512_srli_epi32(largest[i], 23), _mm512_set1_epi32(31));
    const auto power = [](__m512i e) { return _mm512_castsi512_ps(_mm512_slli_epi32(e, 23)); };
    const float error = static_cast<float>(count) / 12 * 0x1p-44f / (kRounding * kRounding);
    const __m512 one = power(exponent), least = _mm512_mul_ps(_mm512_mul_ps(one, one), _mm512_set1_ps(error));
    const __mmask16 few = _mm512_cmp_ps_mask(squares[i], least, _CMP_GT_OQ) &
                          _mm512_cmp_ps_mask(squares[i], _mm512_set1_ps(__builtin_inff()), _CMP_LT_OQ);
    const bool three = (few | _mm512_testn_epi32_mask(largest[i], largest[i])) == 0xffff;
    const int bits = three ? 22 : 30;
    packed[i].limbs = limbs[i] = three ? 3 : 4;
    most[i] = _mm512_set1_epi32(three ? 0x7fffff : 0x7fffffff);
    up[i] = power(_mm512_sub_epi32(_mm512_set1_epi32(254 + bits), exponent));
    const __m512 down = power(_mm512_sub_epi32(exponent, _mm512_set1_epi32(bits)));
    _mm512_store_ps(packed[i].unit, _mm512_mask_blend_ps(finite, _mm512_set1_ps(__builtin_nanf("")), down));
  }
  const auto quad = [&](int64_t t, int64_t there) {
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) {
      uint8_t* to = out + i * kPackedBytes + t / kTileTokens * limbs[i] * kTileBytes + t % kTileTokens / 4 * 64;
      __m512i q[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++)
        q[j] = j < there ? _mm512_min_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(rows.load(t + j, i), up[i])), most[i])
                         : _mm512_setzero_si512();
      const __m512i low02 = _mm512_mask_blend_epi16(0xaaaaaaaa, q[0], _mm512_slli_epi32(q[2], 16));
      const __m512i low13 = _mm512_mask_blend_epi16(0xaaaaaaaa, q[1], _mm512_slli_epi32(q[3], 16));
      const __m512i high02 = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(q[0], 16), q[2]);
      const __m512i high13 = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(q[1], 16), q[3]);
      const __mmask64 odd = 0xaaaaaaaaaaaaaaaa;
      _mm512_store_si512(to, _mm512_mask_blend_epi8(odd, low02, _mm512_slli_epi16(low13, 8)));
      _mm512_store_si512(to + kTileBytes, _mm512_mask_blend_epi8(odd, _mm512_srli_epi16(low02, 8), low13));
      _mm512_store_si512(to + 2 * kTileBytes, _mm512_mask_blend_epi8(odd, high02, _mm512_slli_epi16(high13, 8)));
      if (limbs[i] == kMostLimbs)
        _mm512_store_si512(to + 3 * kTileBytes, _mm512_mask_blend_epi8(odd, _mm512_srli_epi16(high02, 8), high13));
    }
  };
  int64_t t = 0;
  for (; t + 4 <= count; t += 4) {
    quad(t, 4);
    later(1);
  }
  for (; t % kTileTokens || t < count; t += 4) quad(t, count - t);
}

// Deltas of outputs [o0, o0 + outputs), at most kAmxOutputs. Rows are read whole, for they lie far apart.
inline void pack_delta(const CodeGradient& g, int64_t t0, int64_t count, int64_t o0, int64_t outputs,
                       const Scales& scales, uint8_t* out, Packed* packed, Ahead& later) {
  const float* rows = g.delta + t0 * g.outputs + o0;
  if (outputs == kAmxOutputs) {
    if (g.bits == 1) pack_rows<kBundle, false>({rows, g.outputs, 0xffff, scales}, count, out, packed, later);
    else pack_rows<kBundle, true>({rows, g.outputs, 0xffff, scales}, count, out, packed, later);
    return;
  }
  for (int64_t o = 0; o < outputs; o += 16, out += kPackedBytes, packed++) {
    const __mmask16 lanes = static_cast<__mmask16>((1u << min64(16, outputs - o)) - 1);
    if (g.bits == 1) pack_rows<1, false>({rows + o, g.outputs, lanes, scales}, count, out, packed, later);
    else pack_rows<1, true>({rows + o, g.outputs, lanes, scales}, count, out, packed, later);
  }
}

// total[c][o] (+)= start[o] + unit[o] * (the limbs of column c and output o put together), for columns [from, to).
template <int limbs>
inline void add_limbs(const int32_t (*sums)[16][16], int from, int to, __m512 unit, __m512 high_unit,
                      const float* start, float (*total)[16]) {
#pragma GCC unroll 2
  for (int c = from; c < to; c++) {
    const auto pair = [&](int l) {
      return _mm512_add_epi32(_mm512_slli_epi32(_mm512_load_si512(sums[l + 1][c]), 8), _mm512_load_si512(sums[l][c]));
    };
    const __m512i low = pair(0), high = limbs == 4 ? pair(2) : _mm512_load_si512(sums[2][c]);
    const __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), unit, _mm512_loadu_ps(start ? start : total[c]));
    _mm512_store_ps(total[c], _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), high_unit, sum));
  }
}

// Limbs of a tile of deltas with the codes in one tile register; the `next` codes, if any, go into the other.
#define AUXGRAD_SUM_LIMBS(codes, other, next)           \
  do {                                                  \
    AUXGRAD_TILE_LOAD(6, delta, 64);                    \
    _tile_dpbsud(0, codes, 6);                          \
    AUXGRAD_APART;                                      \
    AUXGRAD_TILE_LOAD(7, delta + kTileBytes, 64);       \
    _tile_dpbsud(1, codes, 7);                          \
    AUXGRAD_APART;                                      \
    if (next) AUXGRAD_TILE_LOAD(other, next, 64);       \
    AUXGRAD_TILE_LOAD(6, delta + 2 * kTileBytes, 64);   \
    if (limbs == 3) {                                   \
      _tile_dpbssd(2, codes, 6);                        \
    } else {                                            \
      _tile_dpbsud(2, codes, 6);                        \
      AUXGRAD_APART;                                    \
      AUXGRAD_TILE_LOAD(7, delta + 3 * kTileBytes, 64); \
      _tile_dpbssd(3, codes, 7);                        \
    }                                                   \
    delta += limbs * kTileBytes;                        \
    meanwhile();                                        \
  } while (0)

// Sums limb l of column c and output o of a block into sums[l][c][o]. The first tile of codes was loaded before; that of
// `next` is loaded ahead. meanwhile() runs once a tile: the matrix unit leaves the others idle.
template <int limbs, class F>
AUXGRAD_AMX inline void sum_tiles(const int8_t* codes, const int8_t* next, const uint8_t* delta, int tiles,
                                  int32_t (*sums)[16][16], const F& meanwhile) {
  memory_barrier();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  if (limbs == 4) _tile_zero(3);
  for (int k = 0; k < tiles; k += 2, codes += 2 * kTileBytes) {
    AUXGRAD_SUM_LIMBS(4, 5, k + 1 < tiles ? codes + kTileBytes : nullptr);
    if (k + 1 == tiles) break;
    AUXGRAD_SUM_LIMBS(5, 4, k + 2 < tiles ? codes + 2 * kTileBytes : nullptr);
  }
  AUXGRAD_TILE_LOAD(4, next, 64);
  _tile_stored(0, sums[0], 64);
  _tile_stored(1, sums[1], 64);
  _tile_stored(2, sums[2], 64);
  if (limbs == 4) _tile_stored(3, sums[3], 64);
  memory_barrier();
}

#undef AUXGRAD_SUM_LIMBS

// dw[o][column] (+)= total[column][o] for outputs [first, last) of the sixteen.
inline void add_total(const float (*total)[16], float* dw, int64_t stride, int first, int last, int64_t columns,
                      bool add) {
  Vec r[kLanes];
#pragma GCC unroll 16
  for (int c = 0; c < 16; c++) r[c] = load(total[c]);
  transpose(r);
  const __mmask16 lanes = static_cast<__mmask16>((1u << columns) - 1);
#pragma GCC unroll 16
  for (int o = 0; o < 16; o++) {
    if (o < first || o >= last) continue;
    float* p = dw + o * stride;
    if (add) r[o] = _mm512_add_ps(r[o], _mm512_maskz_loadu_ps(lanes, p));
    _mm512_mask_storeu_ps(p, lanes, r[o]);
  }
}

}  // namespace
}  // namespace auxgrad
#endif
