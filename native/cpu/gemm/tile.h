// The micro-kernel: one tile of C from a strip of the left operand and a panel of the right one.
#pragma once
#include "vector.h"

namespace auxgrad {
namespace {

struct Tile {
  int64_t depth;       // steps of the reduction
  const float* left;   // element (row, k) at row * left_step + k, or k * left_step + row
  int64_t left_step;
  const float* right;  // element (k, column) at k * right_step + column, whole vectors readable
  int64_t right_step;
  float* copy;         // the panel is left here while it is read, k * kTileColumns + column, if the kernel is to
  float* out;
  int64_t out_step;
  int64_t columns;     // that exist in out; they end in the last vector
  bool add;            // to out
};

enum Left { kLeftRows, kLeftColumns };  // which of the two orders of the left operand lies contiguously

template <int M, int V, bool Copy>
inline __attribute__((always_inline)) void tile_step(Vec (&sum)[M][V], const float*& right, int64_t right_step,
                                                     float*& copy, const float* const (&left)[M]) {
  Vec x[V];
  AUXGRAD_UNROLL
  for (int v = 0; v < V; v++) x[v] = vec_load(right + v * kLanes);
  right += right_step;
  if (Copy) {
    AUXGRAD_UNROLL
    for (int v = 0; v < V; v++) vec_store(copy + v * kLanes, x[v]);
    copy += kTileColumns;
  }
  AUXGRAD_UNROLL
  for (int r = 0; r < M; r++) {
    const Vec y = vec_set(*left[r]);
    AUXGRAD_UNROLL
    for (int v = 0; v < V; v++) sum[r][v] = vec_fma(y, x[v], sum[r][v]);
  }
}

template <int M, int V, Left L, bool Copy>
__attribute__((noinline)) void tile_kernel(const Tile& t) {
  Vec sum[M][V];
  AUXGRAD_UNROLL
  for (int r = 0; r < M; r++) {
    AUXGRAD_UNROLL
    for (int v = 0; v < V; v++) sum[r][v] = Vec{};
  }
  const float* right = t.right;
  const int64_t right_step = t.right_step, step = t.left_step;
  float* copy = t.copy;
  float* out = t.out;
  const int64_t out_step = t.out_step;
  if (t.add) {
    AUXGRAD_UNROLL
    for (int r = 0; r < M; r++)
      for (int v = 0; v < V; v++) __builtin_prefetch(out + r * out_step + v * kLanes, 1);
  }
  if (L == kLeftRows) {
    // Every third row has a pointer of its own, the others are one or two steps away: pointers and steps stay in
    // registers. The empty statement keeps the compiler from making it a pointer a row.
    constexpr int kPointers = (M + 2) / 3;
    const float* p[kPointers];
    for (int i = 0; i < kPointers; i++) p[i] = t.left + 3 * i * step;
    for (int64_t k = 0; k < t.depth; k++) {
      const float* left[M];
      AUXGRAD_UNROLL
      for (int i = 0; i < kPointers; i++) asm("" : "+r"(p[i]));
      AUXGRAD_UNROLL
      for (int r = 0; r < M; r++) left[r] = p[r / 3] + r % 3 * step;
      tile_step<M, V, Copy>(sum, right, right_step, copy, left);
      AUXGRAD_UNROLL
      for (int i = 0; i < kPointers; i++) p[i]++;
    }
  } else {
    const float* p = t.left;
    for (int64_t k = 0; k < t.depth; k++, p += step) {
      const float* left[M];
      AUXGRAD_UNROLL
      for (int r = 0; r < M; r++) left[r] = p + r;
      tile_step<M, V, Copy>(sum, right, right_step, copy, left);
    }
  }
  const int64_t last = t.columns - (V - 1) * kLanes;
  if (last == kLanes) {
    AUXGRAD_UNROLL
    for (int r = 0; r < M; r++, out += out_step) {
      AUXGRAD_UNROLL
      for (int v = 0; v < V; v++)
        vec_store(out + v * kLanes, t.add ? sum[r][v] + vec_load(out + v * kLanes) : sum[r][v]);
    }
    return;
  }
  AUXGRAD_UNROLL
  for (int r = 0; r < M; r++, out += out_step) {
    AUXGRAD_UNROLL
    for (int v = 0; v + 1 < V; v++)
      vec_store(out + v * kLanes, t.add ? sum[r][v] + vec_load(out + v * kLanes) : sum[r][v]);
    float* end = out + (V - 1) * kLanes;
    vec_store_part(end, t.add ? sum[r][V - 1] + vec_load_part(end, last) : sum[r][V - 1], last);
  }
}

using TileKernel = void (*)(const Tile&);

// The kernels of 1..Rows rows.
template <int Rows, int V, Left L, bool Copy>
struct TileKernels {
  TileKernel of_rows[Rows + 1] = {};
  template <int M = Rows>
  constexpr void fill() {
    if constexpr (M > 0) {
      of_rows[M] = tile_kernel<M, V, L, Copy>;
      fill<M - 1>();
    }
  }
  constexpr TileKernels() { fill(); }
};
template <int Rows, int V, Left L, bool Copy>
constexpr TileKernels<Rows, V, L, Copy> kTileKernels;

template <Left L>
inline const TileKernel* tile_kernels_of(int64_t columns, bool copy) {
  if constexpr (kWideVecs > 0) {
    if (columns > kTileColumns) return kTileKernels<kWideRows, kWideVecs, L, false>.of_rows;
  }
  if (columns > kLanes) return copy ? kTileKernels<kTileRows, 2, L, true>.of_rows : kTileKernels<kTileRows, 2, L, false>.of_rows;
  return kTileKernels<kTileRows, 1, L, false>.of_rows;
}

// Kernels for a panel of so many columns, by the rows of the tile. Only whole panels of kTileColumns are copied.
inline const TileKernel* tile_kernels(Left left, int64_t columns, bool copy) {
  return left == kLeftRows ? tile_kernels_of<kLeftRows>(columns, copy) : tile_kernels_of<kLeftColumns>(columns, copy);
}

}  // namespace
}  // namespace auxgrad
