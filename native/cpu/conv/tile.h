// The register tile of convolutions: kTileRows rows times two vectors of columns, over a windowed reduction.
//
// The left operand is read in place (a stripe of the image, see stripe.h): the reduction walks runs of it whose
// addresses form a two-level grid. The right operand is a packed panel, [reduction][columns of the panel].
#pragma once
#include "../stores.h"
#include "bits.h"

namespace auxgrad {
namespace {

constexpr int kPanel = 2 * kLanes;  // columns of a panel

// Runs of the reduction: run (i, j) starts at i * outer_step + j * inner_step and has `length` elements.
struct Runs {
  int64_t outer, outer_step, inner, inner_step, length;
};

// Sums over the outputs of each tile of a block in the columns of a panel, for statistics: of d and d^2, d = y - shift.
constexpr int64_t kTokens = 256;  // outputs of a block
struct Moments {
  alignas(64) float shift[kPanel], sums[kTokens / kTileRows + 1][2][kPanel];
  int64_t tile;  // at hand; the first one sets the shift
};

struct Tile {
  // Row m of the left operand begins at left + left_row[m], that of the result at out + out_row[m]; of tile_of_columns,
  // at left + m, and the results' follow one another.
  const float* left;
  const int64_t* left_row;
  float* out;
  const int64_t* out_row;
  Runs runs;
  int64_t step;  // tile_of_columns: distance of two elements of a run
  const float* panel;
  int64_t panel_step = 0;  // tile_of_rows: floats of the panel left out after each outer run; else from step to step
  int64_t columns;         // that exist in out, 1..kPanel; more than kLanes of them take a panel of two vectors
  bool accumulate;         // add to out
  const float* bias;       // of these columns, or null
  bool relu;               // NaN stays NaN
  // Bits of out > 0, for words of these columns: the first row's, and `words` further. Rows are tokens one after another,
  // the first at bit `first_bit`; a bit of `marked` for each that is wanted. Tiles come in order: each word's first bits
  // begin it.
  uint32_t* mask = nullptr;
  int64_t words;
  int first_bit;
  uint32_t marked = 0;
  Moments* moments = nullptr;
  // Brought near meanwhile, 8 floats a step, or by tile_of_columns so many bytes; any address, as nothing is read.
  const float *ahead, *x_ahead;
  int64_t ahead_step = 0, x_ahead_step = 0;
};

// Words of which `before` already hold bits.
template <class Lanes>
inline void put_words(uint32_t* to, BitWords bits, bool before, Lanes lanes) {
  float* at = reinterpret_cast<float*>(to);
  if (before) bits |= (BitWords)lanes.load(at);
  lanes.store(at, (Vec)bits);
}

// Adds the bits of y > 0 of a vector of columns to the words of the mask.
template <int M, class Lanes>
inline __attribute__((always_inline)) void finish_mask_words(const Tile& t, const Vec (&y)[M], int column,
                                                             Lanes lanes) {
  BitWords bits = {};
  // From memory: made in registers, a constant of each row would take the multiply-adds' turn.
  static constexpr uint32_t kBits[16] = {1,      1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                                         1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
  const uint32_t* bit = kBits;
  asm("" : "+r"(bit));
  AUXGRAD_UNROLL
  for (int m = 0; m < M; m++) bits = mark_positive(bits, y[m], BitWords{} + bit[m]);
  bits &= BitWords{} + t.marked;
  const uint64_t place = static_cast<uint64_t>(t.marked) << t.first_bit;
  if (static_cast<uint32_t>(place)) put_words(t.mask + column, bits << t.first_bit, !(place & 1), lanes);
  if (place >> 32) put_words(t.mask + t.words + column, bits >> (32 - t.first_bit), false, lanes);
}

// Sums the first `rows` of y, all if there are M, in a vector of columns.
template <int M>
inline __attribute__((always_inline)) void finish_moments(Moments& s, const Vec (&y)[M], int rows, int column) {
  if (s.tile == 0) {
    Vec mean = {};
    const Vec share = broadcast(1.0f / static_cast<float>(rows));
    AUXGRAD_UNROLL
    for (int m = 0; m < M; m++)
      if (m < rows) mean = fma(y[m], share, mean);
    store(s.shift + column, mean - mean == Vec{} ? mean : Vec{});
  }
  const Vec middle = load(s.shift + column);
  Vec a[2] = {}, b[2] = {};
  AUXGRAD_UNROLL
  for (int m = 0; m < M; m++)
    if (m < rows) {
      const Vec d = y[m] - middle;
      a[m % 2] += d;
      b[m % 2] = fma(d, d, b[m % 2]);
    }
  store(s.sums[s.tile][0] + column, a[0] + a[1]);
  store(s.sums[s.tile][1] + column, b[0] + b[1]);
}

// Ragged columns, or few rows: sums [rows][vectors].
__attribute__((noinline)) void finish_rows(const Tile& t, const Vec* sums, int rows, int vectors) {
  for (int v = 0; v < vectors; v++) {
    const int column = v * kLanes;
    const PartLanes part = {t.columns - column};
    const bool whole = part.n >= kLanes;
    Vec y[kTileRows] = {};
    for (int m = 0; m < rows; m++) {
      float* out = t.out + t.out_row[m] + column;
      y[m] = sums[m * vectors + v];
      if (t.accumulate) y[m] += load_first(out, part.n);
      if (t.relu) y[m] = relu(y[m]);
      if (whole) store(out, y[m]);
      else store_part(out, y[m], part.n);
    }
    if (t.marked && whole) finish_mask_words(t, y, column, WholeLanes());
    if (t.marked && !whole) finish_mask_words(t, y, column, part);
    if (t.moments) finish_moments(*t.moments, y, rows, column);
  }
}

// With the last kLastSteps steps, of rows at `left` and columns at `panel`, unless `left` is null.
template <int M, int V>
inline __attribute__((always_inline)) void finish_tile(const Tile& t, Vec (&acc)[M][V], const float* left,
                                                       const float* panel) {
  // Tiles of few rows are met only alone: their code would be larger, not faster.
  if (2 * M < kTileRows || t.columns < V * kLanes) {
    Vec sums[M * V];
    AUXGRAD_UNROLL
    for (int m = 0; m < M; m++) {
      AUXGRAD_UNROLL
      for (int v = 0; v < V; v++) sums[m * V + v] = acc[m][v];
    }
    return finish_rows(t, sums, M, V);
  }
  constexpr int kGroup = M * V > kFreeStores ? 4 / V : M;  // rows at a time
  float* const to = t.out;
  const int64_t *const row = t.out_row, *const left_row = t.left_row;
  AUXGRAD_UNROLL
  for (int first = 0; first < M; first += kGroup) {
    if (kGroup < M) asm volatile("" : : : "memory");
    if (kGroup < M && left) {
      AUXGRAD_UNROLL
      for (int u = 0; u < kLastSteps; u++) {
        Vec right[V];
        AUXGRAD_UNROLL
        for (int v = 0; v < V; v++) right[v] = load(panel + (u * V + v) * kLanes);
        AUXGRAD_UNROLL
        for (int i = 0; i < kGroup; i++) {
          const int m = first + i;
          if (m >= M) break;
          const Vec x = broadcast(left[left_row[m] + u]);
          AUXGRAD_UNROLL
          for (int v = 0; v < V; v++) acc[m][v] = fma(x, right[v], acc[m][v]);
        }
      }
    }
    const auto each = [&](const auto& f) __attribute__((always_inline)) {
      AUXGRAD_UNROLL
      for (int i = 0; i < kGroup; i++) {
        if (first + i >= M) break;
        float* out = to + row[first + i];
        AUXGRAD_UNROLL
        for (int v = 0; v < V; v++) f(acc[first + i][v], out + v * kLanes);
      }
    };
    if (t.accumulate) each([](Vec& y, const float* out) { y += load(out); });
    if (t.relu) each([](Vec& y, const float*) { y = relu(y); });
    each([](Vec& y, float* out) { store(out, y); });
  }
  if (!t.marked && !t.moments) return;
  AUXGRAD_UNROLL
  for (int v = 0; v < V; v++) {
    Vec y[M];
    AUXGRAD_UNROLL
    for (int m = 0; m < M; m++) y[m] = acc[m][v];
    if (t.marked) finish_mask_words(t, y, v * kLanes, WholeLanes());
    if (t.moments) finish_moments(*t.moments, y, M, v * kLanes);
  }
}

// out[m][c] (+)= sum over runs and k of left[m][run + k] * panel[k][c], then bias and activation.
template <int M, int V>
__attribute__((noinline)) void tile_of_rows(const Tile& t) {
  Vec start[V] = {}, acc[M][V];
  AUXGRAD_UNROLL
  for (int v = 0; v < V; v++)
    if (t.bias) start[v] = load_first(t.bias + v * kLanes, t.columns - v * kLanes);
  AUXGRAD_UNROLL
  for (int m = 0; m < M; m++) {
    AUXGRAD_UNROLL
    for (int v = 0; v < V; v++) acc[m][v] = start[v];
  }
  const float *b = t.panel, *ahead = t.ahead;
  // The outputs are seldom in a cache: fetch them while the sums are made, or the stores would stall. A row a step: all
  // at once would keep the operands waiting.
  const auto fetch = [&](int64_t m) __attribute__((always_inline)) {
    const float* out = t.out + t.out_row[m];
    AUXGRAD_UNROLL
    for (int v = 0; v < V; v += kLanes < 16 ? 2 : 1) __builtin_prefetch(out + v * kLanes, 1);
  };
  constexpr bool kSpread = 2 * M > kTileRows && !kFallback;
  for (int64_t m = kSpread ? t.runs.length : 0; m < M; m++) fetch(m);
  const bool tail = M * V > kFreeStores && t.runs.length >= kLastSteps && t.columns >= V * kLanes;
  const float* end = nullptr;  // of the run before its last steps
  for (int64_t i = 0; i < t.runs.outer; i++, b += t.panel_step)
    for (int64_t j = 0; j < t.runs.inner; j++) {
      const float* start = t.left + i * t.runs.outer_step + j * t.runs.inner_step;
      const int64_t* row = t.left_row;
      int64_t length = t.runs.length;
      if (tail && i == t.runs.outer - 1 && j == t.runs.inner - 1) {
        length -= kLastSteps;
        end = start + length;
      }
      // Of many rows, addresses of an outer run would only be kept to be loaded again, and vectors of what was just stored
      // a number at a time would wait.
      if (kLanes == 16) asm("" : "+r"(row));
      const float* a[M];
      AUXGRAD_UNROLL
      for (int m = 0; m < M; m++) {
        a[m] = start + row[m];
        if (kLanes == 16) asm("" : "+r"(a[m]));
      }
      const auto step = [&](int64_t k) __attribute__((always_inline)) {
        Vec right[V];
        AUXGRAD_UNROLL
        for (int v = 0; v < V; v++) right[v] = load(b + v * kLanes);
        b += V * kLanes;
        AUXGRAD_UNROLL
        for (int m = 0; m < M; m++) {
          // Addresses that no register is left for are loaded: kept in vectors, they would take multiply-adds' turns.
          if (kLanes == 16 && m >= 8) asm("" : "+m"(a[m]));
          const Vec left = broadcast(a[m][k]);
          AUXGRAD_UNROLL
          for (int v = 0; v < V; v++) acc[m][v] = fma(left, right[v], acc[m][v]);
        }
      };
      int64_t k = 0;
      if (kSpread && i + j == 0)
        for (; k < min64(M, length); k++) {
          asm("" : "+r"(k));  // or there would be code for each step
          fetch(k);
          step(k);
        }
      for (; k < length; k++) {
        __builtin_prefetch(ahead, 0, 2);
        ahead += 8;
        step(k);
      }
    }
  const Tile* again = &t;  // read anew: registers kept for it would be missing above
  asm("" : "+r"(again));
  finish_tile<M, V>(*again, acc, end, b - t.panel_step);
}

// Whether the rows of a tile, side by side, take a line of a cache: such are read in place.
constexpr bool kWholeLines = kTileRows * 4 > 32;

// The same with neighbouring left rows and elements `step` apart, of whole panels: the weight gradient.
template <int M, int V>
__attribute__((noinline)) void tile_of_columns(const Tile& t) {
  // Steps without a branch between them: the two units of multiply-adds are then met alike.
  constexpr int kTogether = kLanes == 16 && V == 2 && 2 * M > kTileRows ? 2 : 1;
  Vec acc[M][V] = {};
  const float* b = t.panel;
  // Of the tiles after this one, where operands are read in place.
  const char* ahead = reinterpret_cast<const char*>(t.ahead_step ? t.ahead : b + V * kLanes);
  const char* x_ahead = reinterpret_cast<const char*>(t.x_ahead_step ? t.x_ahead : b);
  const int64_t ahead_step = t.ahead_step ? t.ahead_step : 4 * t.panel_step, x_ahead_step = t.x_ahead_step;
  for (int64_t i = 0; i < t.runs.outer; i++)
    for (int64_t j = 0; j < t.runs.inner; j++) {
      const float* a = t.left + i * t.runs.outer_step + j * t.runs.inner_step;
      const auto step = [&]() __attribute__((always_inline)) {
        __builtin_prefetch(kWholeLines ? static_cast<const void*>(a + 2 * M) : x_ahead, 0, 3);
        x_ahead += x_ahead_step;
        __builtin_prefetch(ahead, 0, 3);
        ahead += ahead_step;
        Vec right[V];
        AUXGRAD_UNROLL
        for (int v = 0; v < V; v++) right[v] = load(b + v * kLanes);
        AUXGRAD_UNROLL
        for (int m = 0; m < M; m++) {
          const Vec left = broadcast(a[m]);
          AUXGRAD_UNROLL
          for (int v = 0; v < V; v++) acc[m][v] = fma(left, right[v], acc[m][v]);
        }
        a += t.step;
        b += t.panel_step;
      };
      int64_t rest = t.runs.length;
      for (; rest >= kTogether; rest -= kTogether) {
        AUXGRAD_UNROLL
        for (int s = 0; s < kTogether; s++) step();
      }
      for (; kTogether > 1 && rest > 0; rest--) step();
    }
  float* out = t.out;
  AUXGRAD_UNROLL
  for (int m = 0; m < M; m++) {
    AUXGRAD_UNROLL
    for (int v = 0; v < V; v++, out += kLanes) store(out, t.accumulate ? acc[m][v] + load(out) : acc[m][v]);
  }
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
