// Matrix products on the matrix unit (../amx/split.h).
//
// A task computes a block of C in blocks of 32 x 32, each the product of a strip of A (32 rows) and a strip of B (32
// columns) over a block of K. The strips of one operand stay packed in the second cache; those of the other pass along
// them, and are packed one ahead. All packing, of the strips that stay too, and all that becomes of finished sums is done
// a little at a time while the matrix unit works: only the first strip of each operand is waited for.
//
// An element of C is the sum over blocks of K, cut by the shape alone.
#pragma once
#include "../amx/split.h"
#include "product.h"

namespace auxgrad {
namespace {

struct SplitCut {
  int64_t depth;          // of a block of K
  int64_t parts;          // of K, summed apart and added at the end
  int64_t rows, columns;  // of a block of C
  int64_t down, across;   // blocks of C
  int64_t group;          // strips that stay
  int64_t together;       // batches of a task
  int64_t bytes;          // scratch of a thread

  int64_t tasks(int64_t batches) const { return parts * down * across * ceil_div(batches, max64(together, 1)); }
};

#if defined(AUXGRAD_HAS_AMX)

constexpr int64_t kStrip = 32;                       // rows or columns
constexpr int64_t kHalfStep = kPlanes * kTileBytes;  // bytes of 16 of them, kSplitDepth deep
constexpr int64_t kStripStep = 2 * kHalfStep;
constexpr int64_t kSplitBlockK = 256;  // 17 strips that stay and 2 that pass: 912 KiB
constexpr int64_t kSplitGroup = 16;    // with them a block of C in the second cache

// Whether packing into tiles pays, by shape alone: 64 x 64 x 64 does better in multiply-adds, 128 x 128 x 128 here.
inline bool fits_amx(const Product& p) { return p.m >= 24 && p.n >= 24 && p.k >= 32 && p.m * p.n >= (1 << 20) / p.k; }

inline SplitCut cut_split(const Product& p, int64_t batches, int threads) {
  SplitCut cut = {};
  const int64_t blocks = ceil_div(p.k, kSplitBlockK);
  cut.depth = round_up(ceil_div(p.k, blocks), kSplitDepth);
  // A long sum into a small C is cut along K.
  cut.parts = batches == 1 && p.m * p.n <= 16384 && p.k >= 4096 ? min64(8, p.k / 2048) : 1;

  // The time of the longest thread, in units of K * 384 / 32768 cycles; a task waits for its first two strips.
  const int64_t rows = ceil_div(p.m, kStrip), columns = ceil_div(p.n, kStrip);
  const int64_t down0 = ceil_div(rows, kSplitGroup), across0 = ceil_div(columns, kSplitGroup);
  int64_t best = INT64_MAX;
  for (int64_t down = down0; down <= min64(rows, down0 + 2 * threads); down++)
    for (int64_t across = across0; across <= min64(columns, across0 + 2 * threads); across++) {
      const int64_t r = ceil_div(rows, down), c = ceil_div(columns, across);
      const int64_t tasks = batches * cut.parts * ceil_div(rows, r) * ceil_div(columns, c);
      const int64_t time = ceil_div(tasks, threads) * (r * c * 1024 + 3000 + 64 * (r + c));
      if (time >= best) continue;
      best = time;
      cut.rows = r * kStrip;
      cut.columns = c * kStrip;
    }
  cut.down = ceil_div(p.m, cut.rows);
  cut.across = ceil_div(p.n, cut.columns);
  cut.together = cut.parts * cut.down * cut.across > 1 ? 1 : ceil_div(batches, min64(batches, 4 * threads));
  cut.group = min64(cut.rows, cut.columns) / kStrip;
  const bool more = blocks > 1 || cut.together > 1;
  cut.bytes = (cut.group + more + 2) * (cut.depth / kSplitDepth) * kStripStep;
  return cut;
}

inline __mmask16 lanes_mask(int64_t n) { return static_cast<__mmask16>(n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1); }

// A strip of an operand on its way into tiles, in portions of 128 floats or so.
struct Packing {
  const float* from;
  int64_t line, deep;    // strides
  int64_t lines, depth;  // that exist
  bool left, vectors;    // of A; tiles are made of vectors as they lie in memory
  float positive, negative;
  uint32_t* words;  // signs go there, if anywhere
  char* to;
  int64_t steps, halves, step, half, unit, units;
  int stage;
  alignas(
      64) float square[16 * kSplitDepth];  // a unit that has to be turned or filled up, for A by rows, for B by depth

  bool done() const { return unit >= units; }
  int64_t left_over() const { return (units - unit) * (vectors ? 4 : 6); }

  // Rows r0... of A or columns of B, over [k, k + count) of K. `sides`: signs are to be written.
  void start_left(const Product& p, int64_t r0, int64_t r1, int64_t k, int64_t count, bool signs, char* space) {
    from = p.a + r0 * p.a_row + k * p.a_k;
    line = p.a_row, deep = p.a_k;
    left = true, vectors = deep == 1;
    positive = p.positive, negative = p.negative;
    words = signs && p.signs ? p.signs + r0 / 32 * p.k + k : nullptr;
    start(r1 - r0, count, space);
  }
  void start_right(const Product& p, int64_t c0, int64_t c1, int64_t k, int64_t count, char* space) {
    from = p.b + k * p.b_k + c0 * p.b_column;
    line = p.b_column, deep = p.b_k;
    left = false, vectors = line == 1;
    words = nullptr;
    start(c1 - c0, count, space);
  }

  __attribute__((noinline)) void advance() {
    if (done()) return;
    const int64_t first = half * 16, k = step * kSplitDepth;
    const float* at = from + first * line + k * deep;
    const bool direct = vectors && first + 16 <= lines && k + kSplitDepth <= depth;
    if (!direct && stage < 2) {
      fetch(at, min64(16, lines - first), depth - k, stage);
      stage++;
      return;
    }
    const int quarter = direct ? stage : stage - 2;
    char* out = to + step * halves * kHalfStep + half * kHalfStep + quarter * 4 * 64;
    if (left) {
      const float* rows = direct ? at + 4 * quarter * line : square + 4 * quarter * kSplitDepth;
      const int64_t row = direct ? line : kSplitDepth;
      if (positive != 0 || negative != 0 || words)
        pack_signed_rows(rows, row, out, static_cast<int>(first) + 4 * quarter, k);
      else pack_rows(rows, row, out);
    } else {
      pack_pairs(direct ? at + 8 * quarter * deep : square + 8 * quarter * 16, direct ? deep : 16, out);
    }
    if (quarter < 3) {
      stage++;
    } else {
      stage = 0;
      unit++;
      if (left) step + 1 < steps ? step++ : (step = 0, half++);
      else half + 1 < halves ? half++ : (half = 0, step++);
    }
  }
  void finish() {
    while (!done()) advance();
  }

 private:
  void start(int64_t count, int64_t k, char* space) {
    lines = min64(kStrip, count), depth = k;
    to = space;
    steps = ceil_div(k, kSplitDepth), halves = ceil_div(lines, 16);
    step = half = unit = 0, units = steps * halves, stage = 0;
  }

  static void pack_rows(const float* rows, int64_t row, char* out) {
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++, rows += row) {
      _mm_prefetch(reinterpret_cast<const char*>(rows + kSplitDepth), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(rows + kSplitDepth + 16), _MM_HINT_T0);
      store_row(out + r * 64, kTileBytes, split(_mm512_loadu_ps(rows)), split(_mm512_loadu_ps(rows + 16)));
    }
  }
  // The same with what is asked of their signs. Rows are `bit`... of the strip.
  void pack_signed_rows(const float* rows, int64_t row, char* out, int bit, int64_t k) const {
    const __m512 above = _mm512_set1_ps(positive), other = _mm512_set1_ps(negative);
    const __mmask16 there[2] = {lanes_mask(depth - k), lanes_mask(depth - k - 16)};
    __m512i word[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    if (words && bit > 0)
      for (int h = 0; h < 2; h++) word[h] = _mm512_maskz_loadu_epi32(there[h], words + k + 16 * h);
    const bool add = positive != 0 || negative != 0;
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++, rows += row) {
      _mm_prefetch(reinterpret_cast<const char*>(rows + kSplitDepth), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(rows + kSplitDepth + 16), _MM_HINT_T0);
      __m512 x[2] = {_mm512_loadu_ps(rows), _mm512_loadu_ps(rows + 16)};
      const __m512i mark = _mm512_set1_epi32(static_cast<int>(1u << (bit + r)));
#pragma GCC unroll 2
      for (int h = 0; h < 2; h++) {
        const __mmask16 on = _mm512_cmp_ps_mask(x[h], _mm512_setzero_ps(), _CMP_GT_OQ);
        word[h] = _mm512_mask_or_epi32(word[h], on, word[h], mark);
        if (add) x[h] = _mm512_add_ps(x[h], _mm512_mask_blend_ps(on, other, above));
      }
      store_row(out + r * 64, kTileBytes, split(x[0]), split(x[1]));
    }
    if (words)
      for (int h = 0; h < 2; h++) _mm512_mask_storeu_epi32(words + k + 16 * h, there[h], word[h]);
  }
  static void pack_pairs(const float* rows, int64_t row, char* out) {
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++, rows += 2 * row) {
      _mm_prefetch(reinterpret_cast<const char*>(rows + kSplitDepth * row), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(rows + (kSplitDepth + 1) * row), _MM_HINT_T0);
      store_pair(out + r * 64, kTileBytes, split(_mm512_loadu_ps(rows)), split(_mm512_loadu_ps(rows + row)));
    }
  }

  // Half of a unit, 16 deep, into `square`; zeros where nothing is.
  void fetch(const float* at, int64_t there, int64_t rest, int half) {
    const int64_t deeper = max64(0, min64(16, rest - 16 * half));
    at += 16 * half * deep;
    const bool by_line = deep == 1;
    float* out = square + (left ? 16 * half : 256 * half);
    const int64_t step = left ? kSplitDepth : 16;
    if (!by_line && line != 1) {
      for (int64_t i = 0; i < 16; i++)
        for (int64_t k = 0; k < 16; k++)
          out[left ? i * step + k : k * step + i] = i < there && k < deeper ? at[i * line + k * deep] : 0.0f;
      return;
    }
    const int64_t vectors_there = by_line ? there : deeper, apart = by_line ? line : deep;
    const __mmask16 lanes = lanes_mask(by_line ? deeper : there);
    __m512 v[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
      v[i] = i < vectors_there ? _mm512_maskz_loadu_ps(lanes, at + i * apart) : _mm512_setzero_ps();
      _mm_prefetch(reinterpret_cast<const char*>(at + i * apart + kSplitDepth * deep), _MM_HINT_T0);
    }
    if (by_line != left) transpose16(v);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) _mm512_store_ps(out + i * step, v[i]);
  }
};

// Sums of a block on their way into C.
struct Finishing {
  Finish finish;
  float* out;
  int64_t out_step, rows = 0, columns;
  bool add, last;
  int64_t row = 0;
  __m512i word[2];

  int64_t left_over() const { return rows - row; }
  void start(const Product& p, float* c, int64_t step, int64_t r, int64_t r1, int64_t column, int64_t c1, bool more,
             bool ends) {
    finish = p.finish;
    out = c + r * step + column;
    out_step = step;
    rows = min64(kStrip, r1 - r), columns = min64(kStrip, c1 - column);
    add = more, last = ends;
    row = 0;
    word[0] = word[1] = _mm512_setzero_si512();
    if (finish.mask) finish.mask += r / 32 * p.n + column;
    if (finish.bias) finish.bias += column;
  }
  void advance(const float* sums, int64_t count) {
    if (row >= rows) return;
    const bool plain = !last || (finish.alpha == 1 && !finish.bias && !finish.relu && !finish.mask);
    const int64_t end = min64(rows, row + count);
    if (plain && columns == kStrip) {
      for (; row < end; row++) {
        float* to = out + row * out_step;
        __m512 x = _mm512_load_ps(sums + row * kSumStep), y = _mm512_load_ps(sums + row * kSumStep + 16);
        if (add) x = _mm512_add_ps(x, _mm512_loadu_ps(to)), y = _mm512_add_ps(y, _mm512_loadu_ps(to + 16));
        _mm512_storeu_ps(to, x);
        _mm512_storeu_ps(to + 16, y);
      }
      return;
    }
    const __m512 alpha = _mm512_set1_ps(finish.alpha);
    const __mmask16 lanes[2] = {lanes_mask(columns), lanes_mask(columns - 16)};
    __m512 bias[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    const bool biased = last && finish.bias;
    if (biased)
      for (int h = 0; h < 2; h++) bias[h] = _mm512_maskz_loadu_ps(lanes[h], finish.bias + 16 * h);
    for (; row < end; row++) {
      float* to = out + row * out_step;
      const __m512i bit = _mm512_set1_epi32(static_cast<int>(1u << row));
#pragma GCC unroll 2
      for (int h = 0; h < 2; h++) {
        __m512 x = _mm512_load_ps(sums + row * kSumStep + 16 * h);
        if (add) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(lanes[h], to + 16 * h));
        if (last) {
          if (finish.alpha != 1) x = _mm512_mul_ps(x, alpha);
          if (biased) x = _mm512_add_ps(x, bias[h]);
          if (finish.relu) x = _mm512_max_ps(_mm512_setzero_ps(), x);  // the second operand, if either is NaN
          const __mmask16 on = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ);
          word[h] = _mm512_mask_or_epi32(word[h], on, word[h], bit);
        }
        _mm512_mask_storeu_ps(to + 16 * h, lanes[h], x);
      }
    }
    if (row == rows && last && finish.mask)
      for (int h = 0; h < 2; h++) _mm512_mask_storeu_epi32(finish.mask + 16 * h, lanes[h], word[h]);
  }
};

// What is done while the matrix unit works on a block: a like share of everything with each call, so that branches are
// foreseen.
struct Meanwhile {
  float* sums;       // of the block before
  SplitBlock block;  // that one
  int m, n;          // its tiles
  bool settled = true;
  Finishing finishing;
  Packing staying, passing;
  int64_t calls, wait, rows;  // of this block; before the sums are there; to finish at once
  int64_t staying_work, staying_due, passing_work, passing_due;  // portions; calls times those that are due

  // `share` portions of the strip that passes next are packed, the strip that stays whole.
  void plan(int64_t all_calls, int64_t share) {
    wait = settled ? 0 : all_calls > 6 ? 2 : 1;
    calls = all_calls - wait;
    rows = ceil_div(finishing.left_over(), calls);
    staying_work = staying.left_over(), passing_work = share;
    staying_due = passing_due = 0;
  }
  __attribute__((noinline)) void settle_sums() {
    if (!settled) settle(m, n, block, sums);
    settled = true;
  }
  void operator()() {
    if (wait > 0) {
      wait--;
      return;
    }
    settle_sums();
    finishing.advance(sums, rows);
    for (staying_due += staying_work; staying_due >= calls; staying_due -= calls) staying.advance();
    for (passing_due += passing_work; passing_due >= calls; passing_due -= calls) passing.advance();
  }
};

// Rows [r0, r1) and columns [c0, c1) of products [first, last) over K in [k0, k1). `out`: where sums go, unfinished,
// instead of C.
inline void split_task(const SplitCut& cut, const Products& products, int64_t first, int64_t last, int64_t r0,
                       int64_t r1, int64_t c0, int64_t c1, int64_t k0, int64_t k1, float* partial, char* scratch) {
  const int64_t rows = ceil_div(r1 - r0, kStrip), columns = ceil_div(c1 - c0, kStrip);
  const bool left_stays = rows < columns;
  const int64_t stay = left_stays ? rows : columns, pass = left_stays ? columns : rows;
  const int64_t strip_bytes = cut.depth / kSplitDepth * kStripStep;
  const int64_t places = cut.bytes / strip_bytes - 2;
  char *const passing_space = scratch, *const staying_space = scratch + 2 * strip_bytes;

  Product now = products.at(first), next = now;
  alignas(64) float sums[kStrip * kSumStep];
  Meanwhile w;
  w.sums = sums;
  w.staying.unit = w.staying.units = w.passing.unit = w.passing.units = 0;
  w.staying.vectors = w.passing.vectors = true;
  const auto start = [&](Packing& packing, bool is_left, const Product& p, int64_t strip, int64_t k, char* space) {
    const int64_t depth = min64(cut.depth, k1 - k);
    if (is_left) packing.start_left(p, r0 + strip * kStrip, r1, k, depth, c0 == 0, space);
    else packing.start_right(p, c0 + strip * kStrip, c1, k, depth, space);
  };
  int64_t place = 0, turn = 0;  // of the first strip that stays, of the one that passes
  const auto staying_at = [&](int64_t strip) { return staying_space + (place + strip) % places * strip_bytes; };
  const auto passing_at = [&](int64_t t) { return passing_space + t % 2 * strip_bytes; };

  start(w.staying, left_stays, now, 0, k0, staying_at(0));
  start(w.passing, !left_stays, now, 0, k0, passing_at(0));
  w.staying.finish();
  w.passing.finish();
  start_tiles();
  for (int64_t batch = first; batch < last; batch++, now = next)
    for (int64_t k = k0; k < k1; k += cut.depth) {
      const int64_t depth = min64(cut.depth, k1 - k), steps = ceil_div(depth, kSplitDepth);
      const bool ends = k + cut.depth >= k1, over = ends && batch + 1 == last;
      const int64_t next_k = ends ? k0 : k + cut.depth;
      for (int64_t i = 0; i < pass; i++, turn++) {
        if (i + 1 == pass && ends && !over) next = products.at(batch + 1);
        if (i + 1 < pass) start(w.passing, !left_stays, now, i + 1, k, passing_at(turn + 1));
        else if (!over) start(w.passing, !left_stays, ends ? next : now, 0, next_k, passing_at(turn + 1));
        for (int64_t j = 0; j < stay; j++) {
          if (i == 0 && j + 1 < stay) start(w.staying, left_stays, now, j + 1, k, staying_at(j + 1));
          else if (i + 1 == pass && j + 1 == stay && !over)
            start(w.staying, left_stays, ends ? next : now, 0, next_k, staying_at(stay));
          const int64_t r = r0 + (left_stays ? j : i) * kStrip, c = c0 + (left_stays ? i : j) * kStrip;
          const int m = r1 - r > 16 ? 2 : 1, n = c1 - c > 16 ? 2 : 1;
          char *const stays = staying_at(j), *const passes = passing_at(turn);
          SplitBlock b = {};
          b.outer = b.inner = 1;
          b.length = steps;
          b.left[0] = left_stays ? stays : passes;
          b.left[1] = b.left[0] + kHalfStep;
          b.left_row = 64;
          b.left_plane = kTileBytes;
          b.step = m * kHalfStep;
          b.right = left_stays ? passes : stays;
          b.ahead = stays + (left_stays ? m : n) * kHalfStep;
          w.plan(3 * steps, ceil_div(w.passing.left_over(), stay - j));
          multiply_split<2>(m, n, b, sums, [&] { w(); });
          w.staying.finish();
          w.block = b;
          w.m = m, w.n = n;
          w.settled = false;
          w.finishing.start(now, partial ? partial : now.c, now.n, r, r1, c, c1, k > k0, ends && !partial);
        }
        w.passing.finish();
      }
      place = (place + stay) % places;
    }
  store_sums(sums);
  stop_tiles();
  w.settle_sums();
  w.finishing.advance(sums, kStrip);
}

#else

inline bool fits_amx(const Product&) { return false; }
inline SplitCut cut_split(const Product&, int64_t, int) { return {}; }
inline void split_task(const SplitCut&, const Products&, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                       int64_t, float*, char*) {}

#endif

}  // namespace
}  // namespace auxgrad
