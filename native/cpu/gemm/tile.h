// The micro-kernel: one tile of C from a strip of the left operand and a panel of the right one.
#pragma once
#include "vector.h"

namespace auxgrad {
namespace {

struct Tile {
  int64_t depth;      // steps of the reduction
  const float* left;  // element (row, k) at row * left_step + k, or k * left_step + row
  int64_t left_step;
  const float* right;  // element (k, column) at k * right_step + column, whole vectors readable
  int64_t right_step;
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
  // Of a wide tile that fetches: one line for every step, `ahead_line` apart; of others nothing.
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

// What a kernel does besides: of a wide tile, fetches; of one of two vectors, finishes sums.
enum Also { kNothing, kFetch, kFinish };
enum Left { kLeftRows, kLeftColumns };  // which of the two orders of the left operand lies contiguously

template <int M, int V>
inline __attribute__((always_inline)) void tile_step(Vec (&sum)[M][V], const float*& right, int64_t right_step,
                                                     const float* const (&left)[M]) {
  Vec x[V];
  AUXGRAD_UNROLL
  for (int v = 0; v < V; v++) x[v] = load(right + v * kLanes);
  right += right_step;
  AUXGRAD_UNROLL
  for (int r = 0; r < M; r++) {
    const Vec y = broadcast(*left[r]);
    AUXGRAD_UNROLL
    for (int v = 0; v < V; v++) sum[r][v] = fma(y, x[v], sum[r][v]);
  }
}

template <int M, int V, Left L, Also A>
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
  // Every third row has a pointer of its own, the others are one or two steps away: pointers and steps stay in
  // registers. The empty statement keeps the compiler from making it a pointer a row.
  constexpr int kPointers = L == kLeftRows ? (M + 2) / 3 : 1;
  const float* p[kPointers];
  AUXGRAD_UNROLL
  for (int i = 0; i < kPointers; i++) p[i] = t.left + 3 * i * step;
  constexpr bool kWide = V > kTileVecs, kFinishes = A == kFinish;
  const int64_t ahead_line = t.ahead_line;
  const auto steps = [&](auto count) __attribute__((always_inline)) {
    AUXGRAD_UNROLL
    for (int i = 0; i < kPointers; i++) asm("" : "+r"(p[i]));
    AUXGRAD_UNROLL
    for (int u = 0; u < count.value; u++) {
      const float* left[M];
      AUXGRAD_UNROLL
      for (int r = 0; r < M; r++) left[r] = L == kLeftRows ? p[r / 3 % kPointers] + r % 3 * step + u : p[0] + r;
      tile_step<M, V>(sum, right, right_step, left);
      if (A == kFetch) {
        __builtin_prefetch(ahead, 0, 3);
        ahead += ahead_line;
      }
      if (L == kLeftColumns) p[0] += step;
    }
    AUXGRAD_UNROLL
    for (int i = 0; i < kPointers; i++)
      if (L == kLeftRows) p[i] += count.value;
  };
  const int64_t chunk = kWide ? t.depth : kChunk;
  int64_t next_rows = M;
  for (int64_t k = 0; k < t.depth; k += chunk) {
    if (!kWide) {
      for (int64_t i = 0; i < t.ahead_lines; i++) __builtin_prefetch(ahead + i * t.ahead_line, 0, 3);
      ahead += t.ahead_chunk;
      if (next_rows > 0) {
        AUXGRAD_UNROLL
        for (int v = 0; v < V * kLanes; v += 16) __builtin_prefetch(next_out + v, 1, 3);
      }
      next_rows--;
      asm("" : "+r"(next_rows));  // or there would be a loop for those and another for the rest
      next_out += t.out_step;
    }
    constexpr int kTogether = kWide ? 1 : kUnroll;
    int64_t rest = min64(chunk, t.depth - k);
    for (; rest >= kTogether; rest -= kTogether) steps(Count<kTogether>{});
    for (; kTogether > 1 && rest > 0; rest--) steps(Count<1>{});
  }
  float* out = t.out;
  int64_t out_step = t.out_step;
  asm("" : "+r"(out), "+r"(out_step));  // or the address of every row would be kept through the loop
  const int64_t last = t.columns - (V - 1) * kLanes;
  if (last < kLanes) {
    AUXGRAD_UNROLL
    for (int r = 0; r < M; r++, out += out_step) {
      AUXGRAD_UNROLL
      for (int v = 0; v + 1 < V; v++) store(out + v * kLanes, t.add ? sum[r][v] + load(out + v * kLanes) : sum[r][v]);
      float* end = out + (V - 1) * kLanes;
      store_part(end, t.add ? sum[r][V - 1] + load_part(end, last) : sum[r][V - 1], last);
    }
    return;
  }
  if (t.add) {
    const float* from = out;
    AUXGRAD_UNROLL
    for (int r = 0; r < M; r++, from += out_step) {
      AUXGRAD_UNROLL
      for (int v = 0; v < V; v++) sum[r][v] = sum[r][v] + load(from + v * kLanes);
    }
  }
  if (kFinishes && t.bias) {
    const Vec least = broadcast(t.least);
    const float* bias = t.bias;
    BitWords word[V] = {}, bit = BitWords{} + 1;
    AUXGRAD_UNROLL
    for (int r = 0; r < M; r++, out += out_step, bit += bit) {
      in_order(bit);  // all registers are taken
      AUXGRAD_UNROLL
      for (int v = 0; v < V; v++) {
        const Vec x = max_of(least, sum[r][v] + load(bias + v * kLanes));
        word[v] = mark_positive(word[v], x, bit);
        store(out + v * kLanes, x);
      }
    }
    AUXGRAD_UNROLL
    for (int v = 0; v < V; v++) t.words[v] = word[v];
    return;
  }
  AUXGRAD_UNROLL
  for (int r = 0; r < M; r++, out += out_step) {
    AUXGRAD_UNROLL
    for (int v = 0; v < V; v++) store(out + v * kLanes, sum[r][v]);
  }
}

using TileKernel = void (*)(const Tile&);

// The kernels of 1..Rows rows.
template <int Rows, int V, Left L, Also A>
struct TileKernels {
  TileKernel of_rows[Rows + 1] = {};
  template <int M = Rows>
  constexpr void fill() {
    if constexpr (M > 0) {
      of_rows[M] = tile_kernel<M, V, L, A>;
      fill<M - 1>();
    }
  }
  constexpr TileKernels() { fill(); }
};
template <int Rows, int V, Left L, Also A>
constexpr TileKernels<Rows, V, L, A> kTileKernels;

template <Left L>
inline const TileKernel* tile_kernels_of(int64_t columns, Also also) {
  if constexpr (kWideVecs > 0) {
    if (columns > kTileColumns)
      return also == kFetch ? kTileKernels<kWideRows, kWideVecs, L, kFetch>.of_rows
                            : kTileKernels<kWideRows, kWideVecs, L, kNothing>.of_rows;
  }
  if (columns > kLanes) return kTileKernels<kTileRows, 2, L, kFinish>.of_rows;
  return kTileKernels<kTileRows, 1, L, kNothing>.of_rows;
}

// Kernels for a panel of so many columns, by the rows of the tile.
inline const TileKernel* tile_kernels(Left left, int64_t columns, Also also) {
  return left == kLeftRows ? tile_kernels_of<kLeftRows>(columns, also) : tile_kernels_of<kLeftColumns>(columns, also);
}

}  // namespace
}  // namespace auxgrad
