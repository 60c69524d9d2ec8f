// The register tile of convolutions: kTileRows rows times two vectors of columns, over a windowed reduction.
//
// The left operand is read in place (a stripe of the image, see stripe.h): the reduction walks runs of it whose
// addresses form a two-level grid. The right operand is a packed panel, [reduction][columns of the panel].
#pragma once
#include "vec.h"

namespace auxgrad {
namespace {

constexpr int kPanel = 2 * kLanes;  // columns of a panel

// Runs of the reduction: run (i, j) starts at i * outer_step + j * inner_step and has `length` elements.
struct Runs {
  int64_t outer, outer_step, inner, inner_step, length;
};

struct Tile {
  const float* row[kTileRows];
  float* out[kTileRows];
  Runs runs;
  int64_t step;  // distance of two elements of a run
  const float* panel;
  int64_t columns;    // that exist in out, 1..kPanel; more than kLanes of them take a panel of two vectors
  bool accumulate;    // add to out
  const float* bias;  // of these columns, or null
  bool relu;          // NaN stays NaN
};

// Writes sums [rows][vectors] the general way: ragged columns, bias, activation.
__attribute__((noinline)) void finish_rows(const Tile& t, const Vec* sums, int rows, int vectors) {
  for (int m = 0; m < rows; m++)
    for (int v = 0; v < vectors; v++) {
      float* out = t.out[m] + v * kLanes;
      const int64_t n = min64(t.columns - v * kLanes, kLanes);
      Vec y = sums[m * vectors + v];
      if (t.accumulate) y += n == kLanes ? load(out) : load_part(out, n);
      if (t.bias) y += n == kLanes ? load(t.bias + v * kLanes) : load_part(t.bias + v * kLanes, n);
      if (t.relu) y = y < Vec{} ? Vec{} : y;
      if (n == kLanes) store(out, y);
      else store_part(out, y, n);
    }
}

template <int M, int V>
inline void finish_tile(const Tile& t, const Vec (&acc)[M][V]) {
  if (t.columns == V * kLanes && !t.bias && !t.relu) {
    AUXGRAD_UNROLL
    for (int m = 0; m < M; m++) {
      float* out = t.out[m];
      AUXGRAD_UNROLL
      for (int v = 0; v < V; v++, out += kLanes) store(out, t.accumulate ? acc[m][v] + load(out) : acc[m][v]);
    }
    return;
  }
  Vec sums[M * V];
  AUXGRAD_UNROLL
  for (int m = 0; m < M; m++) {
    AUXGRAD_UNROLL
    for (int v = 0; v < V; v++) sums[m * V + v] = acc[m][v];
  }
  finish_rows(t, sums, M, V);
}

// out[m][c] (+)= sum over runs and k of row[m][run + k] * panel[k][c], then bias and activation.
template <int M, int V>
__attribute__((noinline)) void tile_of_rows(const Tile& t) {
  // The outputs are seldom in a cache: fetch them while the sums are made, or the stores would stall.
  AUXGRAD_UNROLL
  for (int m = 0; m < M; m++) {
    AUXGRAD_UNROLL
    for (int v = 0; v < V; v++) __builtin_prefetch(t.out[m] + v * kLanes, 1);
  }
  Vec acc[M][V] = {};
  const float* b = t.panel;
  for (int64_t i = 0; i < t.runs.outer; i++)
    for (int64_t j = 0; j < t.runs.inner; j++) {
      const int64_t start = i * t.runs.outer_step + j * t.runs.inner_step;
      const float* a[M];
      AUXGRAD_UNROLL
      for (int m = 0; m < M; m++) a[m] = t.row[m] + start;
      for (int64_t k = 0; k < t.runs.length; k++, b += V * kLanes) {
        Vec right[V];
        AUXGRAD_UNROLL
        for (int v = 0; v < V; v++) right[v] = load(b + v * kLanes);
        AUXGRAD_UNROLL
        for (int m = 0; m < M; m++) {
          const Vec left = broadcast(a[m][k]);
          AUXGRAD_UNROLL
          for (int v = 0; v < V; v++) acc[m][v] = fma(left, right[v], acc[m][v]);
        }
      }
    }
  finish_tile<M, V>(t, acc);
}

// The same with neighbouring left rows, row[m] = row[0] + m, and elements `step` apart: the weight gradient.
template <int M, int V>
__attribute__((noinline)) void tile_of_columns(const Tile& t) {
  Vec acc[M][V] = {};
  const float* b = t.panel;
  for (int64_t i = 0; i < t.runs.outer; i++)
    for (int64_t j = 0; j < t.runs.inner; j++) {
      const float* a = t.row[0] + i * t.runs.outer_step + j * t.runs.inner_step;
      for (int64_t k = 0; k < t.runs.length; k++, a += t.step, b += V * kLanes) {
        Vec right[V];
        AUXGRAD_UNROLL
        for (int v = 0; v < V; v++) right[v] = load(b + v * kLanes);
        AUXGRAD_UNROLL
        for (int m = 0; m < M; m++) {
          const Vec left = broadcast(a[m]);
          AUXGRAD_UNROLL
          for (int v = 0; v < V; v++) acc[m][v] = fma(left, right[v], acc[m][v]);
        }
      }
    }
  finish_tile<M, V>(t, acc);
}

// Calls f for the tile of m rows: one instantiation a height.
template <bool Columns, int V, int M = kTileRows>
inline void run_tile_rows(const Tile& t, int m) {
  if constexpr (M > 0) {
    if (m == M) return Columns ? tile_of_columns<M, V>(t) : tile_of_rows<M, V>(t);
    run_tile_rows<Columns, V, M - 1>(t, m);
  }
}
template <bool Columns>
inline void run_tile(const Tile& t, int m) {
  if (t.columns > kLanes) run_tile_rows<Columns, 2>(t, m);
  else run_tile_rows<Columns, 1>(t, m);
}

// Width of the panel that starts at column c of n.
inline int64_t panel_width(int64_t n, int64_t c) { return n - c > kLanes ? kPanel : kLanes; }

// Cuts n rows into tiles of nearly equal height: start of tile i of `count`.
inline int64_t even_start(int64_t n, int64_t count, int64_t i) { return n / count * i + min64(i, n % count); }

}  // namespace
}  // namespace auxgrad
