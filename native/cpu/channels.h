// Sums over the rows of channels-last tensors, for statistics and the gradients of scales and shifts.
#pragma once
#include "vector.h"

namespace auxgrad {
namespace {

constexpr int64_t kFloatRows = 16;  // rows whose terms are added in float; the rest is added in double

// Chunks of the rows: by shape only, enough to share out, few enough to keep their sums small.
inline int64_t row_chunks(int64_t rows, int64_t channels) {
  return max64(1, min64(min64(64, ceil_div(rows, 2 * kFloatRows)), 16384 / max64(1, channels)));
}

__attribute__((noinline)) inline void add_floats(const float* __restrict x, int64_t n, double* __restrict sums) {
  for (int64_t i = 0; i < n; i++) sums[i] += static_cast<double>(x[i]);
}

__attribute__((noinline)) inline void add_doubles(const double* __restrict x, int64_t n, double* __restrict sums) {
  for (int64_t i = 0; i < n; i++) sums[i] += x[i];
}

// Adds two sums over rows [0, rows) for each of some channels to first and second: terms(row, c, lanes, u, v) gives vectors
// of their terms. One row after the other, the order memory likes: of several streams at once some processors fetch none
// ahead. The sums stay in the first cache; some vectors are read before any is stored, so that more loads are under way.
// After each row, then(row, channel, end of channels) may do something else in that place.
template <class Terms, class Then>
inline void sum_columns(int64_t rows, int64_t channels, const Terms terms, double* first, double* second,
                        const Then then) {
  constexpr int64_t kRun = 1024, kRows = 256;
  constexpr int kSide = 4;
  // Not a page apart: a load waits for stores before it to the same place in another one.
  float sums[2 * kRun + 144], *const a = sums, *const b = sums + kRun + 144;
  for (int64_t start = 0; start < channels; start += kRun)
    for (int64_t r = 0; r < rows; r += kRows) {
      const int64_t count = min64(kRun, channels - start), end = min64(rows, r + kRows);
      each_vector(0, count, [=](int64_t c, auto lanes) {
        lanes.store(a + c, Vec{});
        lanes.store(b + c, Vec{});
      });
      for (int64_t i = r; i < end; i++) {
        int64_t c = 0;
        for (; c + kSide * kLanes <= count; c += kSide * kLanes) {
          Vec u[kSide], v[kSide];
          AUXGRAD_UNROLL
          for (int k = 0; k < kSide; k++) {
            terms(i, start + c + k * kLanes, WholeLanes(), u[k], v[k]);
            u[k] += load(a + c + k * kLanes);
            v[k] += load(b + c + k * kLanes);
          }
          AUXGRAD_UNROLL
          for (int k = 0; k < kSide; k++) store(a + c + k * kLanes, u[k]), store(b + c + k * kLanes, v[k]);
        }
        each_vector(c, count, [&](int64_t k, auto lanes) {
          Vec u, v;
          terms(i, start + k, lanes, u, v);
          lanes.store(a + k, lanes.load(a + k) + u);
          lanes.store(b + k, lanes.load(b + k) + v);
        });
        then(i, start, start + count);
      }
      add_floats(a, count, first + start);
      add_floats(b, count, second + start);
    }
}
template <class Terms>
inline void sum_columns(int64_t rows, int64_t channels, const Terms terms, double* first, double* second) {
  sum_columns(rows, channels, terms, first, second, [](int64_t, int64_t, int64_t) {});
}

// Adds up what chunks summed, n numbers each.
__attribute__((noinline)) inline void add_chunks(const double* partial, int64_t chunks, int64_t n, double* sums) {
  memcpy(sums, partial, static_cast<size_t>(n) * sizeof(double));
  for (int64_t chunk = 1; chunk < chunks; chunk++) add_doubles(partial + chunk * n, n, sums);
}

// Two sums over all rows for each channel, to sums[2 channels] and behind them those of the chunks: sum(begin, end, thread,
// sums) adds those of some rows.
template <class F>
void channel_sums(const Call& call, int64_t rows, int64_t channels, const F& sum, double* sums) {
  const int64_t chunks = row_chunks(rows, channels);
  double* partial = sums + 2 * channels;
  parallel_tasks(call, chunks, [&](int64_t chunk, int thread) {
    double* own = partial + chunk * 2 * channels;
    memset(own, 0, static_cast<size_t>(2 * channels) * sizeof(double));
    sum(rows * chunk / chunks, rows * (chunk + 1) / chunks, thread, own);
  });
  add_chunks(partial, chunks, 2 * channels, sums);
}

// Bytes for the two results, and behind them the sums of the chunks.
inline int64_t channel_scratch(const View& x) {
  const int64_t channels = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1);
  return channels * static_cast<int64_t>(2 * sizeof(double)) * (1 + row_chunks(rows, channels));
}

}  // namespace
}  // namespace auxgrad
