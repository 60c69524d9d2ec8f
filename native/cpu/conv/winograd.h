// Windowed products of 3x3 taps at stride 1 by minimal filtering, F(2x2, 3x3) (Lavin & Gray 2016, "Fast algorithms
// for convolutional neural networks"): 16 multiplications for 2x2 outputs instead of 36.
//
// y = A' ((G g G') * (B' d B)) A for every 4x4 patch d of the image. B' and A' add and subtract only, G halves, so the
// error is that of the direct sum to within a small factor (a test bounds it) and sums of small integers stay exact.
// A NaN or infinity spreads to the whole 2x2 outputs of the patches that hold it.
//
// The order of work is that of window.h: a slice of channels at a time, its transformed weights packed for a wave of
// output channels, then tasks that transform the patches of a block and run 16 products of register tiles.
#pragma once
#include "window.h"

namespace auxgrad {
namespace {

constexpr int64_t kPatchDepth = 128;         // channels of a slice
constexpr int64_t kPatches = 56;             // of a block: four register tiles reuse a panel in the first-level cache
constexpr int64_t kPatchStripe = 64 * 1024;  // floats of a stripe

struct PatchPlan {
  Axis vertical, horizontal;  // of patches: 4 inputs, 2 outputs apart
  Blocks blocks;
  int64_t slices, wave, packed, part;  // as in ProductPlan
  int64_t patches;                     // floats of one of the 16 matrices of patches
  int64_t workspace;                   // floats of one thread
};

inline Axis patch_axis(const Axis& a) { return {a.out_start, 2, ceil_div(a.count, 2), 2, 4, a.tap_start, 1, 0, 1}; }

// Whether it pays: enough channels to fill panels, enough positions to earn the transformed weights, and little waste
// at odd edges.
inline bool suits_patches(const Product& p) {
  const Axis &v = p.vertical, &h = p.horizontal;
  if (p.groups != 1 || p.depth < 32 || p.width < 32) return false;
  const auto suits = [](const Axis& a) { return a.taps == 3 && a.tap_step == 1 && a.in_step == 1 && a.out_step == 1; };
  if (!suits(v) || !suits(h)) return false;
  const int64_t patches = ceil_div(v.count, 2) * ceil_div(h.count, 2);
  return p.images * patches >= 48 && 16 * patches * 5 <= 9 * v.count * h.count * 4;
}

__attribute__((noinline)) inline PatchPlan plan_patches(const Product& p) {
  PatchPlan plan;
  plan.vertical = patch_axis(p.vertical);
  plan.horizontal = patch_axis(p.horizontal);
  plan.blocks = cut_blocks(p.images, plan.vertical, plan.horizontal, p.depth, kPatchDepth, kPatches, kPatchStripe);
  const Blocks& b = plan.blocks;
  plan.slices = ceil_div(p.depth, b.depth);
  const int64_t panels = ceil_div(p.width, kPanel);
  plan.wave = even_size(panels, max64(1, min64(panels, kPacked / (16 * b.depth * kPanel)))) * kPanel;
  plan.packed = 16 * b.depth * plan.wave;
  const int64_t wanted = max64(1, min64(ceil_div(kTasks, max64(1, b.count())), plan.wave / kPart));
  plan.part = even_size(plan.wave / kPanel, ceil_div(plan.wave / kPanel, wanted)) * kPanel;
  const int64_t tokens = b.images * b.rows * b.columns;
  plan.patches = (tokens * b.depth + 16) / 16 * 16 + 16;  // not a power of two apart
  plan.workspace = (b.stripe + 16) / 16 * 16 + 16 * plan.patches + 16 * tokens * kPanel;
  return plan;
}

inline int64_t patch_scratch(const Product& p, int threads) {
  const PatchPlan plan = plan_patches(p);
  return (plan.packed + plan.workspace * threads) * 4;
}

// G g G': rows, then columns, of 3x3 taps to 4x4.
inline void transform_taps(const Vec (&g)[9], Vec (&u)[16]) {
  const Vec half = broadcast(0.5f);
  Vec rows[4][3];
  AUXGRAD_UNROLL
  for (int j = 0; j < 3; j++) {
    const Vec outer = g[j] + g[6 + j];
    rows[0][j] = g[j];
    rows[1][j] = (outer + g[3 + j]) * half;
    rows[2][j] = (outer - g[3 + j]) * half;
    rows[3][j] = g[6 + j];
  }
  AUXGRAD_UNROLL
  for (int i = 0; i < 4; i++) {
    const Vec outer = rows[i][0] + rows[i][2];
    u[i * 4] = rows[i][0];
    u[i * 4 + 1] = (outer + rows[i][1]) * half;
    u[i * 4 + 2] = (outer - rows[i][1]) * half;
    u[i * 4 + 3] = rows[i][2];
  }
}

// Transformed weights of channels [channel, channel + depth) and outputs [from, from + columns): [panel][16][depth][width].
inline void pack_taps(const Call& call, const Product& p, float* target, int64_t channel, int64_t depth, int64_t from,
                      int64_t columns) {
  int64_t tap[9];
  for (int i = 0; i < 9; i++)
    tap[i] = ((p.vertical.kernel_start + i / 3 * p.vertical.kernel_step) * p.kernel_columns +
              p.horizontal.kernel_start + i % 3 * p.horizontal.kernel_step) *
             p.tap_step;
  const int64_t run = 4 * kLanes, runs = ceil_div(depth, run);
  parallel_tasks(call, ceil_div(columns, kPanel) * runs, [&](int64_t task, int) {
    const int64_t c = task / runs * kPanel, width = panel_width(columns, c);
    const int64_t begin = task % runs * run, end = min64(depth, begin + run);
    const float* source = p.weight + channel * p.k_step + (from + c) * p.c_step;
    float* to = target + 16 * depth * c;
    Vec g[9], u[16];
    for (int64_t v = 0; v < width; v += kLanes, to += kLanes) {
      const int64_t n = max64(0, min64(kLanes, columns - c - v));
      if (p.c_step == 1) {
        for (int64_t k = begin; k < end; k++) {
          for (int i = 0; i < 9; i++) g[i] = load_first(source + v + k * p.k_step + tap[i], n);
          transform_taps(g, u);
          for (int i = 0; i < 16; i++) store(to + (i * depth + k) * width, u[i]);
        }
        continue;
      }
      // Weights lie along the channels read: transform that way, then turn.
      for (int64_t k = begin; k < end; k += kLanes) {
        const int64_t rows = min64(kLanes, end - k);
        Vec block[16][kLanes];
        if (n < kLanes) memset(block, 0, sizeof(block));
        for (int64_t o = 0; o < n; o++) {
          const float* taps = source + (v + o) * p.c_step + k;
          for (int i = 0; i < 9; i++) g[i] = load_first(taps + tap[i], rows);
          transform_taps(g, u);
          for (int i = 0; i < 16; i++) block[i][o] = u[i];
        }
        for (int i = 0; i < 16; i++) {
          float* rest = to + (i * depth + k) * width;
          Vec turned[kLanes];
          AUXGRAD_UNROLL
          for (int r = 0; r < kLanes; r++) turned[r] = block[i][r];
          transpose(turned);
          AUXGRAD_UNROLL
          for (int r = 0; r < kLanes; r++)
            if (r < rows) store(rest + r * width, turned[r]);
        }
      }
    }
  });
}

// B' d B of the patches of a packed block: 16 matrices [patch][depth].
inline void transform_patches(const PatchPlan& plan, const Block& k, const float* stripe, int64_t depth, float* out) {
  const int64_t line = k.stripe_columns * depth;
  for (int64_t n = 0; n < k.images; n++)
    for (int64_t i = 0; i < k.rows; i++) {
      const float* row = stripe + (n * k.stripe_rows + 2 * i) * line;
      for (int64_t j = 0; j < k.columns; j++, row += 2 * depth, out += depth)
        each_vector(0, depth, [&](int64_t c, auto lanes) {
          Vec d[4][4];
          AUXGRAD_UNROLL
          for (int s = 0; s < 4; s++) {
            const float* at = row + s * depth + c;
            const Vec d0 = lanes.load(at), d1 = lanes.load(at + line), d2 = lanes.load(at + 2 * line);
            const Vec d3 = lanes.load(at + 3 * line);
            d[0][s] = d0 - d2;
            d[1][s] = d1 + d2;
            d[2][s] = d2 - d1;
            d[3][s] = d1 - d3;
          }
          AUXGRAD_UNROLL
          for (int r = 0; r < 4; r++) {
            float* to = out + r * 4 * plan.patches + c;
            lanes.store(to, d[r][0] - d[r][2]);
            lanes.store(to + plan.patches, d[r][1] + d[r][2]);
            lanes.store(to + 2 * plan.patches, d[r][2] - d[r][1]);
            lanes.store(to + 3 * plan.patches, d[r][1] - d[r][3]);
          }
        });
    }
}

// What happens to a panel of outputs after the product.
struct PatchEnd {
  bool accumulate, relu;
  const float* bias;
  int64_t channel, columns;  // first output channel, and how many
};

// A' m A of the 16 products [patch][width] of one panel, to the outputs of the block.
inline void write_patches(const Product& p, const Block& k, const float* products, int64_t width, const PatchEnd& end) {
  const int64_t apart = k.tokens() * width;
  for (int64_t n = 0; n < k.images; n++)
    for (int64_t i = 0; i < k.rows; i++)
      for (int64_t j = 0; j < k.columns; j++, products += width) {
        const int64_t row = 2 * (k.i0 + i), column = 2 * (k.j0 + j);
        float* out = p.out + (((k.n0 + n) * p.out_rows + row) * p.out_columns + column) * p.out_channels + end.channel;
        const bool below = row + 1 < p.out_rows, right = column + 1 < p.out_columns;
        each_vector(0, end.columns, [&](int64_t c, auto lanes) {
          Vec m[2][4];
          AUXGRAD_UNROLL
          for (int s = 0; s < 4; s++) {
            const float* at = products + s * apart + c;
            const Vec m1 = load(at + 4 * apart), m2 = load(at + 8 * apart);
            m[0][s] = load(at) + m1 + m2;
            m[1][s] = m1 - m2 - load(at + 12 * apart);
          }
          const Vec bias = end.bias ? lanes.load(end.bias + c) : Vec{};
          AUXGRAD_UNROLL
          for (int r = 0; r < 2; r++) {
            AUXGRAD_UNROLL
            for (int s = 0; s < 2; s++) {
              if ((r && !below) || (s && !right)) continue;
              float* to = out + (r * p.out_columns + s) * p.out_channels + c;
              Vec y = s == 0 ? m[r][0] + m[r][1] + m[r][2] : m[r][1] - m[r][2] - m[r][3];
              if (end.accumulate) y += lanes.load(to);
              if (end.bias) y += bias;
              if (end.relu) y = y < Vec{} ? Vec{} : y;
              lanes.store(to, y);
            }
          }
        });
      }
}

inline void run_patches(const Call& call, const Product& p) {
  const PatchPlan plan = plan_patches(p);
  const Blocks& b = plan.blocks;
  float* packed = static_cast<float*>(call.scratch);
  float* workspaces = packed + plan.packed;
  // The same blocks, counted in outputs.
  Blocks outputs = b;
  outputs.rows *= 2;
  outputs.columns *= 2;
  const bool signs = p.signs && signs_by_blocks(p, outputs);
  const int64_t all = p.images * p.out_rows * p.out_columns;
  if (p.signs && !signs) pack_image(call, p);

  for (int64_t from = 0; from < p.width; from += plan.wave)
    for (int64_t slice = 0; slice < plan.slices; slice++) {
      const int64_t channel = slice * b.depth, depth = min64(b.depth, p.depth - channel);
      const int64_t columns = min64(plan.wave, p.width - from);
      const bool last = slice == plan.slices - 1;
      pack_taps(call, p, packed, channel, depth, from, columns);

      const int64_t count = b.count();
      parallel_tasks(call, ceil_div(columns, plan.part) * count, [&](int64_t task, int thread) {
        const Block k = block_at(b, p.images, plan.vertical, plan.horizontal, task % count);
        const int64_t part = task / count * plan.part, stop = min64(columns, part + plan.part);
        float* stripe = workspaces + thread * plan.workspace;
        float* patches = stripe + (b.stripe + 16) / 16 * 16;
        float* products = patches + 16 * plan.patches;
        pack_block(stripe, p.image, k, plan.vertical, plan.horizontal, channel, depth, depth);
        transform_patches(plan, k, stripe, depth, patches);
        const int64_t last_row = min64(p.out_rows, 2 * (k.i0 + k.rows));
        const Span whole = whole_words((k.n0 * p.out_rows + 2 * k.i0) * p.out_columns,
                                       ((k.n0 + k.images - 1) * p.out_rows + last_row) * p.out_columns, all);
        if (signs && from == 0 && part == 0)
          pack_positive(p.image.data, all, p.depth, p.signs, whole.begin / 32, ceil_div(whole.end, 32), channel,
                        channel + depth);

        const int64_t tokens = k.tokens(), tiles = ceil_div(tokens, kTileRows);
        Tile t;
        t.runs = {1, 0, 1, 0, depth};
        t.step = 1;
        t.accumulate = t.relu = false;
        t.bias = nullptr;
        t.ahead = packed;
        for (int64_t c = part; c < stop; c += kPanel) {
          const int64_t width = panel_width(columns, c);
          t.columns = width;
          for (int i = 0; i < 16; i++) {
            t.panel = packed + 16 * depth * c + i * depth * width;
            for (int64_t tile = 0; tile < tiles; tile++) {
              const int64_t t0 = even_start(tokens, tiles, tile), t1 = even_start(tokens, tiles, tile + 1);
              for (int64_t m = t0; m < t1; m++) {
                t.row[m - t0] = patches + i * plan.patches + m * depth;
                t.out[m - t0] = products + (i * tokens + m) * width;
              }
              run_tile<false>(t, static_cast<int>(t1 - t0));
            }
          }
          const int64_t first = from + c;
          write_patches(
              p, k, products, width,
              {slice > 0, last && p.relu, last && p.bias ? p.bias + first : nullptr, first, min64(width, columns - c)});
        }
        if (last && p.mask && rows_are_whole(p, outputs))
          pack_positive(p.out, all, p.out_channels, p.mask, whole.begin / 32, ceil_div(whole.end, 32), from + part,
                        from + stop);
        if (last && p.statistics) {
          const int64_t rows = min64(2 * k.rows, p.out_rows - 2 * k.i0);
          const int64_t across = min64(2 * k.columns, p.out_columns - 2 * k.j0);
          sum_chunk(p.statistics, task % count, k.images * rows * across, from + part, from + stop, [&](int64_t t) {
            const int64_t line = (k.n0 + t / across / rows) * p.out_rows + 2 * k.i0 + t / across % rows;
            return p.out + (line * p.out_columns + 2 * k.j0 + t % across) * p.out_channels;
          });
        }
      });
    }
  if (signs) finish_words(call, p, outputs, p.image.data, p.signs, p.depth);
  if (p.mask) finish_mask(call, p, outputs);
}

}  // namespace
}  // namespace auxgrad
