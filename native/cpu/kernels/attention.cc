// Scaled dot-product attention in tiles with an online softmax: the T x S scores never lie in memory (Dao et al. 2022,
// FlashAttention). Kept for backward: the output and one log-sum-exp a row.
//
// q [B, H, T, D], k [B, H, S, D], v [B, H, S, E], mask absent or [B, H, T, S] (bool: true takes part; f32: added to the
// scores), key absent or i32[4] (dropout of the weights): all with any strides. y [B, T, H, E], lse [B, H, T].
// numbers: scale, 1 if row t sees keys 0..t only, dropout p, stream
#include "../elementwise.h"
#include "../gemm/gemm.h"
#include "../stream.h"

namespace auxgrad {
namespace {

constexpr int64_t kQueries = kTileRows * (64 / kTileRows);      // query rows of a tile
constexpr int64_t kKeys = kTileColumns * (128 / kTileColumns);  // keys of a tile
constexpr int64_t kScores = kKeys + kPad;                       // floats from row to row of a tile of scores
constexpr int kWidth = 16;  // sums along a row run in 16 lanes, whatever the registers

// c[m, n] (+)= left right over k terms; `right` in panels of kTileColumns columns and `packed` terms, k if not given.
inline void multiply(Left order, const float* left, int64_t left_step, const float* right, int64_t m, int64_t n,
                     int64_t k, float* c, int64_t ldc, bool add, int64_t packed = 0) {
  for (int64_t j = 0; j < n; j += kTileColumns)
    for (int64_t i = 0; i < m; i += kTileRows) {
      Tile t = {};
      t.depth = k;
      t.left = left + i * (order == kLeftRows ? left_step : 1);
      t.left_step = left_step;
      t.right = right + j * (packed ? packed : k);
      t.right_step = kTileColumns;
      t.out = c + i * ldc + j;
      t.out_step = ldc;
      t.columns = min64(kTileColumns, n - j);
      t.add = add;
      tile_kernels(order, t.columns, kNothing)[min64(kTileRows, m - i)](t);
    }
}

// Matrix i of a [B, H, rows, columns] view.
struct Matrix {
  const float* data;
  int64_t row, column;

  // Rows next to each other, as left operand; returns their step. (In place they may be a page apart.)
  int64_t copy(int64_t first, int64_t count, int64_t columns, float* out) const {
    copy_rows(data + first * row, row, column, count, columns, out, columns + kPad, 0, 0);
    return columns + kPad;
  }
  // As right operand: `columns` columns, rows as depth.
  void pack(int64_t first, int64_t count, int64_t columns, float* out) const {
    panels(data + first * row, row, column, count, columns, out);
  }
  // As right operand: rows as columns, `columns` columns as depth.
  void pack_transposed(int64_t first, int64_t count, int64_t columns, float* out) const {
    panels(data + first * row, column, row, columns, count, out);
  }

 private:
  static void panels(const float* from, int64_t depth_step, int64_t column_step, int64_t depth, int64_t columns,
                     float* out) {
    for (int64_t j = 0; j < columns; j += kTileColumns, out += kTileColumns * depth) {
      const float* panel = from + j * column_step;
      if (column_step == 1 && columns - j >= kTileColumns)
        copy_rows(panel, depth_step, 1, depth, kTileColumns, out, kTileColumns, 0, 0);
      else pack_right(panel, depth_step, column_step, depth, min64(kTileColumns, columns - j), kTileColumns, out);
    }
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
  int64_t row_tiles() const { return ceil_div(rows, kQueries); }
  Matrix of(const View& x, int64_t i, int head_axis = 1) const {
    return {x.f32() + i / heads * x.stride[0] + i % heads * x.stride[head_axis], x.stride[3 - head_axis], x.stride[3]};
  }

  // Raw products of a tile to scores: scaled, masked, with -inf for keys that do not take part and beyond the last.
  void finish_scores(float* s, int64_t i, int64_t t0, int64_t nt, int64_t s0, int64_t ns) const {
    const int64_t padded = round_up(ns, kWidth);
    for (int64_t r = 0; r < nt; r++) {
      float* row = s + r * kScores;
      for (int64_t j = 0; j < ns; j++) row[j] *= scale;
      for (int64_t j = ns; j < padded; j++) row[j] = -__builtin_inff();
      if (causal)
        for (int64_t j = max64(0, t0 + r + 1 - s0); j < ns; j++) row[j] = -__builtin_inff();
      if (!mask) continue;
      const int64_t at =
          i / heads * mask.stride[0] + i % heads * mask.stride[1] + (t0 + r) * mask.stride[2] + s0 * mask.stride[3];
      if (mask.dtype == DType::boolean)
        for (int64_t j = 0; j < ns; j++) row[j] = mask.u8()[at + j * mask.stride[3]] ? row[j] : -__builtin_inff();
      else
        for (int64_t j = 0; j < ns; j++) row[j] += mask.f32()[at + j * mask.stride[3]];
    }
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
};

// What `merge` makes of 16 lanes, halved until one is left.
constexpr int kWidthVecs = kWidth / kLanes;
template <class F>
inline float across(const Vec (&lanes)[kWidthVecs], const F& merge) {
  float x[kWidth];
  memcpy(x, lanes, sizeof x);
  AUXGRAD_UNROLL
  for (int half = kWidth / 2; half; half /= 2)
    for (int l = 0; l < half; l++) x[l] = merge(x[l], x[l + half]);
  return x[0];
}
inline float row_top(const float* row, int64_t n, float least) {
  Vec top[kWidthVecs];
  for (Vec& v : top) v = vec_set(least);
  for (int64_t j = 0; j < n; j += kWidth)
    for (int v = 0; v < kWidthVecs; v++) {
      const Vec x = vec_load(row + j + v * kLanes);
      top[v] = x > top[v] ? x : top[v];
    }
  return across(top, [](float x, float y) { return y > x ? y : x; });
}
inline float row_total(const float* row, int64_t n) {
  Vec sum[kWidthVecs] = {};
  for (int64_t j = 0; j < n; j += kWidth)
    for (int v = 0; v < kWidthVecs; v++) sum[v] += vec_load(row + j + v * kLanes);
  return across(sum, [](float x, float y) { return x + y; });
}

// Of rows of any length.
inline float row_dot(const float* a, const float* b, int64_t n) {
  Vec sum[kWidthVecs] = {};
  int64_t j = 0;
  for (; j + kWidth <= n; j += kWidth)
    for (int v = 0; v < kWidthVecs; v++) {
      const int64_t at = j + v * kLanes;
      sum[v] += vec_load(a + at) * vec_load(b + at);
    }
  float total = across(sum, [](float x, float y) { return x + y; });
  for (; j < n; j++) total += a[j] * b[j];
  return total;
}

inline int64_t copied(int64_t count, int64_t columns) { return count * (columns + kPad); }
inline int64_t panel(int64_t columns, int64_t depth) { return round_up(columns, kTileColumns) * depth; }

int64_t forward_floats(const Attention& a) {
  return round_up(copied(kQueries, a.depth) + panel(kKeys, a.depth) + kQueries * kScores + panel(a.width, kKeys) +
                      kQueries * a.width + 2 * kQueries,
                  16);
}
int64_t forward_scratch(const Call& call, int threads) {
  return threads * forward_floats(Attention(call)) * static_cast<int64_t>(sizeof(float));
}

// attention: q, k, v, mask, key -> y, lse
bool attention(const Call& call) {
  const Attention a(call);
  const Stream stream = a.key ? stream_of(a.key, call.number[3]) : Stream{};
  const int64_t space = forward_floats(a);
  parallel_tasks(call, a.batches() * a.row_tiles(), [&](int64_t task, int thread) {
    const int64_t i = task / a.row_tiles(), t0 = task % a.row_tiles() * kQueries, nt = min64(kQueries, a.rows - t0);
    const Matrix q = a.of(a.q, i), k = a.of(a.k, i), v = a.of(a.v, i);
    float* queries = static_cast<float*>(call.scratch) + thread * space;
    float* keys = queries + copied(kQueries, a.depth);
    float* s = keys + panel(kKeys, a.depth);
    float* values = s + kQueries * kScores;
    float* sum = values + panel(a.width, kKeys);
    float *top = sum + kQueries * a.width, *weight = top + kQueries;  // running maximum and sum of exponentials
    float base[kQueries], shrink[kQueries];
    const int64_t step = q.copy(t0, nt, a.depth, queries);
    memset(sum, 0, static_cast<size_t>(nt * a.width) * sizeof(float));
    for (int64_t r = 0; r < nt; r++) {
      top[r] = -__builtin_inff();
      weight[r] = 0;
    }
    const int64_t seen = a.causal ? min64(a.keys, t0 + nt) : a.keys;
    for (int64_t s0 = 0; s0 < seen; s0 += kKeys) {
      const int64_t ns = min64(kKeys, seen - s0), padded = round_up(ns, kWidth);
      k.pack_transposed(s0, ns, a.depth, keys);
      multiply(kLeftRows, queries, step, keys, nt, ns, a.depth, s, kScores, false);
      a.finish_scores(s, i, t0, nt, s0, ns);
      // One step for all rows before the next: so none waits for what its lanes come to.
      for (int64_t r = 0; r < nt; r++) {
        const float high = row_top(s + r * kScores, padded, top[r]);
        base[r] = high == -__builtin_inff() ? 0.0f : high;  // a row that sees no key yet
        shrink[r] = top[r] - base[r];
        top[r] = high;
      }
      for (int64_t r = 0; r < nt; r++) shrink[r] = exp_f32(shrink[r]);
      for (int64_t r = 0; r < nt; r++) {
        float* row = s + r * kScores;
        const float low = base[r];
        for (int64_t j = 0; j < padded; j++) row[j] = exp_f32(row[j] - low);
      }
      for (int64_t r = 0; r < nt; r++) {
        float* row = s + r * kScores;
        weight[r] = weight[r] * shrink[r] + row_total(row, padded);
        if (shrink[r] != 1.0f)
          for (int64_t e = 0; e < a.width; e++) sum[r * a.width + e] *= shrink[r];
        if (a.key) a.each_kept(stream, i, t0 + r, s0, ns, [&](int64_t j, float factor) { row[j] *= factor; });
      }
      v.pack(s0, ns, a.width, values);
      multiply(kLeftRows, s, kScores, values, nt, a.width, ns, sum, a.width, true);
    }
    for (int64_t r = 0; r < nt; r++) {
      const float scale = weight[r] == 0 ? 0.0f : 1.0f / weight[r];  // no key: zeros
      float* y = call.out[0].f32() + ((i / a.heads * a.rows + t0 + r) * a.heads + i % a.heads) * a.width;
      for (int64_t e = 0; e < a.width; e++) y[e] = sum[r * a.width + e] * scale;
      call.out[1].f32()[i * a.rows + t0 + r] = weight[r] == 0 ? -__builtin_inff() : top[r] + log_f32(weight[r]);
    }
  });
  return true;
}

int64_t backward_floats(const Attention& a) {
  return round_up(a.rows + copied(kQueries, a.depth) + copied(kQueries, a.width) + panel(kKeys, a.depth) +
                      panel(kKeys, a.width) + panel(a.depth, kKeys) + 2 * kQueries * kScores +
                      panel(a.depth, kQueries) + panel(a.width, kQueries),
                  16);
}
int64_t backward_scratch(const Call& call, int threads) {
  return threads * backward_floats(Attention(call, 1)) * static_cast<int64_t>(sizeof(float));
}

// attention_grad: dy [B, T, H, E] (any strides), q, k, v, mask, key, y, lse -> dq [B, T, H, D], dk [B, S, H, D],
// dv [B, S, H, E]. One task a head: it alone writes the head's gradients.
bool attention_grad(const Call& call) {
  const Attention a(call, 1);
  const View &dys = call.in[0], &ys = call.in[6], &lses = call.in[7];
  const Stream stream = a.key ? stream_of(a.key, call.number[3]) : Stream{};
  const int64_t space = backward_floats(a), D = a.depth, E = a.width, H = a.heads;
  parallel_tasks(call, a.batches(), [&](int64_t i, int thread) {
    const Matrix q = a.of(a.q, i), k = a.of(a.k, i), v = a.of(a.v, i), dy = a.of(dys, i, 2), y = a.of(ys, i, 2);
    const float* lse = lses.f32() + i * a.rows;
    float* dq = call.out[0].f32() + (i / H * a.rows * H + i % H) * D;
    float* dk = call.out[1].f32() + (i / H * a.keys * H + i % H) * D;
    float* dv = call.out[2].f32() + (i / H * a.keys * H + i % H) * E;
    float* delta = static_cast<float*>(call.scratch) + thread * space;
    float* queries = delta + a.rows;
    float* upstream = queries + copied(kQueries, D);
    float* keys = upstream + copied(kQueries, E);   // transposed: for the scores
    float* values = keys + panel(kKeys, D);         // transposed: for the gradients of the weights
    float* key_columns = values + panel(kKeys, E);  // for dq
    float* p = key_columns + panel(D, kKeys);
    float* ds = p + kQueries * kScores;
    float* query_columns = ds + kQueries * kScores;                // for dk
    float* upstream_columns = query_columns + panel(D, kQueries);  // for dv
    for (int64_t t = 0; t < a.rows; t++) {
      const float *given = dy.data + t * dy.row, *out = y.data + t * y.row;
      float dot = 0;
      if (dy.column == 1 && y.column == 1) dot = row_dot(given, out, E);
      else
        for (int64_t e = 0; e < E; e++) dot += given[e * dy.column] * out[e * y.column];
      delta[t] = dot;
      memset(dq + t * H * D, 0, static_cast<size_t>(D) * sizeof(float));
    }
    for (int64_t s = 0; s < a.keys; s++) {
      memset(dk + s * H * D, 0, static_cast<size_t>(D) * sizeof(float));
      memset(dv + s * H * E, 0, static_cast<size_t>(E) * sizeof(float));
    }
    for (int64_t s0 = 0; s0 < a.keys; s0 += kKeys) {
      const int64_t packed = min64(kKeys, a.keys - s0);
      k.pack_transposed(s0, packed, D, keys);
      v.pack_transposed(s0, packed, E, values);
      k.pack(s0, packed, D, key_columns);
      for (int64_t t0 = a.causal ? s0 / kQueries * kQueries : 0; t0 < a.rows; t0 += kQueries) {
        const int64_t nt = min64(kQueries, a.rows - t0);
        const int64_t ns = a.causal ? min64(packed, t0 + nt - s0) : packed, padded = round_up(max64(0, ns), kWidth);
        if (ns <= 0) continue;
        const int64_t q_step = q.copy(t0, nt, D, queries), dy_step = dy.copy(t0, nt, E, upstream);
        multiply(kLeftRows, queries, q_step, keys, nt, ns, D, p, kScores, false);
        a.finish_scores(p, i, t0, nt, s0, ns);
        multiply(kLeftRows, upstream, dy_step, values, nt, ns, E, ds, kScores, false);
        for (int64_t r = 0; r < nt; r++) {
          float *weight = p + r * kScores, *d = ds + r * kScores;
          // A row that saw no key: every weight becomes exp(-inf).
          const float base = lse[t0 + r] == -__builtin_inff() ? __builtin_inff() : lse[t0 + r], shift = delta[t0 + r];
          if (a.key) {
            for (int64_t j = 0; j < padded; j++) weight[j] = exp_f32(weight[j] - base);
            a.each_kept(stream, i, t0 + r, s0, ns, [&](int64_t j, float factor) {
              d[j] = weight[j] * (d[j] * factor - shift) * a.scale;
              weight[j] *= factor;
            });
          } else {
            const float scale = a.scale;
            AUXGRAD_INDEPENDENT
            for (int64_t j = 0; j < padded; j++) {
              weight[j] = exp_f32(weight[j] - base);
              d[j] = weight[j] * (d[j] - shift) * scale;
            }
          }
        }
        // Columns of p and ds are the rows of their transposes.
        dy.pack(t0, nt, E, upstream_columns);
        multiply(kLeftColumns, p, kScores, upstream_columns, ns, E, nt, dv + s0 * H * E, H * E, true);
        q.pack(t0, nt, D, query_columns);
        multiply(kLeftColumns, ds, kScores, query_columns, ns, D, nt, dk + s0 * H * D, H * D, true);
        multiply(kLeftRows, ds, kScores, key_columns, nt, D, ns, dq + t0 * H * D, H * D, true, packed);
      }
    }
  });
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"attention", attention, forward_scratch}, {"attention_grad", attention_grad, backward_scratch})
