// Windowed products, forward and input gradient alike: every output position is a sum over taps and channels of a
// neighbourhood of the source image times packed weights.
//
// For each slice of channels: pack its weights for all outputs, then let tasks (a block of outputs x a part of the
// output channels) pack the stripe of the image they read and run register tiles over it. Nothing is unfolded: taps
// are offsets into the stripe.
#pragma once
#include "../statistics.h"
#include "bits.h"
#include "stripe.h"
#include "tile.h"

namespace auxgrad {
namespace {

constexpr int64_t kReduction = 576;      // taps x channels of one slice: partial sums in registers for that long
constexpr int64_t kPacked = 384 * 1024;  // floats of packed weights of a slice, unless one panel is more
constexpr int64_t kPart = 128;           // output channels of a task, at least: each packs its stripe anew
// Floats of packed rows of a tile that stay in the first cache, and of weights that tile after tile finds in the second.
constexpr int64_t kTileFloats = 4096, kNearFloats = 65536;
constexpr int64_t kTasks = 32;  // wanted, to keep many threads busy

// Of a product that reads unfolded windows (unfold.h): their rows, `row_step` apart, and columns; otherwise nothing.
struct Window {
  int64_t rows, row_step, columns;
};

struct Product {
  Image image;
  int64_t images;
  Axis vertical, horizontal;  // of one phase of the output
  // All phases of the input gradient of 3x3 taps at stride 2: outputs 2i and 2i + 1 of an axis read inputs from
  // i + tap_start on, the one the middle tap, the other the last and the first. Only for winograd.h.
  bool transposed;
  float* out;
  int64_t out_rows, out_columns, out_channels;
  bool fills;  // positions between the outputs of this phase, which begin with the first, become zeros
  int64_t groups, depth, width;  // channels read and written per group
  // Weights: element (tap, k, c) of group g at data[g * group + tap * tap_step + k * k_step + c * c_step].
  const float* weight;
  int64_t weight_group, tap_step, k_step, c_step, kernel_columns;
  const float* bias;
  bool relu;
  uint32_t* mask;         // bits of out > 0, or null; only for a single phase
  uint32_t* signs;        // bits of image > 0, or null
  Statistics statistics;  // of out, if they are wanted; only for a single phase. Their chunks are blocks
  Window window;
};

struct ProductPlan {
  Blocks blocks;
  int64_t slices;  // of the channels read
  int64_t wave;    // output channels whose weights are packed at a time
  int64_t packed;  // floats of packed weights, all groups
  int64_t part;    // output channels of a task
  int64_t stripe;  // floats of a stripe
};

inline int64_t taps_of(const Product& p) { return p.vertical.taps * p.horizontal.taps; }

// Floats from a column of a stripe to the next: side by side where taps make one run, else over all lines of a cache.
inline int64_t column_pitch(const Product& p, int64_t depth) {
  return taps_of(p) == 1 ? stripe_pitch_of(depth) : depth;
}

__attribute__((noinline)) inline ProductPlan plan_product(const Product& p) {
  ProductPlan plan;
  const int64_t taps = max64(1, taps_of(p));
  plan.blocks = cut_blocks(p.images, p.vertical, p.horizontal, p.depth, max64(16, kReduction / taps), kTokens, kStripe);
  Blocks& b = plan.blocks;
  if (taps == 1 && p.images == 1 && p.vertical.count == 1 && b.columns < p.horizontal.count) {
    // Of positions in a row, so that words of signs and of the mask belong to one block.
    b.columns = (b.columns + 31) / 32 * 32;
    b.column_blocks = ceil_div(p.horizontal.count, b.columns);
    b.stripe = b.columns * b.depth;
  }
  const int64_t reduction = taps * plan.blocks.depth;
  plan.slices = max64(1, ceil_div(p.depth, plan.blocks.depth));
  const int64_t panels = ceil_div(p.width, kPanel);
  const int64_t wave = max64(1, min64(panels, kPacked / (reduction * kPanel * p.groups)));
  plan.wave = even_size(panels, wave) * kPanel;
  plan.packed = p.groups * reduction * (p.width <= kLanes ? kLanes : plan.wave);
  const int64_t blocks = max64(1, plan.blocks.count() * p.groups);
  const int64_t wanted = max64(1, min64(ceil_div(kTasks, blocks), plan.wave / kPart));
  plan.part = even_size(plan.wave / kPanel, ceil_div(plan.wave / kPanel, wanted)) * kPanel;
  plan.stripe = (plan.blocks.stripe / plan.blocks.depth * column_pitch(p, plan.blocks.depth) + 16) / 16 * 16;
  return plan;
}

inline int64_t product_scratch(const Product& p, int threads) {
  const ProductPlan plan = plan_product(p);
  return (plan.packed + plan.stripe * threads) * 4;
}

// target[k][width] = source[k * k_step + c * c_step], zeros from column `columns` on; one of the steps is 1.
inline void pack_panel(float* target, const float* source, int64_t depth, int64_t k_step, int64_t columns,
                       int64_t c_step, int64_t width) {
  if (c_step == 1) {
    for (int64_t k = 0; k < depth; k++, target += width, source += k_step) {
      memcpy(target, source, static_cast<size_t>(columns) * 4);
      set_zero(target + columns, width - columns);
    }
    return;
  }
  for (int64_t k = 0; k < depth; k += kLanes) {
    const int64_t rows = min64(kLanes, depth - k);
    for (int64_t c = 0; c < width; c += kLanes) {
      const int64_t n = max64(0, min64(kLanes, columns - c));
      const float* from = source + k + c * c_step;
      int64_t step = c_step;
      float part[kLanes * kLanes];
      if (n < kLanes || rows < kLanes) {
        set_zero(part, kLanes * kLanes);
        for (int64_t i = 0; i < n; i++) memcpy(part + i * kLanes, from + i * c_step, static_cast<size_t>(rows) * 4);
        from = part;
        step = kLanes;
      }
      Vec block[kLanes];
      AUXGRAD_UNROLL
      for (int i = 0; i < kLanes; i++) block[i] = load(from + i * step);
      transpose(block);
      AUXGRAD_UNROLL
      for (int r = 0; r < kLanes; r++)
        if (r < rows) store(target + (k + r) * width + c, block[r]);
    }
  }
}

// Weights of channels [channel, channel + depth) and output channels [from, from + columns) of every group.
inline void pack_weights(const Call& call, const Product& p, float* target, int64_t channel, int64_t depth,
                         int64_t from, int64_t columns) {
  const int64_t taps = taps_of(p), reduction = taps * depth;
  const int64_t panels = ceil_div(columns, kPanel);
  const int64_t group_floats = reduction * (p.width <= kLanes ? kLanes : panels * kPanel);
  parallel_tasks(call, p.groups * panels, [&](int64_t task, int) {
    const int64_t g = task / panels, c = task % panels * kPanel, width = panel_width(columns, c);
    float* to = target + g * group_floats + c * reduction;
    const float* source = p.weight + g * p.weight_group + channel * p.k_step + (from + c) * p.c_step;
    for (int64_t i = 0; i < p.vertical.taps; i++)
      for (int64_t j = 0; j < p.horizontal.taps; j++, to += depth * width) {
        const int64_t tap = (p.vertical.kernel_start + i * p.vertical.kernel_step) * p.kernel_columns +
                            p.horizontal.kernel_start + j * p.horizontal.kernel_step;
        pack_panel(to, source + tap * p.tap_step, depth, p.k_step, min64(width, columns - c), p.c_step, width);
      }
  });
}

// Outputs [t0, t0 + tokens) of a block lie in a row only if it spans whole image rows, or there is but one: then the
// words of the mask inside of it are packed while it is in cache.
inline bool rows_are_whole(const Product& p, const Blocks& b) {
  return b.columns >= p.horizontal.count || (p.images == 1 && p.vertical.count == 1);
}

struct Span {
  int64_t begin, end;
};
// Those of tokens [begin, end) of `all` whose words hold no others.
inline Span whole_words(int64_t begin, int64_t end, int64_t all) {
  begin = ceil_div(begin, 32) * 32;
  return {begin, max64(begin, end == all ? end : end / 32 * 32)};
}
// Tokens of the block that holds token t.
inline Span block_tokens(const Product& p, const Blocks& b, int64_t t) {
  const int64_t image = p.vertical.count * p.horizontal.count, n = t / image;
  if (b.columns < p.horizontal.count)
    return {t / b.columns * b.columns, min64(image, t / b.columns * b.columns + b.columns)};
  if (b.rows >= p.vertical.count) {
    const int64_t n0 = n / b.images * b.images;
    return {n0 * image, min64(p.images, n0 + b.images) * image};
  }
  const int64_t i0 = (t % image) / p.horizontal.count / b.rows * b.rows;
  return {n * image + i0 * p.horizontal.count, n * image + min64(p.vertical.count, i0 + b.rows) * p.horizontal.count};
}

// All bits of image > 0.
inline void pack_image(const Call& call, const Product& p) {
  const int64_t tokens = p.images * p.image.rows * p.image.columns, channels = p.image.channels;
  parallel_ranges(call, ceil_div(tokens, 32), max64(1, 4096 / max64(1, channels)), [&](int64_t begin, int64_t end) {
    pack_positive(p.image.data, tokens, channels, p.signs, begin, end, 0, channels);
  });
}

// Packs V vectors of channels of some rows, at most 32, with the auxiliary, and the bits of x > 0: the first at `first_bit`
// of `out`. Rows come in order, the first of all at bit 0.
template <int V>
inline void pack_signed_words(float* target, int64_t pitch, const float* rows, int64_t n, const Image& image,
                              uint32_t* out, int first_bit) {
  const Vec positive = broadcast(image.positive), negative = broadcast(image.negative);
  BitWords words[V] = {}, bit = BitWords{} + 1;
  for (int64_t t = 0; t < n; t++, rows += image.channels, target += pitch, bit += bit) {
    AUXGRAD_UNROLL
    for (int v = 0; v < V; v++) {
      const Vec x = load(rows + v * kLanes);
      words[v] = mark_positive(words[v], x, bit);
      store(target + v * kLanes, add_signs(x, positive, negative));
    }
  }
  AUXGRAD_UNROLL
  for (int v = 0; v < V; v++, out += kLanes) {
    put_words(out, words[v] << first_bit, first_bit > 0, WholeLanes());
    if (first_bit + n > 32) put_words(out + image.channels, words[v] >> (32 - first_bit), false, WholeLanes());
  }
}
// Packs whole vectors of channels of some rows, as pack_block() does of a single tap, and their bits.
__attribute__((noinline)) inline void pack_signed(float* target, int64_t pitch, const Image& image, Span tokens,
                                                  int64_t channel, int64_t depth, uint32_t* words) {
  for (int64_t t = tokens.begin, next; t < tokens.end; target += (next - t) * pitch, t = next) {
    next = min64(tokens.end, t + 32);
    const float* rows = image.data + t * image.channels + channel;
    const int bit = static_cast<int>(t % 32);
    uint32_t* out = words + t / 32 * image.channels + channel;
    constexpr int kTogether = 4;  // vectors
    int64_t c = 0;
    for (; c + kTogether * kLanes <= depth; c += kTogether * kLanes)
      pack_signed_words<kTogether>(target + c, pitch, rows + c, next - t, image, out + c, bit);
    for (; c < depth; c += kLanes) pack_signed_words<1>(target + c, pitch, rows + c, next - t, image, out + c, bit);
  }
}

// Bits of x > 0, in the shape of the output, in words that no block holds alone.
inline void finish_words(const Call& call, const Product& p, const Blocks& b, const float* x, uint32_t* words,
                         int64_t channels) {
  const int64_t tokens = p.images * p.out_rows * p.out_columns;
  parallel_ranges(call, ceil_div(tokens, 32), max64(1, 4096 / max64(1, channels)), [&](int64_t begin, int64_t end) {
    for (int64_t w = begin; w < end; w++)
      if (!rows_are_whole(p, b) || block_tokens(p, b, w * 32).end < min64(tokens, w * 32 + 32))
        pack_positive(x, tokens, channels, words, w, w + 1, 0, channels);
  });
}
inline void finish_mask(const Call& call, const Product& p, const Blocks& b) {
  finish_words(call, p, b, p.out, p.mask, p.out_channels);
}

// Whether the signs of a block's inputs can be packed with it: outputs lie over inputs, one by one, in whole rows.
inline bool signs_by_blocks(const Product& p, const Blocks& b) {
  return p.image.rows == p.vertical.count && p.image.columns == p.horizontal.count && p.vertical.in_step == 1 &&
         p.horizontal.in_step == 1 && rows_are_whole(p, b);
}

// Addresses of the tokens of a block, in its stripe and in the output.
struct Addresses {
  int64_t source[kTokens];
  int64_t out[kTokens];
};

inline void find_addresses(const Product& p, const Block& k, const Pitch& pitch, Addresses& a) {
  int64_t t = 0;
  for (int64_t n = 0; n < k.images; n++)
    for (int64_t i = 0; i < k.rows; i++) {
      const int64_t row = p.vertical.out_start + (k.i0 + i) * p.vertical.out_step;
      const int64_t line = ((k.n0 + n) * p.out_rows + row) * p.out_columns;
      for (int64_t j = 0; j < k.columns; j++, t++) {
        a.source[t] = n * pitch.image + i * pitch.row + j * pitch.column;
        const int64_t column = p.horizontal.out_start + (k.j0 + j) * p.horizontal.out_step;
        a.out[t] = (line + column) * p.out_channels;
      }
    }
}

// A single tap that is never in the padding, of the image as it is: rows are read where they lie, unless that is a
// multiple of 4 KiB apart. Such rows share a few lines of a first-level cache, fewer than a tile has rows.
inline bool reads_in_place(const Product& p) {
  if (p.horizontal.in_step * p.image.channels % 1024 == 0) return false;
  const auto inside = [](const Axis& a, int64_t size) {
    return a.taps == 1 && a.tap_start >= 0 && a.tap_start + (a.count - 1) * a.in_step < size;
  };
  return p.image.positive == 0 && p.image.negative == 0 && inside(p.vertical, p.image.rows) &&
         inside(p.horizontal, p.image.columns);
}

// Taps side by side in the stripe make one run. Of inner runs tiles step from one to the next, of outer ones they find
// the start of each row anew.
inline Runs tap_runs(const Product& p, const Block& k, int64_t depth) {
  const Axis &v = p.vertical, &h = p.horizontal;
  const int64_t line = k.stripe_columns * depth;
  if (h.taps <= 1 || h.tap_step == 1) return {1, 0, v.taps, v.tap_step * line, h.taps * depth};
  return {v.taps, v.tap_step * line, h.taps, h.tap_step * depth, depth};
}

// Positions of an input gradient that no output reads.
inline void zero_outputs(const Call& call, const Product& p) {
  const Axis &v = p.vertical, &h = p.horizontal;
  const int64_t row = max64(1, h.count * p.out_channels);
  parallel_ranges(call, p.images * v.count, max64(1, 65536 / row), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t line = i / v.count * p.out_rows + v.out_start + i % v.count * v.out_step;
      float* out = p.out + (line * p.out_columns + h.out_start) * p.out_channels;
      if (h.out_step == 1) set_zero(out, h.count * p.out_channels);
      else
        for (int64_t j = 0; j < h.count; j++, out += h.out_step * p.out_channels) set_zero(out, p.out_channels);
    }
  });
}

// Zeros between the outputs of a block, in `n` channels.
inline void fill_between(const Product& p, const Block& k, int64_t channel, int64_t n) {
  const Axis &v = p.vertical, &h = p.horizontal;
  const int64_t from = k.j0 * h.out_step, to = min64(p.out_columns, (k.j0 + k.columns) * h.out_step);
  for (int64_t i = k.n0; i < k.n0 + k.images; i++)
    for (int64_t r = k.i0 * v.out_step; r < min64(p.out_rows, (k.i0 + k.rows) * v.out_step); r++) {
      float* row = p.out + (i * p.out_rows + r) * p.out_columns * p.out_channels + channel;
      const bool outputs = r % v.out_step == 0;
      if (!outputs && n == p.out_channels) set_zero(row + from * n, (to - from) * n);
      else
        for (int64_t c = from; c < to; c++)
          if (!outputs || c % h.out_step != 0) set_zero(row + c * p.out_channels, n);
    }
}

// What store_moments() will write is brought near: cold lines would hold up the outputs' stores.
inline void fetch_moments(const Statistics& s, int64_t chunk, int64_t channel) {
  const double *sum = s.sums + chunk * 2 * s.channels + channel, *squares = sum + s.channels;
  for (int64_t i = 0; !kFallback && i < kPanel; i += 8) {
    __builtin_prefetch(sum + i, 1);
    __builtin_prefetch(squares + i, 1);
    __builtin_prefetch(s.shift + chunk * s.channels + channel + i, 1);
  }
}
// The mean must keep more digits than the variance: its sums of kFloatTiles tiles are added in float, the rest in double.
constexpr int64_t kFloatTiles = 4;
__attribute__((noinline)) inline void store_moments(const Statistics& s, int64_t chunk, int64_t channel,
                                                    int64_t columns, const Moments& m, int64_t tiles) {
  double *sum = s.sums + chunk * 2 * s.channels + channel, *squares = sum + s.channels;
  for (int64_t c = 0; c < columns; c += kLanes) {
    double total[kLanes] = {};
    float out[kLanes];
    Vec b = {};
    for (int64_t i = 0; i < tiles;) {
      Vec a = {};
      for (const int64_t stop = min64(tiles, i + kFloatTiles); i < stop; i++) {
        a += load(m.sums[i][0] + c);
        b += load(m.sums[i][1] + c);
      }
      store(out, a);
      for (int l = 0; l < kLanes; l++) total[l] += static_cast<double>(out[l]);
    }
    store(out, b);
    const int64_t n = min64(kLanes, columns - c);
    memcpy(sum + c, total, static_cast<size_t>(n) * sizeof(double));
    for (int64_t l = 0; l < n; l++) squares[c + l] = static_cast<double>(out[l]);
  }
  memcpy(s.shift + chunk * s.channels + channel, m.shift, static_cast<size_t>(columns) * sizeof(float));
}

inline void run_product(const Call& call, const Product& p) {
  const ProductPlan plan = plan_product(p);
  const Blocks& b = plan.blocks;
  const bool empty = p.images * p.vertical.count * p.horizontal.count * p.width * p.groups == 0;
  const bool signs = p.signs && !empty && signs_by_blocks(p, b);
  if (p.signs && !signs) pack_image(call, p);
  if (empty) return;
  float* packed = static_cast<float*>(call.scratch);
  float* stripes = packed + plan.packed;
  const bool in_place = reads_in_place(p);
  const int64_t all = p.images * p.out_rows * p.out_columns;

  for (int64_t from = 0; from < p.width; from += plan.wave)
    for (int64_t slice = 0; slice < plan.slices; slice++) {
      const int64_t channel = slice * b.depth, depth = min64(b.depth, p.depth - channel);
      const int64_t columns = min64(plan.wave, p.width - from), reduction = taps_of(p) * depth;
      const int64_t group_floats = reduction * (p.width <= kLanes ? kLanes : ceil_div(columns, kPanel) * kPanel);
      const bool last = slice == plan.slices - 1;
      pack_weights(call, p, packed, channel, depth, from, columns);

      const int64_t parts = ceil_div(columns, plan.part), count = b.count();
      parallel_tasks(call, p.groups * parts * count, [&](int64_t task, int thread) {
        const Block k = block_at(b, p.images, p.vertical, p.horizontal, task % count);
        const int64_t g = task / count / parts, part = task / count % parts * plan.part;
        const bool own_signs = signs && from == 0 && part == 0;
        bool signs_packed = false, by_tiles = false;
        const float* source;
        Addresses at;
        if (in_place) {
          const int64_t line = p.image.columns * p.image.channels;
          const Pitch pitch = {p.image.rows * line, p.vertical.in_step * line, p.horizontal.in_step * p.image.channels};
          find_addresses(p, k, pitch, at);
          source = p.image.data + k.n0 * pitch.image + k.i0 * pitch.row + k.j0 * pitch.column +
                   p.vertical.tap_start * line + p.horizontal.tap_start * p.image.channels + g * p.depth + channel;
        } else {
          float* stripe = stripes + thread * plan.stripe;
          const int64_t pitch = column_pitch(p, depth);
          find_addresses(p, k, stripe_pitch(k, p.vertical, p.horizontal, pitch), at);
          const int64_t begin = at.out[0] / p.out_channels;
          const Span tokens = whole_words(begin, begin + k.tokens(), all);
          signs_packed = !kFallback && own_signs && taps_of(p) == 1 && p.vertical.tap_start == 0 &&
                         p.horizontal.tap_start == 0 && depth % kLanes == 0 && tokens.begin == begin &&
                         tokens.end == begin + k.tokens();
          // Tile by tile, so that what is packed does not leave the first cache.
          by_tiles = signs_packed && !p.statistics && depth * kTileRows <= kTileFloats &&
                     depth * min64(plan.part, columns - part) <= kNearFloats;
          const int64_t c = g * p.depth + channel;
          if (signs_packed && !by_tiles) pack_signed(stripe, pitch, p.image, tokens, c, depth, p.signs);
          else if (!signs_packed && reduction > 0)
            pack_block(stripe, p.image, k, p.vertical, p.horizontal, c, depth, pitch);
          source = stripe;
        }
        const int64_t tokens = k.tokens(), first = at.out[0] / p.out_channels, own = g * p.width + from;
        const Span whole = rows_are_whole(p, b) ? whole_words(first, first + tokens, all) : Span{0, 0};
        if (own_signs && !signs_packed)
          pack_positive(p.image.data, all, p.image.channels, p.signs, whole.begin / 32, ceil_div(whole.end, 32),
                        g * p.depth + channel, g * p.depth + channel + depth);

        Tile t;
        t.left = source;
        t.runs = tap_runs(p, k, depth);
        t.accumulate = slice > 0;
        t.relu = last && p.relu;
        const int64_t tiles = ceil_div(tokens, kTileRows), end = min64(columns, part + plan.part);
        // What this thread's next block most likely reads, if blocks lie in a row.
        const bool in_row =
            p.vertical.count == 1 && p.images == 1 && p.image.channels == depth && signs_by_blocks(p, b);
        const int64_t calls = tiles * ceil_div(end - part, kPanel);
        // Or what is written between the outputs.
        const int64_t cells =
            !kFallback && p.fills ? tokens * p.vertical.out_step * p.horizontal.out_step * p.out_channels : 0;
        const int64_t ahead_step = ceil_div(in_row ? tokens * depth : cells, calls);
        t.ahead = in_row    ? p.image.data + (k.j0 + call.pool->threads() * tokens) * depth
                  : p.fills ? p.out + at.out[0]
                            : packed;
        Moments moments;
        t.words = p.out_channels;
        if (last && p.statistics) t.moments = &moments;
        const auto take_panel = [&](int64_t c) {
          t.panel = packed + g * group_floats + c * reduction;
          t.columns = min64(kPanel, columns - c);
          t.out = p.out + own + c;
          t.bias = last && p.bias ? p.bias + own + c : nullptr;
        };
        const auto run_at = [&](int64_t tile, int64_t c, const int64_t* left_row) {
          const int64_t t0 = even_start(tokens, tiles, tile), rows = even_start(tokens, tiles, tile + 1) - t0;
          t.left_row = left_row;
          t.out_row = at.out + t0;
          if (last && p.mask) {
            const int64_t token = first + t0;
            const int64_t from_row = max64(0, whole.begin - token), to_row = min64(rows, whole.end - token);
            t.mask = p.mask + token / 32 * p.out_channels + own + c;
            t.first_bit = static_cast<int>(token % 32);
            t.marked = from_row < to_row ? (1u << to_row) - (1u << from_row) : 0;
          }
          run_tile<false>(t, static_cast<int>(rows));
          t.ahead += ahead_step;
        };
        for (int64_t i = 0; by_tiles && i < tiles; i++) {
          const Span rows = {first + even_start(tokens, tiles, i), first + even_start(tokens, tiles, i + 1)};
          pack_signed(stripes + thread * plan.stripe, column_pitch(p, depth), p.image, rows, g * p.depth + channel,
                      depth, p.signs);
          for (int64_t c = part; c < end; c += kPanel) {
            take_panel(c);
            for (int64_t v = 0; !kFallback && last && p.mask && v < kPanel; v += 16)  // the words to come
              __builtin_prefetch(p.mask + (rows.begin / 32 + 1) * p.out_channels + own + c + v, 1);
            run_at(i, c, at.source);
          }
        }
        for (int64_t c = part; !by_tiles && c < end; c += kPanel) {
          take_panel(c);
          if (t.moments) fetch_moments(p.statistics, task % count, own + c);
          // Words of the mask of the next columns are brought near.
          for (int64_t w = whole.begin / 32; !kFallback && last && p.mask && w < ceil_div(whole.end, 32); w++) {
            const uint32_t* words = p.mask + w * p.out_channels + own + c + kPanel;
            for (int64_t i = 0; i < kPanel; i += 16) __builtin_prefetch(words + i, 1);
          }
          for (int64_t i = 0; i < tiles; i++) {
            moments.tile = i;
            run_at(i, c, at.source + even_start(tokens, tiles, i));
          }
          if (t.moments) store_moments(p.statistics, task % count, own + c, t.columns, moments, tiles);
        }
        if (!kFallback && last && p.fills) fill_between(p, k, own + part, end - part);
        if (t.moments && own + part == 0) p.statistics.rows[task % count] = static_cast<double>(tokens);
      });
    }
  if (signs) finish_words(call, p, b, p.image.data, p.signs, p.image.channels);
  if (p.mask) finish_mask(call, p, b);
}

}  // namespace
}  // namespace auxgrad
