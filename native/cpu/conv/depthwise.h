// Depthwise convolution, one filter a channel: vectors of channels, a few output columns at a time.
#pragma once
#include "stripe.h"

namespace auxgrad {
namespace {

constexpr int kColumns = 4;  // output columns of a register tile
constexpr int64_t kDepthwiseTasks = 32;

// Forward, or one phase of the input gradient; outputs and inputs have the same channels.
struct Depthwise {
  Image image;
  int64_t images;
  Axis vertical, horizontal;
  float* out;
  int64_t out_rows, out_columns;
  const float* weight;  // [channels][kernel rows][kernel columns]
  int64_t kernel_rows, kernel_columns;
  const float* bias;
  bool relu;
};

// Sums of the taps in reach of outputs j0, j0 + 1, .. j0 + N - 1 of one row: `weight` is [tap][channels] at the
// channel of the vector. Checked: some taps of a column may be outside.
template <int N, bool Checked, bool Auxiliary, class Lanes>
inline void depthwise_tile(const Depthwise& d, const float* image, int64_t i, int64_t j0, const float* weight,
                           Lanes lanes, Vec (&acc)[N]) {
  const Axis &v = d.vertical, &h = d.horizontal;
  const int64_t channels = d.image.channels;
  const Vec positive = broadcast(d.image.positive), negative = broadcast(d.image.negative);
  for (int64_t a = 0; a < v.taps; a++) {
    const int64_t row = i * v.in_step + v.tap_start + a * v.tap_step;
    if (row < 0 || row >= d.image.rows) continue;
    const float* line = image + row * d.image.columns * channels;
    const int64_t kernel_row = (v.kernel_start + a * v.kernel_step) * d.kernel_columns;
    for (int64_t b = 0; b < h.taps; b++) {
      const Vec w = lanes.load(weight + (kernel_row + h.kernel_start + b * h.kernel_step) * channels);
      const int64_t column = j0 * h.in_step + h.tap_start + b * h.tap_step;
      AUXGRAD_UNROLL
      for (int n = 0; n < N; n++) {
        const int64_t at = column + n * h.in_step;
        if (Checked && (at < 0 || at >= d.image.columns)) continue;
        Vec x = lanes.load(line + at * channels);
        if (Auxiliary) x += x > Vec{} ? positive : negative;
        acc[n] = fma(x, w, acc[n]);
      }
    }
  }
}

// One row of outputs for a vector of channels.
template <bool Auxiliary, class Lanes>
inline void depthwise_row(const Depthwise& d, const float* image, int64_t i, float* out, const float* weight, Vec bias,
                          Lanes lanes) {
  const Axis& h = d.horizontal;
  const int64_t channels = d.image.channels;
  // Columns [left, right) have all their taps inside the image.
  const int64_t first = h.tap_start, last = h.tap_start + max64(0, h.taps - 1) * h.tap_step;
  const int64_t left = min64(h.count, first < 0 ? ceil_div(-first, h.in_step) : 0);
  const int64_t room = d.image.columns - 1 - last;
  const int64_t right = max64(left, min64(h.count, room < 0 ? 0 : room / h.in_step + 1));
  const auto finish = [&](int64_t j, Vec y) {
    if (d.relu) y = y < Vec{} ? Vec{} : y;
    lanes.store(out + (h.out_start + j * h.out_step) * channels, y);
  };
  const auto single = [&](int64_t j) {
    Vec acc[1] = {bias};
    depthwise_tile<1, true, Auxiliary>(d, image, i, j, weight, lanes, acc);
    finish(j, acc[0]);
  };
  int64_t j = 0;
  for (; j < left; j++) single(j);
  for (; j + kColumns <= right; j += kColumns) {
    Vec acc[kColumns] = {bias, bias, bias, bias};
    depthwise_tile<kColumns, false, Auxiliary>(d, image, i, j, weight, lanes, acc);
    for (int n = 0; n < kColumns; n++) finish(j + n, acc[n]);
  }
  for (; j < h.count; j++) single(j);
}

template <bool Auxiliary>
inline void depthwise_rows(const Depthwise& d, const float* weights, int64_t begin, int64_t end) {
  const int64_t channels = d.image.channels;
  for (int64_t row = begin; row < end; row++) {
    const int64_t n = row / d.vertical.count, i = row % d.vertical.count;
    const float* image = d.image.data + n * d.image.rows * d.image.columns * channels;
    float* out = d.out + (n * d.out_rows + d.vertical.out_start + i * d.vertical.out_step) * d.out_columns * channels;
    each_vector(0, channels, [&](int64_t c, auto lanes) {
      const Vec bias = d.bias ? lanes.load(d.bias + c) : Vec{};
      depthwise_row<Auxiliary>(d, image + c, i, out + c, weights + c, bias, lanes);
    });
  }
}

// Scratch: the weights, [tap][channels].
inline void run_depthwise(const Call& call, const Depthwise& d) {
  const int64_t channels = d.image.channels, taps = d.kernel_rows * d.kernel_columns;
  float* weights = static_cast<float*>(call.scratch);
  for (int64_t tap = 0; tap < taps; tap++)
    for (int64_t c = 0; c < channels; c++) weights[tap * channels + c] = d.weight[c * taps + tap];
  const int64_t rows = d.images * d.vertical.count;
  const int64_t work = max64(1, d.horizontal.count * channels * max64(1, d.vertical.taps * d.horizontal.taps));
  parallel_ranges(call, rows, max64(1, 65536 / work), [&](int64_t begin, int64_t end) {
    if (d.image.positive == 0 && d.image.negative == 0) depthwise_rows<false>(d, weights, begin, end);
    else depthwise_rows<true>(d, weights, begin, end);
  });
}

// dw[c][tap] = sum over positions of dy[.][c] * x[position under tap][c].
struct DepthwiseGradient {
  Image image;
  int64_t images;
  Axis vertical, horizontal;
  const float* dy;
  float* dw;
};

inline int64_t depthwise_chunks(const DepthwiseGradient& d) {
  return max64(1, min64(kDepthwiseTasks, d.images * d.vertical.count));
}
inline int64_t depthwise_gradient_scratch(const DepthwiseGradient& d) {
  return depthwise_chunks(d) * d.vertical.taps * d.horizontal.taps * d.image.channels * 4;
}

// Adds the products of output row i of an image to N taps of one kernel row, from tap b0 on.
template <int N, class Lanes>
inline void add_row_taps(const DepthwiseGradient& d, const float* line, const float* dy, float* sum, int64_t b0,
                         Lanes lanes) {
  const Axis& h = d.horizontal;
  const int64_t channels = d.image.channels;
  Vec acc[N];
  AUXGRAD_UNROLL
  for (int n = 0; n < N; n++) acc[n] = lanes.load(sum + n * channels);
  for (int64_t j = 0; j < h.count; j++) {
    const Vec g = lanes.load(dy + j * channels);
    const int64_t column = j * h.in_step + h.tap_start + b0 * h.tap_step;
    AUXGRAD_UNROLL
    for (int n = 0; n < N; n++) {
      const int64_t at = column + n * h.tap_step;
      if (at >= 0 && at < d.image.columns) acc[n] = fma(g, lanes.load(line + at * channels), acc[n]);
    }
  }
  AUXGRAD_UNROLL
  for (int n = 0; n < N; n++) lanes.store(sum + n * channels, acc[n]);
}

template <class Lanes>
inline void add_row(const DepthwiseGradient& d, const float* image, const float* dy, int64_t i, float* sum,
                    Lanes lanes) {
  const Axis &v = d.vertical, &h = d.horizontal;
  const int64_t channels = d.image.channels;
  for (int64_t a = 0; a < v.taps; a++) {
    const int64_t row = i * v.in_step + v.tap_start + a * v.tap_step;
    if (row < 0 || row >= d.image.rows) continue;
    const float* line = image + row * d.image.columns * channels;
    float* to = sum + a * h.taps * channels;
    int64_t b = 0;
    for (; b + 3 <= h.taps; b += 3) add_row_taps<3>(d, line, dy, to + b * channels, b, lanes);
    for (; b < h.taps; b++) add_row_taps<1>(d, line, dy, to + b * channels, b, lanes);
  }
}

// Scratch: the sums of a fixed number of chunks of rows, [chunk][tap][channels], added in order.
inline void run_depthwise_gradient(const Call& call, const DepthwiseGradient& d) {
  const int64_t channels = d.image.channels, taps = d.vertical.taps * d.horizontal.taps, size = taps * channels;
  const int64_t rows = d.images * d.vertical.count, chunks = depthwise_chunks(d);
  const int64_t image_floats = d.image.rows * d.image.columns * channels, row_floats = d.horizontal.count * channels;
  float* sums = static_cast<float*>(call.scratch);
  parallel_tasks(call, chunks, [&](int64_t chunk, int) {
    float* sum = sums + chunk * size;
    set_zero(sum, size);
    const int64_t end = rows * (chunk + 1) / chunks;
    for (int64_t row = rows * chunk / chunks; row < end; row++) {
      const float* image = d.image.data + row / d.vertical.count * image_floats;
      const float* dy = d.dy + row * row_floats;
      const int64_t i = row % d.vertical.count;
      each_vector(0, channels,
                  [&](int64_t c, auto lanes) { add_row(d, image + c, dy + c, i, sum + c, lanes); });
    }
  });
  parallel_ranges(call, channels, max64(1, 32768 / max64(1, chunks * taps)), [&](int64_t begin, int64_t end) {
    for (int64_t tap = 0; tap < taps; tap++)
      for (int64_t c = begin; c < end; c++) {
        float total = 0;
        for (int64_t s = 0; s < chunks; s++) total += sums[s * size + tap * channels + c];
        d.dw[c * taps + tap] = total;
      }
  });
}

}  // namespace
}  // namespace auxgrad
