// Sums over the rows of channels-last tensors, for statistics and the gradients of scales and shifts.
#pragma once
#include "unit.h"

namespace auxgrad {
namespace {

constexpr int64_t kFloatRows = 16;  // rows whose terms are added in float; the rest is added in double

// Chunks of the rows: by shape only, enough to share out, few enough to keep their sums small.
int64_t row_chunks(int64_t rows, int64_t channels) {
  return max64(1, min64(min64(64, ceil_div(rows, 2 * kFloatRows)), 16384 / max64(1, channels)));
}

// Two sums over rows for each channel: f(row, a, b) adds the terms of a row to a[channels] and b[channels].
template <class F>
void channel_sums(const Call& call, int64_t rows, int64_t channels, const F& f, double* first, double* second) {
  const int64_t chunks = row_chunks(rows, channels);
  double* partial = second + channels;
  float* floats = reinterpret_cast<float*>(partial + chunks * 2 * channels);
  parallel_tasks(call, chunks, [&](int64_t chunk, int) {
    double* sums = partial + chunk * 2 * channels;
    float* a = floats + chunk * 2 * channels;
    memset(sums, 0, static_cast<size_t>(2 * channels) * sizeof(double));
    const int64_t end = rows * (chunk + 1) / chunks;
    for (int64_t r = rows * chunk / chunks; r < end; r += kFloatRows) {
      memset(a, 0, static_cast<size_t>(2 * channels) * sizeof(float));
      for (int64_t i = r; i < min64(end, r + kFloatRows); i++) f(i, a, a + channels);
      for (int64_t c = 0; c < 2 * channels; c++) sums[c] += a[c];
    }
  });
  // first and second lie side by side, as the sums of a chunk do.
  memcpy(first, partial, static_cast<size_t>(channels) * sizeof(double));
  memcpy(second, partial + channels, static_cast<size_t>(channels) * sizeof(double));
  for (int64_t chunk = 1; chunk < chunks; chunk++) {
    const double* sums = partial + chunk * 2 * channels;
    for (int64_t c = 0; c < channels; c++) first[c] += sums[c];
    for (int64_t c = 0; c < channels; c++) second[c] += sums[channels + c];
  }
}

// Bytes for the two results, and behind them the sums of the chunks.
int64_t channel_scratch(const View& x) {
  const int64_t channels = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1);
  return channels *
         static_cast<int64_t>(2 * sizeof(double) + 2 * (sizeof(double) + sizeof(float)) * row_chunks(rows, channels));
}

}  // namespace
}  // namespace auxgrad
