// Scaled dot-product attention in tiles with an online softmax: the T x S scores never lie in memory (Dao et al. 2022,
// FlashAttention). Kept for backward: the output and one log-sum-exp a row.
//
// q [B, H, T, D], k [B, H, S, D], v [B, H, S, E], mask absent or [B, H, T, S] (bool: true takes part; f32: added to the
// scores), key absent or i32[4] (dropout of the weights): all with any strides. y [B, T, H, E], lse [B, H, T].
// numbers: scale, 1 if row t sees keys 0..t only, dropout p, stream
#pragma once
#include "elementwise.h"
#include "gemm/gemm.h"
#include "stream.h"

namespace auxgrad {
namespace {

constexpr int64_t kKeys = 256;             // of a block, whole panels
constexpr int64_t kScores = kKeys + kPad;  // floats from row to row of a tile of scores
constexpr int64_t kTileVector = (kTileRows + kLanes - 1) / kLanes * kLanes;  // rows of a tile as whole vectors
constexpr int64_t kTaskRows = kTileRows * (224 / kTileRows);                 // query rows of a task, at most
constexpr int64_t kQueries = kTileRows * (112 / kTileRows);                  // query rows of a block of the gradients
constexpr int64_t kWideColumns = kWideVecs * kLanes, kFewRows = kWideRows > 0 ? kWideRows : 1;
constexpr int kWidth = 16;  // sums along a row run in 16 lanes, whatever the registers
static_assert(kKeys % kTileColumns == 0 && kPad >= kWidth && kPad >= kTileRows, "rows of scores have room behind them");

// Rows that a task to come will need, fetched while there is arithmetic, a few cache lines with every chunk of each tile:
// more of them on their way at once would hold up what the tiles read.
struct RowRange {
  const float* first;
  int64_t step, count, length;
};
struct RowsAhead {
  RowRange rows[8];
  int matrices = 0, now = 0;
  int64_t together = 0;  // rows that a tile takes whose chunks are the lines of a row
  bool many = false;     // so many that other tiles take a row with each chunk, wide ones a line with each step
  int64_t row = 0;       // where wide tiles are

  void add(const RowRange& r) { rows[matrices++] = r; }
  // To be met by so many of those tiles; where that would be too much for them, by so many chunks of others too.
  void spread(int64_t tiles, int64_t chunks) {
    int64_t count = 0;
    for (int i = 0; i < matrices; i++) count += rows[i].count;
    many = count > kMany * tiles;
    together = max64(1, min64(kMost, ceil_div(many ? count - chunks : count, max64(1, tiles))));
  }
  // What those other tiles are given.
  RowsAhead* rest() { return many ? this : nullptr; }
  __attribute__((noinline)) void share(Tile& t) {
    while (now < matrices && rows[now].count <= 0) now++;
    t.ahead_lines = 0;
    if (now == matrices) return;
    RowRange& r = rows[now];
    if (t.columns > kTileColumns) {
      t.ahead = r.first + row * r.step;
      t.ahead_line = r.step;
      row += t.depth;
      if (row < r.count) return;
      row = 0;
      r.first += kLine;
      r.length -= kLine;
      if (r.length <= 0) r.count = 0;
      return;
    }
    int64_t count = min64(together, r.count);
    if (count == 0) return;
    t.ahead = r.first;
    t.ahead_lines = count;
    t.ahead_line = r.step;
    t.ahead_chunk = kLine;
    if (t.depth != r.length) {  // a row with each chunk
      count = min64(ceil_div(t.depth, kChunk), r.count);
      t.ahead_lines = ceil_div(r.length, kLine);
      t.ahead_line = kLine;
      t.ahead_chunk = r.step;
    }
    r.first += count * r.step;
    r.count -= count;
  }

 private:
  static constexpr int64_t kMany = 8, kMost = 20, kLine = 16;  // rows at once, at most; floats of a cache line
};

// A right operand: element (k, column) at data[column / kTileColumns * panel + k * step + column % kTileColumns].
struct Right {
  const float* data;
  int64_t step, panel;

  // Whether a wide tile takes the first of so many columns.
  bool wide(int64_t columns) const { return kWideVecs > 0 && panel == kTileColumns && columns > kWideColumns - kLanes; }
};

// c[m, n] (+)= left right over k terms, m <= kTileRows. `ahead`: rows that are fetched meanwhile, or null.
__attribute__((noinline)) void multiply(Left order, const float* left, int64_t left_step, const Right& right, int64_t m,
                                        int64_t n, int64_t k, float* c, int64_t ldc, bool add,
                                        RowsAhead* ahead = nullptr) {
  Tile t = {};
  t.depth = k;
  t.left = left;
  t.left_step = left_step;
  t.right_step = right.step;
  t.out_step = ldc;
  t.add = add;
  for (int64_t j = 0; j < n; j += t.columns) {
    const bool wide = m <= kWideRows && right.wide(n - j);
    t.right = right.data + j / kTileColumns * right.panel;
    t.next_out = t.out = c + j;
    t.columns = min64(wide ? kWideColumns : kTileColumns, n - j);
    t.ahead = left;
    t.ahead_lines = 0;
    if (ahead) ahead->share(t);
    for (int64_t r = 0; wide && r < m; r++)  // what other tiles do themselves
      for (int64_t v = 0; v < kWideColumns; v += 16) __builtin_prefetch(t.out + r * ldc + v, 1, 3);
    tile_kernels(order, t.columns)[m](t);
  }
}

// Where piece i of `count` even ones of n begins.
inline int64_t cut_at(int64_t n, int64_t count, int64_t i) { return n * i / count; }

__attribute__((noinline)) void scale_row(const float* from, int64_t n, float scale, float* to) {
  const Vec factor = broadcast(scale);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(to + i, load(from + i) * factor);
  if (i < n) store_part(to + i, load_part(from + i, n - i) * factor, n - i);
}

// Elements [n, end) of a row that has room for whole vectors. Whole ones are stored: what is loaded next need not wait
// until smaller stores have reached the cache.
inline void fill_tail(float* row, int64_t n, int64_t end, float value) {
  BitWords lane;
  AUXGRAD_UNROLL
  for (int l = 0; l < kLanes; l++) lane[l] = static_cast<uint32_t>(l);
  for (int64_t j = n / kLanes * kLanes; j < end; j += kLanes)
    store(row + j, lane < static_cast<uint32_t>(max64(0, n - j)) ? load(row + j) : broadcast(value));
}

// Matrix i of a [B, H, rows, columns] view.
struct Matrix {
  const float* data;
  int64_t row, column;

  RowRange rows(int64_t first, int64_t count, int64_t columns) const {
    return {data + first * row, row, count, columns};
  }
  // Rows next to each other, times `scale`: a left operand, and a right one whose depth the rows are.
  __attribute__((noinline)) Right copy(int64_t first, int64_t count, int64_t columns, float scale, float* out) const {
    const int64_t step = columns + kPad;
    const float* from = data + first * row;
    for (int64_t r = 0; r < count; r++, from += row) {
      float* to = out + r * step;
      if (column == 1) scale_row(from, columns, scale, to);
      else
        for (int64_t c = 0; c < columns; c++) to[c] = from[c * column] * scale;
    }
    return {out, step, kTileColumns};
  }
  // A right operand whose columns the rows are.
  __attribute__((noinline)) Right pack(int64_t first, int64_t count, int64_t columns, float* out) const {
    for (int64_t j = 0; j < count; j += kTileColumns)
      pack_right(data + (first + j) * row, column, row, columns, min64(kTileColumns, count - j), kTileColumns,
                 out + j * columns);
    return {out, kTileColumns, kTileColumns * columns};
  }
};

struct Attention {
  const Call& call;
  const View &q, &k, &v, &mask, &key;
  int64_t heads, rows, keys, depth, width;
  float scale, dropout;
  bool causal;

  explicit Attention(const Call& c, int first = 0)
      : call(c),
        q(c.in[first]),
        k(c.in[first + 1]),
        v(c.in[first + 2]),
        mask(c.in[first + 3]),
        key(c.in[first + 4]),
        heads(q.shape[1]),
        rows(q.shape[2]),
        keys(k.shape[2]),
        depth(q.shape[3]),
        width(v.shape[3]),
        scale(c.real(0)),
        dropout(c.real(2)),
        causal(c.integer(1) != 0) {}

  int64_t batches() const { return q.shape[0] * heads; }
  Matrix of(const View& x, int64_t i, int head_axis = 1) const {
    return {x.f32() + i / heads * x.stride[0] + i % heads * x.stride[head_axis], x.stride[3 - head_axis], x.stride[3]};
  }
  // Rows of a tile. Under a causal mask it computes too much along the diagonal, of fewer rows less.
  int64_t tile_rows() const { return causal ? min64(kTileRows, 8) : kTileRows; }
  // How many of `n` keys from s0 on row t sees.
  int64_t seen(int64_t t, int64_t s0, int64_t n) const { return causal ? max64(0, min64(n, t + 1 - s0)) : n; }

  // Scores of row t, times `unit`: masked, with -inf in the lanes behind the last; returns their number with those.
  __attribute__((noinline)) int64_t finish_scores(float* row, int64_t i, int64_t t, int64_t s0, int64_t n,
                                                  float unit) const {
    if (mask) {
      const int64_t at =
          i / heads * mask.stride[0] + i % heads * mask.stride[1] + t * mask.stride[2] + s0 * mask.stride[3];
      const int64_t step = mask.stride[3];
      const bool truth = mask.dtype == DType::boolean;
      const Vec none = broadcast(-__builtin_inff()), factor = broadcast(unit);
      int64_t j = 0;
      for (; step == 1 && j + kLanes <= n; j += kLanes) {
        const Vec x = load(row + j);
        if (truth) store(row + j, load_bytes(mask.u8() + at + j) != 0 ? x : none);
        else store(row + j, fma(load(mask.f32() + at + j), factor, x));
      }
      for (; j < n; j++) {
        asm volatile("");  // a loop that is not worth the code of its vectors
        if (!truth) row[j] += mask.f32()[at + j * step] * unit;
        else if (!mask.u8()[at + j * step]) row[j] = -__builtin_inff();
      }
    }
    const int64_t padded = round_up(n, kWidth);
    fill_tail(row, n, padded, -__builtin_inff());
    return padded;
  }

  // f(j, factor) for the keys of one row of a tile: factor 0 where dropout takes the weight, 1 / (1 - p) elsewhere.
  template <class F>
  void each_kept(const Stream& stream, int64_t i, int64_t t, int64_t s0, int64_t ns, const F& f) const {
    const int64_t first = (i * rows + t) * keys + s0;
    const float factor = dropout < 1 ? 1.0f / (1.0f - dropout) : 0.0f;
    uint32_t words[kGroup];
    for (int64_t at = first / 4 * 4; at < first + ns; at += kGroup) {
      stream.words(at, words);
      for (int64_t w = max64(0, first - at); w < min64(kGroup, first + ns - at); w++)
        f(at + w - first, uniform_from_bits(words[w]) >= dropout ? factor : 0.0f);
    }
  }
  // What dropout makes of the weights.
  __attribute__((noinline)) void drop(const Stream& stream, int64_t i, int64_t t, int64_t s0, int64_t ns,
                                      float* row) const {
    each_kept(stream, i, t, s0, ns, [&](int64_t j, float factor) { row[j] *= factor; });
  }
};

constexpr float kLog2E = 1.44269504f;

// 2^x for x < 128 within 2 ULP; 0 far below -127. NaN stays NaN. Coefficients: least maximal relative error (9e-8),
// fitted in double.
inline Vec exp2_lanes(Vec x) {
#if defined(__AVX512F__)
  const Vec n = (Vec)_mm512_maskz_roundscale_ps(0xffff, (__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const Vec r = x - n;
#else
  // Adding it rounds to a whole number n and leaves n + 127, the exponent of 2^n, in the low bits.
  const Vec round = broadcast(12582912.0f + 127.0f), least = broadcast(-127.0f);
  x = max_of(least, x);
  const Vec t = x + round, r = x - (t - round);
#endif
  Vec p = broadcast(1.3264727e-3f);
  p = fma(p, r, broadcast(9.671513e-3f));
  p = fma(p, r, broadcast(5.5507336e-2f));
  p = fma(p, r, broadcast(0.24022242f));
  p = fma(p, r, broadcast(0.693147f));
  p = fma(p, r, broadcast(1.0f));
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_scalef_ps(0xffff, (__m512)p, (__m512)n);
#else
  return p * (Vec)((BitWords)t << 23);
#endif
}

// What `merge` makes of the lanes, halved until one is left.
constexpr int kWidthVecs = kWidth / kLanes;
template <class F>
inline float across(const Vec (&lanes)[kWidthVecs], const F& merge) {
  typedef float Four __attribute__((vector_size(16)));
#if defined(__AVX512F__)
  const auto eight = merge(__builtin_shufflevector(lanes[0], lanes[0], 0, 1, 2, 3, 4, 5, 6, 7),
                           __builtin_shufflevector(lanes[0], lanes[0], 8, 9, 10, 11, 12, 13, 14, 15));
#elif defined(__AVX2__)
  const Vec eight = merge(lanes[0], lanes[1]);
#endif
#if defined(__AVX2__)
  Four four =
      merge(__builtin_shufflevector(eight, eight, 0, 1, 2, 3), __builtin_shufflevector(eight, eight, 4, 5, 6, 7));
#else
  Four four = merge(merge(lanes[0], lanes[2]), merge(lanes[1], lanes[3]));
#endif
  four = merge(four, __builtin_shufflevector(four, four, 2, 3, 0, 1));
  four = merge(four, __builtin_shufflevector(four, four, 1, 0, 3, 2));
  return four[0];
}
inline float sum_across(const Vec (&lanes)[kWidthVecs]) {
  return across(lanes, [](auto x, auto y) { return x + y; });
}

// Of rows of whole kWidth.
inline float row_top(const float* row, int64_t n, float least) {
  Vec top[kWidthVecs];
  for (Vec& v : top) v = broadcast(least);
  for (int64_t j = 0; j < n; j += kWidth)
    for (int v = 0; v < kWidthVecs; v++) {
      const Vec x = load(row + j + v * kLanes);
      top[v] = max_of(x, top[v]);
    }
  return across(top, [](auto x, auto y) { return y > x ? y : x; });
}
// row = 2^(row - base); returns the sum.
__attribute__((noinline)) float row_weights(float* row, int64_t n, float base) {
  const Vec low = broadcast(base);
  Vec sum[kWidthVecs] = {};
  for (int64_t j = 0; j < n; j += kWidth)
    for (int v = 0; v < kWidthVecs; v++) {
      float* at = row + j + v * kLanes;
      const Vec weight = exp2_lanes(load(at) - low);
      store(at, weight);
      sum[v] += weight;
    }
  return sum_across(sum);
}

// Of rows of any length.
inline float row_dot(const float* a, const float* b, int64_t n) {
  Vec sum[kWidthVecs] = {};
  int64_t j = 0;
  for (; j + kWidth <= n; j += kWidth)
    for (int v = 0; v < kWidthVecs; v++) {
      const int64_t at = j + v * kLanes;
      sum[v] += load(a + at) * load(b + at);
    }
  float total = sum_across(sum);
  for (; j < n; j++) total += a[j] * b[j];
  return total;
}

inline int64_t copied(int64_t count, int64_t columns) { return count * (columns + kPad); }

int64_t attention_floats(const Attention& a) {
  const int64_t keys = min64(kKeys, round_up(a.keys, kTileColumns));
  return round_up(keys * a.depth + copied(keys, a.width) + copied(kTileRows, a.depth) + kTileRows * kScores +
                      2 * (kTaskRows + kTileVector),
                  16);
}

// Few queries, as where text is generated: keys and values are read once, where they are, some of all heads a task, for
// rows of heads often lie side by side. What a task sums up, as far as its greatest score, is put together at the end.
constexpr int64_t kFewKeys = 64, kFewScores = kFewKeys + kPad;
inline bool few_queries(const Attention& a) {
  return !kFallback && a.rows > 0 && a.rows <= kDotRows && a.keys >= kFewKeys && !a.causal && a.k.stride[3] == 1 &&
         a.depth >= kDotDepth;
}
inline int64_t few_floats(const Attention& a) {
  return round_up(copied(kDotRows, a.depth) + a.heads * a.rows * kFewScores + copied(kFewKeys, a.width), 16);
}
inline int64_t part_floats_of(const Attention& a) { return a.rows * round_up(a.width + 2, 16); }

int64_t attention_scratch(const Call& call, int threads) {
  const Attention a(call);
  const int64_t floats = !few_queries(a)
                             ? threads * attention_floats(a)
                             : threads * few_floats(a) + a.batches() * ceil_div(a.keys, kFewKeys) * part_floats_of(a);
  return floats * static_cast<int64_t>(sizeof(float));
}

void attention_of_few(const Call& call, const Attention& a, const Stream& stream) {
  const int64_t D = a.depth, E = a.width, T = a.rows, parts = ceil_div(a.keys, kFewKeys);
  const int64_t space = few_floats(a), part_floats = part_floats_of(a), step = part_floats / max64(1, T);
  float *scratch = static_cast<float*>(call.scratch), *partial = scratch + call.pool->threads() * space;
  // Where heads lie side by side, a key or value of all of them is one row.
  const int64_t tasks = a.q.shape[0] * parts, H = a.heads;
  const bool rows_of_all = a.k.stride[1] == D && a.v.stride[1] == E && E == D;
  parallel_tasks(call, tasks, [&](int64_t task, int thread) {
    const int64_t s0 = task % parts * kFewKeys, ns = min64(kFewKeys, a.keys - s0), first = task / parts * H;
    float *queries = scratch + thread * space, *values = queries + copied(kDotRows, D),
          *scores = values + copied(kFewKeys, E);
    for (int64_t h = 0; h < H; h++) {
      const Matrix k = a.of(a.k, first + h), v = a.of(a.v, first + (rows_of_all ? 0 : h));
      const Right q_rows = a.of(a.q, first + h).copy(0, T, D, a.scale * kLog2E, queries);
      multiply_dots({static_cast<int>(T), queries, q_rows.step, k.data + s0 * k.row, k.row, ns, D,
                     scores + h * T * kFewScores, kFewScores, false,
                     v.data + s0 * v.row + (rows_of_all ? h * ns * D : 0), rows_of_all ? D : v.row});
    }
    // Of the task that this thread may be given next.
    const int64_t next = task + call.pool->threads(), next_s0 = next % parts * kFewKeys;
    LinesAhead ahead = {};
    for (int64_t h = 0; h < H; h++) {
      const int64_t i = first + h;
      if (next < tasks && (h == 0 || !rows_of_all)) {
        const Matrix k = a.of(a.k, next / parts * H + h);
        ahead = {k.data + next_s0 * k.row, k.row, min64(kFewKeys, a.keys - next_s0), rows_of_all ? H * D : D};
      }
      float *s = scores + h * T * kFewScores, *sums = partial + (i * parts + task % parts) * part_floats;
      for (int64_t r = 0; r < T; r++) {
        float *row = s + r * kFewScores, *top = sums + r * step + E;
        const int64_t count = a.finish_scores(row, i, r, s0, ns, kLog2E);
        top[0] = row_top(row, count, -__builtin_inff());
        top[1] = row_weights(row, count, top[0] == -__builtin_inff() ? 0.0f : top[0]);
        if (a.key) a.drop(stream, i, r, s0, ns, row);
      }
      const Matrix v = a.of(a.v, i);
      const bool in_place = v.column == 1 && E % kLanes == 0;
      const Right v_rows = in_place ? Right{v.data + s0 * v.row, v.row, kTileColumns} : v.copy(s0, ns, E, 1, values);
      for (int64_t j = 0; j < ns; j += kChunk) {
        ahead.fetch(kChunk * D);
        for (int64_t r = 0; r < T; r += kTileRows)
          multiply(kLeftRows, s + r * kFewScores + j, kFewScores,
                   {v_rows.data + j * v_rows.step, v_rows.step, kTileColumns}, min64(kTileRows, T - r), E,
                   min64(kChunk, ns - j), sums + r * step, step, j > 0);
      }
    }
  });
  parallel_short_tasks(call, a.batches(), [&](int64_t i, int) {
    for (int64_t r = 0; r < T; r++) {
      const float* sums = partial + i * parts * part_floats + r * step;
      float top = -__builtin_inff(), weight = 0;
      for (int64_t part = 0; part < parts; part++)
        top = sums[part * part_floats + E] > top ? sums[part * part_floats + E] : top;
      float* y = call.out[0].f32() + ((i / a.heads * T + r) * a.heads + i % a.heads) * E;
      memset(y, 0, static_cast<size_t>(E) * sizeof(float));
      const float base = top == -__builtin_inff() ? 0.0f : top;  // no key, or all scores are NaN
      for (int64_t part = 0; part < parts; part++, sums += part_floats) {
        const Vec factor = exp2_lanes(broadcast(sums[E] - base));
        weight += sums[E + 1] * factor[0];
        each_vector(0, E, [&](int64_t e, auto lanes) {
          lanes.store(y + e, fma(lanes.load(sums + e), factor, lanes.load(y + e)));
        });
      }
      scale_row(y, E, weight == 0 ? 0.0f : 1.0f / weight, y);
      call.out[1].f32()[i * T + r] = weight == 0 ? -__builtin_inff() : mul_add(top, 0.69314718f, log_f32(weight));
    }
  });
}

// attention: q, k, v, mask, key -> y, lse
bool attention(const Call& call) {
  const Attention a(call);
  const Stream stream = a.key ? stream_of(a.key, call.number[3], kNoiseRounds) : Stream{};
  if (few_queries(a)) {
    attention_of_few(call, a, stream);
    return true;
  }
  const int64_t D = a.depth, E = a.width, space = attention_floats(a);
  // Tasks for all threads, but no fewer than some tiles each: every task packs the keys. No row depends on the cut.
  const int64_t shared = min64(ceil_div(4 * call.pool->threads(), max64(1, a.batches())), a.rows / (4 * kTileRows));
  const int64_t parts = max64(shared, ceil_div(a.rows, kTaskRows));
  parallel_tasks(call, a.batches() * parts, [&](int64_t task, int thread) {
    const int64_t i = task / parts, t0 = cut_at(a.rows, parts, task % parts),
                  nt = cut_at(a.rows, parts, task % parts + 1) - t0;
    const Matrix q = a.of(a.q, i), k = a.of(a.k, i), v = a.of(a.v, i);
    const int64_t packed = min64(kKeys, round_up(a.keys, kTileColumns)), y_step = a.heads * E;
    float* y = call.out[0].f32() + ((i / a.heads * a.rows + t0) * a.heads + i % a.heads) * E;
    float* lse = call.out[1].f32() + i * a.rows + t0;
    float* keys = static_cast<float*>(call.scratch) + thread * space;
    float* values = keys + packed * D;
    float* queries = values + copied(packed, E);
    float* s = queries + copied(kTileRows, D);
    float *top = s + kTileRows * kScores,
          *weight = top + kTaskRows + kTileVector;  // running maximum, times log2(e), and sum
    for (int64_t r = 0; r < nt + kTileVector; r++) top[r] = -__builtin_inff(), weight[r] = 0;
    for (int64_t r = 0; a.keys == 0 && r < nt; r++) memset(y + r * y_step, 0, static_cast<size_t>(E) * sizeof(float));
    const int64_t seen = a.seen(t0 + nt - 1, 0, a.keys), tiles = ceil_div(nt, a.tile_rows());
    const int64_t next = task + call.pool->threads();  // the task that this thread may be given next
    for (int64_t s0 = 0; s0 < seen; s0 += kKeys) {
      const int64_t ns = min64(kKeys, seen - s0), s1 = s0 + ns;
      RowsAhead ahead;
      if (s1 < seen) {
        ahead.add(k.rows(s1, min64(kKeys, seen - s1), D));
        ahead.add(v.rows(s1, min64(kKeys, seen - s1), E));
      } else if (next < a.batches() * parts) {
        const int64_t j = next / parts, from = cut_at(a.rows, parts, next % parts),
                      count = cut_at(a.rows, parts, next % parts + 1) - from;
        ahead.add(a.of(a.k, j).rows(0, min64(kKeys, a.keys), D));
        ahead.add(a.of(a.v, j).rows(0, min64(kKeys, a.keys), E));
        ahead.add(a.of(a.q, j).rows(from, count, D));
        ahead.add(a.of(call.out[0], j, 2).rows(from, count, E));
      }
      const int64_t share = a.causal ? 2 : 1;  // of the products that is computed: one of so many
      const Right k_columns = k.pack(s0, ns, D, keys), v_rows = v.copy(s0, ns, E, 1, values);
      // Wide tiles have fewer rows: under a causal mask they compute less that is not needed.
      const bool wide = a.causal && v_rows.wide(E);
      ahead.spread(tiles * ceil_div(ns, kTileColumns) / share,
                   wide ? nt * ns / (share * kFewRows * ceil_div(E, 16))
                        : tiles * ceil_div(E, kTileColumns) * ceil_div(ns, kChunk) / share);
      for (int64_t tile = 0; tile < tiles; tile++) {
        const int64_t r0 = cut_at(nt, tiles, tile), m = cut_at(nt, tiles, tile + 1) - r0, t = t0 + r0;
        const int64_t most = a.seen(t + m - 1, s0, ns), parts_of_tile = wide ? ceil_div(m, kFewRows) : 1;
        if (most == 0) continue;
        const Right q_rows = q.copy(t, m, D, a.scale * kLog2E, queries);
        multiply(kLeftRows, queries, q_rows.step, k_columns, m, round_up(most, kLanes), D, s, kScores, false, &ahead);
        // One step for all rows before the next: so none waits for what its lanes come to.
        int64_t count[kTileRows];
        float base[kTileRows], shrink[kTileVector] = {};
        for (int64_t r = 0; r < m; r++) {
          count[r] = a.finish_scores(s + r * kScores, i, t + r, s0, a.seen(t + r, s0, ns), kLog2E);
          const float high = row_top(s + r * kScores, count[r], top[r0 + r]);
          base[r] = high == -__builtin_inff() ? 0.0f : high;  // a row that sees no key yet
          shrink[r] = top[r0 + r] - base[r];
          top[r0 + r] = high;
        }
        if (s0 > 0)
          for (int64_t r = 0; r < m; r += kLanes) store(shrink + r, exp2_lanes(load(shrink + r)));
        for (int64_t r = 0; r < m; r++) {
          float* row = s + r * kScores;
          const float sum = row_weights(row, count[r], base[r]);
          weight[r0 + r] = s0 > 0 ? weight[r0 + r] * shrink[r] + sum : sum;
          fill_tail(row, count[r], most, 0);
          float* y_row = y + (r0 + r) * y_step;
          if (s0 > 0 && shrink[r] != 1.0f) scale_row(y_row, E, shrink[r], y_row);
          if (a.key) a.drop(stream, i, t + r, s0, a.seen(t + r, s0, ns), row);
        }
        for (int64_t part = 0; part < parts_of_tile; part++) {
          const int64_t r = cut_at(m, parts_of_tile, part), end = cut_at(m, parts_of_tile, part + 1);
          const int64_t terms = a.seen(t + end - 1, s0, ns);
          if (terms > 0)
            multiply(kLeftRows, s + r * kScores, kScores, v_rows, end - r, E, terms, y + (r0 + r) * y_step, y_step,
                     s0 > 0, ahead.rest());
        }
        if (s0 + ns < a.seen(t + m - 1, 0, seen)) continue;
        for (int64_t r = r0; r < r0 + m; r++)
          scale_row(y + r * y_step, E, weight[r] == 0 ? 0.0f : 1.0f / weight[r], y + r * y_step);  // no key: zeros
      }
    }
    for (int64_t r0 = 0; r0 < nt; r0 += kTileVector) {
      float log_sum[kTileVector];
      for (int64_t r = 0; r < kTileVector; r++) {
        const float w = weight[r0 + r];
        log_sum[r] = w == 0 ? -__builtin_inff() : mul_add(top[r0 + r], 0.69314718f, log_f32(w));
      }
      memcpy(lse + r0, log_sum, static_cast<size_t>(min64(kTileVector, nt - r0)) * sizeof(float));
    }
  });
  return true;
}

// How many of the keys, and of the query rows, a block of the gradients has room for.
inline int64_t block_keys(const Attention& a) { return min64(kKeys, round_up(a.keys, kTileColumns)); }
inline int64_t block_rows(const Attention& a) { return min64(kQueries, a.rows); }

int64_t attention_grad_floats(const Attention& a) {
  const int64_t keys = block_keys(a), rows = block_rows(a);
  return round_up(keys * (a.depth + a.width) + copied(keys, a.depth) + copied(rows, a.depth) + copied(rows, a.width) +
                      2 * rows * kScores + 2 * rows,
                  16);
}
int64_t attention_grad_scratch(const Call& call, int threads) {
  return threads * attention_grad_floats(Attention(call, 1)) * static_cast<int64_t>(sizeof(float));
}

// attention_grad: dy [B, T, H, E] (any strides), q, k, v, mask, key, y, lse -> dq [B, T, H, D], dk [B, S, H, D],
// dv [B, S, H, E]. One task a head: it alone writes the head's gradients.
bool attention_grad(const Call& call) {
  const Attention a(call, 1);
  const View &dys = call.in[0], &ys = call.in[6], &lses = call.in[7];
  const Stream stream = a.key ? stream_of(a.key, call.number[3], kNoiseRounds) : Stream{};
  const int64_t space = attention_grad_floats(a), D = a.depth, E = a.width, H = a.heads;
  parallel_tasks(call, a.batches(), [&](int64_t i, int thread) {
    const Matrix q = a.of(a.q, i), k = a.of(a.k, i), v = a.of(a.v, i), dy = a.of(dys, i, 2), y = a.of(ys, i, 2);
    const float* lse = lses.f32() + i * a.rows;
    float* dq = call.out[0].f32() + (i / H * a.rows * H + i % H) * D;
    float* dk = call.out[1].f32() + (i / H * a.keys * H + i % H) * D;
    float* dv = call.out[2].f32() + (i / H * a.keys * H + i % H) * E;
    float* keys = static_cast<float*>(call.scratch) + thread * space;
    float* values = keys + block_keys(a) * D;
    float* key_rows = values + block_keys(a) * E;
    float* queries = key_rows + copied(block_keys(a), D);
    float* upstream = queries + copied(block_rows(a), D);
    float* p = upstream + copied(block_rows(a), E);
    float* ds = p + block_rows(a) * kScores;
    float *base = ds + block_rows(a) * kScores, *delta = base + block_rows(a);
    if (a.keys == 0)
      for (int64_t t = 0; t < a.rows; t++) memset(dq + t * H * D, 0, static_cast<size_t>(D) * sizeof(float));
    for (int64_t s0 = 0; s0 < a.keys; s0 += kKeys) {
      const int64_t ns = min64(kKeys, a.keys - s0), key_tiles = ceil_div(ns, a.tile_rows());
      const Right k_columns = k.pack(s0, ns, D, keys), v_columns = v.pack(s0, ns, E, values);
      const Right k_rows = k.copy(s0, ns, D, a.scale, key_rows);
      const int64_t start = a.causal ? min64(s0, a.rows) : 0, blocks = ceil_div(a.rows - start, kQueries);
      RowsAhead ahead;
      const int64_t s1 = s0 + ns, next = i + call.pool->threads();
      if (s1 < a.keys) {
        ahead.add(k.rows(s1, min64(kKeys, a.keys - s1), D));
        ahead.add(v.rows(s1, min64(kKeys, a.keys - s1), E));
      } else if (next < a.batches()) {
        const int64_t keys = min64(kKeys, a.keys), rows = min64(kQueries, a.rows);
        ahead.add(a.of(a.k, next).rows(0, keys, D));
        ahead.add(a.of(a.v, next).rows(0, keys, E));
        ahead.add(a.of(a.q, next).rows(0, rows, D));
        ahead.add(a.of(dys, next, 2).rows(0, rows, E));
        ahead.add(a.of(ys, next, 2).rows(0, rows, E));
        ahead.add(a.of(call.out[0], next, 2).rows(0, rows, D));
        ahead.add(a.of(call.out[1], next, 2).rows(0, keys, D));
        ahead.add(a.of(call.out[2], next, 2).rows(0, keys, E));
      }
      // Two products of the same depth, mostly, and three others.
      const int64_t share = a.causal ? 2 : 1, row_tiles = ceil_div(a.rows - start, a.tile_rows());
      const int64_t panels = ceil_div(D, kTileColumns), all_panels = panels + ceil_div(E, kTileColumns);
      ahead.spread(
          2 * row_tiles * ceil_div(ns, kTileColumns) / share,
          (row_tiles * panels * ceil_div(ns, kChunk) + key_tiles * all_panels * ceil_div(a.rows - start, kChunk)) /
              share);
      for (int64_t block = 0; block < blocks; block++) {
        const int64_t t0 = start + cut_at(a.rows - start, blocks, block),
                      nt = start + cut_at(a.rows - start, blocks, block + 1) - t0;
        const Right q_rows = q.copy(t0, nt, D, a.scale, queries), dy_rows = dy.copy(t0, nt, E, 1, upstream);
        for (int64_t r = 0; r < nt; r++) {
          const float *given = upstream + r * dy_rows.step, *out = y.data + (t0 + r) * y.row;
          float dot = 0;
          if (y.column == 1) dot = row_dot(given, out, E);
          else
            for (int64_t e = 0; e < E; e++) dot += given[e] * out[e * y.column];
          delta[r] = dot;
          // A row that saw no key: every weight becomes exp(-inf).
          base[r] = lse[t0 + r] == -__builtin_inff() ? __builtin_inff() : lse[t0 + r] * kLog2E;
        }
        const int64_t tiles = ceil_div(nt, a.tile_rows());
        for (int64_t tile = 0; tile < tiles; tile++) {
          const int64_t r0 = cut_at(nt, tiles, tile), r1 = cut_at(nt, tiles, tile + 1), m = r1 - r0;
          const int64_t most = a.seen(t0 + r1 - 1, s0, ns), columns = round_up(most, kLanes);
          multiply(kLeftRows, queries + r0 * q_rows.step, q_rows.step, k_columns, m, columns, D, p + r0 * kScores,
                   kScores, false, &ahead);
          multiply(kLeftRows, upstream + r0 * dy_rows.step, dy_rows.step, v_columns, m, columns, E, ds + r0 * kScores,
                   kScores, false, &ahead);
          for (int64_t r = r0; r < r1; r++) {
            float *weight = p + r * kScores, *d = ds + r * kScores;
            const int64_t own = a.seen(t0 + r, s0, ns), count = a.finish_scores(weight, i, t0 + r, s0, own, 1);
            const Vec unit = broadcast(kLog2E), less = broadcast(-base[r]), shift = broadcast(delta[r]);
            for (int64_t j = 0; j < count; j += kLanes) {
              const Vec w = exp2_lanes(fma(load(weight + j), unit, less));
              store(weight + j, w);
              if (!a.key) store(d + j, w * (load(d + j) - shift));
            }
            if (a.key)
              a.each_kept(stream, i, t0 + r, s0, own, [&](int64_t j, float factor) {
                d[j] = weight[j] * (d[j] * factor - delta[r]);
                weight[j] *= factor;
              });
            // As far as a tile of keys that begins with one that the row sees.
            fill_tail(weight, own, own + kTileRows, 0);
            fill_tail(d, own, max64(own + kTileRows, most), 0);
          }
          multiply(kLeftRows, ds + r0 * kScores, kScores, k_rows, m, D, most, dq + (t0 + r0) * H * D, H * D, s0 > 0,
                   ahead.rest());
        }
        // Columns of p and ds are the rows of their transposes.
        for (int64_t tile = 0; tile < key_tiles; tile++) {
          const int64_t j = cut_at(ns, key_tiles, tile), m = cut_at(ns, key_tiles, tile + 1) - j;
          const int64_t seeing = a.causal ? s0 + j : 0, r = max64(0, seeing - t0);  // the first row that sees key j
          if (r >= nt) continue;
          const bool add = t0 > seeing;
          multiply(kLeftColumns, p + r * kScores + j, kScores,
                   {upstream + r * dy_rows.step, dy_rows.step, kTileColumns}, m, E, nt - r, dv + (s0 + j) * H * E,
                   H * E, add, ahead.rest());
          multiply(kLeftColumns, ds + r * kScores + j, kScores, {queries + r * q_rows.step, q_rows.step, kTileColumns},
                   m, D, nt - r, dk + (s0 + j) * H * D, H * D, add, ahead.rest());
        }
      }
      // Tiles of keys that no row sees.
      for (int64_t tile = 0; tile < key_tiles; tile++) {
        const int64_t first = s0 + cut_at(ns, key_tiles, tile), end = s0 + cut_at(ns, key_tiles, tile + 1);
        if (first < a.rows || (!a.causal && a.rows > 0)) continue;
        for (int64_t s = first; s < end; s++) {
          memset(dk + s * H * D, 0, static_cast<size_t>(D) * sizeof(float));
          memset(dv + s * H * E, 0, static_cast<size_t>(E) * sizeof(float));
        }
      }
    }
  });
  return true;
}

}  // namespace
}  // namespace auxgrad
