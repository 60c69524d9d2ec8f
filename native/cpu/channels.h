// Sums over the rows of channels-last tensors, for statistics and the gradients of scales and shifts.
#pragma once
#include "unit.h"

namespace auxgrad {
namespace {

constexpr int64_t kChunkRows = 1024;  // rows of one partial sum: by shape only

int64_t row_chunks(int64_t rows) { return min64(64, max64(1, ceil_div(rows, kChunkRows))); }

// Two sums over rows for each channel: f(row, c, &first, &second), in fixed chunks, added in order in double.
template <class F>
void channel_sums(const Call& call, int64_t rows, int64_t channels, const F& f, double* first, double* second) {
  const int64_t chunks = row_chunks(rows), step = ceil_div(rows, chunks);
  float* partial = reinterpret_cast<float*>(second + channels);
  parallel_tasks(call, chunks, [&](int64_t chunk, int) {
    float *a = partial + chunk * 2 * channels, *b = a + channels;
    memset(a, 0, static_cast<size_t>(2 * channels) * sizeof(float));
    for (int64_t r = chunk * step; r < min64(rows, (chunk + 1) * step); r++) f(r, a, b);
  });
  for (int64_t c = 0; c < channels; c++) {
    first[c] = second[c] = 0;
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
      first[c] += partial[(chunk * 2) * channels + c];
      second[c] += partial[(chunk * 2 + 1) * channels + c];
    }
  }
}

int64_t channel_scratch(const View& x) {
  const int64_t channels = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1);
  return channels * static_cast<int64_t>(2 * sizeof(double) + 2 * sizeof(float) * row_chunks(rows));
}

}  // namespace
}  // namespace auxgrad
