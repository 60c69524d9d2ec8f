// Products of float32 matrices on tensor cores, which multiply bfloat16 and sum in float32.
//
// A float has 24 significant bits, a bfloat16 has 8: x = high + middle + low without a rest. Of the nine products of two
// such sums six are computed, smallest first; those left out are at most 2^-23 of |a b|, of either sign, and mostly 2^-26.
// Tensor cores cut the sums they are given rather than round them: 16 products are summed from zero, the smallest parts
// first, and added to the total by an ordinary addition. A sum that comes to be NaN (an infinity meets the zeros of
// another's parts) or so small that parts were lost is made anew in float64 (product.cuh).
#pragma once
#include "unit.cuh"

namespace auxgrad {
namespace {

// Part p of two neighbours, as two bfloat16, the first in the lower half.
template <int Planes>
struct Parts {
  uint32_t plane[Planes];
};

__device__ inline uint32_t upper_halves(float x, float y) {
  return __byte_perm(__float_as_uint(x), __float_as_uint(y), 0x7632);
}
__device__ inline float upper_half(float x) { return __uint_as_float(__float_as_uint(x) & 0xffff0000u); }
// To the nearest; only of rests, which are far from the largest number.
__device__ inline float rounded_half(float x) { return __uint_as_float((__float_as_uint(x) + 0x8000u) & 0xffff0000u); }

__device__ inline Parts<3> split(float x, float y) {
  const float rest_x = x - upper_half(x), rest_y = y - upper_half(y);
  const float middle_x = rounded_half(rest_x), middle_y = rounded_half(rest_y);
  return {{upper_halves(x, y), upper_halves(middle_x, middle_y), upper_halves(rest_x - middle_x, rest_y - middle_y)}};
}

// Four 8 x 8 matrices of bfloat16 in shared memory: lane l has the address of row l % 8 of matrix l / 8. Lane l gets of
// each two neighbours of row l / 4, from column l % 4 * 2 on; Transposed: of the transpose.
template <bool Transposed>
__device__ inline void load_matrices(uint32_t (&r)[4], const void* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if (Transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// c[16 x 8] += a[16 x 16] b[16 x 8]. Lane l holds of c rows l / 4 and l / 4 + 8, two columns from l % 4 * 2 on.
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Parts of a matrix in shared memory: `Lines` lines of `Length` neighbours, in Planes planes. The eight lines that a
// matrix of 8 x 8 takes its rows from lie in different banks.
template <int Lines, int Length, int Planes>
struct Tile {
  static constexpr int kLines = Lines, kLength = Length, kPlanes = Planes, kChunks = Length / 8;  // of 16 bytes
  uint4 chunk[Planes][Lines * kChunks];

  // Of 16 bytes. Lines longer than 128 bytes lie in blocks of that.
  __device__ static int at(int line, int chunk) {
    if (kChunks < 8) return line * kChunks + (chunk ^ (line >> 1 & 3));
    return (chunk / 8 * Lines + line) * 8 + (chunk % 8 ^ (line & 7));
  }
  // Eight neighbours, from 8 * column on.
  __device__ void store(int line, int column, const float (&v)[8]) {
    const int place = at(line, column);
    if constexpr (Planes == 3) {
      const Parts<3> a = split(v[0], v[1]), b = split(v[2], v[3]), c = split(v[4], v[5]), d = split(v[6], v[7]);
#pragma unroll
      for (int p = 0; p < 3; p++) chunk[p][place] = make_uint4(a.plane[p], b.plane[p], c.plane[p], d.plane[p]);
    } else {
      chunk[0][place] = make_uint4(upper_halves(v[0], v[1]), upper_halves(v[2], v[3]), upper_halves(v[4], v[5]),
                                   upper_halves(v[6], v[7]));
    }
  }
};

// The fragments of 16 rows (or columns) by 16 steps of depth, one for each plane, as left or right operand. AlongK: lines
// of the tile are rows (columns), their neighbours follow the depth; otherwise lines are steps of depth.
template <bool AlongK, bool Left, class T>
__device__ inline void load_fragments(uint32_t (&f)[T::kPlanes][4], const T& tile, int row, int depth) {
  const int lane = static_cast<int>(threadIdx.x) % 32, first = lane >> 3 & 1, second = lane >> 4;
  // Matrices in the order of the registers: a left operand has rows 0-7 and 8-15 of the first 8 steps, a right one steps
  // 0-7 and 8-15 of the first 8 columns.
  const int r = Left ? first : second, k = Left ? second : first;
  const int line = lane % 8 + (AlongK ? row + 8 * r : depth + 8 * k);
  const int chunk = AlongK ? depth / 8 + k : row / 8 + r;
#pragma unroll
  for (int p = 0; p < T::kPlanes; p++) load_matrices<!AlongK>(f[p], &tile.chunk[p][T::at(line, chunk)]);
}

// Columns of 8 that are summed together: as many as there are registers for.
constexpr int kTogether = 4;

// sums[from..] += a b over 16 steps: summed from zero, small parts first.
template <int N, int P, int Q>
__device__ inline void multiply_step(float (&sums)[N][4], int from, const uint32_t (&a)[P][4],
                                     const uint32_t (&b)[kTogether / 2][Q][4]) {
  float t[kTogether][4] = {};
#pragma unroll
  for (int order = 2; order >= 0; order--)  // of p + q: what is smaller comes first
#pragma unroll
    for (int p = 0; p <= order; p++)
      if (p < P && order - p < Q) {
#pragma unroll
        for (int j = 0; j < kTogether; j++)
          multiply_add(t[j], a[p], b[j / 2][order - p][j % 2 * 2], b[j / 2][order - p][j % 2 * 2 + 1]);
      }
#pragma unroll
  for (int j = 0; j < kTogether; j++)
#pragma unroll
    for (int e = 0; e < 4; e++) sums[from + j][e] += t[j][e];
}

template <bool AlongK, class B>
__device__ inline void load_right(uint32_t (&b)[kTogether / 2][B::kPlanes][4], const B& right, int column, int k) {
#pragma unroll
  for (int j = 0; j < kTogether / 2; j++) load_fragments<AlongK, false>(b[j], right, column + 16 * j, k);
}

// sums[M][N] += products of 16 M rows from `row` on and 8 N columns from `column` on, over the first `depth` steps.
template <bool LeftAlongK, bool RightAlongK, int M, int N, class A, class B>
__device__ inline void multiply_tiles(float (&sums)[M][N][4], const A& left, int row, const B& right, int column,
                                      int depth) {
  for (int k = 0; k < depth; k += 16) {
#pragma unroll
    for (int j = 0; j < N; j += kTogether) {
      uint32_t b[kTogether / 2][B::kPlanes][4];
      load_right<RightAlongK>(b, right, column + 8 * j, k);
#pragma unroll
      for (int i = 0; i < M; i++) {
        uint32_t a[A::kPlanes][4];
        load_fragments<LeftAlongK, true>(a, left, row + 16 * i, k);
        multiply_step(sums[i], j, a, b);
      }
    }
  }
}

// The same with 16 rows of 8 K steps that are a warp's sums themselves, as a left operand.
template <bool RightAlongK, int K, int N, class B>
__device__ inline void multiply_sums(float (&sums)[N][4], const float (&left)[K][4], const B& right) {
#pragma unroll
  for (int k = 0; k < K; k += 2) {
    uint32_t a[3][4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const Parts<3> parts = split(left[k + i / 2][i % 2 * 2], left[k + i / 2][i % 2 * 2 + 1]);
#pragma unroll
      for (int p = 0; p < 3; p++) a[p][i] = parts.plane[p];
    }
#pragma unroll
    for (int j = 0; j < N; j += kTogether) {
      uint32_t b[kTogether / 2][B::kPlanes][4];
      load_right<RightAlongK>(b, right, 8 * j, 8 * k);
      multiply_step(sums, j, a, b);
    }
  }
}

}  // namespace
}  // namespace auxgrad
