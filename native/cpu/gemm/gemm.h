// Matrix products C[M,N] = A[M,K] B[K,N] of strided operands, with what follows and precedes them in a layer.
//
// A task computes a block of C. It walks its columns in panels as wide as the register tile; the panel of B is packed
// (or copied while the first tile reads it) into what the first cache holds, and all row tiles of the block use it.
// The block of A lies in the second cache, in place where its strides are kind to the caches, else copied in its own
// orientation: the tile reads either. After Goto & van de Geijn, Anatomy of High-Performance Matrix Multiplication
// (2008), without the packing of A into panels.
//
// An element of C is the sum over blocks of K, each summed in order: K is cut by the shape alone, so the cut of M and N
// may follow the threads without changing a bit.
#pragma once
#include "pack.h"
#include "tile.h"

namespace auxgrad {
namespace {

// Blocks: kBlockM x kBlockK of A take half of the second cache (1 MiB or more where there is AVX-512, 256 KiB or more
// else), kBlockK x kTileColumns of B about two thirds of the first. kBlockM is a multiple of 32: words of a mask are
// not shared by blocks.
#if defined(__AVX512F__)
constexpr int64_t kBlockM = 448, kBlockK = 384;
#else
constexpr int64_t kBlockM = 192, kBlockK = 256;
#endif
constexpr int64_t kStreamK = 32;  // block of K where B is read once: its rows are followed in parallel
constexpr int64_t kPad = 16;      // floats between copied rows, so that they do not meet in a set of the cache

// What becomes of a finished sum: alpha * sum + bias, then relu (NaN stays), then the bit of > 0.
struct Finish {
  float alpha = 1;
  const float* bias = nullptr;
  bool relu = false;
  uint32_t* mask = nullptr;  // [ceil(M/32), N]
};

struct Product {
  int64_t m, n, k;
  const float* a;
  int64_t a_row, a_k;  // strides
  const float* b;
  int64_t b_k, b_column;
  float* c;  // [M, N]
  // Added to elements of A above 0 and to the others.
  float positive = 0, negative = 0;
  uint32_t* signs = nullptr;  // bits of A > 0, [ceil(M/32), K]
  Finish finish = {};
};

// How a product is cut, from its sizes, strides and the threads.
struct Cut {
  Left left;
  bool copy_left;       // the block of A is copied
  bool right_in_place;  // panels of B are read where they are
  bool stream;          // blocks of K outermost although nothing is copied
  int64_t panel;        // columns of a panel
  int64_t depth;        // of a block of K
  int64_t parts;        // of K, summed apart and added at the end
  int64_t rows, columns;  // of a block of C
  int64_t down, across;   // blocks of C
  int64_t left_floats, right_floats;  // scratch of a thread

  int64_t tasks() const { return parts * down * across; }
  int64_t floats() const { return left_floats + right_floats; }
};

inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

inline Cut cut_product(const Product& p, int64_t batches, int threads) {
  Cut cut = {};
  // A step along an axis of one element is never taken.
  const bool left_rows = p.a_k == 1 || p.k <= 1, left_columns = p.a_row == 1 || p.m <= 1;
  const bool right_rows = p.b_column == 1 || p.n <= 1;
  const bool signs = p.positive != 0 || p.negative != 0;
  cut.left = left_rows || !left_columns ? kLeftRows : kLeftColumns;

  // Rows a multiple of 2 KiB apart share few sets of the first cache; far apart, a tile touches a page a row.
  const int64_t step = cut.left == kLeftRows ? p.a_row : p.a_k;
  const bool kind = cut.left == kLeftRows ? step % 512 != 0 || p.m <= 8 : p.m * p.k <= 65536;
  cut.copy_left = signs || !(left_rows || left_columns) || (!(kind && p.n <= 512) && p.n > kTileColumns);

  const bool small = p.k <= 128 && p.k * p.b_k <= 8192;
  const bool one_tile = p.m <= kTileRows;
  cut.right_in_place = right_rows && (small || one_tile);
  cut.panel = cut.right_in_place && small && kWideVecs > 0 && p.n > kTileColumns ? kWideVecs * kLanes : kTileColumns;
  cut.stream = cut.right_in_place && one_tile && p.k * p.n > 65536;
  const int64_t depth = cut.stream ? kStreamK : kBlockK;
  cut.depth = max64(1, ceil_div(p.k, max64(1, ceil_div(p.k, depth))));

  // A long sum into a small C is cut along K.
  cut.parts = batches == 1 && p.m * p.n <= 16384 && p.k >= 4096 ? min64(8, p.k / 2048) : 1;

  const double work = 2.0 * static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k);
  int64_t wanted = 1;  // tasks: as few as the threads need, some more where there is much to do
  if (cut.parts == 1 && batches < 4 * threads && threads > 1)
    wanted = work < 2e6 ? 1 : work < 3e8 ? threads : 2 * threads;
  const int64_t most_down = max64(1, ceil_div(p.m, 32)), most_across = max64(1, ceil_div(p.n, kTileColumns));
  const int64_t least_down = max64(1, ceil_div(p.m, kBlockM));
  // Every block of rows packs B again, every block of columns copies A again.
  const double pack_b = (right_rows ? 0.05 : 0.2) * static_cast<double>(p.n), copy_a = (cut.copy_left ? 0.1 : 0.02) * static_cast<double>(p.m);
  double best = 1e300;
  for (int64_t down = least_down; down <= min64(most_down, max64(least_down, 2 * wanted)); down++) {
    int64_t across = min64(most_across, ceil_div(wanted, down));
    while (wanted > 1 && down * across % threads != 0 && across < most_across && across < 2 * wanted) across++;
    const int64_t rows = round_up(ceil_div(p.m, down), 32), columns = round_up(ceil_div(p.n, across), kTileColumns);
    // The time of the longest thread, in units of M * N * K / 16 multiply-adds, and what packing adds.
    const int64_t tasks = down * across;
    const double rounds = static_cast<double>(wanted > 1 ? ceil_div(tasks, threads) : tasks);
    const double longest = rounds * static_cast<double>(rows) * static_cast<double>(columns) / 32 +
                           rounds * (pack_b * static_cast<double>(columns) / static_cast<double>(max64(p.n, 1)) +
                                     copy_a * static_cast<double>(rows) / static_cast<double>(max64(p.m, 1)));
    if (longest < best) {
      best = longest;
      cut.rows = rows;
      cut.columns = columns;
    }
  }
  cut.rows = max64(cut.rows, 32);
  cut.columns = max64(cut.columns, kTileColumns);
  cut.down = max64(1, ceil_div(p.m, cut.rows));
  cut.across = max64(1, ceil_div(p.n, cut.columns));

  const int64_t rows = min64(cut.rows, p.m);
  if (cut.copy_left)
    cut.left_floats = round_up(cut.left == kLeftRows ? rows * (cut.depth + kPad) : cut.depth * (rows + kPad), 16);
  cut.right_floats = cut.right_in_place && p.n % kLanes == 0 ? 0 : cut.depth * kTileColumns;
  return cut;
}

// Applies `finish` to rows [r0, r1) and columns [c0, c1) of C; r0 is a multiple of 32.
inline void finish_block(const Product& p, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
  const Finish& f = p.finish;
  if (f.alpha == 1 && !f.bias && !f.relu && !f.mask) return;
  const Vec alpha = vec_set(f.alpha);
  for (int64_t r = r0; r < r1; r += 32)
    for (int64_t c = c0; c < c1; c += kLanes) {
      const int64_t n = min64(kLanes, c1 - c);
      const Vec bias = !f.bias ? Vec{} : n == kLanes ? vec_load(f.bias + c) : vec_load_part(f.bias + c, n);
      IntVec word = {}, bit = IntVec{} + 1;
      for (int64_t i = r; i < min64(r + 32, r1); i++, bit += bit) {
        float* at = p.c + i * p.n + c;
        Vec v = n == kLanes ? vec_load(at) : vec_load_part(at, n);
        if (f.alpha != 1) v = v * alpha;
        if (f.bias) v = v + bias;
        if (f.relu) v = v < Vec{} ? Vec{} : v;
        if (n == kLanes) vec_store(at, v);
        else vec_store_part(at, v, n);
        if (f.mask) word = vec_or_positive(word, v, bit);
      }
      if (f.mask) memcpy(f.mask + r / 32 * p.n + c, &word, static_cast<size_t>(n) * 4);
    }
}

// One block of C: rows [r0, r1), columns [c0, c1), over K in [k0, k1), written to `out` with rows `out_step` apart.
inline void product_block(const Product& p, const Cut& cut, int64_t r0, int64_t r1, int64_t c0, int64_t c1, int64_t k0,
                          int64_t k1, float* out, int64_t out_step, bool finish, float* scratch) {
  float* copied_left = scratch;
  float* packed = scratch + cut.left_floats;
  const int64_t rows = r1 - r0, tiles = ceil_div(rows, cut.panel > kTileColumns ? kWideRows : kTileRows);
  const bool right_rows = p.b_column == 1 || p.n <= 1;

  const auto panel = [&](int64_t c, int64_t k, const float* left, int64_t left_step) {
    const int64_t depth = min64(cut.depth, k1 - k);
    Tile t;
    t.depth = depth;
    t.left_step = left_step;
    t.columns = min64(cut.panel, c1 - c);
    t.out_step = out_step;
    t.add = k > k0;
    const float* right = p.b + k * p.b_k + c * p.b_column;
    bool copy = false;
    if (t.columns < cut.panel && t.columns > kTileColumns) t.columns = kTileColumns;  // of a wide panel, the rest follows
    if (right_rows && t.columns % kLanes == 0 && (cut.right_in_place || t.columns < kTileColumns || tiles == 1)) {
      t.right = right;
      t.right_step = p.b_k;
    } else {
      copy = right_rows && t.columns == kTileColumns;
      t.right = copy ? right : packed;
      t.right_step = copy ? p.b_k : t.columns > kLanes ? kTileColumns : kLanes;
      if (!copy) pack_right(right, p.b_k, p.b_column, depth, t.columns, static_cast<int>(t.right_step), packed);
    }
    t.copy = packed;
    const int64_t height = t.columns > kTileColumns ? kWideRows : kTileRows;
    const int64_t count = ceil_div(rows, height), low = count ? rows / count : 0, high = count ? rows % count : 0;
    const TileKernel* kernels = tile_kernels(cut.left, t.columns, copy);
    for (int64_t i = 0, r = 0; i < count; i++) {
      const int64_t m = low + (i < high);
      t.left = left + r * (cut.left == kLeftRows ? left_step : 1);
      t.out = out + (r0 + r) * out_step + c;
      kernels[m](t);
      if (copy) {
        copy = false;
        t.right = packed;
        t.right_step = kTileColumns;
        kernels = tile_kernels(cut.left, t.columns, false);
      }
      r += m;
    }
    if (finish && k + depth >= k1) finish_block(p, r0, r1, c, c + t.columns);
    return t.columns;
  };

  if (k0 >= k1) {
    for (int64_t r = r0; r < r1; r++) memset(out + r * out_step + c0, 0, static_cast<size_t>(c1 - c0) * sizeof(float));
    if (finish) finish_block(p, r0, r1, c0, c1);
    return;
  }
  if (!cut.copy_left && !cut.stream) {
    if (p.signs && c0 == 0) pack_signs(p.a, p.a_row, p.a_k, r0, r1, k0, k1, p.signs, p.k);
    const float* left = p.a + r0 * p.a_row;
    const int64_t step = cut.left == kLeftRows ? p.a_row : p.a_k;
    for (int64_t c = c0; c < c1;) {
      int64_t columns = 0;
      for (int64_t k = k0; k < k1; k += cut.depth) columns = panel(c, k, left + k * p.a_k, step);
      c += columns;
    }
    return;
  }
  for (int64_t k = k0; k < k1; k += cut.depth) {
    const int64_t depth = min64(cut.depth, k1 - k);
    const float* left = p.a + r0 * p.a_row + k * p.a_k;
    int64_t step = cut.left == kLeftRows ? p.a_row : p.a_k;
    if (p.signs && c0 == 0) pack_signs(p.a, p.a_row, p.a_k, r0, r1, k, k + depth, p.signs, p.k);
    if (cut.copy_left) {
      if (cut.left == kLeftRows)
        copy_rows(left, p.a_row, p.a_k, rows, depth, copied_left, step = depth + kPad, p.positive, p.negative);
      else copy_rows(left, p.a_k, p.a_row, depth, rows, copied_left, step = rows + kPad, p.positive, p.negative);
      left = copied_left;
    }
    for (int64_t c = c0; c < c1;) c += panel(c, k, left, step);
  }
}

inline int64_t gemm_scratch(const Product& p, int64_t batches, int threads) {
  const Cut cut = cut_product(p, batches, threads);
  const int64_t at_once = min64(threads, batches * cut.tasks());
  return static_cast<int64_t>(sizeof(float)) *
         (at_once * cut.floats() + (cut.parts > 1 ? cut.parts * round_up(p.m * p.n, 16) : 0));
}

// `batches` products of the same sizes and strides: locate(batch) is the product of that batch.
template <class Locate>
inline void gemm(const Call& call, const Product& first, int64_t batches, const Locate& locate) {
  const Cut cut = cut_product(first, batches, call.pool->threads());
  float* space = static_cast<float*>(call.scratch);
  const int64_t blocks = cut.down * cut.across, tasks = batches * cut.tasks();
  const bool by_thread = tasks > call.pool->threads();
  const int64_t m = first.m, n = first.n, k = first.k, partial_size = round_up(m * n, 16);
  float* partial = space + min64(call.pool->threads(), tasks) * cut.floats();
  parallel_tasks(call, tasks, [&](int64_t task, int thread) {
    const int64_t block = task % blocks, part = task / blocks % cut.parts;
    const Product p = locate(task / blocks / cut.parts);
    const int64_t r0 = block % cut.down * cut.rows, c0 = block / cut.down * cut.columns;
    const int64_t r1 = min64(r0 + cut.rows, m), c1 = min64(c0 + cut.columns, n);
    float* mine = space + (by_thread ? thread : task) * cut.floats();
    if (cut.parts == 1) {
      product_block(p, cut, r0, r1, c0, c1, 0, k, p.c, n, true, mine);
      return;
    }
    const int64_t step = round_up(ceil_div(k, cut.parts), cut.depth);
    const int64_t k0 = min64(part * step, k), k1 = min64(k0 + step, k);
    product_block(p, cut, r0, r1, c0, c1, k0, k1, partial + part * partial_size, n, false, mine);
  });
  if (cut.parts == 1) return;
  parallel_ranges(call, ceil_div(m, 32), max64(1, 512 / max64(n, 1)), [&](int64_t begin, int64_t end) {
    const int64_t r0 = begin * 32, r1 = min64(end * 32, m);
    for (int64_t i = r0 * n; i < r1 * n; i++) {
      float sum = partial[i];
      for (int64_t part = 1; part < cut.parts; part++) sum += partial[part * partial_size + i];
      first.c[i] = sum;
    }
    finish_block(first, r0, r1, 0, n);
  });
}

}  // namespace
}  // namespace auxgrad
