// Weight gradient: dw[o][tap][c] = sum over output positions of dy[.][o] * x[position under tap][c].
//
// A task owns a part of dw (some output channels x some input channels, all taps) and a chunk of the positions. It
// walks the blocks of its chunk: packs the stripe of x and the rows of dy, and adds their product, transposed, to its
// partial sums. Where dw is small, several chunks of positions give several partial sums, added in a fixed order.
#pragma once
#include "stripe.h"
#include "tile.h"

namespace auxgrad {
namespace {

constexpr int64_t kGradTokens = 192;           // positions of a block
constexpr int64_t kGradWidth = 64;             // output channels of a part, at least
constexpr int64_t kGradReach = 576;            // taps x input channels of a part, about
constexpr int64_t kGradDepth = 256;            // input channels of a part, at most
constexpr int64_t kGradPart = 128 * 1024;      // floats of a part, about
constexpr int64_t kGradStripe = 64 * 1024;     // floats of a stripe
constexpr int64_t kGradTasks = 16;             // chunks, at most
constexpr int64_t kGradWanted = 8;             // tasks
constexpr int64_t kGradPartials = 320 * 1024;  // floats of all partial sums, if there are several chunks

struct WeightGradient {
  Image image;
  int64_t images;
  Axis vertical, horizontal;
  const float* dy;
  int64_t out_rows, out_columns, out_channels;
  int64_t groups, depth, width;
  float* dw;
};

struct WeightGradientPlan {
  Blocks blocks;
  int64_t slices;     // of the input channels
  bool in_place;      // x is read where it lies,
  bool dy_in_place;   // and so is dy
  bool tiled;         // x is packed for one tile after another
  int64_t pitch;      // of the columns of a stripe
  int64_t part;       // output channels of a task
  int64_t parts;      // in a group
  int64_t chunks;     // of the blocks
  int64_t sum;        // floats of the partial sums of one part
  int64_t stripe;     // floats of a stripe
  int64_t panels;     // floats of the rows of dy of a block
  int64_t workspace;  // floats of one thread
};

// A single tap that is never in the padding: a tile reads a line of each position, wherever they lie. Where it reads less
// of them, they would have to stay in the first-level cache for the next tile: there it has them side by side.
inline bool is_inside(const WeightGradient& p) {
  const auto inside = [](const Axis& a, int64_t size) {
    return a.taps == 1 && a.tap_start >= 0 && a.tap_start + (a.count - 1) * a.in_step < size;
  };
  return inside(p.vertical, p.image.rows) && inside(p.horizontal, p.image.columns);
}

// An output of a block, and the next one.
struct Position {
  int64_t n, i, j;
  explicit Position(const Block& k) : n(k.n0), i(k.i0), j(k.j0) {}
  void step(const Block& k) {
    if (++j < k.j0 + k.columns) return;
    j = k.j0;
    if (++i < k.i0 + k.rows) return;
    i = k.i0;
    n++;
  }
};
// What lies under it of x, of a single tap, and of dy.
inline const float* input_at(const WeightGradient& p, const Position& at) {
  const Axis &v = p.vertical, &h = p.horizontal;
  return p.image.data +
         ((at.n * p.image.rows + at.i * v.in_step + v.tap_start) * p.image.columns + at.j * h.in_step + h.tap_start) *
             p.image.channels;
}
inline const float* gradient_at(const WeightGradient& p, const Position& at) {
  return p.dy + ((at.n * p.out_rows + at.i) * p.out_columns + at.j) * p.out_channels;
}

// Rows of x of a block of a single tap, a tile's channels side by side: [tile][token][kTileRows, as whole vectors].
constexpr bool kTiles = !kWholeLines && !kFallback;
constexpr int64_t kTileStep = (kTileRows + kLanes - 1) / kLanes * kLanes;
inline int64_t tile_floats(int64_t tokens) { return tokens * kTileStep + 16; }  // spread over the sets of a cache
inline void pack_tiles(float* target, const WeightGradient& p, const Block& k, int64_t channel, int64_t depth) {
  const int64_t tokens = k.tokens(), tile = tile_floats(tokens);
  Position at(k);
  for (int64_t t = 0; t < tokens; t++, at.step(k), target += kTileStep) {
    const float* row = input_at(p, at) + channel;
    float* to = target;
    int64_t m = 0;
    for (; m + kTileStep <= depth; m += kTileRows, to += tile)
      for (int64_t v = 0; v < kTileStep; v += kLanes) store(to + v, load(row + m + v));
    for (; m < depth; m += kTileRows, to += tile)
      for (int64_t v = 0; v < min64(kTileStep, depth - m); v += kLanes)
        store(to + v, load_first(row + m + v, depth - m - v));
  }
}

inline WeightGradientPlan plan_weight_gradient(const WeightGradient& p) {
  WeightGradientPlan plan;
  const int64_t taps = p.vertical.taps * p.horizontal.taps;
  const int64_t depth = max64(64, min64(kGradDepth, kGradReach / max64(1, taps)));
  plan.blocks = cut_blocks(p.images, p.vertical, p.horizontal, p.depth, depth, kGradTokens, kGradStripe);
  plan.slices = ceil_div(p.depth, plan.blocks.depth);
  plan.in_place = kWholeLines && is_inside(p);
  plan.tiled = kTiles && is_inside(p);
  // Positions of a block in a row, and whole vectors.
  plan.dy_in_place = plan.in_place && p.width % kLanes == 0 &&
                     (plan.blocks.columns >= p.horizontal.count || (p.images == 1 && p.vertical.count == 1));
  plan.pitch = stripe_pitch_of(plan.blocks.depth);
  const int64_t reach = taps * plan.blocks.depth, panels = ceil_div(p.width, kPanel);
  const int64_t partials = max64(1, kGradPartials / max64(1, p.groups * p.width * taps * p.depth));
  int64_t part = min64(max64(1, panels), max64(kGradWidth, kGradPart / max64(1, reach)) / kPanel);
  // Narrower parts rather than too few tasks, but not so narrow that packing x again costs more than it saves.
  const auto tasks = [&](int64_t size) { return p.groups * plan.slices * ceil_div(panels, size); };
  while (part > kGradWidth / kPanel && tasks(part) * min64(partials, kGradTasks) < kGradWanted)
    part = max64(kGradWidth / kPanel, part / 2);
  plan.part = even_size(panels, part) * kPanel;
  plan.parts = ceil_div(p.width, plan.part);
  plan.sum = reach * min64(plan.part, p.width <= kLanes ? kLanes : plan.part);
  const int64_t parts = max64(1, p.groups * plan.slices * plan.parts);
  plan.chunks = max64(
      1, min64(min64(ceil_div(kGradTasks, parts), kGradPartials / max64(1, parts * plan.sum)), plan.blocks.count()));
  const int64_t tokens = plan.blocks.images * plan.blocks.rows * plan.blocks.columns;
  plan.stripe = plan.in_place ? 0
                : plan.tiled  ? ceil_div(plan.blocks.depth, kTileRows) * tile_floats(tokens)
                              : (plan.blocks.stripe / max64(1, plan.blocks.depth) * plan.pitch + 16) / 16 * 16;
  plan.panels = plan.dy_in_place ? 0 : tokens * plan.part;
  plan.workspace = plan.stripe + plan.panels + (plan.chunks == 1 ? plan.sum : 0);
  return plan;
}

inline int64_t weight_gradient_scratch(const WeightGradient& p, int threads) {
  const WeightGradientPlan plan = plan_weight_gradient(p);
  const int64_t tasks = p.groups * plan.slices * plan.parts;
  return (plan.workspace * threads + (plan.chunks > 1 ? plan.chunks * tasks * plan.sum : 0)) * 4;
}

// Rows of dy of a block as panels of columns, [panel][token][width].
inline void pack_gradient(float* target, const WeightGradient& p, const Block& k, int64_t channel, int64_t columns) {
  for (int64_t c = 0; c < columns; c += kPanel) {
    const int64_t width = panel_width(columns, c), n = min64(width, columns - c);
    for (int64_t image = 0; image < k.images; image++)
      for (int64_t i = 0; i < k.rows; i++) {
        const float* row =
            p.dy + (((k.n0 + image) * p.out_rows + k.i0 + i) * p.out_columns + k.j0) * p.out_channels + channel + c;
        for (int64_t j = 0; j < k.columns; j++, row += p.out_channels, target += width) {
          int64_t v = 0;
          for (; v + kLanes <= n; v += kLanes) store(target + v, load(row + v));
          if (v < width) store(target + v, load_part(row + v, n - v));
        }
      }
  }
}

// What a block packs is brought near while the block before it is worked on, some lines with each tile.
struct NextBlock {
  const WeightGradient& p;
  Block k;
  int64_t channel, depth, out_channel, columns;
  int64_t tokens;           // none: there is no such block
  int64_t tiles, tile = 0;  // all, and those that had their share
  Position at{k};

  void share(Tile& t, int64_t steps) {
    t.ahead_step = t.x_ahead_step = 0;
    if (tokens == 0) return;
    // Rows that follow one another are taken evenly; of others, one.
    const bool in_row = (p.images == 1 && p.vertical.count == 1) || k.columns >= p.horizontal.count;
    const auto piece = [&](const float*& ahead, int64_t& step, const float* first, const float* row, bool whole,
                           int64_t floats) {
      step = ceil_div(whole ? ceil_div(4 * tokens * floats, tiles) : tile < tokens ? 4 * floats : 0, steps);
      ahead = whole ? first + tile * step * steps / 4 : row;
    };
    const Position first(k);
    if (p.vertical.taps * p.horizontal.taps == 1)
      piece(t.x_ahead, t.x_ahead_step, input_at(p, first), input_at(p, at) + channel,
            in_row && depth == p.image.channels && p.horizontal.in_step == 1 && p.vertical.in_step == 1, depth);
    piece(t.ahead, t.ahead_step, gradient_at(p, first), gradient_at(p, at) + out_channel,
          in_row && columns == p.out_channels, columns);
    tile++;
    at.step(k);
  }
};

// Adds the product of one block to the sums of a part, [panel][tap][channel][width]; the first block overwrites them.
inline void add_block(const WeightGradient& p, const WeightGradientPlan& plan, const Block& k, const float* x,
                      const Pitch& pitch, const float* dy, int64_t depth, int64_t columns, float* sum, bool first,
                      NextBlock& next) {
  const Axis &v = p.vertical, &h = p.horizontal;
  // Taps side by side in the stripe make one run of rows.
  const bool merged = h.taps <= 1 || (h.tap_step == 1 && plan.pitch == depth);
  const int64_t runs = merged ? 1 : h.taps, length = (merged ? h.taps : 1) * depth;
  const int64_t tiles = ceil_div(length, kTileRows), tokens = k.tokens();
  next.tiles = tiles * runs * v.taps * ceil_div(columns, kPanel);
  Tile t;
  t.runs = {k.images, pitch.image, k.rows, pitch.row, k.columns};
  t.step = pitch.column;
  if (kTiles && plan.tiled) {
    t.runs = {1, 0, 1, 0, tokens};
    t.step = kTileStep;
  }
  t.accumulate = !first;
  t.bias = nullptr;
  t.relu = false;
  t.panel = dy;
  for (int64_t c = 0; c < columns; c += kPanel) {
    const int64_t width = panel_width(columns, c);
    t.columns = width;
    t.panel_step = plan.dy_in_place ? p.out_channels : width;
    for (int64_t i = 0; i < v.taps; i++)
      for (int64_t j = 0; j < runs; j++) {
        const float* left = x + (i * v.tap_step * k.stripe_columns + j * h.tap_step) * plan.pitch;
        for (int64_t tile = 0; tile < tiles; tile++) {
          int64_t m0 = even_start(length, tiles, tile), m1 = even_start(length, tiles, tile + 1);
          t.left = left + m0;
          if (kTiles && plan.tiled) {
            m0 = tile * kTileRows;
            m1 = min64(m0 + kTileRows, length);
            t.left = x + tile * tile_floats(tokens);
          }
          t.out = sum + m0 * width;
          next.share(t, tokens);
          run_tile<true>(t, static_cast<int>(m1 - m0));
        }
        sum += length * width;
      }
    t.panel += plan.dy_in_place ? width : tokens * width;
  }
}

// dw of a part = its partial sums, added in the order of the chunks and transposed.
inline void write_part(const WeightGradient& p, float* const* sums, int64_t chunks, int64_t out_channel,
                       int64_t columns, int64_t channel, int64_t depth) {
  const int64_t taps = p.vertical.taps * p.horizontal.taps;
  int64_t offset = 0;
  for (int64_t c = 0; c < columns; c += kPanel) {
    const int64_t width = panel_width(columns, c), n = min64(width, columns - c);
    for (int64_t tap = 0; tap < taps; tap++)
      for (int64_t d = 0; d < depth; d += kLanes)
        for (int64_t v = 0; v < n; v += kLanes) {
          const int64_t rows = min64(kLanes, depth - d), outs = min64(kLanes, n - v);
          Vec block[kLanes];
          for (int64_t r = 0; r < kLanes; r++) {
            const int64_t at = offset + (tap * depth + d + min64(r, rows - 1)) * width + v;
            block[r] = load(sums[0] + at);
            for (int64_t s = 1; s < chunks; s++) block[r] += load(sums[s] + at);
          }
          transpose(block);
          for (int64_t o = 0; o < outs; o++) {
            float* to = p.dw + ((out_channel + c + v + o) * taps + tap) * p.depth + channel + d;
            if (rows == kLanes) store(to, block[o]);
            else store_part(to, block[o], rows);
          }
        }
    offset += taps * depth * width;
  }
}

inline void run_weight_gradient(const Call& call, const WeightGradient& p) {
  const int64_t taps = p.vertical.taps * p.horizontal.taps;
  const int64_t total = p.groups * p.width * taps * p.depth;
  if (total == 0) return;
  if (p.images * p.vertical.count * p.horizontal.count == 0) return set_zero(p.dw, total);
  const WeightGradientPlan plan = plan_weight_gradient(p);
  const Blocks& b = plan.blocks;
  float* workspace = static_cast<float*>(call.scratch);
  float* partial = workspace + plan.workspace * call.pool->threads();
  const int64_t tasks = p.groups * plan.slices * plan.parts;

  struct Part {
    int64_t group, from, columns, channel, depth;
  };
  const auto part_at = [&](int64_t task) {
    Part a;
    a.channel = task % plan.slices * b.depth;
    a.from = task / plan.slices % plan.parts * plan.part;
    a.group = task / plan.slices / plan.parts;
    a.columns = min64(plan.part, p.width - a.from);
    a.depth = min64(b.depth, p.depth - a.channel);
    return a;
  };
  parallel_tasks(call, tasks * plan.chunks, [&](int64_t task, int thread) {
    const int64_t chunk = task / tasks;
    const Part a = part_at(task % tasks);
    float* stripe = workspace + thread * plan.workspace;
    float* panels = stripe + plan.stripe;
    float* sum = plan.chunks == 1 ? panels + plan.panels : partial + task * plan.sum;
    const int64_t begin = even_start(b.count(), plan.chunks, chunk),
                  end = even_start(b.count(), plan.chunks, chunk + 1);
    for (int64_t i = begin; i < end; i++) {
      const Block k = block_at(b, p.images, p.vertical, p.horizontal, i);
      const int64_t channel = a.group * p.depth + a.channel, out_channel = a.group * p.width + a.from;
      const float *left = stripe, *right = panels;
      Pitch pitch = stripe_pitch(k, p.vertical, p.horizontal, plan.pitch);
      if (plan.in_place) {
        const int64_t line = p.image.columns * p.image.channels;
        pitch = {p.image.rows * line, p.vertical.in_step * line, p.horizontal.in_step * p.image.channels};
        left = p.image.data + k.n0 * pitch.image + k.i0 * pitch.row + k.j0 * pitch.column +
               p.vertical.tap_start * line + p.horizontal.tap_start * p.image.channels + channel;
      } else if (kTiles && plan.tiled) {
        pack_tiles(stripe, p, k, channel, a.depth);
      } else {
        pack_block(stripe, p.image, k, p.vertical, p.horizontal, channel, a.depth, plan.pitch);
      }
      if (plan.dy_in_place)
        right = p.dy + ((k.n0 * p.out_rows + k.i0) * p.out_columns + k.j0) * p.out_channels + out_channel;
      else pack_gradient(panels, p, k, out_channel, a.columns);
      const bool more = i + 1 < end && !plan.in_place;
      const Block after = block_at(b, p.images, p.vertical, p.horizontal, i + more);
      NextBlock next = {p, after, channel, a.depth, out_channel, a.columns, more ? after.tokens() : 0, 0};
      add_block(p, plan, k, left, pitch, right, a.depth, a.columns, sum, i == begin, next);
    }
    if (plan.chunks == 1) write_part(p, &sum, 1, a.group * p.width + a.from, a.columns, a.channel, a.depth);
  });
  if (plan.chunks == 1) return;
  parallel_tasks(call, tasks, [&](int64_t task, int) {
    const Part a = part_at(task);
    float* sums[kGradTasks];
    for (int64_t s = 0; s < plan.chunks; s++) sums[s] = partial + (s * tasks + task) * plan.sum;
    write_part(p, sums, plan.chunks, a.group * p.width + a.from, a.columns, a.channel, a.depth);
  });
}

}  // namespace
}  // namespace auxgrad
