// Matrix products C[M,N] = A[M,K] B[K,N] of strided operands, with what follows and precedes them in a layer.
//
// A task computes a block of C, for groups of columns and blocks of K. The group of B is packed in panels as wide as
// the register tile. Either the rows of A that a tile needs stay near while it passes along the group: in place where
// their strides are kind, else copied in their own orientation; the tile reads either. Or the rows of many tiles lie in
// the second cache while the panels pass, each by all of them before the next comes: where those are all rows of C, each
// is packed where the one before it was.
//
// An element of C is the sum over blocks of K, each summed in order: K is cut by the shape alone, so the cut of M and N
// may follow the threads without changing a bit.
#pragma once
#include "amx.h"
#include "dots.h"
#include "pack.h"
#include "tile.h"

namespace auxgrad {
namespace {

// Blocks: kBlockFloats of B, of up to kBlockK rows, come from the third cache once for kBlockRows x kBlockK of A, which
// take less than half of the second (of 1 MiB or more where there is AVX-512, else of 512 KiB). Every block of K reads and
// writes C, every group of columns reads A, and where rows are as long as pages each of them is in another page: few large
// blocks. A panel and the rows of a tile fit the first cache together, with AVX-512 one of 48 KiB.
constexpr int64_t kBlockK = 256;
#if defined(__AVX512F__)
constexpr int64_t kBlockRows = 280, kBlockFloats = 512 * 1024;
#elif defined(__AVX2__)
constexpr int64_t kBlockRows = 168, kBlockFloats = 256 * 1024;
#else
constexpr int64_t kBlockRows = 84, kBlockFloats = 256 * 512;
#endif
// With AVX-512 a B of so many floats stays in the second cache, and is no slower there than packed.
constexpr int64_t kInPlaceFloats = kLanes == 16 ? 64 * 1024 : 0;
// For so few rows a B of so many floats is not worth packing, nor fetching ahead.
constexpr int64_t kNearRows = 64, kNearFloats = 256 * 1024;
// Rows of A are copied into the order of columns for so many columns of B. It pays where tiles have few columns: a copy
// in the order of the tile is one stream of few pages.
constexpr bool kTurns = kLanes == 8;
constexpr int64_t kTurnColumns = 128;
// Where A has so few rows that a product is as fast as B is read, B is read in order, kStreamK steps of kStreamColumns,
// which the second cache has room for twice, with their sums.
constexpr int64_t kStreamRows = kTileRows > 12 ? kTileRows : 12, kStreamK = 8, kStreamColumns = 4096;
constexpr int64_t kStreamPad = 80;  // floats between rows of the sums, so that they do not meet in a set of the cache
// Few rows along columns of B at least so long, in blocks of K that leave the rows in the second cache.
constexpr int64_t kDotDepth = 32, kDotsK = 4096;
constexpr int64_t kPad = 16;  // floats between copied rows, so that they do not meet in a set of the cache

// ceil(n / size), at least 1; what fits is not divided, which would cost a small product too much.
inline int64_t pieces(int64_t n, int64_t size) { return n <= size ? 1 : ceil_div(n, size); }
// The size of n in so many even pieces.
inline int64_t piece(int64_t n, int64_t count) { return count == 1 ? n : ceil_div(n, count); }

// How a product is cut, from its sizes, strides and the threads.
struct Cut {
  Left left;                          // as tiles read it
  bool copy_left;                     // the block of A is copied
  bool turn_left;                     // from rows to columns
  int64_t together;                   // tiles whose rows are
  bool right_in_place;                // panels of B are read where they are
  bool one_panel;                     // of B is packed at a time
  bool stream;                        // in one pass along the rows of B
  bool dots;                          // along its columns
  bool tiny;                          // operands and results lie in the first cache
  int64_t panel;                      // columns of a panel
  int64_t group;                      // columns of B in the second cache
  int64_t depth;                      // of a block of K
  int64_t parts;                      // of K, summed apart and added at the end
  int64_t rows, columns;              // of a block of C
  int64_t down, across;               // blocks of C
  int64_t slice;                      // rows that a thread takes of a tiny product, whole words of a mask
  int64_t left_floats, right_floats;  // scratch of a thread

  int64_t tasks() const { return parts * down * across; }
  int64_t slices(int64_t m) const { return pieces(m, slice); }
  int64_t floats() const { return left_floats + right_floats + kThreadGap / 4; }
};

inline Cut cut_product(const Product& p, int64_t batches, int threads) {
  Cut cut = {};
  // A step along an axis of one element is never taken.
  const bool left_rows = p.a_k == 1 || p.k <= 1, left_columns = p.a_row == 1 || p.m <= 1;
  const bool right_rows = p.b_column == 1 || p.n <= 1;
  const bool signs = p.positive != 0 || p.negative != 0 || p.signs;
  cut.left = left_rows || !left_columns ? kLeftRows : kLeftColumns;

  // Many rows a multiple of 4 KiB apart, or steps a multiple of 2 KiB, share few sets of the caches; of columns a narrow
  // tile uses but a part of each of many lines. To one panel a copy is no use.
  const bool kind = min64(p.m, p.k) <= 8 || p.n <= kTileColumns ||
                    (cut.left == kLeftRows ? p.a_row % 1024 != 0 || kTileRows <= 8
                     : kTileRows > 12      ? p.a_k % 512 != 0
                                           : p.m * p.k <= 8192);
  cut.copy_left = signs || !(left_rows || left_columns) || !kind;

  const bool small = p.k <= 128 && p.k * (right_rows ? p.b_k : p.n) <= 8192;
  const bool few_rows = p.m <= kStreamRows, large = p.k * p.n > kNearFloats;
  cut.stream = right_rows && few_rows && large;
  cut.dots = !kFallback && !right_rows && p.b_k == 1 && p.m <= kDotRows && p.k >= kDotDepth;
  if (cut.dots) cut.copy_left = signs || !left_rows, cut.left = kLeftRows;
  const bool stays = cut.left == kLeftRows && !cut.copy_left && p.k * p.b_k <= kInPlaceFloats && p.b_k % 1024 != 0;
  const bool near = p.m <= kNearRows && !large;
  cut.right_in_place = right_rows && (small || stays || near || p.m <= kTileRows);
  const bool wide = p.m <= kWideRows ? cut.right_in_place : small && kLanes == 16;
  cut.panel = wide && kWideVecs > 0 && p.n > kTileColumns ? kWideVecs * kLanes : kTileColumns;
  cut.tiny = small && p.m * p.k <= 8192 && p.m * p.k > 0 && !cut.copy_left && !p.signs && !cut.dots;
  const bool blocks = !cut.tiny && !cut.stream && !cut.dots && !cut.right_in_place;
  cut.turn_left = kTurns && blocks && !few_rows && left_rows && p.n > kTurnColumns;
  if (cut.turn_left) cut.copy_left = true, cut.left = kLeftColumns;
  cut.together = blocks || near ? kBlockRows / kTileRows : 1;
  // What is read once is read in its own order: along rows of B as far as they go, along columns one panel at a time.
  const int64_t depth = cut.dots ? kDotsK : kBlockK;
  cut.depth = max64(1, min64(p.k, round_up(piece(p.k, pieces(p.k, depth)), kChunk)));
  cut.group = cut.right_in_place ? round_up(max64(p.n, 1), kTileColumns)
              : cut.stream       ? kStreamColumns
              : few_rows         ? kTileColumns
                                 : kBlockFloats / cut.depth;

  // A long sum into a small C is cut along K.
  cut.parts = batches == 1 && p.m * p.n <= 16384 && p.k >= 4096 ? min64(8, p.k / 2048) : 1;

  // Of few rows, a product takes as long as B is read.
  const double work = 2.0 * static_cast<double>(cut.stream || cut.dots ? max64(p.m, 4) : p.m) *
                      static_cast<double>(p.n) * static_cast<double>(p.k);
  // A few microseconds: worth a hand-over to a thread that is awake.
  cut.slice = cut.tiny && batches == 1 && work >= 3e5 ? round_up(ceil_div(p.m, threads), 32) : max64(p.m, 1);
  int64_t wanted = 1;  // tasks: as few as the threads need, some more where there is much to do
  if (cut.parts == 1 && batches < 4 * threads && threads > 1)
    wanted = work < 2e6 ? 1 : work < 1e8 ? threads : work < 1e9 ? 2 * threads : 4 * threads;
  const int64_t most_down = pieces(p.m, 32), most_across = pieces(p.n, kTileColumns);
  // Every block of rows packs B again, every block of columns reads A again.
  const double pack_b = (cut.right_in_place ? 0.02 : right_rows ? 0.5 : 0.8) * static_cast<double>(p.n);
  const double read_a = (cut.copy_left ? 0.4 : 0.1) * static_cast<double>(p.m);
  double best = 1e300;
  cut.rows = round_up(p.m, 32);
  cut.columns = round_up(p.n, kTileColumns);
  for (int64_t down = 1; wanted > 1 && down <= min64(most_down, 2 * wanted); down++) {
    int64_t across = min64(most_across, ceil_div(wanted, down));
    while (down * across % threads != 0 && across < most_across && across < 2 * wanted) across++;
    const int64_t rows = round_up(ceil_div(p.m, down), 32), columns = round_up(ceil_div(p.n, across), kTileColumns);
    // The time of the longest thread, in units of M * N * K / 16 multiply-adds, and what packing adds.
    const int64_t tasks = down * across;
    const double rounds = static_cast<double>(ceil_div(tasks, threads));
    const double longest = rounds * static_cast<double>(rows) * static_cast<double>(columns) / 32 +
                           rounds * (pack_b * static_cast<double>(columns) / static_cast<double>(max64(p.n, 1)) +
                                     read_a * static_cast<double>(rows) / static_cast<double>(max64(p.m, 1)));
    if (longest < best) {
      best = longest;
      cut.rows = rows;
      cut.columns = columns;
    }
  }
  cut.rows = max64(cut.rows, 32);
  cut.columns = max64(cut.columns, kTileColumns);
  cut.down = pieces(p.m, cut.rows);
  cut.across = pieces(p.n, cut.columns);

  cut.group = round_up(piece(cut.columns, pieces(cut.columns, cut.group)), cut.panel);
  const int64_t tiles = pieces(min64(cut.rows, p.m), kTileRows);
  cut.together = piece(tiles, pieces(tiles, cut.together));
  cut.one_panel = tiles == cut.together && cut.panel == kTileColumns;
  if (cut.copy_left)
    cut.left_floats =
        cut.together * round_up(cut.left == kLeftRows ? kTileRows * (cut.depth + kPad) : cut.depth * kLeftStep, 16);
  if (cut.stream || (cut.dots && cut.copy_left)) cut.left_floats = round_up(p.m * (cut.depth + kPad), 16);
  if (cut.stream) {
    cut.right_floats = p.m * (cut.group + kStreamPad) + kStreamK * cut.panel;
  } else if (!cut.dots && (!cut.right_in_place || p.n % kLanes != 0)) {
    cut.right_floats = cut.depth * (cut.one_panel ? cut.panel : cut.group);
  }
  return cut;
}

// Applies `finish` to rows [r0, r1) and columns [c0, c1) of C; r0 is a multiple of 32.
__attribute__((noinline)) void finish_block(const Product& p, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
  const Finish& f = p.finish;
  if (f.alpha == 1 && !f.bias && !f.relu && !f.mask) return;
  const Vec alpha = broadcast(f.alpha);
  for (int64_t r = r0; r < r1; r += 32)
    for (int64_t c = c0; c < c1; c += kLanes) {
      const int64_t n = min64(kLanes, c1 - c);
      const Vec bias = !f.bias ? Vec{} : n == kLanes ? load(f.bias + c) : load_part(f.bias + c, n);
      BitWords word = {}, bit = BitWords{} + 1;
      for (int64_t i = r; i < min64(r + 32, r1); i++, bit += bit) {
        float* at = p.c + i * p.n + c;
        Vec v = n == kLanes ? load(at) : load_part(at, n);
        if (f.alpha != 1) v = v * alpha;
        if (f.bias) v = v + bias;
        if (f.relu) v = relu(v);
        if (n == kLanes) store(at, v);
        else store_part(at, v, n);
        if (f.mask) word = mark_positive(word, v, bit);
      }
      if (f.mask) memcpy(f.mask + r / 32 * p.n + c, &word, static_cast<size_t>(n) * 4);
    }
}

// Leaves all of that but alpha, for the columns from c on, to tile `t` of whole vectors. Whether it does.
inline bool give_finish(const Product& p, int64_t c, Tile& t) {
  static constexpr float kNone[kTileColumns] = {};
  const Finish& f = p.finish;
  t.bias = f.alpha != 1 || !(f.bias || f.relu || f.mask) || t.columns != kTileColumns ? nullptr
           : f.bias                                                                   ? f.bias + c
                                                                                      : kNone;
  t.least = f.relu ? 0 : -__builtin_inff();
  return t.bias;
}

// Floats between the steps of a packed panel.
inline int64_t packed_step(int64_t columns) {
  return columns > kTileColumns ? kWideVecs * kLanes : columns > kLanes ? kTileColumns : kLanes;
}

// Columns of the next panel of so many that are left; of a wide one that does not fill up, two vectors.
inline int64_t panel_columns(const Cut& cut, int64_t left) {
  return left >= cut.panel ? cut.panel : min64(kTileColumns, left);
}

// Where a panel of B is while a block of C is computed: where it was, or packed.
struct Panel {
  const float* data;
  int64_t step, columns;
};

inline Panel panel_at(const Product& p, const Cut& cut, int64_t c, int64_t c1, int64_t k, float* packed) {
  Panel panel;
  const bool right_rows = p.b_column == 1 || p.n <= 1;
  panel.columns = panel_columns(cut, c1 - c);
  const bool in_place =
      right_rows && panel.columns % kLanes == 0 && (cut.right_in_place || panel.columns < kTileColumns);
  panel.data = in_place ? p.b + k * p.b_k + c * p.b_column : packed;
  panel.step = in_place ? p.b_k : packed_step(panel.columns);
  return panel;
}

// Rows to come, fetched into the second cache in order.
struct LinesAhead {
  const float* row;
  int64_t step, rows, columns, column = 0;

  void fetch(int64_t floats) {
    for (; floats > 0 && rows > 0; floats -= 16) {
      __builtin_prefetch(row + column, 0, 2);
      column += 16;
      if (column >= columns) column = 0, rows--, row += step;
    }
  }
};

// One block of C of few rows, from all of K in [k0, k1): B is read once, along its rows. As product_block().
inline void stream_block(const Product& p, const Cut& cut, int64_t r0, int64_t r1, int64_t c0, int64_t c1, int64_t k0,
                         int64_t k1, float* out, int64_t out_step, bool finish, float* scratch) {
  float *copied = scratch, *sums = scratch + cut.left_floats, *packed = sums + p.m * (cut.group + kStreamPad);
  const int64_t sum_step = cut.group + kStreamPad, left_step = cut.depth + kPad, rows = r1 - r0,
                tiles = ceil_div(rows, kTileRows), low = rows / max64(1, tiles), high = rows - tiles * low;
  for (int64_t g0 = c0; g0 < c1; g0 += cut.group) {
    const int64_t columns = min64(cut.group, c1 - g0);
    for (int64_t block = k0; block < k1; block += cut.depth) {
      const int64_t end = min64(block + cut.depth, k1);
      if (p.signs && g0 == 0) pack_signs(p.a, p.a_row, p.a_k, r0, r1, block, end, p.signs, p.k);
      copy_rows(p.a + r0 * p.a_row + block * p.a_k, p.a_row, p.a_k, rows, end - block, copied, left_step, p.positive,
                p.negative);
      for (int64_t k = block; k < end; k += kStreamK) {
        const int64_t depth = min64(kStreamK, end - k);
        // The steps after these are fetched in the order of memory.
        const float* right = p.b + k * p.b_k + g0;
        LinesAhead ahead = {right + depth * p.b_k, p.b_k, min64(kStreamK, k1 - k - depth), columns};
        Tile t = {};
        for (int64_t c = 0; c < columns; c += t.columns) {
          ahead.fetch(depth * cut.panel);
          t.depth = depth;
          t.left_step = left_step;
          t.out_step = sum_step;
          t.add = k > k0;
          t.columns = panel_columns(cut, columns - c);
          t.right = right + c;
          t.right_step = p.b_k;
          if (t.columns % kLanes != 0) {
            t.right_step = packed_step(t.columns);
            pack_right(t.right, p.b_k, 1, depth, t.columns, static_cast<int>(t.right_step), packed);
            t.right = packed;
          }
          for (int64_t i = 0, r = 0; i < tiles; i++) {
            const int64_t m = low + (i < high);
            t.ahead = t.left = copied + r * left_step + k - block;
            t.next_out = t.out = sums + r * sum_step + c;
            tile_kernels(kLeftRows, t.columns)[m](t);
            r += m;
          }
        }
      }
    }
    copy_rows(sums, sum_step, 1, rows, columns, out + r0 * out_step + g0, out_step, 0, 0);
  }
  if (finish) finish_block(p, r0, r1, c0, c1);
}

// The same along the columns of B, all rows.
inline void dots_block(const Product& p, const Cut& cut, int64_t c0, int64_t c1, int64_t k0, int64_t k1, float* out,
                       int64_t out_step, bool finish, float* copied) {
  if (p.m == 0) return;
  for (int64_t k = k0; k < k1; k += cut.depth) {
    const int64_t depth = min64(cut.depth, k1 - k);
    if (p.signs && c0 == 0) pack_signs(p.a, p.a_row, p.a_k, 0, p.m, k, k + depth, p.signs, p.k);
    const float* right = p.b + k + c0 * p.b_column;
    const int rows = static_cast<int>(p.m);
    Dots d = {rows,
              p.a + k,
              p.a_row,
              right,
              p.b_column,
              c1 - c0,
              depth,
              out + c0,
              out_step,
              k > k0,
              right + dot_columns(dot_rows(rows)) * p.b_column,
              p.b_column};
    if (p.k * p.n <= kNearFloats) d.ahead = p.a + k, d.ahead_step = 0;
    if (cut.copy_left) {
      copy_rows(p.a + k * p.a_k, p.a_row, p.a_k, p.m, depth, copied, depth + kPad, p.positive, p.negative);
      d.left = copied;
      d.left_step = depth + kPad;
    }
    multiply_dots(d);
  }
  if (finish) finish_block(p, 0, p.m, c0, c1);
}

// The memory of a product to come, fetched into the second cache piece by piece.
struct Ahead {
  static constexpr int64_t kLine = 16, kLines = 5;  // floats of one; with every kChunk steps of a tile
  const float* at[3] = {};
  int64_t lines[3] = {};
  int now = 0;

  explicit Ahead(const Product* p) {
    if (!p) return;
    if ((p->a_k == 1 && p->a_row == p->k) || (p->a_row == 1 && p->a_k == p->m))
      at[0] = p->a, lines[0] = p->m * p->k / kLine;
    if ((p->b_k == 1 && p->b_column == p->k) || (p->b_column == 1 && p->b_k == p->n))
      at[1] = p->b, lines[1] = p->k * p->n / kLine;
    at[2] = p->c, lines[2] = p->m * p->n / kLine;
  }
  // Gives tile `t` its share.
  void share(Tile& t, bool wide) {
    while (now < 3 && lines[now] <= 0) now++;
    if (now == 3) {
      t.ahead_lines = t.ahead_line = t.ahead_chunk = 0;
      return;
    }
    const int64_t count = wide ? max64(1, t.depth - kLastSteps) : kLines * (t.depth / kChunk);
    t.ahead = at[now];
    t.ahead_lines = kLines;
    t.ahead_line = kLine;
    t.ahead_chunk = kLines * kLine;
    at[now] += count * kLine;
    lines[now] -= count;
  }
};

// A product so small that what is done around the tiles counts. `next`: the one that this thread may be given next.
inline void tiny_product(const Product& p, const Cut& cut, const Product* next, float* packed) {
  const bool by_rows = cut.left == kLeftRows;
  const int64_t rows = p.m;
  Tile t = {};
  t.depth = p.k;
  t.left_step = by_rows ? p.a_row : p.a_k;
  t.out_step = p.n;
  t.ahead = p.a;
  Ahead ahead(next);
  for (int64_t c = 0; c < p.n; c += t.columns) {
    const Panel panel = panel_at(p, cut, c, p.n, 0, packed);
    if (panel.data == packed)
      pack_right(p.b + c * p.b_column, p.b_k, p.b_column, p.k, panel.columns, static_cast<int>(panel.step), packed);
    t.right = panel.data;
    t.right_step = panel.step;
    t.columns = panel.columns;
    const bool wide = kWideVecs > 0 && panel.columns > kTileColumns;
    const int64_t tiles = wide ? ceil_div(rows, kWideVecs > 0 ? kWideRows : 1) : ceil_div(rows, kTileRows);
    const int64_t low = rows / tiles, high = rows - low * tiles;
    const TileKernel* const kernels = tile_kernels(cut.left, panel.columns);
    t.left = p.a;
    t.out = p.c + c;
    t.next_out = t.out;
    for (int64_t i = 0; i < tiles; i++) {
      const int64_t m = low + (i < high);
      if (next) ahead.share(t, wide);
      kernels[m](t);
      t.left += m * p.a_row;
      t.out += m * p.n;
    }
  }
  finish_block(p, 0, p.m, 0, p.n);
}

// One block of C: rows [r0, r1), columns [c0, c1), over K in [k0, k1), written to `out` with rows `out_step` apart.
__attribute__((noinline)) void product_block(const Product& p, const Cut& cut, int64_t r0, int64_t r1, int64_t c0,
                                             int64_t c1, int64_t k0, int64_t k1, float* out, int64_t out_step,
                                             bool finish, float* scratch) {
  if (k0 >= k1) {
    for (int64_t r = r0; r < r1; r++) memset(out + r * out_step + c0, 0, static_cast<size_t>(c1 - c0) * sizeof(float));
    if (finish) finish_block(p, r0, r1, c0, c1);
    return;
  }
  if (cut.stream) return stream_block(p, cut, r0, r1, c0, c1, k0, k1, out, out_step, finish, scratch);
  if (!kFallback && cut.dots) return dots_block(p, cut, c0, c1, k0, k1, out, out_step, finish, scratch);
  float *copied = scratch, *packed = scratch + cut.left_floats;
  const bool by_rows = cut.left == kLeftRows, right_rows = p.b_column == 1 || p.n <= 1;
  const int64_t rows = r1 - r0;
  const bool wide = cut.panel > kTileColumns;
  const int64_t tiles = wide ? ceil_div(rows, kWideRows > 0 ? kWideRows : 1) : ceil_div(rows, kTileRows);
  const int64_t low = rows / max64(tiles, 1), high = rows - low * tiles;
  const auto row_of = [&](int64_t tile) { return r0 + tile * low + min64(tile, high); };
  // Lines of A side by side for a tile: its rows, or kChunk steps.
  const bool lines_are_rows = by_rows || cut.turn_left;
  const int64_t line = lines_are_rows ? p.a_row : p.a_k, left_floats = cut.left_floats / cut.together;

  for (int64_t g0 = c0; g0 < c1; g0 += cut.group) {
    const int64_t g1 = min64(g0 + cut.group, c1), panels = pieces(g1 - g0, cut.panel);
    for (int64_t k = k0; k < k1; k += cut.depth) {
      const int64_t depth = min64(cut.depth, k1 - k);
      const bool last = finish && k + depth >= k1;
      int64_t finished = r0;  // rows
      BitWords words[kTileVecs];
      for (int64_t i0 = 0; i0 < tiles; i0 += cut.together) {
        const int64_t i1 = min64(i0 + cut.together, tiles), first = row_of(i0), end = row_of(i1);
        Tile t = {};
        t.depth = depth;
        t.left_step = !cut.copy_left ? line : by_rows ? depth + kPad : kLeftStep;
        t.out_step = out_step;
        t.add = k > k0;
        t.words = words;
        // Some steps of all tiles at a time: columns of A lie side by side, and each of its pages is met once.
        const int64_t at_once = by_rows || cut.turn_left ? depth : kChunk;
        for (int64_t s = 0; cut.copy_left && s < depth; s += at_once)
          for (int64_t i = i0; i < i1; i++) {
            const int64_t r = row_of(i), m = row_of(i + 1) - r, steps = min64(at_once, depth - s);
            const float* from = p.a + r * p.a_row + (k + s) * p.a_k;
            float* to = copied + (i - i0) * left_floats + s * (by_rows ? 1 : kLeftStep);
            const bool signs = p.signs && g0 == 0;
            if (by_rows && signs && p.a_k == 1) {
              copy_signed_rows(from, p.a_row, r, m, steps, to, t.left_step, p.positive, p.negative, p.signs + k, p.k);
              continue;
            }
            if (signs) pack_signs(p.a, p.a_row, p.a_k, r, r + m, k + s, k + s + steps, p.signs, p.k);
            if (by_rows) copy_rows(from, p.a_row, p.a_k, m, steps, to, t.left_step, p.positive, p.negative);
            else if (kTurns && cut.turn_left) turn_rows(from, p.a_row, m, steps, to, p.positive, p.negative);
            else copy_columns(from, p.a_k, m, p.m - r, steps, to, p.positive, p.negative);
          }
        // The rows of the next tiles are fetched with the last panels, a share of their lines with each.
        const int64_t lines = lines_are_rows ? row_of(i0 + 1) - first : kChunk, share = piece(lines, panels);
        const int64_t others = i1 < tiles && !wide ? panels - pieces(lines, share) : panels;
        int64_t turn = 0;
        const int64_t whole = i1 == tiles ? r1 : r0 + (end - r0) / 32 * 32;
        for (int64_t c = g0; c < g1; turn++) {
          float* const to = packed + (cut.one_panel ? 0 : (c - g0) * depth);
          const Panel panel = panel_at(p, cut, c, g1, k, to);
          t.right = panel.data;
          t.right_step = panel.step;
          t.columns = panel.columns;
          t.ahead_lines = turn < others ? 0 : share;
          t.ahead_line = wide ? 0 : line;
          t.ahead_chunk = lines_are_rows ? kChunk : kChunk * line;
          const int64_t next_c = c + panel.columns;
          // The first tiles have the panel packed, and fetch the next one: kLines parts of each row, or columns. Later
          // ones fetch what the first ones packed.
          constexpr int64_t kLines = kTileColumns > 16 ? kTileColumns / 16 : 1;
          const bool packs = i0 == 0 && panel.data == to;
          const bool fetches = (packs || (panel.data == to && turn < others)) && !wide && next_c < g1;
          const int64_t fetched =
              packs && right_rows ? ceil_div(kChunk, ceil_div(i1 - i0, kLines)) : ceil_div(kTileColumns, i1 - i0);
          TileKernel packing = nullptr;  // for the first tile
          if (packs) {
            const float* from = p.b + k * p.b_k + c * p.b_column;
            const bool copies = right_rows && panel.columns == kTileColumns;
            if (copies) packing = packing_kernel(cut.left, row_of(1) - r0);
            if (packing) t.right = from, t.right_step = p.b_k, t.packed = to;
            else if (copies) copy_panel(from, p.b_k, depth, to);
            else pack_right(from, p.b_k, p.b_column, depth, panel.columns, static_cast<int>(panel.step), to);
          }
          if (fetches) {
            t.ahead_lines = fetched;
            t.ahead_line = !packs ? 16 : right_rows ? p.b_k : p.b_column;
            t.ahead_chunk = !packs ? fetched * 16 : right_rows ? fetched * p.b_k : kChunk;
          }
          const bool finishes = last && give_finish(p, c, t);
          for (int64_t i = i0; i < i1; i++) {
            const int64_t r = row_of(i), m = row_of(i + 1) - r;
            const float* left = p.a + r * p.a_row + k * p.a_k;
            t.left = cut.copy_left ? copied + (i - i0) * left_floats : left;
            t.ahead = left + (end - first) * p.a_row + (turn - others) * share * line;
            const int64_t j = i - i0, part = j % kLines * 16;
            if (fetches && !packs) t.ahead = to + depth * kTileColumns + j * depth / kChunk * t.ahead_chunk;
            else if (fetches)
              t.ahead =
                  p.b + k * p.b_k + next_c * p.b_column +
                  (right_rows ? j / kLines * fetched * (depth / kChunk) * p.b_k + part : j * fetched * p.b_column);
            t.out = out + r * out_step + c;
            t.next_out = i + 1 < i1    ? t.out + m * out_step
                         : next_c < g1 ? out + first * out_step + next_c
                         : end < r1    ? out + end * out_step + g0
                                       : t.out;
            (packing ? packing : tile_kernels(cut.left, panel.columns)[m])(t);
            if (packing) packing = nullptr, t.right = panel.data, t.right_step = panel.step;
            for (int v = 0; finishes && p.finish.mask && v < kTileVecs; v++)
              place_bits(words[v], p.finish.mask + r / 32 * p.n + c + v * kLanes, p.n, r % 32, m);
          }
          if (last && !finishes) finish_block(p, finished, whole, c, next_c);
          c = next_c;
        }
        if (last) finished = whole;
      }
    }
  }
}

inline int64_t partial_floats(const Product& p, int64_t parts) {
  return parts > 1 ? parts * round_up(p.m * p.n, 16) : 0;
}

inline int64_t gemm_scratch(const Products& products, int threads) {
  const Product& p = products.first;
  const int64_t batches = products.count();
  const Cut cut = cut_product(p, batches, threads);
  const int64_t at_once = min64(threads, batches * max64(cut.tasks(), cut.slices(p.m))),
                each = static_cast<int64_t>(sizeof(float));
  const int64_t bytes = each * (at_once * cut.floats() + partial_floats(p, cut.parts));
  if (!amx_possible() || !fits_amx(p)) return bytes;
  const SplitCut split = cut_split(p, batches, threads);
  return max64(bytes, min64(threads, split.tasks(batches)) * split.bytes + each * partial_floats(p, split.parts));
}

// C from the sums over parts of K.
inline void add_parts(const Call& call, const Product& p, const float* partial, int64_t parts) {
  const int64_t m = p.m, n = p.n, partial_size = round_up(m * n, 16);
  parallel_ranges(call, ceil_div(m, 32), max64(1, 512 / max64(n, 1)), [&](int64_t begin, int64_t end) {
    const int64_t r0 = begin * 32, r1 = min64(end * 32, m);
    for (int64_t i = r0 * n; i < r1 * n; i++) {
      float sum = partial[i];
      for (int64_t part = 1; part < parts; part++) sum += partial[part * partial_size + i];
      p.c[i] = sum;
    }
    finish_block(p, r0, r1, 0, n);
  });
}

inline void gemm_amx(const Call& call, const Products& products) {
  const Product& first = products.first;
  const int64_t batches = products.count();
  const SplitCut cut = cut_split(first, batches, call.pool->threads());
  char* space = static_cast<char*>(call.scratch);
  const int64_t blocks = cut.down * cut.across, tasks = cut.tasks(batches);
  const bool by_thread = tasks > call.pool->threads();
  const int64_t m = first.m, n = first.n, k = first.k;
  float* partial = reinterpret_cast<float*>(space + min64(call.pool->threads(), tasks) * cut.bytes);
  parallel_tasks(call, tasks, [&](int64_t task, int thread) {
    const int64_t block = task % blocks, part = task / blocks % cut.parts, batch = task / blocks / cut.parts;
    const int64_t r0 = block % cut.down * cut.rows, c0 = block / cut.down * cut.columns;
    const int64_t step = round_up(ceil_div(k, cut.parts), cut.depth), k0 = part * step;
    const int64_t b0 = batch * cut.together;
    split_task(cut, products, b0, min64(b0 + cut.together, batches), r0, min64(r0 + cut.rows, m), c0,
               min64(c0 + cut.columns, n), k0, min64(k0 + step, k),
               cut.parts > 1 ? partial + part * round_up(m * n, 16) : nullptr,
               space + (by_thread ? thread : task) * cut.bytes);
  });
  if (cut.parts > 1) add_parts(call, first, partial, cut.parts);
}

inline void gemm(const Call& call, const Products& products) {
  const Product& first = products.first;
  if (amx_in_force() && fits_amx(first)) {
    gemm_amx(call, products);
    return;
  }
  const int64_t batches = products.count();
  const Cut cut = cut_product(first, batches, call.pool->threads());
  float* space = static_cast<float*>(call.scratch);
  const int64_t blocks = cut.down * cut.across, tasks = batches * cut.tasks();
  const bool by_thread = tasks > call.pool->threads();
  const int64_t m = first.m, n = first.n, k = first.k;
  if (cut.slices(m) > 1) {
    parallel_short_tasks(call, cut.slices(m), [&](int64_t task, int) {
      Product p = first;
      const int64_t r0 = task * cut.slice;
      p.m = min64(cut.slice, m - r0);
      p.a += r0 * p.a_row;
      p.c += r0 * n;
      if (p.finish.mask) p.finish.mask += r0 / 32 * n;
      tiny_product(p, cut, nullptr, space + task * cut.floats() + cut.left_floats);
    });
    return;
  }
  if (tasks == batches) {
    parallel_tasks(call, tasks, [&](int64_t task, int thread) {
      const Product p = products.at(task);
      float* mine = space + (by_thread ? thread : task) * cut.floats();
      if (!cut.tiny) return product_block(p, cut, 0, m, 0, n, 0, k, p.c, n, true, mine);
      const int64_t after = task + call.pool->threads();
      if (after >= batches) return tiny_product(p, cut, nullptr, mine + cut.left_floats);
      const Product next = products.at(after);
      tiny_product(p, cut, &next, mine + cut.left_floats);
    });
    return;
  }
  float* partial = space + min64(call.pool->threads(), tasks) * cut.floats();
  parallel_tasks(call, tasks, [&](int64_t task, int thread) {
    const int64_t block = task % blocks, part = task / blocks % cut.parts;
    const Product p = products.at(task / blocks / cut.parts);
    const int64_t r0 = block % cut.down * cut.rows, c0 = block / cut.down * cut.columns;
    const int64_t r1 = min64(r0 + cut.rows, m), c1 = min64(c0 + cut.columns, n);
    float* mine = space + (by_thread ? thread : task) * cut.floats();
    if (cut.parts == 1) {
      product_block(p, cut, r0, r1, c0, c1, 0, k, p.c, n, true, mine);
      return;
    }
    const int64_t step = round_up(ceil_div(k, cut.parts), cut.depth);
    const int64_t k0 = min64(part * step, k), k1 = min64(k0 + step, k);
    product_block(p, cut, r0, r1, c0, c1, k0, k1, partial + part * round_up(m * n, 16), n, false, mine);
  });
  if (cut.parts > 1) add_parts(call, first, partial, cut.parts);
}

}  // namespace
}  // namespace auxgrad
