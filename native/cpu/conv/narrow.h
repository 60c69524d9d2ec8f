// Input gradient of a convolution that reads few channels (an image): vectors over the kernel's columns x channels.
//
// A row of dx is the sum over outputs q of dy[.][q][o] * w[o][row tap][kernel column][channel], laid down from column
// q * stride - pad on: a product whose columns are all (kernel column, channel) pairs, then overlapping additions.
#pragma once
#include "stripe.h"
#include "tile.h"

namespace auxgrad {
namespace {

struct Narrow {
  const float* dy;
  float* dx;
  const float* weight;                                               // [outputs][kernel rows][kernel columns][channels]
  int64_t images, rows, columns, channels;                           // of dx
  int64_t out_rows, out_columns, outputs;                            // of dy
  int64_t kernel_rows, kernel_columns, stride[2], pad[2], dilation;  // dilation of rows; that of columns is 1

  int64_t reach() const { return kernel_columns * channels; }
  int64_t width() const { return ceil_div(reach(), kLanes) * kLanes; }
  int64_t packed() const { return kernel_rows * outputs * width(); }
  int64_t line() const {
    return (((out_columns - 1) * stride[1] + kernel_columns) * channels + width() + 15) / 16 * 16;
  }
  int64_t workspace() const { return line() + (out_columns * width() + 15) / 16 * 16; }
};

inline int64_t narrow_scratch(const Narrow& p, int threads) { return (p.packed() + p.workspace() * threads) * 4; }

// Weights of the row taps of every phase: [phase][panel][tap][output][width of the panel].
inline void pack_narrow(const Narrow& p, float* target) {
  for (int64_t phase = 0; phase < p.stride[0]; phase++) {
    const Axis v = gradient_axis(p.rows, p.kernel_rows, p.stride[0], p.pad[0], p.dilation, phase);
    for (int64_t c = 0; c < p.width(); c += kPanel) {
      const int64_t width = min64(kPanel, p.width() - c), n = max64(0, min64(width, p.reach() - c));
      for (int64_t a = 0; a < v.taps; a++)
        for (int64_t o = 0; o < p.outputs; o++, target += width) {
          const float* from = p.weight + (o * p.kernel_rows + v.kernel_start + a * v.kernel_step) * p.reach() + c;
          memcpy(target, from, static_cast<size_t>(n) * 4);
          set_zero(target + n, width - n);
        }
    }
  }
}

inline void narrow_row(const Narrow& p, const float* packed, int64_t n, int64_t row, float* workspace) {
  float *line = workspace, *products = workspace + p.line(), *dx = p.dx + (n * p.rows + row) * p.columns * p.channels;
  const int64_t floats = p.columns * p.channels, step = p.out_columns * p.outputs;
  // Weights of the phases before this one.
  const float* panel = packed;
  for (int64_t phase = 0; phase < row % p.stride[0]; phase++)
    panel +=
        gradient_axis(p.rows, p.kernel_rows, p.stride[0], p.pad[0], p.dilation, phase).taps * p.outputs * p.width();
  const Axis v = gradient_axis(p.rows, p.kernel_rows, p.stride[0], p.pad[0], p.dilation, row % p.stride[0]);
  const int64_t i = row / p.stride[0];
  const auto inside = [&](int64_t a) {
    const int64_t at = i + v.tap_start + a * v.tap_step;
    return at >= 0 && at < p.out_rows;
  };
  int64_t first = 0, last = v.taps;
  while (first < last && !inside(first)) first++;
  while (first < last && !inside(last - 1)) last--;
  if (first == last) return set_zero(dx, floats);

  const float* dy = p.dy + (n * p.out_rows + i + v.tap_start + first * v.tap_step) * step;
  Tile t;
  t.ahead = dy;
  int64_t left_row[kTileRows], out_row[kTileRows];
  for (int64_t m = 0; m < kTileRows; m++) {
    left_row[m] = m * p.outputs;
    out_row[m] = m * p.width();
  }
  t.left_row = left_row;
  t.out_row = out_row;
  t.runs = {1, 0, last - first, v.tap_step * step, p.outputs};
  t.accumulate = t.relu = false;
  t.bias = nullptr;
  const int64_t tiles = ceil_div(p.out_columns, kTileRows);
  for (int64_t c = 0; c < p.width(); c += kPanel) {
    t.columns = min64(kPanel, p.width() - c);
    t.panel = panel + first * p.outputs * t.columns;
    panel += v.taps * p.outputs * t.columns;
    for (int64_t tile = 0; tile < tiles; tile++) {
      const int64_t q0 = even_start(p.out_columns, tiles, tile), q1 = even_start(p.out_columns, tiles, tile + 1);
      t.left = dy + q0 * p.outputs;
      t.out = products + q0 * p.width() + c;
      run_tile<false>(t, static_cast<int>(q1 - q0));
    }
  }
  set_zero(line, p.line());
  // Outputs that overlap are not taken one after the other: loads would wait for the stores.
  const int64_t apart = ceil_div(p.kernel_columns, p.stride[1]) + 1;
  for (int64_t start = 0; start < apart; start++)
    for (int64_t q = start; q < p.out_columns; q += apart) {
      float* to = line + q * p.stride[1] * p.channels;
      for (int64_t c = 0; c < p.width(); c += kLanes) store(to + c, load(to + c) + load(products + q * p.width() + c));
    }
  const int64_t from = p.pad[1] * p.channels;
  const int64_t written =
      max64(0, min64(floats, ((p.out_columns - 1) * p.stride[1] + p.kernel_columns) * p.channels - from));
  if (written > 0) memcpy(dx, line + from, static_cast<size_t>(written) * 4);
  set_zero(dx + written, floats - written);
}

inline void run_narrow(const Call& call, const Narrow& p) {
  float* packed = static_cast<float*>(call.scratch);
  pack_narrow(p, packed);
  const int64_t work = max64(1, p.out_columns * p.width() * p.outputs);
  parallel_tasks(call, ceil_div(p.images * p.rows, max64(1, 1048576 / work)), [&](int64_t task, int thread) {
    const int64_t together = max64(1, 1048576 / work);
    for (int64_t row = task * together; row < min64(p.images * p.rows, (task + 1) * together); row++)
      narrow_row(p, packed, row / p.rows, row % p.rows, packed + p.packed() + thread * p.workspace());
  });
}

}  // namespace
}  // namespace auxgrad
