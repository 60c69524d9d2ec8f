// Geometry of windowed products, and the packed stripe of an image that a block of outputs reads.
#pragma once
#include "../vector.h"

namespace auxgrad {
namespace {

constexpr int64_t kStripe = 32768;  // floats of a stripe: half of a small second-level cache

// One axis of a product: output i (at position out_start + i * out_step) reads the inputs i * in_step + tap_start +
// j * tap_step for j in [0, taps); tap j is kernel position kernel_start + j * kernel_step.
struct Axis {
  int64_t out_start, out_step, count, in_step;
  int64_t taps, tap_start, tap_step, kernel_start, kernel_step;
};

inline Axis forward_axis(int64_t outputs, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
  return {0, 1, outputs, stride, kernel, -pad, dilation, 0, 1};
}

// Input positions phase, phase + stride, ... of the input gradient: those share the kernel positions k with
// (phase + pad - k * dilation) divisible by stride, which makes it a product of stride 1. Taps in ascending order.
inline Axis gradient_axis(int64_t inputs, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation,
                          int64_t phase) {
  Axis a = {phase, stride, phase < inputs ? ceil_div(inputs - phase, stride) : 0, 1, 0, 0, 1, 0, 1};
  int64_t first = -1, second = -1;
  for (int64_t k = kernel - 1; k >= 0; k--) {
    if ((phase + pad - k * dilation) % stride != 0) continue;
    if (a.taps == 0) first = k;
    if (a.taps == 1) second = k;
    a.taps++;
  }
  if (a.taps == 0) return a;
  a.tap_start = (phase + pad - first * dilation) / stride;
  a.kernel_start = first;
  if (a.taps > 1) {
    a.kernel_step = second - first;
    a.tap_step = -a.kernel_step * dilation / stride;
  }
  return a;
}

// Rows (or columns) a stripe needs for n outputs. A single tap needs no halo: only the rows read are packed.
inline int64_t stripe_extent(const Axis& a, int64_t n) {
  return a.taps <= 1 ? n : (n - 1) * a.in_step + (a.taps - 1) * a.tap_step + 1;
}
inline int64_t stripe_step(const Axis& a) { return a.taps <= 1 ? 1 : a.in_step; }

// What is read: an image, or with `positive` and `negative` not both zero the image plus an auxiliary,
// x + (x > 0 ? positive : negative).
struct Image {
  const float* data;
  int64_t rows, columns, channels;
  float positive = 0, negative = 0;
};

inline void pack_floats(float* target, const float* source, int64_t n, const Image& image) {
  int64_t i = 0;
  if (image.positive == 0 && image.negative == 0) {
    for (; i + kLanes <= n; i += kLanes) store(target + i, load(source + i));
    for (; i < n; i++) target[i] = source[i];
    return;
  }
  const Vec positive = broadcast(image.positive), negative = broadcast(image.negative);
  for (; i + kLanes <= n; i += kLanes) store(target + i, add_signs(load(source + i), positive, negative));
  for (; i < n; i++) target[i] = source[i] + (source[i] > 0 ? image.positive : image.negative);
}

// Channels [channel, channel + depth) of the inputs of outputs (i0.., j0..) of image n, as [rows][columns][depth], with
// columns `pitch` floats apart; zeros stand for the padding.
inline void pack_stripe(float* target, const Image& image, int64_t n, const Axis& vertical, int64_t i0, int64_t rows,
                        const Axis& horizontal, int64_t j0, int64_t columns, int64_t channel, int64_t depth,
                        int64_t pitch) {
  const int64_t row_step = vertical.taps <= 1 ? vertical.in_step : 1;
  const int64_t column_step = horizontal.taps <= 1 ? horizontal.in_step : 1;
  const int64_t h0 = i0 * vertical.in_step + vertical.tap_start;
  const int64_t w0 = j0 * horizontal.in_step + horizontal.tap_start;
  // Columns [left, right) of the stripe lie inside the image.
  const int64_t left = min64(columns, w0 < 0 ? ceil_div(-w0, column_step) : 0);
  const int64_t right = max64(left, w0 < image.columns ? min64(columns, ceil_div(image.columns - w0, column_step)) : 0);
  for (int64_t r = 0; r < rows; r++, target += columns * pitch) {
    const int64_t h = h0 + r * row_step;
    if (h < 0 || h >= image.rows) {
      set_zero(target, columns * pitch);
      continue;
    }
    set_zero(target, left * pitch);
    set_zero(target + right * pitch, (columns - right) * pitch);
    const float* source =
        image.data + ((n * image.rows + h) * image.columns + w0 + left * column_step) * image.channels + channel;
    const int64_t source_step = column_step * image.channels;
    if (source_step == depth && pitch == depth)
      pack_floats(target + left * depth, source, (right - left) * depth, image);
    else
      for (int64_t c = left; c < right; c++, source += source_step)
        pack_floats(target + c * pitch, source, depth, image);
  }
}

// Outputs are worked on in blocks: some columns of some rows of some whole images; a block's inputs are one stripe.
struct Blocks {
  int64_t images, rows, columns;                    // of one block (the last of each may be smaller)
  int64_t image_blocks, row_blocks, column_blocks;  // how many there are
  int64_t depth;                                    // channels of a stripe
  int64_t stripe;                                   // floats of a stripe

  int64_t count() const { return image_blocks * row_blocks * column_blocks; }
};

inline int64_t even_size(int64_t n, int64_t size) { return n == 0 ? 1 : ceil_div(n, ceil_div(n, size)); }

// Blocks of about `tokens` outputs whose stripe of at most `depth` of the channels takes about `budget` floats.
inline Blocks cut_blocks(int64_t images, const Axis& vertical, const Axis& horizontal, int64_t channels, int64_t depth,
                         int64_t tokens, int64_t budget) {
  Blocks b = {};
  b.images = b.rows = 1;
  b.columns = even_size(horizontal.count, tokens);
  b.depth = channels <= depth ? max64(channels, 1) : min64(channels, (even_size(channels, depth) + 15) / 16 * 16);
  const auto floats = [&](int64_t rows, int64_t columns) {
    return stripe_extent(vertical, rows) * stripe_extent(horizontal, columns) * b.depth;
  };
  while (floats(1, b.columns) > budget && b.columns > 2 * kTileRows)
    b.columns = even_size(horizontal.count, ceil_div(b.columns, 2));
  while (floats(1, b.columns) > budget && b.depth > 16) b.depth = ceil_div(ceil_div(b.depth, 2), 16) * 16;
  while (b.rows < vertical.count && (b.rows + 1) * b.columns <= tokens && floats(b.rows + 1, b.columns) <= budget)
    b.rows++;
  b.rows = even_size(vertical.count, b.rows);
  if (b.rows >= vertical.count && b.columns >= horizontal.count) {
    const int64_t image = max64(1, floats(b.rows, b.columns)), outputs = max64(1, b.rows * b.columns);
    b.images = even_size(images, max64(1, min64(images, min64(tokens / outputs, budget / image))));
  }
  b.image_blocks = ceil_div(images, b.images);
  b.row_blocks = ceil_div(vertical.count, b.rows);
  b.column_blocks = ceil_div(horizontal.count, b.columns);
  b.stripe = b.images * floats(b.rows, b.columns);
  return b;
}

// Block `index` of the cut: its corner and size, and the shape of its stripe.
struct Block {
  int64_t n0, images, i0, rows, j0, columns;
  int64_t stripe_rows, stripe_columns;

  int64_t tokens() const { return images * rows * columns; }
};

inline Block block_at(const Blocks& b, int64_t images, const Axis& vertical, const Axis& horizontal, int64_t index) {
  Block k;
  k.j0 = index % b.column_blocks * b.columns;
  index /= b.column_blocks;
  k.i0 = index % b.row_blocks * b.rows;
  k.n0 = index / b.row_blocks * b.images;
  k.columns = min64(b.columns, horizontal.count - k.j0);
  k.rows = min64(b.rows, vertical.count - k.i0);
  k.images = min64(b.images, images - k.n0);
  k.stripe_rows = stripe_extent(vertical, k.rows);
  k.stripe_columns = stripe_extent(horizontal, k.columns);
  return k;
}

// Packs the stripe of a block, image after image.
inline void pack_block(float* target, const Image& image, const Block& k, const Axis& vertical, const Axis& horizontal,
                       int64_t channel, int64_t depth, int64_t pitch) {
  for (int64_t n = 0; n < k.images; n++, target += k.stripe_rows * k.stripe_columns * pitch)
    pack_stripe(target, image, k.n0 + n, vertical, k.i0, k.stripe_rows, horizontal, k.j0, k.stripe_columns, channel,
                depth, pitch);
}

// Columns of a stripe some odd lines apart: 192 of them, read at one channel, then spread over all sets of a cache.
inline int64_t stripe_pitch_of(int64_t depth) { return depth % 32 == 0 ? depth + 16 : depth; }

// Distances in a stripe between images, output rows and output columns.
struct Pitch {
  int64_t image, row, column;
};
inline Pitch stripe_pitch(const Block& k, const Axis& vertical, const Axis& horizontal, int64_t pitch) {
  const int64_t line = k.stripe_columns * pitch;
  return {k.stripe_rows * line, stripe_step(vertical) * line, stripe_step(horizontal) * pitch};
}

}  // namespace
}  // namespace auxgrad
