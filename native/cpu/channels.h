// Sums over the rows of channels-last tensors, for statistics and the gradients of scales and shifts.
#pragma once
#include "unit.h"

namespace auxgrad {
namespace {

constexpr int64_t kChunkRows = 1024;  // rows of one task: by shape only
constexpr int64_t kBlockRows = 32;    // rows added in float before they go to double: a long chain loses digits

int64_t row_chunks(int64_t rows) { return min64(64, max64(1, ceil_div(rows, kChunkRows))); }

// Two sums over rows for each channel: f(row, first, second) adds the row to float sums; those of blocks of rows are
// added in double, in fixed chunks, in order.
template <class F>
void channel_sums(const Call& call, int64_t rows, int64_t channels, const F& f, double* first, double* second) {
  const int64_t chunks = row_chunks(rows), step = ceil_div(rows, chunks), width = 2 * channels;
  double* totals = second + channels;
  float* blocks = reinterpret_cast<float*>(totals + chunks * width);
  parallel_tasks(call, chunks, [&](int64_t chunk, int) {
    double* total = totals + chunk * width;
    float* block = blocks + chunk * width;
    memset(total, 0, static_cast<size_t>(width) * sizeof(double));
    const int64_t end = min64(rows, (chunk + 1) * step);
    for (int64_t r0 = chunk * step; r0 < end; r0 += kBlockRows) {
      memset(block, 0, static_cast<size_t>(width) * sizeof(float));
      for (int64_t r = r0; r < min64(end, r0 + kBlockRows); r++) f(r, block, block + channels);
      for (int64_t c = 0; c < width; c++) total[c] += static_cast<double>(block[c]);
    }
  });
  for (int64_t c = 0; c < channels; c++) {
    first[c] = second[c] = 0;
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
      first[c] += totals[chunk * width + c];
      second[c] += totals[chunk * width + channels + c];
    }
  }
}

int64_t channel_scratch(const View& x) {
  const int64_t channels = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1);
  return 2 * channels * static_cast<int64_t>(sizeof(double) + (sizeof(double) + sizeof(float)) * row_chunks(rows));
}

}  // namespace
}  // namespace auxgrad
