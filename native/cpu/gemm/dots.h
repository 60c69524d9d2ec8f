// Products of few rows with columns that lie contiguously, as weights do where a text is generated token by token: sums
// along K of some columns side by side, which are read once and where they are.
#pragma once
#include "vector.h"

namespace auxgrad {
namespace {

// c[m][n] (+)= the product of row m of `left` and column n of `right` over `depth` terms.
struct Dots {
  const float* left;
  int64_t left_step;
  const float* right;
  int64_t right_step;
  int64_t columns, depth;
  float* out;
  int64_t out_step;
  bool add;
};

constexpr int64_t kDotRows = 8;
// Columns side by side: their vectors, one of the left operand and the sums have registers.
constexpr int kRegisters = kTileRows * kTileVecs > 16 ? 32 : 16;
constexpr int dot_columns(int rows) { return rows == 1 && kRegisters == 32 ? 8 : (kRegisters - 1) / (rows + 1); }

// Lane i is the sum of the lanes of v[i].
inline __attribute__((always_inline)) Vec sums_of_lanes(Vec (&v)[kLanes]) {
  AUXGRAD_UNROLL
  for (int half = kLanes / 2; half > 0; half /= 2) {
    AUXGRAD_UNROLL
    for (int i = 0; i < half; i++) {
      Vec low, high;
      interleave(v[i], v[i + half], low, high);
      v[i] = low + high;
    }
  }
  return v[0];
}

// Puts `rows` x `columns` sums, whose lanes are still apart, where they belong.
__attribute__((noinline)) void place_sums(const Vec* sum, int rows, int step, int64_t columns, float* out,
                                          int64_t out_step, bool add) {
  alignas(64) float total[kRegisters + kLanes];
  for (int i = 0; i < rows * step; i += kLanes) {
    Vec v[kLanes];
    AUXGRAD_UNROLL
    for (int l = 0; l < kLanes; l++) v[l] = sum[i + l];
    store(total + i, sums_of_lanes(v));
  }
  for (int m = 0; m < rows; m++)
    for (int64_t c = 0; c < columns; c++) {
      float& to = out[m * out_step + c];
      to = add ? to + total[m * step + c] : total[m * step + c];
    }
}

template <int M>
__attribute__((noinline)) void dot_kernel(const Dots& d) {
  constexpr int N = dot_columns(M);
  // The columns after these are fetched into the second cache, in the order of memory where they follow each other: the
  // processor does not see far ahead along many at once.
  const bool follow = d.right_step == d.depth;
  const int64_t line = follow ? 16 : d.right_step, chunk = follow ? N : 1;
  for (int64_t c = 0; c < d.columns; c += N) {
    const int64_t columns = min64(N, d.columns - c);
    const float *p[N], *left = d.left, *next = d.right + (c + N) * d.right_step;
    AUXGRAD_UNROLL
    for (int n = 0; n < N; n++) p[n] = d.right + (c + min64(n, columns - 1)) * d.right_step;
    Vec sum[M * N] = {};
    const auto step = [&](const auto& lanes, int64_t k) __attribute__((always_inline)) {
      Vec x[N];
      const float* ahead = next + k * chunk;
      AUXGRAD_UNROLL
      for (int n = 0; n < N; n++, ahead += line) {
        x[n] = lanes.load(p[n] + k);
        if (kLanes == 16 || k % 16 == 0) __builtin_prefetch(ahead, 0, 2);
      }
      AUXGRAD_UNROLL
      for (int m = 0; m < M; m++) {
        const Vec y = lanes.load(left + m * d.left_step + k);
        AUXGRAD_UNROLL
        for (int n = 0; n < N; n++) sum[m * N + n] = fma(y, x[n], sum[m * N + n]);
      }
    };
    int64_t k = 0;
    for (; k + kLanes <= d.depth; k += kLanes) step(WholeLanes(), k);
    if (k < d.depth) step(PartLanes{d.depth - k}, k);
    Vec sums[(M * N + kLanes - 1) / kLanes * kLanes] = {};  // a copy, or the sums would live in memory
    AUXGRAD_UNROLL
    for (int i = 0; i < M * N; i++) sums[i] = sum[i];
    place_sums(sums, M, N, columns, d.out + c, d.out_step, d.add);
  }
}

using DotKernel = void (*)(const Dots&);
// By the rows of the left operand.
constexpr DotKernel kDotKernels[kDotRows + 1] = {nullptr,       dot_kernel<1>, dot_kernel<2>,
                                                 dot_kernel<3>, dot_kernel<4>, dot_kernel<5>,
                                                 dot_kernel<6>, dot_kernel<7>, dot_kernel<8>};

}  // namespace
}  // namespace auxgrad
