// The micro-kernel: one tile of C from a strip of the left operand and a panel of the right one.
#pragma once
#include "../stores.h"
#include "vector.h"

namespace auxgrad {
namespace {

struct Tile {
  int64_t depth;      // steps of the reduction
  const float* left;  // element (row, k) at row * left_step + k, or k * left_step + row
  int64_t left_step;
  const float* right;  // element (k, column) at k * right_step + column, whole vectors readable
  int64_t right_step;
  float* packed;  // where a packing kernel leaves that, steps kTileColumns apart
  float* out;
  int64_t out_step;
  int64_t columns;  // that exist in out; they end in the last vector
  bool add;         // to out
  // What becomes of finished sums, of whole vectors: `bias`, if not null, is added and `least` put for what is below it;
  // the bits of > 0, row r of the tile in bit r, go to `words`.
  const float* bias;
  float least;
  BitWords* words;
  // Fetched into the second cache meanwhile, what the tiles to come will read or write: for every kChunk steps
  // `ahead_lines` cache lines, `ahead_line` apart, the next ones `ahead_chunk` on; and rows of a tile at `next_out`.
  // Of a wide tile one line for every step, `ahead_line` apart, and nothing else.
  const float* ahead;
  int64_t ahead_lines, ahead_line, ahead_chunk;
  const float* next_out;
};

constexpr int64_t kChunk = 16;

// Steps of the reduction without a branch between them. A branch costs a short step's multiply-adds their ports, and
// the end of an inner loop is foreseen only where it comes after few of them.
constexpr int kUnroll = kLanes == 8 ? kChunk : 2;
template <int N>
struct Count {
  static constexpr int value = N;
};

enum Left { kLeftRows, kLeftColumns };  // which of the two orders of the left operand lies contiguously

// Rows [first, first + N) of step `u`, where the left operand's rows are at p, three to a pointer. The vectors of the
// right one are left at `packed` too, unless that is null.
template <int N, Left L, int M, int V, int P>
inline __attribute__((always_inline)) void tile_step(Vec (&sum)[M][V], int first, const float* right,
                                                     const float* const (&p)[P], int64_t step, int u,
                                                     float* packed = nullptr) {
  Vec x[V];
  AUXGRAD_UNROLL
  for (int v = 0; v < V; v++) {
    x[v] = load(right + v * kLanes);
    if (packed) store(packed + v * kLanes, x[v]);
  }
  AUXGRAD_UNROLL
  for (int i = 0; i < N; i++) {
    const int r = first + i;
    if (r >= M) break;
    const Vec y = broadcast(L == kLeftRows ? p[r / 3 % P][r % 3 * step + u] : p[0][u * step + r]);
    AUXGRAD_UNROLL
    for (int v = 0; v < V; v++) sum[r][v] = fma(y, x[v], sum[r][v]);
  }
}

// The sums of a tile whose last vector has columns that do not exist.
__attribute__((noinline)) void store_ragged(const Tile& t, const Vec* sum, int rows, int vectors) {
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < vectors; v++, sum++) {
      float* to = t.out + r * t.out_step + v * kLanes;
      const int64_t n = min64(kLanes, t.columns - v * kLanes);
      store_part(to, t.add ? *sum + load_part(to, n) : *sum, n);
    }
}

// Whether a tile has so many sums that their stores are spread, and that it packs beside its multiply-adds.
template <int M, int V>
constexpr bool kSpreads = (M * V > kFreeStores);

template <int M, int V, Left L, bool kPacks = false>
__attribute__((noinline)) void tile_kernel(const Tile& t) {
  Vec sum[M][V];
  AUXGRAD_UNROLL
  for (int r = 0; r < M; r++) {
    AUXGRAD_UNROLL
    for (int v = 0; v < V; v++) sum[r][v] = Vec{};
  }
  const float* right = t.right;
  const int64_t right_step = t.right_step, step = t.left_step;
  const float *ahead = t.ahead, *next_out = t.next_out;
  float* packed = t.packed;
  // Every third row has a pointer of its own, the others are one or two steps away: pointers and steps stay in
  // registers. The empty statement keeps the compiler from making it a pointer a row.
  constexpr int kPointers = L == kLeftRows ? (M + 2) / 3 : 1;
  const float* p[kPointers];
  AUXGRAD_UNROLL
  for (int i = 0; i < kPointers; i++) p[i] = t.left + 3 * i * step;
  constexpr bool kWide = V > kTileVecs, kFinishes = V == kTileVecs, kSpread = kSpreads<M, V>;
  constexpr int kGroup = kSpread ? 4 / V : M;  // rows at a time
  const int64_t ahead_line = t.ahead_line;
  const auto steps = [&](auto count) __attribute__((always_inline)) {
    AUXGRAD_UNROLL
    for (int i = 0; i < kPointers; i++) asm("" : "+r"(p[i]));
    AUXGRAD_UNROLL
    for (int u = 0; u < count.value; u++, right += right_step) {
      tile_step<M, L>(sum, 0, right, p, step, L == kLeftRows ? u : 0, kPacks ? packed : nullptr);
      if (kPacks) packed += kTileColumns;
      if (L == kLeftColumns) p[0] += step;
      if (kWide) {
        __builtin_prefetch(ahead, 0, 3);
        ahead += ahead_line;
      }
    }
    AUXGRAD_UNROLL
    for (int i = 0; i < kPointers; i++)
      if (L == kLeftRows) p[i] += count.value;
  };
  const bool ragged = t.columns < V * kLanes, tail = kSpread && !kPacks && !ragged && t.depth >= kLastSteps;
  const int64_t depth = t.depth - (tail ? kLastSteps : 0), chunk = kWide ? depth : kChunk;
  int64_t next_rows = M;
  for (int64_t k = 0; k < depth; k += chunk) {
    if (!kWide) {
      for (int64_t i = 0; i < t.ahead_lines; i++) __builtin_prefetch(ahead + i * t.ahead_line, 0, 2);
      ahead += t.ahead_chunk;
      if (next_rows > 0) {
        AUXGRAD_UNROLL
        for (int v = 0; v < V * kLanes; v += 16) __builtin_prefetch(next_out + v, 1, 3);
      }
      next_rows--;
      asm("" : "+r"(next_rows));  // or there would be a loop for those and another for the rest
      next_out += t.out_step;
    }
    constexpr int kTogether = kWide || kSpread ? 1 : kUnroll;
    int64_t rest = min64(chunk, depth - k);
    for (; rest >= kTogether; rest -= kTogether) steps(Count<kTogether>{});
    for (; kTogether > 1 && rest > 0; rest--) steps(Count<1>{});
  }
  if (ragged) {
    Vec sums[M * V];  // a copy, or the sums would live in memory
    AUXGRAD_UNROLL
    for (int r = 0; r < M; r++) {
      AUXGRAD_UNROLL
      for (int v = 0; v < V; v++) sums[r * V + v] = sum[r][v];
    }
    return store_ragged(t, sums, M, V);
  }
  float* out = t.out;
  int64_t out_step = t.out_step;
  asm("" : "+r"(out), "+r"(out_step));  // or the address of every row would be kept through the loop
  BitWords word[V] = {}, bit = BitWords{} + 1;
  AUXGRAD_UNROLL
  for (int first = 0; first < M; first += kGroup) {
    asm volatile("" : : : "memory");
    if (tail) {
      AUXGRAD_UNROLL
      for (int u = 0; u < kLastSteps; u++) tile_step<kGroup, L>(sum, first, right + u * right_step, p, step, u);
    }
    if (t.add) {
      const float* from = out;
      AUXGRAD_UNROLL
      for (int i = 0; i < kGroup; i++, from += out_step) {
        if (first + i >= M) break;
        AUXGRAD_UNROLL
        for (int v = 0; v < V; v++) sum[first + i][v] = sum[first + i][v] + load(from + v * kLanes);
      }
    }
    if (kFinishes && t.bias) {
      const Vec least = broadcast(t.least);
      const float* bias = t.bias;
      AUXGRAD_UNROLL
      for (int i = 0; i < kGroup; i++, out += out_step, bit += bit) {
        if (first + i >= M) break;
        in_order(bit);  // all registers are taken
        AUXGRAD_UNROLL
        for (int v = 0; v < V; v++) {
          const Vec x = max_of(least, sum[first + i][v] + load(bias + v * kLanes));
          word[v] = mark_positive(word[v], x, bit);
          store(out + v * kLanes, x);
        }
      }
      continue;
    }
    AUXGRAD_UNROLL
    for (int i = 0; i < kGroup; i++, out += out_step) {
      if (first + i >= M) break;
      AUXGRAD_UNROLL
      for (int v = 0; v < V; v++) store(out + v * kLanes, sum[first + i][v]);
    }
  }
  if (kFinishes && t.bias) {
    AUXGRAD_UNROLL
    for (int v = 0; v < V; v++) t.words[v] = word[v];
  }
}

// The same in two halves, where speed is in fewer rows too.
template <int M, int V, Left L>
__attribute__((noinline)) void tile_halves(const Tile& t) {
  constexpr int kFirst = M / 2;
  tile_kernel<kFirst, V, L>(t);
  Tile rest = t;
  rest.left += kFirst * (L == kLeftRows ? t.left_step : 1);
  rest.out += kFirst * t.out_step;
  rest.next_out += kFirst * t.out_step;
  rest.ahead_lines = 0;
  tile_kernel<M - kFirst, V, L>(rest);
}

using TileKernel = void (*)(const Tile&);

// The kernels of 1..Rows rows; of packing ones the two tallest, which products of many rows are cut into, if they spread.
template <int Rows, int V, Left L, bool kPacks = false>
struct TileKernels {
  TileKernel of_rows[Rows + 1] = {};
  template <int M = Rows>
  constexpr void fill() {
    if constexpr (M > 0) {
      if constexpr (kPacks && (!kSpreads<M, V> || M < Rows - 1)) return;
      else if constexpr (kPacks) of_rows[M] = tile_kernel<M, V, L, true>;
      else if constexpr (V == 1 && M > 8) of_rows[M] = tile_halves<M, V, L>;
      else of_rows[M] = tile_kernel<M, V, L>;
      fill<M - 1>();
    }
  }
  constexpr TileKernels() { fill(); }
};
template <int Rows, int V, Left L, bool kPacks = false>
constexpr TileKernels<Rows, V, L, kPacks> kTileKernels;

template <Left L>
inline const TileKernel* tile_kernels_of(int64_t columns) {
  if constexpr (kWideVecs > 0) {
    if (columns > kTileColumns) return kTileKernels<kWideRows, kWideVecs, L>.of_rows;
  }
  return columns > kLanes ? kTileKernels<kTileRows, kTileVecs, L>.of_rows : kTileKernels<kTileRows, 1, L>.of_rows;
}

// Kernels for a panel of so many columns, by the rows of the tile.
inline const TileKernel* tile_kernels(Left left, int64_t columns) {
  return left == kLeftRows ? tile_kernels_of<kLeftRows>(columns) : tile_kernels_of<kLeftColumns>(columns);
}

// The kernel for a tile of so many rows that packs a panel of kTileColumns while it reads it, or null.
inline TileKernel packing_kernel(Left left, int64_t rows) {
  return left == kLeftRows ? kTileKernels<kTileRows, kTileVecs, kLeftRows, true>.of_rows[rows]
                           : kTileKernels<kTileRows, kTileVecs, kLeftColumns, true>.of_rows[rows];
}

}  // namespace
}  // namespace auxgrad
