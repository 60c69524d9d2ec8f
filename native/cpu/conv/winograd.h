// Windowed products of 3x3 taps by minimal filtering (Lavin & Gray 2016, "Fast algorithms for convolutional neural
// networks"): of 2x2 outputs at stride 1, F(2x2, 3x3), 16 multiplications instead of 36; at stride 2, where the taps of
// even inputs are two and those of odd ones are one, 25; of 4x4 outputs of its transpose, the input gradient, where even
// outputs have one tap and odd ones two, 25 as well.
//
// y = A' ((G g G') * (B' d B)) A for every patch d of the image, 4x4, 5x5 or 3x3. B' and A' add and subtract only, G adds and
// halves, so the error is that of the direct sum to within a small factor (a test bounds it) and sums of small integers
// stay exact. A NaN or infinity spreads to the whole 2x2 outputs of the patches that hold it.
//
// Along one axis, stride 1: y0 = m0 + m1 + m2, y1 = m1 - m2 - m3 of m0 = (x0 - x2) g0, m1 = (x1 + x2) (g0 + g1 + g2) / 2,
// m2 = (x2 - x1) (g0 - g1 + g2) / 2, m3 = (x1 - x3) g2. Stride 2: y0 = m0 + m1, y1 = m1 + m2 of
// m0 = (x0 - x2) g0 + x1 g1, m1 = x2 (g0 + g2), m2 = x3 g1 + (x4 - x2) g2. Its transpose: y0 = m3, y1 = m0 + m1, y2 = m4,
// y3 = m1 + m2 of m0 = (x0 - x1) g2, m1 = x1 (g0 + g2), m2 = (x2 - x1) g0, m3 = x0 g1, m4 = x1 g1.
//
// The order of work is that of window.h: a slice of channels at a time, its transformed weights packed for a wave of
// output channels, then tasks that transform the patches of a block and run 16 products of register tiles.
#pragma once
#include "window.h"

namespace auxgrad {
namespace {

constexpr int64_t kPatches = 56;             // of a block: four register tiles reuse a panel in the first-level cache
constexpr int64_t kPatchStripe = 64 * 1024;  // floats of a stripe

constexpr int kFilterTaps = 4;  // of each axis, transformed

// Along one axis: `reads` inputs of a patch become `inputs`, sum m adds `count` products of neighbouring inputs and taps,
// both transformed, and the sums become `outputs`. Those that are `late` are of the second half of the outputs only.
struct Filter {
  int reads, inputs, sums, outputs;
  int64_t depth;  // channels of a slice
  struct {
    int input, tap, count;
    bool late;
  } sum[5];
};
enum Kind { kStride1, kStride2, kTransposed };
constexpr Filter kFilters[] = {
    {4, 4, 4, 2, 128, {{0, 0, 1, false}, {1, 1, 1, false}, {2, 2, 1, false}, {3, 3, 1, true}}},
    {5, 5, 3, 2, 64, {{0, 0, 2, false}, {2, 3, 1, false}, {3, 1, 2, true}}},
    {3, 4, 5, 4, 128, {{0, 2, 1, false}, {1, 3, 1, false}, {2, 0, 1, true}, {3, 1, 1, false}, {1, 1, 1, true}}}};

inline Kind kind_of(const Product& p) {
  return p.transposed ? kTransposed : p.vertical.in_step == 2 ? kStride2 : kStride1;
}
template <Kind K>
struct FilterOf {
  static constexpr Kind kind = K;
};
// Runs f(FilterOf<kind>()); the fallback has but one.
template <class F>
inline void with_kind(Kind kind, const F& f) {
  if (kFallback || kind == kStride1) return f(FilterOf<kStride1>());
  if constexpr (!kFallback) kind == kStride2 ? f(FilterOf<kStride2>()) : f(FilterOf<kTransposed>());
}

struct PatchPlan {
  Kind kind;
  Filter filter;
  Axis vertical, horizontal;  // of patches
  Blocks blocks;
  int64_t slices, wave, packed, part;  // as in ProductPlan
  int64_t patches;                     // floats of one of the matrices of patches, one for each input
  int64_t workspace;                   // floats of one thread
};

inline Axis patch_axis(const Filter& f, const Axis& a) {
  const int64_t step = f.outputs == 4 ? 2 : 2 * a.in_step;
  return {a.out_start, f.outputs, ceil_div(a.count, f.outputs), step, f.reads, a.tap_start, 1, 0, 1};
}

// Products along an axis: 4 or 5 for a patch, 3 for the first half of its outputs.
inline int64_t axis_products(const Filter& f, const Axis& a) {
  const int64_t rest = a.count % f.outputs;
  return a.count / f.outputs * max64(f.inputs, f.sums) + (rest == 0 ? 0 : 2 * rest <= f.outputs ? 3 : 5);
}

// Whether it pays: enough channels to fill panels, and enough positions to earn the transformed weights.
inline bool suits_patches(const Product& p) {
  const Axis &v = p.vertical, &h = p.horizontal;
  if (p.groups != 1 || p.depth < 32 || p.width < 32) return false;
  const auto suits = [](const Axis& a) {
    return a.taps == 3 && a.tap_step == 1 && a.in_step <= (kFallback ? 1 : 2) && a.out_step == 1;
  };
  if (!suits(v) || !suits(h) || v.in_step != h.in_step || (kFallback && p.transposed)) return false;
  const Filter& f = kFilters[kind_of(p)];
  const int64_t patches = ceil_div(v.count, f.outputs) * ceil_div(h.count, f.outputs);
  // Of its transpose, the direct sum of two outputs has 3.
  const int64_t direct = 9 * v.count * h.count / (p.transposed ? 4 : 1);
  return p.images * patches >= 48 && axis_products(f, v) * axis_products(f, h) * 5 <= direct * 4;
}

__attribute__((noinline)) inline PatchPlan plan_patches(const Product& p) {
  PatchPlan plan;
  plan.kind = kind_of(p);
  plan.filter = kFilters[plan.kind];
  plan.vertical = patch_axis(plan.filter, p.vertical);
  plan.horizontal = patch_axis(plan.filter, p.horizontal);
  plan.blocks =
      cut_blocks(p.images, plan.vertical, plan.horizontal, p.depth, plan.filter.depth, kPatches, kPatchStripe);
  const Blocks& b = plan.blocks;
  plan.slices = ceil_div(p.depth, b.depth);
  const int64_t panels = ceil_div(p.width, kPanel);
  plan.wave =
      even_size(panels, max64(1, min64(panels, kPacked / (kFilterTaps * kFilterTaps * b.depth * kPanel)))) * kPanel;
  plan.packed = kFilterTaps * kFilterTaps * b.depth * plan.wave;
  const int64_t wanted = max64(1, min64(ceil_div(kTasks, max64(1, b.count())), plan.wave / kPart));
  plan.part = even_size(plan.wave / kPanel, ceil_div(plan.wave / kPanel, wanted)) * kPanel;
  const int64_t tokens = b.images * b.rows * b.columns;
  plan.patches = (tokens * b.depth + 16) / 16 * 16 + 16;  // not a power of two apart
  const int64_t inputs = plan.filter.inputs, sums = plan.filter.sums;
  plan.workspace = (b.stripe + 16) / 16 * 16 + inputs * inputs * plan.patches + sums * sums * tokens * kPanel;
  return plan;
}

inline int64_t patch_scratch(const Product& p, int threads) {
  const PatchPlan plan = plan_patches(p);
  return (plan.packed + plan.workspace * threads) * 4;
}

// G g G': rows, then columns, of 3x3 taps to 4x4.
inline __attribute__((always_inline)) void transform_taps(const Vec (&g)[9], Vec (&u)[16], Kind kind) {
  if (kind != kStride1) {
    AUXGRAD_UNROLL
    for (int i = 0; i < 3; i++) {
      AUXGRAD_UNROLL
      for (int j = 0; j < 3; j++) u[i * 4 + j] = g[i * 3 + j];
    }
    AUXGRAD_UNROLL
    for (int j = 0; j < 3; j++) u[12 + j] = g[j] + g[6 + j];
    AUXGRAD_UNROLL
    for (int i = 0; i < 4; i++) u[i * 4 + 3] = u[i * 4] + u[i * 4 + 2];
    return;
  }
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
  const Kind kind = kind_of(p);
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
          AUXGRAD_UNROLL
          for (int i = 0; i < 9; i++) g[i] = load_first(source + v + k * p.k_step + tap[i], n);
          transform_taps(g, u, kind);
          AUXGRAD_UNROLL
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
          AUXGRAD_UNROLL
          for (int i = 0; i < 9; i++) g[i] = load_first(taps + tap[i], rows);
          transform_taps(g, u, kind);
          AUXGRAD_UNROLL
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

// B' along one axis.
template <Kind K>
inline __attribute__((always_inline)) void transform_inputs(const Vec (&d)[kFilters[K].reads],
                                                            Vec (&t)[kFilters[K].inputs]) {
  if constexpr (K == kStride1) {
    t[0] = d[0] - d[2];
    t[1] = d[1] + d[2];
    t[2] = d[2] - d[1];
    t[3] = d[1] - d[3];
  } else if constexpr (K == kStride2) {
    t[0] = d[0] - d[2];
    t[1] = d[1];
    t[2] = d[2];
    t[3] = d[3];
    t[4] = d[4] - d[2];
  } else {
    t[0] = d[0] - d[1];
    t[1] = d[1];
    t[2] = d[2] - d[1];
    t[3] = d[0];
  }
}

// B' d B of the patches of a packed block: a matrix [patch][depth] for each input.
template <Kind K>
__attribute__((noinline)) void transform_patches(const PatchPlan& plan, const Block& k, const float* stripe,
                                                 int64_t depth, float* out) {
  constexpr int R = kFilters[K].reads, N = kFilters[K].inputs;
  const int64_t line = k.stripe_columns * depth;
  for (int64_t n = 0; n < k.images; n++)
    for (int64_t i = 0; i < k.rows; i++) {
      const float* row = stripe + (n * k.stripe_rows + plan.vertical.in_step * i) * line;
      for (int64_t j = 0; j < k.columns; j++, row += plan.horizontal.in_step * depth, out += depth)
        each_vector(0, depth, [&](int64_t c, auto lanes) {
          Vec d[N][R];
          AUXGRAD_UNROLL
          for (int s = 0; s < R; s++) {
            Vec x[R], t[N];
            AUXGRAD_UNROLL
            for (int r = 0; r < R; r++) x[r] = lanes.load(row + r * line + s * depth + c);
            transform_inputs<K>(x, t);
            AUXGRAD_UNROLL
            for (int r = 0; r < N; r++) d[r][s] = t[r];
          }
          AUXGRAD_UNROLL
          for (int r = 0; r < N; r++) {
            float* to = out + r * N * plan.patches + c;
            Vec t[N];
            transform_inputs<K>(d[r], t);
            AUXGRAD_UNROLL
            for (int s = 0; s < N; s++) lanes.store(to + s * plan.patches, t[s]);
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

// A' along one axis.
template <Kind K>
inline __attribute__((always_inline)) void transform_sums(const Vec (&m)[kFilters[K].sums],
                                                          Vec (&y)[kFilters[K].outputs]) {
  if constexpr (K == kStride1) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] - m[3];
  } else if constexpr (K == kStride2) {
    y[0] = m[0] + m[1];
    y[1] = m[1] + m[2];
  } else {
    y[0] = m[3];
    y[1] = m[0] + m[1];
    y[2] = m[4];
    y[3] = m[1] + m[2];
  }
}

// A' m A of the sums [patch][kPanel] of one panel, to the outputs of the block. Sums of outputs that are not there are
// read, but reach no other.
template <Kind K>
__attribute__((noinline)) void write_patches(const Product& p, const Block& k, const float* sums, const PatchEnd& end) {
  constexpr int N = kFilters[K].sums, S = kFilters[K].outputs;
  const int64_t apart = k.tokens() * kPanel;
  for (int64_t n = 0; n < k.images; n++)
    for (int64_t i = 0; i < k.rows; i++)
      for (int64_t j = 0; j < k.columns; j++, sums += kPanel) {
        const int64_t row = S * (k.i0 + i), column = S * (k.j0 + j);
        float* out = p.out + (((k.n0 + n) * p.out_rows + row) * p.out_columns + column) * p.out_channels + end.channel;
        const int64_t rows = p.out_rows - row, columns = p.out_columns - column;
        each_vector(0, end.columns, [&](int64_t c, auto lanes) {
          Vec m[S][N];
          AUXGRAD_UNROLL
          for (int s = 0; s < N; s++) {
            Vec x[N], t[S];
            AUXGRAD_UNROLL
            for (int r = 0; r < N; r++) x[r] = load(sums + (r * N + s) * apart + c);
            transform_sums<K>(x, t);
            AUXGRAD_UNROLL
            for (int r = 0; r < S; r++) m[r][s] = t[r];
          }
          const Vec bias = end.bias ? lanes.load(end.bias + c) : Vec{};
          AUXGRAD_UNROLL
          for (int r = 0; r < S; r++) {
            Vec t[S];
            transform_sums<K>(m[r], t);
            AUXGRAD_UNROLL
            for (int s = 0; s < S; s++) {
              if (r >= rows || s >= columns) continue;
              float* to = out + (r * p.out_columns + s) * p.out_channels + c;
              Vec y = t[s];
              if (end.accumulate) y += lanes.load(to);
              if (end.bias) y += bias;
              if (end.relu) y = relu(y);
              lanes.store(to, y);
            }
          }
        });
      }
}

// Patches of a block: all, those with the second half of their columns of outputs, of their rows, of both.
struct PatchLists {
  int64_t count[4];
  int64_t inputs[4][kPatches], sums[4][kPatches];  // offsets in their matrices
};
inline void find_patches(const Product& p, const Filter& f, const Block& k, int64_t depth, PatchLists& lists) {
  const int64_t half = f.outputs / 2;
  memset(lists.count, 0, sizeof(lists.count));
  int64_t t = 0;
  for (int64_t n = 0; n < k.images; n++)
    for (int64_t i = 0; i < k.rows; i++) {
      const bool below = f.outputs * (k.i0 + i) + half < p.out_rows;
      for (int64_t j = 0; j < k.columns; j++, t++) {
        const bool right = f.outputs * (k.j0 + j) + half < p.out_columns;
        for (int l = 0; l < 4; l++) {
          lists.inputs[l][lists.count[l]] = t * depth;
          lists.sums[l][lists.count[l]] = t * kPanel;
          lists.count[l] += (right || !(l & 1)) && (below || !(l & 2));
        }
      }
    }
}

// Outputs of a block; returns how many.
inline int64_t find_positions(const Product& p, const Block& k, const float** at) {
  const int64_t rows = min64(2 * k.rows, p.out_rows - 2 * k.i0);
  const int64_t columns = min64(2 * k.columns, p.out_columns - 2 * k.j0);
  int64_t count = 0;
  for (int64_t n = k.n0; n < k.n0 + k.images; n++)
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < columns; j++)
        at[count++] = p.out + ((n * p.out_rows + 2 * k.i0 + i) * p.out_columns + 2 * k.j0 + j) * p.out_channels;
  return count;
}

// The sums of a panel over transformed inputs and taps.
inline void sum_patches(const PatchPlan& plan, const PatchLists& lists, int64_t tokens, const float* patches,
                        const float* panel, int64_t depth, int64_t width, float* sums) {
  const Filter& f = plan.filter;
  Tile t;
  t.accumulate = t.relu = false;
  t.bias = nullptr;
  t.ahead = panel;
  t.columns = width;
  for (int i = 0; i < f.sums; i++)
    for (int j = 0; j < f.sums; j++, sums += tokens * kPanel) {
      const auto &v = f.sum[i], &h = f.sum[j];
      const int list = v.late * 2 + h.late;
      const int64_t count = lists.count[list], tiles = ceil_div(count, kTileRows);
      t.left = patches + (v.input * f.inputs + h.input) * plan.patches;
      t.out = sums;
      t.runs = {v.count, f.inputs * plan.patches, h.count, plan.patches, depth};
      t.panel = panel + (v.tap * kFilterTaps + h.tap) * depth * width;
      t.panel_step = (kFilterTaps - h.count) * depth * width;
      for (int64_t tile = 0; tile < tiles; tile++) {
        const int64_t t0 = even_start(count, tiles, tile), t1 = even_start(count, tiles, tile + 1);
        t.left_row = lists.inputs[list] + t0;
        t.out_row = lists.sums[list] + t0;
        run_tile<false>(t, static_cast<int>(t1 - t0));
      }
    }
}

inline void run_patches(const Call& call, const Product& p) {
  const PatchPlan plan = plan_patches(p);
  const Blocks& b = plan.blocks;
  const int64_t side = plan.filter.outputs;
  float* packed = static_cast<float*>(call.scratch);
  float* workspaces = packed + plan.packed;
  // The same blocks, counted in outputs.
  Blocks outputs = b;
  outputs.rows *= side;
  outputs.columns *= side;
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
        float* sums = patches + plan.filter.inputs * plan.filter.inputs * plan.patches;
        pack_block(stripe, p.image, k, plan.vertical, plan.horizontal, channel, depth, depth);
        with_kind(plan.kind, [&](auto f) { transform_patches<decltype(f)::kind>(plan, k, stripe, depth, patches); });
        const int64_t last_row = min64(p.out_rows, side * (k.i0 + k.rows));
        const Span whole = whole_words((k.n0 * p.out_rows + side * k.i0) * p.out_columns,
                                       ((k.n0 + k.images - 1) * p.out_rows + last_row) * p.out_columns, all);
        if (signs && from == 0 && part == 0)
          pack_positive(p.image.data, all, p.depth, p.signs, whole.begin / 32, ceil_div(whole.end, 32), channel,
                        channel + depth);

        PatchLists lists;
        find_patches(p, plan.filter, k, depth, lists);
        const float* written[4 * kPatches];
        const int64_t positions = last && p.statistics ? find_positions(p, k, written) : 0;
        for (int64_t c = part; c < stop; c += kPanel) {
          const int64_t width = panel_width(columns, c), first = from + c;
          sum_patches(plan, lists, k.tokens(), patches, packed + kFilterTaps * kFilterTaps * depth * c, depth, width,
                      sums);
          const PatchEnd end = {slice > 0, last && p.relu, last && p.bias ? p.bias + first : nullptr, first,
                                min64(width, columns - c)};
          with_kind(plan.kind, [&](auto f) { write_patches<decltype(f)::kind>(p, k, sums, end); });
          if (last && p.statistics)
            sum_near_chunk(p.statistics, task % count, written, positions, first, first + end.columns);
        }
        if (last && p.mask && rows_are_whole(p, outputs))
          pack_positive(p.out, all, p.out_channels, p.mask, whole.begin / 32, ceil_div(whole.end, 32), from + part,
                        from + stop);
      });
    }
  if (signs) finish_words(call, p, outputs, p.image.data, p.signs, p.depth);
  if (p.mask) finish_mask(call, p, outputs);
}

}  // namespace
}  // namespace auxgrad
