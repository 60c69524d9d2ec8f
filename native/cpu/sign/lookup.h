// Sums of signs by table look-up, for machines without a matrix unit.
//
// The bits of five consecutive tokens of a channel are a number; for an output channel, the 32 signed sums of its five
// deltas are two registers. An in-register permute by sixteen channels' numbers, and one add, do the work of five
// multiply-adds for sixteen channels. The permute reads only the low bits of each number, so a shift is all the
// decoding. Tables are built once per part of a step and shared by all input channels. With 8 lanes it is three tokens.
#pragma once
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#include "codes.h"

namespace auxgrad {
namespace {

constexpr int kLookupOutputs = 8;
constexpr int kPart = 128;  // tokens whose tables stay in the first-level cache

// Two vectors of 16 channels that are summed together: their words of a part, and their sums for each output.
struct PartPair {
  const Words* bits[2];
  float (*sums[2])[kColumns];
};

#if defined(__AVX512F__)
// For 64 tokens: 12 numbers of 5 bits, and one of the 2 bits that each word has left.
struct Tables {
  alignas(64) float five[kPart / 64][12][kLookupOutputs][32];
  alignas(64) float rest[kPart / 64][kLookupOutputs][16];
};

inline void build_tables(const float (*delta)[kLookupOutputs], float low, Tables& tables) {
  __m512 pattern[4];
  for (int bit = 0; bit < 4; bit++) {
    alignas(64) float p[16];
    for (int i = 0; i < 16; i++) p[i] = i >> bit & 1 ? 1.0f : low;
    pattern[bit] = _mm512_load_ps(p);
  }
  const auto sixteen = [&](int o, int t0, int t1, int t2, int t3) {
    __m512 t = _mm512_mul_ps(pattern[0], _mm512_set1_ps(delta[t0][o]));
    t = _mm512_fmadd_ps(pattern[1], _mm512_set1_ps(delta[t1][o]), t);
    t = _mm512_fmadd_ps(pattern[2], _mm512_set1_ps(delta[t2][o]), t);
    return _mm512_fmadd_ps(pattern[3], _mm512_set1_ps(delta[t3][o]), t);
  };
  for (int h = 0; h < kPart / 64; h++) {
    for (int i = 0; i < 12; i++) {
      const int t = h * 64 + i / 6 * 32 + i % 6 * 5;
      for (int o = 0; o < kLookupOutputs; o++) {
        const __m512 four = sixteen(o, t, t + 1, t + 2, t + 3);
        const float last = delta[t + 4][o];
        _mm512_store_ps(tables.five[h][i][o], _mm512_add_ps(four, _mm512_set1_ps(low * last)));
        _mm512_store_ps(tables.five[h][i][o] + 16, _mm512_add_ps(four, _mm512_set1_ps(last)));
      }
    }
    const int t = h * 64 + 30;
    for (int o = 0; o < kLookupOutputs; o++) _mm512_store_ps(tables.rest[h][o], sixteen(o, t, t + 1, t + 32, t + 33));
  }
}

inline void look_up(const Tables& tables, PartPair pair) {
  __m512 a[kLookupOutputs], b[kLookupOutputs];
#pragma GCC unroll 8
  for (int o = 0; o < kLookupOutputs; o++)
    a[o] = _mm512_load_ps(pair.sums[0][o]), b[o] = _mm512_load_ps(pair.sums[1][o]);
  for (int w = 0; w < kPart / 32; w++) {
    __m512i i = _mm512_load_si512(pair.bits[0] + w), j = _mm512_load_si512(pair.bits[1] + w);
    const float* table = tables.five[w / 2][w % 2 * 6][0];
#pragma GCC unroll 1
    for (int n = 0; n < 6; n++, table += 32 * kLookupOutputs) {
#pragma GCC unroll 8
      for (int o = 0; o < kLookupOutputs; o++) {
        const __m512 low = _mm512_load_ps(table + 32 * o), high = _mm512_load_ps(table + 32 * o + 16);
        a[o] = _mm512_add_ps(a[o], _mm512_permutex2var_ps(low, i, high));
        b[o] = _mm512_add_ps(b[o], _mm512_permutex2var_ps(low, j, high));
      }
      i = _mm512_srli_epi32(i, 5);
      j = _mm512_srli_epi32(j, 5);
    }
  }
#pragma GCC unroll 1
  for (int h = 0; h < kPart / 64; h++) {
    const auto rest = [&](const Words* w) {
      return _mm512_or_si512(_mm512_srli_epi32(_mm512_load_si512(w + 2 * h), 30),
                             _mm512_slli_epi32(_mm512_srli_epi32(_mm512_load_si512(w + 2 * h + 1), 30), 2));
    };
    const __m512i i = rest(pair.bits[0]), j = rest(pair.bits[1]);
#pragma GCC unroll 8
    for (int o = 0; o < kLookupOutputs; o++) {
      const __m512 table = _mm512_load_ps(tables.rest[h][o]);
      a[o] = _mm512_add_ps(a[o], _mm512_permutexvar_ps(i, table));
      b[o] = _mm512_add_ps(b[o], _mm512_permutexvar_ps(j, table));
    }
  }
#pragma GCC unroll 8
  for (int o = 0; o < kLookupOutputs; o++)
    _mm512_store_ps(pair.sums[0][o], a[o]), _mm512_store_ps(pair.sums[1][o], b[o]);
}
#elif defined(__AVX2__)
// For 32 tokens: 10 numbers of 3 bits and one of the 2 bits left.
struct Tables {
  alignas(32) float three[kPart / 32][11][kLookupOutputs][8];
};

inline void build_tables(const float (*delta)[kLookupOutputs], float low, Tables& tables) {
  const __m256 p0 = _mm256_setr_ps(low, 1, low, 1, low, 1, low, 1);
  const __m256 p1 = _mm256_setr_ps(low, low, 1, 1, low, low, 1, 1);
  const __m256 p2 = _mm256_setr_ps(low, low, low, low, 1, 1, 1, 1);
  for (int w = 0; w < kPart / 32; w++)
    for (int i = 0; i < 11; i++) {
      const int t = w * 32 + i * 3;
      for (int o = 0; o < kLookupOutputs; o++) {
        __m256 sum = _mm256_mul_ps(p0, _mm256_set1_ps(delta[t][o]));
        sum = _mm256_fmadd_ps(p1, _mm256_set1_ps(delta[t + 1][o]), sum);
        if (i < 10) sum = _mm256_fmadd_ps(p2, _mm256_set1_ps(delta[t + 2][o]), sum);
        _mm256_store_ps(tables.three[w][i][o], sum);
      }
    }
}

inline void look_up(const Tables& tables, PartPair pair) {
  for (int v = 0; v < 4; v++) {
    float(*sums)[kColumns] = pair.sums[v / 2];
    const int lane = v % 2 * 8;
    __m256 sum[kLookupOutputs];
#pragma GCC unroll 8
    for (int o = 0; o < kLookupOutputs; o++) sum[o] = _mm256_load_ps(sums[o] + lane);
    for (int w = 0; w < kPart / 32; w++) {
      __m256i i = _mm256_load_si256(reinterpret_cast<const __m256i*>(pair.bits[v / 2] + w) + v % 2);
#pragma GCC unroll 1
      for (int n = 0; n < 11; n++) {
#pragma GCC unroll 8
        for (int o = 0; o < kLookupOutputs; o++)
          sum[o] = _mm256_add_ps(sum[o], _mm256_permutevar8x32_ps(_mm256_load_ps(tables.three[w][n][o]), i));
        i = _mm256_srli_epi32(i, 3);
      }
    }
#pragma GCC unroll 8
    for (int o = 0; o < kLookupOutputs; o++) _mm256_store_ps(sums[o] + lane, sum[o]);
  }
}
#else
struct Tables {
  float on[kPart][kLookupOutputs], off[kPart][kLookupOutputs];
};

inline void build_tables(const float (*delta)[kLookupOutputs], float low, Tables& tables) {
  for (int t = 0; t < kPart; t++)
    for (int o = 0; o < kLookupOutputs; o++) tables.on[t][o] = delta[t][o], tables.off[t][o] = low * delta[t][o];
}

inline void look_up(const Tables& tables, PartPair pair) {
  for (int v = 0; v < 2; v++)
    for (int c = 0; c < kColumns; c++) {
      float sum[kLookupOutputs] = {};
      for (int w = 0; w < kPart / 32; w++) {
        const uint32_t word = pair.bits[v][w][c];
        for (int t = 0; t < 32; t++) {
          const float* value = word >> t & 1 ? tables.on[w * 32 + t] : tables.off[w * 32 + t];
          for (int o = 0; o < kLookupOutputs; o++) sum[o] += value[o];
        }
      }
      for (int o = 0; o < kLookupOutputs; o++) pair.sums[v][o][c] += sum[o];
    }
}
#endif

}  // namespace
}  // namespace auxgrad
