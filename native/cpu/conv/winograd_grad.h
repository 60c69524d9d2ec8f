// Weight gradient of 3x3 taps by minimal filtering, the dual of winograd.h: for the products of 2x2 outputs with 3x3 taps
// 16 multiplications at stride 1 and 25 at stride 2 instead of 36.
//
// dw = G' (sum over patches of (A e A') * (B' d B)) G, where e is a 2x2 patch of dy and d the patch of x that it meets,
// 4x4 or 5x5. A and B' add and subtract only, G adds and halves, once, so the error is that of the direct sum to within a
// small factor (a test bounds it) and sums of small integers stay exact. A NaN or infinity spreads to all taps of its
// channel.
//
// Along one axis, stride 1: sums over patches of s0 = (x0 - x2) e0, s1 = (x1 + x2) (e0 + e1), s2 = (x2 - x1) (e0 - e1),
// s3 = (x1 - x3) e1, then w0 = s0 + (s1 + s2) / 2, w1 = (s1 - s2) / 2, w2 = (s1 + s2) / 2 - s3. Stride 2:
// s0 = (x0 - x2) e0, s1 = x1 e0 + x3 e1, s2 = x2 (e0 + e1), s3 = (x4 - x2) e1, then w0 = s0 + s2, w1 = s1, w2 = s2 + s3.
//
// A task owns a part of dw and a chunk of the blocks of patches, as in weight_grad.h. It transforms the patches of a
// block, a matrix for each place in a patch, adds their products to 16 matrices of sums, and transforms these at the end.
// Chunks after the first write to a dw of their own, added in a fixed order.
#pragma once
#include "weight_grad.h"
#include "winograd.h"

namespace auxgrad {
namespace {

constexpr int64_t kGradPatches = 64;  // of a block
constexpr int64_t kGradSide = 64;     // output channels of a part, and input channels

// Along one axis: product i is of transformed input i and of delta[i], and belongs to sum[i]. The last delta is e1 alone,
// not there at an odd edge.
struct GradFilter {
  int inputs, deltas, delta[5], sum[5];
};
constexpr GradFilter kGradFilters[] = {{4, 4, {0, 1, 2, 3}, {0, 1, 2, 3}},  // by stride - 1
                                       {5, 3, {0, 0, 1, 2, 2}, {0, 1, 2, 1, 3}}};

struct PatchGradientPlan {
  const GradFilter* filter;
  Axis vertical, horizontal;  // of patches
  Blocks blocks;
  int64_t width, parts;          // output channels of a part, and how many parts
  int64_t depth, slices;         // input channels, in whole panels
  int64_t chunks;                // of the blocks
  int64_t pitch;                 // of the rows of transformed dy
  int64_t delta, patches, sums;  // floats of a matrix: of dy; of a panel of x; of a panel of sums
  int64_t workspace;             // floats of one thread
};

inline Axis gradient_patches(const Axis& a) {
  return {0, 1, ceil_div(a.count, 2), 2 * a.in_step, 3 + a.in_step, a.tap_start, 1, 0, 1};
}

// Whether it pays: channels on both sides to fill panels, patches to earn the transforms, few products at odd edges. The
// fallback does without, for its size.
__attribute__((noinline)) inline bool patches_pay(const WeightGradient& p) {
  const Axis &v = p.vertical, &h = p.horizontal;
  if (p.groups != 1 || p.depth < 16 || p.width < 16) return false;
  const auto suits = [](const Axis& a) { return a.taps == 3 && a.tap_step == 1 && a.in_step <= 2; };
  if (!suits(v) || !suits(h) || v.in_step != h.in_step) return false;
  const auto products = [](const Axis& a) { return a.count / 2 * (3 + a.in_step) + a.count % 2 * 3; };
  return p.images * ceil_div(v.count, 2) * ceil_div(h.count, 2) >= 4 &&
         products(v) * products(h) * 5 <= 9 * v.count * h.count * 4;
}
inline bool suits_patches(const WeightGradient& p) { return !kFallback && patches_pay(p); }

__attribute__((cold)) inline PatchGradientPlan plan_patch_gradient(const WeightGradient& p) {
  PatchGradientPlan plan;
  plan.filter = &kGradFilters[p.vertical.in_step - 1];
  plan.vertical = gradient_patches(p.vertical);
  plan.horizontal = gradient_patches(p.horizontal);
  plan.blocks = cut_blocks(p.images, plan.vertical, plan.horizontal, kPanel, kPanel, kGradPatches, kGradStripe);
  const Blocks& b = plan.blocks;
  plan.width = even_size(p.width, kGradSide);
  plan.parts = ceil_div(p.width, plan.width);
  plan.depth = even_size(ceil_div(p.depth, kPanel), kGradSide / kPanel) * kPanel;
  plan.slices = ceil_div(p.depth, plan.depth);
  const int64_t tasks = plan.parts * plan.slices, partials = max64(1, kGradPartials / (9 * p.width * p.depth));
  plan.chunks = min64(min64(ceil_div(kGradTasks, tasks), partials), b.count());
  const int64_t tokens = b.images * b.rows * b.columns;
  plan.pitch = (plan.width + 15) / 16 * 16;
  // Not a power of two apart.
  plan.delta = tokens * plan.pitch + 16;
  plan.patches = tokens * kPanel + 16;
  plan.sums = plan.width * kPanel + 16;
  const int64_t inputs = plan.filter->inputs, deltas = plan.filter->deltas;
  plan.workspace =
      deltas * deltas * plan.delta + plan.depth / kPanel * (inputs * inputs * plan.patches + 16 * plan.sums);
  return plan;
}

inline int64_t patch_gradient_scratch(const WeightGradient& p, int threads) {
  const PatchGradientPlan plan = plan_patch_gradient(p);
  return (plan.workspace * threads + (plan.chunks - 1) * p.width * 9 * p.depth) * 4;
}

// The patches of a block in the order of the rows of their matrices, by what they have of a second column and a second
// row of outputs: the column, both, the row, none.
struct PatchOrder {
  int64_t begin[5] = {};
  int32_t at[kGradPatches];

  // Those with a second column, if that is asked for, and with a second row.
  Span range(bool right, bool below) const { return {begin[below ? 1 : 0], begin[right ? 2 : below ? 3 : 4]}; }
};
__attribute__((cold)) inline void order_patches(const WeightGradient& p, const Block& k, PatchOrder& order) {
  int32_t* kind = order.at;
  for (int64_t n = 0; n < k.images; n++)
    for (int64_t i = k.i0; i < k.i0 + k.rows; i++)
      for (int64_t j = k.j0; j < k.j0 + k.columns; j++) {
        const bool right = 2 * j + 1 < p.out_columns, below = 2 * i + 1 < p.out_rows;
        *kind = right ? below : below ? 2 : 3;
        order.begin[*kind++ + 1]++;
      }
  int64_t next[4];
  for (int i = 0; i < 4; i++) {
    next[i] = order.begin[i];
    order.begin[i + 1] += order.begin[i];
  }
  for (int64_t t = 0; t < k.tokens(); t++) order.at[t] = static_cast<int32_t>(next[order.at[t]]++);
}

// A along one axis, e1 with its sign.
template <int Stride>
inline __attribute__((always_inline)) void filter_deltas(Vec e0, Vec e1, Vec (&t)[5 - Stride]) {
  t[0] = e0;
  t[1] = e0 + e1;
  if constexpr (Stride == 1) t[2] = e0 - e1;
  t[4 - Stride] = e1;
}
// G' along one axis.
template <int Stride>
inline __attribute__((always_inline)) void filter_sums(const Vec (&s)[4], Vec (&w)[3]) {
  if constexpr (Stride == 1) {
    const Vec half = broadcast(0.5f), both = (s[1] + s[2]) * half;
    w[0] = s[0] + both;
    w[1] = (s[1] - s[2]) * half;
    w[2] = both - s[3];
  } else {
    w[0] = s[0] + s[2];
    w[1] = s[1];
    w[2] = s[2] + s[3];
  }
}

// Where the inputs of a patch lie, side x side of them; zeros stand for the padding.
__attribute__((noinline)) inline void find_inputs(const Image& x, int64_t n, int64_t row, int64_t column,
                                                  int64_t channel, int64_t side, const float** d) {
  static constexpr float zeros[kGradSide] = {};
  for (int64_t r = row; r < row + side; r++)
    for (int64_t s = column; s < column + side; s++) {
      const bool inside = r >= 0 && r < x.rows && s >= 0 && s < x.columns;
      *d++ = inside ? x.data + ((n * x.rows + r) * x.columns + s) * x.channels + channel : zeros;
    }
}

// B' d B of a block: matrices [patch][width] of each panel of channels.
template <int Stride>
__attribute__((noinline)) void transform_image(const WeightGradient& p, const PatchGradientPlan& plan, const Block& k,
                                               const PatchOrder& order, int64_t channel, int64_t depth, float* out) {
  constexpr int N = 3 + Stride;
  const int32_t* at = order.at;
  for (int64_t n = k.n0; n < k.n0 + k.images; n++)
    for (int64_t i = k.i0; i < k.i0 + k.rows; i++)
      for (int64_t j = k.j0; j < k.j0 + k.columns; j++, at++) {
        const int64_t row = 2 * Stride * i + p.vertical.tap_start, column = 2 * Stride * j + p.horizontal.tap_start;
        const float* d[N * N];
        find_inputs(p.image, n, row, column, channel, N, d);
        for (int64_t c = 0; c < depth; c += kPanel) {
          const int64_t width = panel_width(depth, c);
          float* panel = out + c / kPanel * N * N * plan.patches + *at * width - c;
          each_vector(c, min64(depth, c + width), [&](int64_t v, auto lanes) {
            float* to = panel + v;
            Vec rows[N][N];
            AUXGRAD_UNROLL
            for (int s = 0; s < N; s++) {
              Vec y[N], t[N];
              AUXGRAD_UNROLL
              for (int r = 0; r < N; r++) y[r] = lanes.load(d[r * N + s] + v);
              transform_inputs<Stride == 1 ? kStride1 : kStride2>(y, t);
              AUXGRAD_UNROLL
              for (int r = 0; r < N; r++) rows[r][s] = t[r];
            }
            AUXGRAD_UNROLL
            for (int r = 0; r < N; r++) {
              Vec t[N];
              transform_inputs<Stride == 1 ? kStride1 : kStride2>(rows[r], t);
              AUXGRAD_UNROLL
              for (int s = 0; s < N; s++, to += plan.patches) store(to, t[s]);
            }
          });
        }
      }
}

// A e A' of a block: matrices [patch][pitch].
template <int Stride>
__attribute__((noinline)) void transform_delta(const WeightGradient& p, const PatchGradientPlan& plan, const Block& k,
                                               const PatchOrder& order, int64_t from, int64_t columns, float* out) {
  constexpr int N = 5 - Stride;
  const int64_t line = p.out_columns * p.out_channels;
  const int32_t* at = order.at;
  for (int64_t n = 0; n < k.images; n++)
    for (int64_t i = 0; i < k.rows; i++)
      for (int64_t j = 0; j < k.columns; j++, at++) {
        const int64_t row = 2 * (k.i0 + i), column = 2 * (k.j0 + j);
        const float* dy = p.dy + ((k.n0 + n) * p.out_rows + row) * line + column * p.out_channels + from;
        const bool below = row + 1 < p.out_rows, right = column + 1 < p.out_columns;
        each_vector(0, columns, [&](int64_t c, auto lanes) {
          const float* e = dy + c;
          float* to = out + *at * plan.pitch + c;
          const Vec zero = {};
          Vec left[N], other[N];
          filter_deltas<Stride>(lanes.load(e), below ? lanes.load(e + line) : zero, left);
          filter_deltas<Stride>(right ? lanes.load(e + p.out_channels) : zero,
                                below && right ? lanes.load(e + line + p.out_channels) : zero, other);
          AUXGRAD_UNROLL
          for (int r = 0; r < N; r++) {
            Vec t[N];
            filter_deltas<Stride>(left[r], other[r], t);
            AUXGRAD_UNROLL
            for (int s = 0; s < N; s++, to += plan.delta) lanes.store(to, t[s]);
          }
        });
      }
}

// Brings the operands of a block near while the one before it is worked on.
struct Ahead {
  const WeightGradient& p;
  Block k;  // counted in patches
  int64_t from, columns, channel, depth;
  int64_t image = 0, row = 0, column = 0;  // output that comes next

  void fetch(int64_t outputs) {
    const Image& x = p.image;
    const int64_t stride = p.vertical.in_step;
    const auto clamp = [](int64_t i, int64_t n) { return max64(0, min64(i, n - 1)); };
    for (; outputs > 0 && image < k.images; outputs--) {
      const int64_t n = k.n0 + image, i = 2 * k.i0 + row, j = 2 * k.j0 + column;
      const float* dy =
          p.dy + ((n * p.out_rows + clamp(i, p.out_rows)) * p.out_columns + clamp(j, p.out_columns)) * p.out_channels;
      for (int64_t c = 0; c < columns; c += 16) __builtin_prefetch(dy + from + c);
      for (int64_t t = 0; t < stride * stride; t++) {
        const int64_t h = clamp(i * stride + p.vertical.tap_start + 2 - t / stride, x.rows);
        const int64_t w = clamp(j * stride + p.horizontal.tap_start + 2 - t % stride, x.columns);
        const float* in = x.data + ((n * x.rows + h) * x.columns + w) * x.channels + channel;
        for (int64_t c = 0; c < depth; c += 16) __builtin_prefetch(in + c);
      }
      if (++column < 2 * k.columns) continue;
      column = 0;
      if (++row < 2 * k.rows) continue;
      row = 0;
      image++;
    }
  }
};

// Adds the products of the patches of a block to the sums, [panel][16][output][width]; the first block overwrites them.
inline void add_patches(const PatchGradientPlan& plan, const PatchOrder& order, const float* delta, int64_t columns,
                        const float* patches, int64_t depth, float* sums, bool first, Ahead& ahead) {
  const GradFilter& f = *plan.filter;
  const int products = f.inputs * f.inputs;
  const int64_t tiles = ceil_div(columns, kTileRows);
  const int64_t outputs = ceil_div(4 * order.begin[4], products * ceil_div(depth, kPanel) * tiles);
  bool written[16] = {};
  Tile t;
  t.step = plan.pitch;
  for (int i = 0; i < products; i++) {
    const int row = i / f.inputs, column = i % f.inputs, sum = f.sum[row] * 4 + f.sum[column];
    const Span range = order.range(f.delta[column] + 1 == f.deltas, f.delta[row] + 1 == f.deltas);
    t.runs = {1, 0, 1, 0, range.end - range.begin};
    t.accumulate = !first || written[sum];
    written[sum] = true;
    for (int64_t c = 0; c < depth; c += kPanel) {
      const int64_t width = panel_width(depth, c);
      const float* left = delta + (f.delta[row] * f.deltas + f.delta[column]) * plan.delta + range.begin * plan.pitch;
      float* to = sums + (c / kPanel * 16 + sum) * plan.sums;
      t.columns = t.panel_step = width;
      t.panel = patches + (c / kPanel * products + i) * plan.patches + range.begin * width;
      for (int64_t tile = 0; tile < tiles; tile++) {
        const int64_t m0 = even_start(columns, tiles, tile), m1 = even_start(columns, tiles, tile + 1);
        t.left = left + m0;
        t.out = to + m0 * width;
        ahead.fetch(outputs);
        run_tile<true>(t, static_cast<int>(m1 - m0));
      }
    }
  }
}

// G' m G of the sums of a part, to dw.
template <int Stride>
__attribute__((noinline)) void write_taps(const WeightGradient& p, const PatchGradientPlan& plan, const float* sums,
                                          int64_t columns, int64_t depth, float* dw) {
  for (int64_t c = 0; c < depth; c += kPanel, sums += 16 * plan.sums) {
    const int64_t width = panel_width(depth, c);
    for (int64_t o = 0; o < columns; o++)
      each_vector(c, min64(depth, c + width), [&](int64_t k, auto lanes) {
        const float* at = sums + o * width + k - c;
        Vec rows[3][4];
        AUXGRAD_UNROLL
        for (int s = 0; s < 4; s++, at += plan.sums) {
          Vec m[4], w[3];
          AUXGRAD_UNROLL
          for (int r = 0; r < 4; r++) m[r] = load(at + 4 * r * plan.sums);
          filter_sums<Stride>(m, w);
          AUXGRAD_UNROLL
          for (int r = 0; r < 3; r++) rows[r][s] = w[r];
        }
        float* to = dw + o * 9 * p.depth + k;
        AUXGRAD_UNROLL
        for (int r = 0; r < 3; r++) {
          Vec w[3];
          filter_sums<Stride>(rows[r], w);
          AUXGRAD_UNROLL
          for (int s = 0; s < 3; s++, to += p.depth) lanes.store(to, w[s]);
        }
      });
  }
}

inline void run_patch_gradient(const Call& call, const WeightGradient& p) {
  const PatchGradientPlan plan = plan_patch_gradient(p);
  const Blocks& b = plan.blocks;
  const int64_t tasks = plan.parts * plan.slices, total = p.width * 9 * p.depth;
  const bool strided = p.vertical.in_step == 2;
  float* workspaces = static_cast<float*>(call.scratch);
  float* partial = workspaces + plan.workspace * call.pool->threads();
  parallel_tasks(call, tasks * plan.chunks, [&](int64_t task, int thread) {
    const int64_t chunk = task / tasks, from = task % tasks / plan.slices * plan.width;
    const int64_t channel = task % plan.slices * plan.depth;
    const int64_t columns = min64(plan.width, p.width - from), depth = min64(plan.depth, p.depth - channel);
    float* delta = workspaces + thread * plan.workspace;
    float* patches = delta + plan.filter->deltas * plan.filter->deltas * plan.delta;
    float* sums = patches + plan.depth / kPanel * plan.filter->inputs * plan.filter->inputs * plan.patches;
    const int64_t begin = even_start(b.count(), plan.chunks, chunk);
    const int64_t end = even_start(b.count(), plan.chunks, chunk + 1);
    for (int64_t i = begin; i < end; i++) {
      const Block k = block_at(b, p.images, plan.vertical, plan.horizontal, i);
      PatchOrder order;
      order_patches(p, k, order);
      if (strided) {
        transform_image<2>(p, plan, k, order, channel, depth, patches);
        transform_delta<2>(p, plan, k, order, from, columns, delta);
      } else {
        transform_image<1>(p, plan, k, order, channel, depth, patches);
        transform_delta<1>(p, plan, k, order, from, columns, delta);
      }
      Ahead ahead = {p, k, from, columns, channel, depth};
      if (i + 1 < end) ahead.k = block_at(b, p.images, plan.vertical, plan.horizontal, i + 1);
      else ahead.k.images = 0;
      add_patches(plan, order, delta, columns, patches, depth, sums, i == begin, ahead);
    }
    float* dw = (chunk == 0 ? p.dw : partial + (chunk - 1) * total) + from * 9 * p.depth + channel;
    if (strided) write_taps<2>(p, plan, sums, columns, depth, dw);
    else write_taps<1>(p, plan, sums, columns, depth, dw);
  });
  if (plan.chunks > 1)
    parallel_ranges(call, total, 4096, [&](int64_t first, int64_t last) {
      for (int64_t s = 0; s < plan.chunks - 1; s++) {
        const float* more = partial + s * total;
        each_vector(first, last,
                    [&](int64_t i, auto lanes) { lanes.store(p.dw + i, lanes.load(p.dw + i) + lanes.load(more + i)); });
      }
    });
}

}  // namespace
}  // namespace auxgrad
