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

constexpr int64_t kQueries = kTileRows * (64 / kTileRows);         // query rows of a tile
constexpr int64_t kKeys = kTileColumns * (128 / kTileColumns);  // keys of a tile
constexpr int kWidth = 16;                                      // sums along a row run in 16 lanes, whatever the registers

// c[m, n] (+)= a b from packed panels with k terms.
inline void multiply(const float* a, const float* b, int64_t m, int64_t n, int64_t k, float* c, int64_t ldc, bool add) {
  for (int64_t j = 0; j < n; j += kTileColumns)
    for (int64_t i = 0; i < m; i += kTileRows) {
      Tile t = {};
      t.depth = k;
      t.left = a + i * k;
      t.left_step = kTileRows;
      t.right = b + j * k;
      t.right_step = kTileColumns;
      t.out = c + i * ldc + j;
      t.out_step = ldc;
      t.columns = min64(kTileColumns, n - j);
      t.add = add;
      tile_kernels(kLeftColumns, t.columns, false)[min64(kTileRows, m - i)](t);
    }
}

// Panels of `tile` lines, depth-major and padded with zeros: element (i, k) comes from from[i * line + k * step].
inline void pack_panels(const float* from, int64_t line, int64_t step, int64_t count, int64_t depth, int tile, float* out) {
  for (int64_t i = 0; i < count; i += tile, from += tile * line, out += tile * depth) {
    const int64_t lines = min64(tile, count - i);
    for (int64_t k = 0; k < depth; k++) {
      const float* at = from + k * step;
      float* to = out + k * tile;
      for (int64_t r = 0; r < lines; r++) to[r] = at[r * line];
      for (int64_t r = lines; r < tile; r++) to[r] = 0;
    }
  }
}

// Matrix i of a [B, H, rows, columns] view.
struct Matrix {
  const float* data;
  int64_t row, column;

  // Rows as the left operand's rows; as the right operand's columns; and the columns as the right operand's columns.
  void pack_left(int64_t first, int64_t count, int64_t depth, float* out) const {
    pack_panels(data + first * row, row, column, count, depth, kTileRows, out);
  }
  void pack_right(int64_t first, int64_t count, int64_t depth, float* out) const {
    pack_panels(data + first * row, row, column, count, depth, kTileColumns, out);
  }
  void pack_right_by_column(int64_t columns, int64_t first, int64_t count, float* out) const {
    pack_panels(data + first * row, column, row, columns, count, kTileColumns, out);
  }
};

struct Attention {
  const Call& call;
  const View &q, &k, &v, &mask, &key;
  int64_t heads, rows, keys, depth, width;
  float scale, dropout;
  bool causal;

  explicit Attention(const Call& c, int first = 0)
      : call(c), q(c.in[first]), k(c.in[first + 1]), v(c.in[first + 2]), mask(c.in[first + 3]), key(c.in[first + 4]),
        heads(q.shape[1]), rows(q.shape[2]), keys(k.shape[2]), depth(q.shape[3]), width(v.shape[3]),
        scale(c.real(0)), dropout(c.real(2)), causal(c.integer(1) != 0) {}

  int64_t batches() const { return q.shape[0] * heads; }
  int64_t row_tiles() const { return ceil_div(rows, kQueries); }
  Matrix of(const View& x, int64_t i, int head_axis = 1) const {
    return {x.f32() + i / heads * x.stride[0] + i % heads * x.stride[head_axis], x.stride[3 - head_axis], x.stride[3]};
  }

  // Raw products of a tile to scores: scaled, masked, with -inf for keys that do not take part and beyond the last.
  void finish_scores(float* s, int64_t i, int64_t t0, int64_t nt, int64_t s0, int64_t ns) const {
    const int64_t padded = round_up(ns, kWidth);
    for (int64_t r = 0; r < nt; r++) {
      float* row = s + r * kKeys;
      for (int64_t j = 0; j < ns; j++) row[j] *= scale;
      for (int64_t j = ns; j < padded; j++) row[j] = -__builtin_inff();
      if (causal)
        for (int64_t j = max64(0, t0 + r + 1 - s0); j < ns; j++) row[j] = -__builtin_inff();
      if (!mask) continue;
      const int64_t at = i / heads * mask.stride[0] + i % heads * mask.stride[1] + (t0 + r) * mask.stride[2] + s0 * mask.stride[3];
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

inline float lanes_sum(const float* lane) {
  float sum[kWidth];
  memcpy(sum, lane, sizeof sum);
  for (int half = kWidth / 2; half; half /= 2)
    for (int l = 0; l < half; l++) sum[l] += sum[l + half];
  return sum[0];
}

inline int64_t left_panel(int64_t count, int64_t k) { return round_up(count, kTileRows) * k; }
inline int64_t right_panel(int64_t count, int64_t k) { return round_up(count, kTileColumns) * k; }

int64_t forward_floats(const Attention& a) {
  return round_up(left_panel(kQueries, a.depth) + right_panel(kKeys, a.depth) + kQueries * kKeys + left_panel(kQueries, kKeys) +
                      right_panel(a.width, kKeys) + kQueries * a.width + 2 * kQueries, 16);
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
    float* q_left = static_cast<float*>(call.scratch) + thread * space;
    float* k_right = q_left + left_panel(kQueries, a.depth);
    float* s = k_right + right_panel(kKeys, a.depth);
    float* s_left = s + kQueries * kKeys;
    float* v_right = s_left + left_panel(kQueries, kKeys);
    float* sum = v_right + right_panel(a.width, kKeys);
    float *top = sum + kQueries * a.width, *weight = top + kQueries;  // running maximum and sum of exponentials
    q.pack_left(t0, nt, a.depth, q_left);
    memset(sum, 0, static_cast<size_t>(nt * a.width) * sizeof(float));
    for (int64_t r = 0; r < nt; r++) {
      top[r] = -__builtin_inff();
      weight[r] = 0;
    }
    const int64_t seen = a.causal ? min64(a.keys, t0 + nt) : a.keys;
    for (int64_t s0 = 0; s0 < seen; s0 += kKeys) {
      const int64_t ns = min64(kKeys, seen - s0), padded = round_up(ns, kWidth);
      k.pack_right(s0, ns, a.depth, k_right);
      multiply(q_left, k_right, nt, ns, a.depth, s, kKeys, false);
      a.finish_scores(s, i, t0, nt, s0, ns);
      for (int64_t r = 0; r < nt; r++) {
        float *row = s + r * kKeys, lane[kWidth];
        for (int l = 0; l < kWidth; l++) lane[l] = top[r];
        for (int64_t j = 0; j < padded; j += kWidth)
          for (int l = 0; l < kWidth; l++) lane[l] = row[j + l] > lane[l] ? row[j + l] : lane[l];
        float high = lane[0];
        for (int l = 1; l < kWidth; l++) high = lane[l] > high ? lane[l] : high;
        const float base = high == -__builtin_inff() ? 0.0f : high;  // a row that sees no key yet
        for (int l = 0; l < kWidth; l++) lane[l] = 0;
        for (int64_t j = 0; j < padded; j += kWidth)
          for (int l = 0; l < kWidth; l++) lane[l] += row[j + l] = exp_f32(row[j + l] - base);
        const float shrink = exp_f32(top[r] - base);
        weight[r] = weight[r] * shrink + lanes_sum(lane);
        top[r] = high;
        if (shrink != 1.0f)
          for (int64_t e = 0; e < a.width; e++) sum[r * a.width + e] *= shrink;
        if (a.key) a.each_kept(stream, i, t0 + r, s0, ns, [&](int64_t j, float factor) { row[j] *= factor; });
      }
      Matrix{s, kKeys, 1}.pack_left(0, nt, ns, s_left);
      v.pack_right_by_column(a.width, s0, ns, v_right);
      multiply(s_left, v_right, nt, a.width, ns, sum, a.width, true);
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
  return round_up(a.rows + left_panel(kQueries, a.depth) + left_panel(kQueries, a.width) + right_panel(kKeys, a.depth) +
                      right_panel(kKeys, a.width) + right_panel(a.depth, kKeys) + 2 * kQueries * kKeys +
                      left_panel(kKeys, kQueries) + left_panel(kQueries, kKeys) + right_panel(a.depth, kQueries) + right_panel(a.width, kQueries), 16);
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
    float* q_left = delta + a.rows;
    float* dy_left = q_left + left_panel(kQueries, D);
    float* k_right = dy_left + left_panel(kQueries, E);
    float* v_right = k_right + right_panel(kKeys, D);
    float* k_columns = v_right + right_panel(kKeys, E);
    float* p = k_columns + right_panel(D, kKeys);
    float* ds = p + kQueries * kKeys;
    float* turned = ds + kQueries * kKeys;
    float* ds_left = turned + left_panel(kKeys, kQueries);
    float* q_columns = ds_left + left_panel(kQueries, kKeys);
    float* dy_columns = q_columns + right_panel(D, kQueries);
    for (int64_t t = 0; t < a.rows; t++) {
      float dot = 0;
      for (int64_t e = 0; e < E; e++) dot += dy.data[t * dy.row + e * dy.column] * y.data[t * y.row + e * y.column];
      delta[t] = dot;
      memset(dq + t * H * D, 0, static_cast<size_t>(D) * sizeof(float));
    }
    for (int64_t s = 0; s < a.keys; s++) {
      memset(dk + s * H * D, 0, static_cast<size_t>(D) * sizeof(float));
      memset(dv + s * H * E, 0, static_cast<size_t>(E) * sizeof(float));
    }
    for (int64_t s0 = 0; s0 < a.keys; s0 += kKeys) {
      const int64_t ns = min64(kKeys, a.keys - s0);
      k.pack_right(s0, ns, D, k_right);
      v.pack_right(s0, ns, E, v_right);
      k.pack_right_by_column(D, s0, ns, k_columns);
      for (int64_t t0 = a.causal ? s0 / kQueries * kQueries : 0; t0 < a.rows; t0 += kQueries) {
        const int64_t nt = min64(kQueries, a.rows - t0);
        q.pack_left(t0, nt, D, q_left);
        dy.pack_left(t0, nt, E, dy_left);
        multiply(q_left, k_right, nt, ns, D, p, kKeys, false);
        a.finish_scores(p, i, t0, nt, s0, ns);
        multiply(dy_left, v_right, nt, ns, E, ds, kKeys, false);
        for (int64_t r = 0; r < nt; r++) {
          float *weight = p + r * kKeys, *d = ds + r * kKeys;
          const float base = lse[t0 + r], shift = delta[t0 + r];
          const bool blind = base == -__builtin_inff();
          for (int64_t j = 0; j < ns; j++) weight[j] = blind ? 0.0f : exp_f32(weight[j] - base);
          if (a.key) {
            a.each_kept(stream, i, t0 + r, s0, ns, [&](int64_t j, float factor) {
              d[j] = weight[j] * (d[j] * factor - shift) * a.scale;
              weight[j] *= factor;
            });
          } else {
            for (int64_t j = 0; j < ns; j++) d[j] = weight[j] * (d[j] - shift) * a.scale;
          }
        }
        dy.pack_right_by_column(E, t0, nt, dy_columns);
        Matrix{p, 1, kKeys}.pack_left(0, ns, nt, turned);
        multiply(turned, dy_columns, ns, E, nt, dv + s0 * H * E, H * E, true);
        q.pack_right_by_column(D, t0, nt, q_columns);
        Matrix{ds, 1, kKeys}.pack_left(0, ns, nt, turned);
        multiply(turned, q_columns, ns, D, nt, dk + s0 * H * D, H * D, true);
        Matrix{ds, kKeys, 1}.pack_left(0, nt, ns, ds_left);
        multiply(ds_left, k_columns, nt, D, ns, dq + t0 * H * D, H * D, true);
      }
    }
  });
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"attention", attention, forward_scratch}, {"attention_grad", attention_grad, backward_scratch})
