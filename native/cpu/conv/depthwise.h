// Depthwise convolution, one filter a channel: vectors of channels, a few output columns at a time.
#pragma once
#include "../statistics.h"
#include "bits.h"
#include "stripe.h"

namespace auxgrad {
namespace {

constexpr int64_t kDepthwiseChunks = 16;  // of the rows of a weight gradient
// What the slab of channels that a weight gradient sums at a time may take, and of how few it does not pay.
constexpr int64_t kSlabBytes = 32 * 1024, kSlabChannels = 96;

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
        if (Auxiliary) x = add_signs(x, positive, negative);
        acc[n] = fma(x, w, acc[n]);
      }
    }
  }
}

// Whether a line of a cache begins, about, at channel c: of vectors that share one, the first fetches it.
inline bool begins_line(int64_t c) { return kLanes >= 16 || c % 16 == 0; }

// Some neighbouring outputs of a row and what they read, at the first channel.
struct DepthwiseTile {
  const float* line;  // under the first tap of the first output
  int64_t line_step;  // to that of the next row of taps
  int64_t from, to;   // columns from there on that lie in the image
  const float* weight;
  int64_t weight_step, tap_step;
  int64_t rows;  // of taps
  float* out;
  int64_t out_step;
  // What comes after: processors do not see it coming, for each row is read in pieces.
  const float *next_line, *next_out;
  int64_t next_rows, next_step;
};

// Every input is loaded once for all the outputs that read it. The last vector of channels, of at least one, goes back over
// some that are done rather than being ragged. Checked: columns of the image may be outside.
template <int N, int Taps, int Step, bool Checked, bool Auxiliary>
__attribute__((noinline)) void depthwise_small_tile(const Depthwise& d, const DepthwiseTile& t) {
  const int64_t channels = d.image.channels;
  const Vec positive = broadcast(d.image.positive), negative = broadcast(d.image.negative);
  for (int64_t from = 0; from < channels; from += kLanes) {
    const int64_t c = min64(from, channels - kLanes);
    const Vec bias = d.bias ? load(d.bias + c) : Vec{};
    Vec acc[N];
    AUXGRAD_UNROLL
    for (int n = 0; n < N; n++) acc[n] = bias;
    const float *line = t.line + c, *weight = t.weight + c;
    for (int64_t a = 0; a < t.rows; a++, line += t.line_step, weight += t.weight_step) {
      Vec w[Taps];
      AUXGRAD_UNROLL
      for (int b = 0; b < Taps; b++) w[b] = load(weight + b * t.tap_step);
      const float* at = line;
      AUXGRAD_UNROLL
      for (int k = 0; k < (N - 1) * Step + Taps; k++, at += channels) {
        if (Checked && (k < t.from || k >= t.to)) continue;
        Vec x = load(at);
        if (Auxiliary) x = add_signs(x, positive, negative);
        AUXGRAD_UNROLL
        for (int b = 0; b < Taps; b++)
          if (k >= b && (k - b) % Step == 0 && (k - b) / Step < N)
            acc[(k - b) / Step] = fma(x, w[b], acc[(k - b) / Step]);
      }
    }
    if (begins_line(from)) {
      const float* next = t.next_out + c;
      AUXGRAD_UNROLL
      for (int n = 0; n < N; n++, next += t.out_step) __builtin_prefetch(next, 1, 2);
      next = t.next_line + c;
      for (int64_t r = 0; r < t.next_rows; r++, next += t.next_step) {
        const float* at = next;
        AUXGRAD_UNROLL
        for (int k = 0; k < N * Step; k++, at += channels) __builtin_prefetch(at, 0, 2);
      }
    }
    if (d.relu) {
      AUXGRAD_UNROLL
      for (int n = 0; n < N; n++) acc[n] = relu(acc[n]);
    }
    float* out = t.out + c;
    AUXGRAD_UNROLL
    for (int n = 0; n < N; n++, out += t.out_step) store(out, acc[n]);
  }
}

// Tiles of some columns; [1]: columns of the image may be outside. Those of an auxiliary always look.
typedef void (*DepthwiseRun)(const Depthwise&, const DepthwiseTile&);
constexpr int64_t kDepthwiseColumns[] = {8, 7, 3, 1};
template <int Taps, int Step, bool Auxiliary>
constexpr DepthwiseRun kDepthwiseRuns[4][2] = {
    {depthwise_small_tile<8, Taps, Step, Auxiliary, Auxiliary>, depthwise_small_tile<8, Taps, Step, true, Auxiliary>},
    {depthwise_small_tile<7, Taps, Step, Auxiliary, Auxiliary>, depthwise_small_tile<7, Taps, Step, true, Auxiliary>},
    {depthwise_small_tile<3, Taps, Step, Auxiliary, Auxiliary>, depthwise_small_tile<3, Taps, Step, true, Auxiliary>},
    {depthwise_small_tile<1, Taps, Step, Auxiliary, Auxiliary>, depthwise_small_tile<1, Taps, Step, true, Auxiliary>}};

// Those of a kernel's columns, or null.
template <bool Auxiliary>
inline const DepthwiseRun (*depthwise_runs(const Axis& h))[2] {
  if constexpr (!kFallback) {
    if (h.taps == 3 && h.tap_step == 1 && h.in_step == 1) return kDepthwiseRuns<3, 1, Auxiliary>;
    if (h.taps == 3 && h.tap_step == 1 && h.in_step == 2) return kDepthwiseRuns<3, 2, Auxiliary>;
    if (h.taps == 5 && h.tap_step == 1 && h.in_step == 1) return kDepthwiseRuns<5, 1, Auxiliary>;
    if constexpr (!Auxiliary) {  // of input gradients
      if (h.taps == 2 && h.tap_step == 1 && h.in_step == 1) return kDepthwiseRuns<2, 1, false>;
      if (h.taps == 1 && h.in_step == 1) return kDepthwiseRuns<1, 1, false>;
    }
  }
  return nullptr;
}

// One row of outputs. Channels are the inner loop: memory is read as it lies.
template <bool Auxiliary>
__attribute__((noinline)) void depthwise_row(const Depthwise& d, const float* image, int64_t i, float* out,
                                             const float* weights) {
  const Axis &v = d.vertical, &h = d.horizontal;
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
  if (const auto* runs = channels >= kLanes ? depthwise_runs<Auxiliary>(h) : nullptr) {
    // Rows of taps in the image.
    const int64_t top = i * v.in_step + v.tap_start, line = d.image.columns * channels;
    const int64_t a0 = top < 0 ? min64(v.taps, ceil_div(-top, v.tap_step)) : 0;
    const int64_t a1 = top < d.image.rows ? max64(a0, min64(v.taps, ceil_div(d.image.rows - top, v.tap_step))) : a0;
    DepthwiseTile t;
    t.line_step = v.tap_step * line;
    t.weight = weights + ((v.kernel_start + a0 * v.kernel_step) * d.kernel_columns + h.kernel_start) * channels;
    t.weight_step = v.kernel_step * d.kernel_columns * channels;
    t.tap_step = h.kernel_step * channels;
    t.rows = a1 - a0;
    t.out_step = h.out_step * channels;
    t.next_step = line;
    // Rows that the outputs below read and those here do not, once for all phases.
    t.next_rows = v.out_start == 0 && h.out_start == 0 ? v.in_step : 0;
    const int64_t next = top + max64(0, v.taps - 1) * v.tap_step + 1;
    int64_t done = 0;
    for (int size = h.count % 8 == 0 ? 0 : 1; size < 4; size++) {
      const int64_t n = kDepthwiseColumns[size];
      if (h.count - done < n) continue;
      for (; done < h.count; done += n) {
        const int64_t j = min64(done, h.count - n), column = j * h.in_step + h.tap_start;
        t.line = image + (top + a0 * v.tap_step) * line + column * channels;
        t.from = -column;
        t.to = d.image.columns - column;
        t.out = out + (h.out_start + j * h.out_step) * channels;
        t.next_out = t.out + d.out_columns * channels;
        t.next_line = image + next * line + j * h.in_step * channels;
        runs[size][j < left || j + n > right](d, t);
      }
    }
    return;
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
    if (d.statistics) sum_chunk(d.statistics, begin / grain, out, (end - begin) * d.out_columns);
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

// Some neighbouring outputs of a row and what they are multiplied by, at the first channel; see DepthwiseTile.
struct GradientTile {
  const float* line;
  int64_t line_step, from, to, rows;
  const float* dy;
  float* sum;
  const float *next_line, *next_dy;
  int64_t next_rows, next_step;
  int64_t begin, end;  // channels
};

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
inline __attribute__((always_inline)) void add_vector(int64_t channels, const GradientTile& t, int64_t c, Lanes lanes) {
  Vec g[N];
  const float* at = t.dy + c;
  AUXGRAD_UNROLL
  for (int n = 0; n < N; n++, at += channels) g[n] = lanes.load(at);
  const float* line = t.line + c;
  float* sum = t.sum + c;
  for (int64_t a = 0; a < t.rows; a++, line += t.line_step, sum += Taps * channels) {
    Vec acc[Taps];
    AUXGRAD_UNROLL
    for (int b = 0; b < Taps; b++) acc[b] = lanes.load(sum + b * channels);
    at = line;
    AUXGRAD_UNROLL
    for (int k = 0; k < (N - 1) * Step + Taps; k++, at += channels) {
      if (Checked && (k < t.from || k >= t.to)) continue;
      const Vec x = lanes.load(at);
      AUXGRAD_UNROLL
      for (int b = 0; b < Taps; b++)
        if (k >= b && (k - b) % Step == 0 && (k - b) / Step < N) acc[b] = fma(g[(k - b) / Step], x, acc[b]);
    }
    AUXGRAD_UNROLL
    for (int b = 0; b < Taps; b++) lanes.store(sum + b * channels, acc[b]);
  }
  if (!begins_line(c)) return;
  at = t.next_dy + c;
  AUXGRAD_UNROLL
  for (int n = 0; n < N; n++, at += channels) __builtin_prefetch(at, 0, 2);
  line = t.next_line + c;
  for (int64_t r = 0; r < t.next_rows; r++, line += t.next_step) {
    at = line;
    AUXGRAD_UNROLL
    for (int k = 0; k < N * Step; k++, at += channels) __builtin_prefetch(at, 0, 2);
  }
}

template <int N, int Taps, int Step>
__attribute__((noinline)) void add_part(int64_t channels, const GradientTile& t, int64_t c) {
  add_vector<N, Taps, Step, true>(channels, t, c, PartLanes{t.end - c});
}

template <int N, int Taps, int Step, bool Checked>
__attribute__((noinline)) void add_tile(int64_t channels, const GradientTile& t) {
  int64_t c = t.begin;
  for (; c + kLanes <= t.end; c += kLanes) add_vector<N, Taps, Step, Checked>(channels, t, c, WholeLanes());
  if (c < t.end) add_part<N, Taps, Step>(channels, t, c);
}

// Of channels [begin, end).
inline void add_row(const DepthwiseGradient& d, const float* image, const float* dy, int64_t i, int64_t begin,
                    int64_t end, float* sum) {
  const Axis &v = d.vertical, &h = d.horizontal;
  const int64_t channels = d.image.channels;
  const int64_t last = h.tap_start + max64(0, h.taps - 1) * h.tap_step;
  const int64_t left = min64(h.count, h.tap_start < 0 ? ceil_div(-h.tap_start, h.in_step) : 0);
  const int64_t room = d.image.columns - 1 - last;
  const int64_t right = max64(left, min64(h.count, room < 0 ? 0 : room / h.in_step + 1));
  const auto tiles = [&](const auto& columns) {
    int64_t j = 0;
    while (h.count - j >= 8 && (h.count - j) % 7 != 0) j = columns(j, Count<8>());
    while (h.count - j >= 7) j = columns(j, Count<7>());
    while (h.count - j >= 3) j = columns(j, Count<3>());
    while (j < h.count) j = columns(j, Count<1>());
  };
  const auto small = [&](auto step) {
    constexpr int S = decltype(step)::value;
    const int64_t top = i * v.in_step + v.tap_start, line = d.image.columns * channels;
    const int64_t a0 = top < 0 ? min64(v.taps, ceil_div(-top, v.tap_step)) : 0;
    const int64_t a1 = top < d.image.rows ? max64(a0, min64(v.taps, ceil_div(d.image.rows - top, v.tap_step))) : a0;
    GradientTile t;
    t.line_step = v.tap_step * line;
    t.rows = a1 - a0;
    t.sum = sum + a0 * h.taps * channels;
    t.next_rows = v.in_step;
    t.next_step = line;
    t.begin = begin, t.end = end;
    const int64_t next = top + max64(0, v.taps - 1) * v.tap_step + 1;
    tiles([&](int64_t j, auto count) {
      constexpr int N = decltype(count)::value;
      const int64_t column = j * S + h.tap_start;
      t.line = image + (top + a0 * v.tap_step) * line + column * channels;
      t.from = -column;
      t.to = d.image.columns - column;
      t.dy = dy + j * channels;
      t.next_dy = t.dy + h.count * channels;
      t.next_line = image + next * line + j * S * channels;
      if (j >= left && j + N <= right) add_tile<N, 3, S, false>(channels, t);
      else add_tile<N, 3, S, true>(channels, t);
      return j + N;
    });
  };
  if constexpr (!kFallback) {
    if (h.taps == 3 && h.tap_step == 1 && h.in_step == 1) return small(Count<1>());
    if (h.taps == 3 && h.tap_step == 1 && h.in_step == 2) return small(Count<2>());
  }
  tiles([&](int64_t j, auto count) {
    constexpr int N = decltype(count)::value;
    each_vector(begin, end, [&](int64_t c, auto lanes) {
      if (j >= left && j + N <= right) add_columns<N, false>(d, image + c, dy + c, i, j, sum + c, lanes);
      else add_columns<N, true>(d, image + c, dy + c, i, j, sum + c, lanes);
    });
    return j + N;
  });
}

// Channels that are summed at a time: of small images so many that the rows of inputs under one row of taps, their
// deltas and sums stay in the first-level cache from a row to the next. Wide images are read as they lie.
inline int64_t gradient_slab(const DepthwiseGradient& d) {
  const Axis &v = d.vertical, &h = d.horizontal;
  const int64_t places = v.taps * d.image.columns + h.count + v.taps * h.taps;
  const int64_t slab = kSlabBytes / (4 * places) / 16 * 16;
  return slab < kSlabChannels ? d.image.channels : slab;
}

// Scratch: the sums of a fixed number of chunks of rows, [chunk][tap][channels], added in order.
inline void run_depthwise_gradient(const Call& call, const DepthwiseGradient& d) {
  const int64_t channels = d.image.channels, taps = d.vertical.taps * d.horizontal.taps, size = taps * channels;
  const int64_t apart = size + kThreadGap / 4;
  const int64_t rows = d.images * d.vertical.count, chunks = depthwise_chunks(d);
  const int64_t image_floats = d.image.rows * d.image.columns * channels, row_floats = d.horizontal.count * channels;
  const int64_t slab = gradient_slab(d);
  float* sums = static_cast<float*>(call.scratch);
  parallel_tasks(call, chunks, [&](int64_t chunk, int) {
    float* sum = sums + chunk * apart;
    set_zero(sum, size);
    const int64_t end = rows * (chunk + 1) / chunks;
    for (int64_t from = 0; from < channels; from += slab)
      for (int64_t row = rows * chunk / chunks; row < end; row++) {
        const float* image = d.image.data + row / d.vertical.count * image_floats;
        const float* dy = d.dy + row * row_floats;
        add_row(d, image, dy, row % d.vertical.count, from, min64(from + slab, channels), sum);
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
