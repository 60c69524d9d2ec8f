// Depthwise convolution, one filter a channel: vectors of channels, a few output columns at a time.
#pragma once
#include "../statistics.h"
#include "bits.h"
#include "stripe.h"

namespace auxgrad {
namespace {

constexpr int64_t kDepthwiseChunks = 16;  // of the rows of a weight gradient

template <int N>
struct Count {
  static constexpr int value = N;
};

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
  uint32_t* mask;         // bits of out > 0, or null
  Statistics statistics;  // of out, if they are wanted; their chunks are ranges of rows

  // Rows of a task.
  int64_t grain() const {
    const int64_t work = max64(1, out_columns * image.channels * kernel_rows * kernel_columns);
    return max64(1, min64(1048576 / work, images * out_rows / 16));
  }
  int64_t chunks() const { return ceil_div(images * out_rows, grain()); }
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

// The same for neighbouring taps of a small kernel: every input is loaded once for all the outputs that read it.
template <int N, int Taps, int Step, bool Checked, bool Auxiliary, class Lanes>
inline void depthwise_small_tile(const Depthwise& d, const float* image, int64_t i, int64_t j0, const float* weight,
                                 Lanes lanes, Vec (&acc)[N]) {
  const Axis &v = d.vertical, &h = d.horizontal;
  const int64_t channels = d.image.channels;
  const Vec positive = broadcast(d.image.positive), negative = broadcast(d.image.negative);
  for (int64_t a = 0; a < v.taps; a++) {
    const int64_t row = i * v.in_step + v.tap_start + a * v.tap_step;
    if (row < 0 || row >= d.image.rows) continue;
    const int64_t column = j0 * Step + h.tap_start;
    const float* line = image + (row * d.image.columns + column) * channels;
    const float* kernel =
        weight + ((v.kernel_start + a * v.kernel_step) * d.kernel_columns + h.kernel_start) * channels;
    Vec w[Taps];
    AUXGRAD_UNROLL
    for (int b = 0; b < Taps; b++) w[b] = lanes.load(kernel + b * h.kernel_step * channels);
    AUXGRAD_UNROLL
    for (int t = 0; t < (N - 1) * Step + Taps; t++) {
      if (Checked && (column + t < 0 || column + t >= d.image.columns)) continue;
      Vec x = lanes.load(line + t * channels);
      if (Auxiliary) x += x > Vec{} ? positive : negative;
      AUXGRAD_UNROLL
      for (int b = 0; b < Taps; b++)
        if (t >= b && (t - b) % Step == 0 && (t - b) / Step < N)
          acc[(t - b) / Step] = fma(x, w[b], acc[(t - b) / Step]);
    }
  }
}

// One row of outputs. Channels are the inner loop: memory is read as it lies.
template <bool Auxiliary>
inline void depthwise_row(const Depthwise& d, const float* image, int64_t i, float* out, const float* weights) {
  const Axis& h = d.horizontal;
  const int64_t channels = d.image.channels;
  // Columns [left, right) have all their taps inside the image.
  const int64_t first = h.tap_start, last = h.tap_start + max64(0, h.taps - 1) * h.tap_step;
  const int64_t left = min64(h.count, first < 0 ? ceil_div(-first, h.in_step) : 0);
  const int64_t room = d.image.columns - 1 - last;
  const int64_t right = max64(left, min64(h.count, room < 0 ? 0 : room / h.in_step + 1));
  const auto columns = [&](int64_t j, auto count, const auto& sum) {
    constexpr int N = decltype(count)::value;
    each_vector(0, channels, [&](int64_t c, auto lanes) {
      const Vec bias = d.bias ? lanes.load(d.bias + c) : Vec{};
      Vec acc[N];
      AUXGRAD_UNROLL
      for (int n = 0; n < N; n++) acc[n] = bias;
      sum(c, lanes, acc);
      AUXGRAD_UNROLL
      for (int n = 0; n < N; n++) {
        float* to = out + (h.out_start + (j + n) * h.out_step) * channels + c;
        lanes.store(to, d.relu ? (acc[n] < Vec{} ? Vec{} : acc[n]) : acc[n]);
      }
    });
  };
  // Outputs [from, to) in tiles; the last one goes back over outputs that are done rather than being narrow.
  const auto tiles = [&](int64_t from, int64_t to, auto count, const auto& tile) {
    constexpr int N = decltype(count)::value;
    if (to - from < N) return from;
    for (int64_t j = from; j < to; j += N) tile(min64(j, to - N), count);
    return to;
  };
  const auto small = [&](auto taps, auto step) {
    constexpr int T = decltype(taps)::value, S = decltype(step)::value;
    const auto tile = [&](int64_t j, auto count) {
      constexpr int N = decltype(count)::value;
      const bool inside = j >= left && j + N <= right;
      columns(j, count, [&](int64_t c, auto lanes, Vec(&acc)[N]) {
        if (inside) depthwise_small_tile<N, T, S, false, Auxiliary>(d, image + c, i, j, weights + c, lanes, acc);
        else depthwise_small_tile<N, T, S, true, Auxiliary>(d, image + c, i, j, weights + c, lanes, acc);
      });
    };
    int64_t j = 0;
    if (h.count % 8 == 0) j = tiles(j, h.count, Count<8>(), tile);
    j = tiles(j, h.count, Count<7>(), tile);
    j = tiles(j, h.count, Count<3>(), tile);
    tiles(j, h.count, Count<1>(), tile);
  };
  if constexpr (!kFallback) {
    if (h.taps == 3 && h.tap_step == 1 && h.in_step == 1) return small(Count<3>(), Count<1>());
    if (h.taps == 3 && h.tap_step == 1 && h.in_step == 2) return small(Count<3>(), Count<2>());
    if (h.taps == 5 && h.tap_step == 1 && h.in_step == 1) return small(Count<5>(), Count<1>());
    if (h.taps == 2 && h.tap_step == 1 && h.in_step == 1) return small(Count<2>(), Count<1>());
    if (h.taps == 1 && h.in_step == 1) return small(Count<1>(), Count<1>());
  }
  const auto any = [&](int64_t j, auto count) {
    constexpr int N = decltype(count)::value;
    columns(j, count, [&](int64_t c, auto lanes, Vec(&acc)[N]) {
      depthwise_tile<N, N == 1, Auxiliary>(d, image + c, i, j, weights + c, lanes, acc);
    });
  };
  tiles(0, left, Count<1>(), any);
  int64_t j = tiles(left, right, Count<4>(), any);
  j = tiles(j, right, Count<1>(), any);
  tiles(max64(j, right), h.count, Count<1>(), any);
}

// Scratch: the weights, [tap][channels]. rows_of(own, row) sets the axes of `own` for a row of the output and runs
// run(row of its vertical axis) for each set of columns.
template <class RowsOf>
inline void run_depthwise(const Call& call, const Depthwise& d, const RowsOf& rows_of) {
  const int64_t channels = d.image.channels, taps = d.kernel_rows * d.kernel_columns;
  float* weights = static_cast<float*>(call.scratch);
  for (int64_t tap = 0; tap < taps; tap++)
    for (int64_t c = 0; c < channels; c++) weights[tap * channels + c] = d.weight[c * taps + tap];
  const int64_t rows = d.images * d.out_rows, grain = d.grain(), tokens = rows * d.out_columns;
  parallel_ranges(call, rows, grain, [&](int64_t begin, int64_t end) {
    Depthwise own = d;
    const bool auxiliary = d.image.positive != 0 || d.image.negative != 0;
    for (int64_t row = begin; row < end; row++) {
      const float* image = d.image.data + row / d.out_rows * d.image.rows * d.image.columns * channels;
      float* out = d.out + row * d.out_columns * channels;
      rows_of(own, row % d.out_rows, [&](int64_t i) {
        if (auxiliary) depthwise_row<true>(own, image, i, out, weights);
        else depthwise_row<false>(own, image, i, out, weights);
      });
    }
    // Words of the mask that lie in these rows, while they are in a cache.
    const int64_t first = ceil_div(begin * d.out_columns, 32);
    const int64_t last = end == rows ? ceil_div(tokens, 32) : end * d.out_columns / 32;
    if (d.mask) pack_positive(d.out, tokens, channels, d.mask, first, last, 0, channels);
    const float* out = d.out + begin * d.out_columns * channels;
    if (d.statistics)
      sum_chunk(d.statistics, begin / grain, (end - begin) * d.out_columns, 0, channels,
                [&](int64_t t) { return out + t * channels; });
  });
  if (!d.mask) return;
  // Words across two ranges.
  parallel_ranges(call, ceil_div(rows, grain) - 1, 64, [&](int64_t begin, int64_t end) {
    for (int64_t range = begin + 1; range <= end; range++) {
      const int64_t token = range * grain * d.out_columns;
      // Of several boundaries in a word, the first one.
      if (token % 32 != 0 && (range == 1 || token - grain * d.out_columns <= token / 32 * 32))
        pack_positive(d.out, tokens, channels, d.mask, token / 32, token / 32 + 1, 0, channels);
    }
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
  return max64(1, min64(kDepthwiseChunks, d.images * d.vertical.count));
}
inline int64_t depthwise_gradient_scratch(const DepthwiseGradient& d) {
  return depthwise_chunks(d) * (d.vertical.taps * d.horizontal.taps * d.image.channels * 4 + kThreadGap);
}

// Adds the products of outputs j0, j0 + 1, .. j0 + N - 1 of row i to the sums [tap][channels]. Checked: columns of the
// image may be outside.
template <int N, bool Checked, class Lanes>
inline void add_columns(const DepthwiseGradient& d, const float* image, const float* dy, int64_t i, int64_t j0,
                        float* sum, Lanes lanes) {
  const Axis &v = d.vertical, &h = d.horizontal;
  const int64_t channels = d.image.channels;
  Vec g[N];
  AUXGRAD_UNROLL
  for (int n = 0; n < N; n++) g[n] = lanes.load(dy + (j0 + n) * channels);
  for (int64_t a = 0; a < v.taps; a++) {
    const int64_t row = i * v.in_step + v.tap_start + a * v.tap_step;
    if (row < 0 || row >= d.image.rows) continue;
    const float* line = image + row * d.image.columns * channels;
    for (int64_t b = 0; b < h.taps; b++) {
      float* to = sum + (a * h.taps + b) * channels;
      const int64_t column = j0 * h.in_step + h.tap_start + b * h.tap_step;
      Vec acc = lanes.load(to);
      AUXGRAD_UNROLL
      for (int n = 0; n < N; n++) {
        const int64_t at = column + n * h.in_step;
        if (!Checked || (at >= 0 && at < d.image.columns)) acc = fma(g[n], lanes.load(line + at * channels), acc);
      }
      lanes.store(to, acc);
    }
  }
}

// The same for neighbouring taps of a small kernel: every input is loaded once.
template <int N, int Taps, int Step, bool Checked, class Lanes>
inline void add_small_columns(const DepthwiseGradient& d, const float* image, const float* dy, int64_t i, int64_t j0,
                              float* sum, Lanes lanes) {
  const Axis &v = d.vertical, &h = d.horizontal;
  const int64_t channels = d.image.channels;
  Vec g[N];
  AUXGRAD_UNROLL
  for (int n = 0; n < N; n++) g[n] = lanes.load(dy + (j0 + n) * channels);
  for (int64_t a = 0; a < v.taps; a++) {
    const int64_t row = i * v.in_step + v.tap_start + a * v.tap_step;
    if (row < 0 || row >= d.image.rows) continue;
    const int64_t column = j0 * Step + h.tap_start;
    const float* line = image + (row * d.image.columns + column) * channels;
    float* to = sum + a * Taps * channels;
    Vec acc[Taps];
    AUXGRAD_UNROLL
    for (int b = 0; b < Taps; b++) acc[b] = lanes.load(to + b * channels);
    AUXGRAD_UNROLL
    for (int t = 0; t < (N - 1) * Step + Taps; t++) {
      if (Checked && (column + t < 0 || column + t >= d.image.columns)) continue;
      const Vec x = lanes.load(line + t * channels);
      AUXGRAD_UNROLL
      for (int b = 0; b < Taps; b++)
        if (t >= b && (t - b) % Step == 0 && (t - b) / Step < N) acc[b] = fma(g[(t - b) / Step], x, acc[b]);
    }
    AUXGRAD_UNROLL
    for (int b = 0; b < Taps; b++) lanes.store(to + b * channels, acc[b]);
  }
}

inline void add_row(const DepthwiseGradient& d, const float* image, const float* dy, int64_t i, float* sum) {
  const Axis& h = d.horizontal;
  const int64_t channels = d.image.channels;
  const int64_t last = h.tap_start + max64(0, h.taps - 1) * h.tap_step;
  const int64_t left = min64(h.count, h.tap_start < 0 ? ceil_div(-h.tap_start, h.in_step) : 0);
  const int64_t room = d.image.columns - 1 - last;
  const int64_t right = max64(left, min64(h.count, room < 0 ? 0 : room / h.in_step + 1));
  [[maybe_unused]] const bool three = h.taps == 3 && h.tap_step == 1 && (h.in_step == 1 || h.in_step == 2);
  const auto columns = [&](int64_t j, auto count) {
    constexpr int N = decltype(count)::value;
    const bool inside = j >= left && j + N <= right;
    each_vector(0, channels, [&](int64_t c, auto lanes) {
      const auto run = [&](const auto& add) { add(d, image + c, dy + c, i, j, sum + c, lanes); };
      using L = decltype(lanes);
      if constexpr (!kFallback) {
        if (three && h.in_step == 1)
          return inside ? run(add_small_columns<N, 3, 1, false, L>) : run(add_small_columns<N, 3, 1, true, L>);
        if (three) return inside ? run(add_small_columns<N, 3, 2, false, L>) : run(add_small_columns<N, 3, 2, true, L>);
      }
      if (inside) run(add_columns<N, false, L>);
      else run(add_columns<N, true, L>);
    });
    return j + N;
  };
  int64_t j = 0;
  while (h.count - j >= 8 && (h.count - j) % 7 != 0) j = columns(j, Count<8>());
  while (h.count - j >= 7) j = columns(j, Count<7>());
  while (h.count - j >= 3) j = columns(j, Count<3>());
  while (j < h.count) j = columns(j, Count<1>());
}

// Scratch: the sums of a fixed number of chunks of rows, [chunk][tap][channels], added in order.
inline void run_depthwise_gradient(const Call& call, const DepthwiseGradient& d) {
  const int64_t channels = d.image.channels, taps = d.vertical.taps * d.horizontal.taps, size = taps * channels;
  const int64_t apart = size + kThreadGap / 4;
  const int64_t rows = d.images * d.vertical.count, chunks = depthwise_chunks(d);
  const int64_t image_floats = d.image.rows * d.image.columns * channels, row_floats = d.horizontal.count * channels;
  float* sums = static_cast<float*>(call.scratch);
  parallel_tasks(call, chunks, [&](int64_t chunk, int) {
    float* sum = sums + chunk * apart;
    set_zero(sum, size);
    const int64_t end = rows * (chunk + 1) / chunks;
    for (int64_t row = rows * chunk / chunks; row < end; row++) {
      const float* image = d.image.data + row / d.vertical.count * image_floats;
      const float* dy = d.dy + row * row_floats;
      const int64_t i = row % d.vertical.count;
      add_row(d, image, dy, i, sum);
    }
  });
  parallel_ranges(call, size, max64(16, 32768 / chunks), [&](int64_t begin, int64_t end) {
    each_vector(begin, end, [&](int64_t i, auto lanes) {
      Vec total = lanes.load(sums + i);
      for (int64_t s = 1; s < chunks; s++) total += lanes.load(sums + s * apart + i);
      float out[kLanes];
      store(out, total);
      for (int64_t n = 0; n < lanes.count(); n++) d.dw[(i + n) % channels * taps + (i + n) / channels] = out[n];
    });
  });
}

}  // namespace
}  // namespace auxgrad
