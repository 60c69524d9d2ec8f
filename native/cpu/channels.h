// Sums over the rows of channels-last tensors, for statistics and the gradients of scales and shifts.
#pragma once
#include "unit.h"

namespace auxgrad {
namespace {

constexpr int64_t kFloatRows = 16;  // rows whose terms are added in float; the rest is added in double

// Chunks of the rows: by shape only, enough to share out, few enough to keep their sums small.
inline int64_t row_chunks(int64_t rows, int64_t channels) {
  return max64(1, min64(min64(64, ceil_div(rows, 2 * kFloatRows)), 16384 / max64(1, channels)));
}

// Adds two sums over rows [begin, end) for each channel to sums[2 channels]: f(row, a, b) adds the terms of a row to
// a[channels] and b[channels]. floats: 2 channels of scratch.
template <class F>
inline void add_rows(int64_t begin, int64_t end, int64_t channels, const F& f, float* floats, double* sums) {
  for (int64_t r = begin; r < end; r += kFloatRows) {
    memset(floats, 0, static_cast<size_t>(2 * channels) * sizeof(float));
    for (int64_t i = r; i < min64(end, r + kFloatRows); i++) f(i, floats, floats + channels);
    for (int64_t c = 0; c < 2 * channels; c++) sums[c] += floats[c];
  }
}

// Mean of up to 32 rows, evenly spread, of rows that are `step` apart; 0 where that is not finite. Sums of what is left
// after it is taken away lose no digits to a mean far from zero.
inline void sample_mean(const float* x, int64_t rows, int64_t step, int64_t channels, float* shift) {
  const int64_t taken = min64(32, rows);
  for (int64_t c = 0; c < channels; c++) shift[c] = 0;
  for (int64_t i = 0; i < taken; i++) {
    const float* row = x + rows * i / taken * step;
    for (int64_t c = 0; c < channels; c++) shift[c] += row[c];
  }
  const float share = 1.0f / static_cast<float>(max64(1, taken));
  for (int64_t c = 0; c < channels; c++) shift[c] = shift[c] - shift[c] == 0 ? shift[c] * share : 0.0f;
}

// Two sums over all rows for each channel, f as above.
template <class F>
void channel_sums(const Call& call, int64_t rows, int64_t channels, const F& f, double* first, double* second) {
  const int64_t chunks = row_chunks(rows, channels);
  double* partial = second + channels;
  float* floats = reinterpret_cast<float*>(partial + chunks * 2 * channels);
  parallel_tasks(call, chunks, [&](int64_t chunk, int) {
    double* sums = partial + chunk * 2 * channels;
    memset(sums, 0, static_cast<size_t>(2 * channels) * sizeof(double));
    add_rows(rows * chunk / chunks, rows * (chunk + 1) / chunks, channels, f, floats + chunk * 2 * channels, sums);
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
inline int64_t channel_scratch(const View& x) {
  const int64_t channels = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1);
  return channels *
         static_cast<int64_t>(2 * sizeof(double) + 2 * (sizeof(double) + sizeof(float)) * row_chunks(rows, channels));
}

}  // namespace
}  // namespace auxgrad
