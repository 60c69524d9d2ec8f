// Weight gradient of 3x3 taps at stride 1 by minimal filtering, the dual of winograd.h: 16 multiplications for the
// products of 2x2 outputs with 3x3 taps instead of 36.
//
// dw = G' (sum over patches of (A e A') * (B' d B)) G, where e is a 2x2 patch of dy and d the 4x4 patch of x that it
// meets. A and B' add and subtract only, G' halves, once, so the error is that of the direct sum to within a small
// factor (a test bounds it) and sums of small integers stay exact. A NaN or infinity spreads to all taps of its channel.
//
// A task owns a part of dw and a chunk of the blocks of patches, as in weight_grad.h. It transforms the patches of a
// block, 16 matrices of each side, adds their products to 16 matrices of sums, and transforms these at the end. Chunks
// after the first write to a dw of their own, added in a fixed order.
#pragma once
#include "weight_grad.h"
#include "winograd.h"

namespace auxgrad {
namespace {

constexpr int64_t kGradPatches = 64;  // of a block
constexpr int64_t kGradSide = 64;     // output channels of a part, and input channels

inline bool suits_patches(const WeightGradient& p) { return suits_patches(p, 16, 4); }

struct PatchGradientPlan {
  Axis vertical, horizontal;  // of patches of x
  Blocks blocks;
  int64_t width, parts;          // output channels of a part, and how many parts
  int64_t depth, slices;         // input channels, in whole panels
  int64_t chunks;                // of the blocks
  int64_t pitch;                 // of the rows of transformed dy
  int64_t delta, patches, sums;  // floats of one of 16 matrices: of dy; of a panel of x; of a panel of sums
  int64_t workspace;             // floats of one thread
};

__attribute__((noinline)) inline PatchGradientPlan plan_patch_gradient(const WeightGradient& p) {
  PatchGradientPlan plan;
  plan.vertical = patch_axis(p.vertical);
  plan.horizontal = patch_axis(p.horizontal);
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
  plan.workspace = 16 * (plan.delta + plan.depth / kPanel * (plan.patches + plan.sums));
  return plan;
}

inline int64_t patch_gradient_scratch(const WeightGradient& p, int threads) {
  const PatchGradientPlan plan = plan_patch_gradient(p);
  return (plan.workspace * threads + (plan.chunks - 1) * p.width * 9 * p.depth) * 4;
}

// B' d B of a block: 16 matrices [patch][width] of each panel of channels.
inline void transform_image(const WeightGradient& p, const PatchGradientPlan& plan, const Block& k, int64_t channel,
                            int64_t depth, float* out) {
  static constexpr float zeros[kGradSide] = {};
  const Image& x = p.image;
  int64_t patch = 0;
  for (int64_t n = k.n0; n < k.n0 + k.images; n++)
    for (int64_t i = k.i0; i < k.i0 + k.rows; i++)
      for (int64_t j = k.j0; j < k.j0 + k.columns; j++, patch++) {
        const float* d[4][4];
        for (int r = 0; r < 4; r++)
          for (int s = 0; s < 4; s++) {
            const int64_t row = 2 * i + p.vertical.tap_start + r, column = 2 * j + p.horizontal.tap_start + s;
            const bool inside = row >= 0 && row < x.rows && column >= 0 && column < x.columns;
            d[r][s] = inside ? x.data + ((n * x.rows + row) * x.columns + column) * x.channels + channel : zeros;
          }
        for (int64_t c = 0; c < depth; c += kPanel) {
          const int64_t width = panel_width(depth, c);
          float* panel = out + c / kPanel * 16 * plan.patches + patch * width;
          each_vector(c, min64(depth, c + width), [&](int64_t v, auto lanes) {
            transform_patch([&](int r, int s) { return lanes.load(d[r][s] + v); },
                            [&](int m, Vec y) { store(panel + m * plan.patches + v - c, y); });
          });
        }
      }
}

// A e A' of a block, but for the signs of its last row and column: 16 matrices [patch][pitch].
inline void transform_delta(const WeightGradient& p, const PatchGradientPlan& plan, const Block& k, int64_t from,
                            int64_t columns, float* out) {
  const int64_t line = p.out_columns * p.out_channels;
  for (int64_t n = 0; n < k.images; n++)
    for (int64_t i = 0; i < k.rows; i++)
      for (int64_t j = 0; j < k.columns; j++, out += plan.pitch) {
        const int64_t row = 2 * (k.i0 + i), column = 2 * (k.j0 + j);
        const float* dy = p.dy + ((k.n0 + n) * p.out_rows + row) * line + column * p.out_channels + from;
        const bool below = row + 1 < p.out_rows, right = column + 1 < p.out_columns;
        each_vector(0, columns, [&](int64_t c, auto lanes) {
          const float* at = dy + c;
          const Vec zero = {};
          const Vec e[2][2] = {
              {lanes.load(at), right ? lanes.load(at + p.out_channels) : zero},
              {below ? lanes.load(at + line) : zero, below && right ? lanes.load(at + line + p.out_channels) : zero}};
          const Vec rows[4][2] = {{e[0][0], e[0][1]},
                                  {e[0][0] + e[1][0], e[0][1] + e[1][1]},
                                  {e[0][0] - e[1][0], e[0][1] - e[1][1]},
                                  {e[1][0], e[1][1]}};
          AUXGRAD_UNROLL
          for (int r = 0; r < 4; r++) {
            float* to = out + r * 4 * plan.delta + c;
            lanes.store(to, rows[r][0]);
            lanes.store(to + plan.delta, rows[r][0] + rows[r][1]);
            lanes.store(to + 2 * plan.delta, rows[r][0] - rows[r][1]);
            lanes.store(to + 3 * plan.delta, rows[r][1]);
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
    const auto clamp = [](int64_t i, int64_t n) { return max64(0, min64(i, n - 1)); };
    for (; outputs > 0 && image < k.images; outputs--) {
      const int64_t n = k.n0 + image, i = 2 * k.i0 + row, j = 2 * k.j0 + column;
      const float* dy =
          p.dy + ((n * p.out_rows + clamp(i, p.out_rows)) * p.out_columns + clamp(j, p.out_columns)) * p.out_channels;
      const int64_t h = clamp(i + p.vertical.tap_start + 2, x.rows);
      const int64_t w = clamp(j + p.horizontal.tap_start + 2, x.columns);
      const float* in = x.data + ((n * x.rows + h) * x.columns + w) * x.channels + channel;
      for (int64_t c = 0; c < columns; c += 16) __builtin_prefetch(dy + from + c);
      for (int64_t c = 0; c < depth; c += 16) __builtin_prefetch(in + c);
      if (++column < 2 * k.columns) continue;
      column = 0;
      if (++row < 2 * k.rows) continue;
      row = 0;
      image++;
    }
  }
};

// Adds the products of the patches of a block to the sums, [panel][16][output][width]; the first block overwrites them.
inline void add_patches(const PatchGradientPlan& plan, int64_t tokens, const float* delta, int64_t columns,
                        const float* patches, int64_t depth, float* sums, bool first, Ahead& ahead) {
  const int64_t tiles = ceil_div(columns, kTileRows);
  const int64_t outputs = ceil_div(4 * tokens, 16 * ceil_div(depth, kPanel) * tiles);
  Tile t;
  t.runs = {1, 0, 1, 0, tokens};
  t.step = plan.pitch;
  t.accumulate = !first;
  for (int64_t i = 0; i < 16; i++)
    for (int64_t c = 0; c < depth; c += kPanel) {
      const int64_t width = panel_width(depth, c), at = c / kPanel * 16 + i;
      t.columns = width;
      t.panel = patches + at * plan.patches;
      for (int64_t tile = 0; tile < tiles; tile++) {
        const int64_t m0 = even_start(columns, tiles, tile), m1 = even_start(columns, tiles, tile + 1);
        t.row[0] = delta + i * plan.delta + m0;
        for (int64_t m = m0; m < m1; m++) t.out[m - m0] = sums + at * plan.sums + m * width;
        ahead.fetch(outputs);
        run_tile<true>(t, static_cast<int>(m1 - m0));
      }
    }
}

// G' m G of the sums of a part, to dw.
inline void write_taps(const WeightGradient& p, const PatchGradientPlan& plan, const float* sums, int64_t columns,
                       int64_t depth, float* dw) {
  const Vec half = broadcast(0.5f);
  for (int64_t c = 0; c < depth; c += kPanel, sums += 16 * plan.sums) {
    const int64_t width = panel_width(depth, c);
    for (int64_t o = 0; o < columns; o++)
      each_vector(c, min64(depth, c + width), [&](int64_t k, auto lanes) {
        const float* at = sums + o * width + k - c;
        Vec rows[3][4];
        AUXGRAD_UNROLL
        for (int s = 0; s < 4; s++, at += plan.sums) {
          const Vec m1 = load(at + 4 * plan.sums), m2 = load(at + 8 * plan.sums), sum = (m1 + m2) * half;
          rows[0][s] = load(at) + sum;
          rows[1][s] = (m1 - m2) * half;
          rows[2][s] = sum - load(at + 12 * plan.sums);
        }
        float* to = dw + o * 9 * p.depth + k;
        AUXGRAD_UNROLL
        for (int r = 0; r < 3; r++, to += 3 * p.depth) {
          const Vec sum = (rows[r][1] + rows[r][2]) * half;
          lanes.store(to, rows[r][0] + sum);
          lanes.store(to + p.depth, (rows[r][1] - rows[r][2]) * half);
          lanes.store(to + 2 * p.depth, sum - rows[r][3]);
        }
      });
  }
}

inline void run_patch_gradient(const Call& call, const WeightGradient& p) {
  const PatchGradientPlan plan = plan_patch_gradient(p);
  const Blocks& b = plan.blocks;
  const int64_t tasks = plan.parts * plan.slices, total = p.width * 9 * p.depth;
  float* workspaces = static_cast<float*>(call.scratch);
  float* partial = workspaces + plan.workspace * call.pool->threads();
  parallel_tasks(call, tasks * plan.chunks, [&](int64_t task, int thread) {
    const int64_t chunk = task / tasks, from = task % tasks / plan.slices * plan.width;
    const int64_t channel = task % plan.slices * plan.depth;
    const int64_t columns = min64(plan.width, p.width - from), depth = min64(plan.depth, p.depth - channel);
    float* delta = workspaces + thread * plan.workspace;
    float* patches = delta + 16 * plan.delta;
    float* sums = patches + plan.depth / kPanel * 16 * plan.patches;
    const int64_t begin = even_start(b.count(), plan.chunks, chunk);
    const int64_t end = even_start(b.count(), plan.chunks, chunk + 1);
    for (int64_t i = begin; i < end; i++) {
      const Block k = block_at(b, p.images, plan.vertical, plan.horizontal, i);
      transform_image(p, plan, k, channel, depth, patches);
      transform_delta(p, plan, k, from, columns, delta);
      Ahead ahead = {p, k, from, columns, channel, depth};
      if (i + 1 < end) ahead.k = block_at(b, p.images, plan.vertical, plan.horizontal, i + 1);
      else ahead.k.images = 0;
      add_patches(plan, k.tokens(), delta, columns, patches, depth, sums, i == begin, ahead);
    }
    write_taps(p, plan, sums, columns, depth,
               (chunk == 0 ? p.dw : partial + (chunk - 1) * total) + from * 9 * p.depth + channel);
  });
  if (plan.chunks > 1)
    parallel_ranges(call, total, 4096, [&](int64_t first, int64_t last) {
      for (int64_t s = 0; s < plan.chunks - 1; s++) {
        const float* more = partial + s * total;
        for (int64_t i = first; i < last; i++) p.dw[i] += more[i];
      }
    });
}

}  // namespace
}  // namespace auxgrad
