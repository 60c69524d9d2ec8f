// Sums along rows for each of many columns: a block takes kColumns columns, neighbours in memory, and a chunk of the rows;
// the chunks' sums go to scratch, and are added up in order.
#pragma once
#include "statistics.cuh"

namespace auxgrad {
namespace {

constexpr int kColumns = 32, kLines = 8, kManyLines = 32;  // of threads

// Chunks of the rows: by sizes alone, enough to keep all processors busy.
inline int64_t row_chunks(int64_t rows, int64_t columns) {
  return max64(1, min64(ceil_div(rows, 8 * kLines), ceil_div(2048, ceil_div(max64(1, columns), kColumns))));
}

// Of the block's threads in the same column, in order; in the first line.
template <int Lines, int N>
__device__ inline void add_rows(double (&sum)[N]) {
  __shared__ double shared[N][Lines][kColumns];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < N; i++) shared[i][threadIdx.y][threadIdx.x] = sum[i];
  __syncthreads();
  if (threadIdx.y > 0) return;
  for (int r = 1; r < Lines; r++)
#pragma unroll
    for (int i = 0; i < N; i++) sum[i] += shared[i][r][threadIdx.x];
}

// Adds up the chunks of a column, which lie `step` apart; in the first row of threads.
template <int N>
__device__ inline void add_chunks(const double* first, int64_t chunks, int64_t step, int64_t part_step,
                                  double (&sum)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) sum[i] = 0;
  if (first)
    for (int64_t k = threadIdx.y; k < chunks; k += kLines)
#pragma unroll
      for (int i = 0; i < N; i++) sum[i] += first[k * step + i * part_step];
  add_rows<kLines>(sum);
}

__global__ void statistics_kernel(const float* y, int64_t rows, int64_t channels, float* pieces, int64_t items) {
  for (int64_t item = first_item(); item < items; item += item_step()) {
    const int64_t piece = quotient(item, channels), c = item - piece * channels, first = piece * kPiece;
    const float* const p = y + first * channels + c;
    piece_statistics([&](int r) { return p[r * channels]; }, static_cast<int>(min64(kPiece, rows - first)),
                     pieces + piece * 2 * channels + c, channels);
  }
}

__global__ void finish_statistics_kernel(int64_t rows, int64_t channels, const float* pieces, double eps, float* mean,
                                         float* var, float* rstd) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x, count = (rows + kPiece - 1) / kPiece;
  const float* const p = pieces + min64(c, channels - 1);
  __shared__ double middle[kColumns];
  double sum[1] = {};
#pragma unroll 4
  for (int64_t i = threadIdx.y; i < count; i += kManyLines)
    sum[0] += p[i * 2 * channels] * static_cast<double>(min64(kPiece, rows - i * kPiece));
  add_rows<kManyLines>(sum);
  if (threadIdx.y == 0) middle[threadIdx.x] = rows > 0 ? sum[0] / static_cast<double>(rows) : 0;
  __syncthreads();
  const double m = middle[threadIdx.x];
  sum[0] = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.y; i < count; i += kManyLines) {
    const double d = p[i * 2 * channels] - m;
    sum[0] += p[(i * 2 + 1) * channels] + d * d * static_cast<double>(min64(kPiece, rows - i * kPiece));
  }
  add_rows<kManyLines>(sum);
  if (threadIdx.y > 0 || c >= channels) return;
  const double variance = rows > 0 ? sum[0] / static_cast<double>(rows) : 0;
  if (mean) mean[c] = static_cast<float>(m);
  if (var) var[c] = static_cast<float>(variance);
  if (rstd) rstd[c] = static_cast<float>(1 / sqrt(variance + eps));
}

// mean, var (biased), rstd = 1 / sqrt(var + eps), each [channels] or null, of y [rows, channels]; `made`: the pieces are
// there.
inline bool run_statistics(const Call& call, const float* y, int64_t rows, int64_t channels, bool made, float* pieces,
                           double eps, float* mean, float* var, float* rstd) {
  const int64_t items = ceil_div(rows, kPiece) * channels;
  if (!made && !launch_items(call, items, statistics_kernel, y, rows, channels, pieces, items)) return false;
  return launch(call, finish_statistics_kernel, dim3(static_cast<unsigned>(ceil_div(channels, kColumns))),
                dim3(kColumns, kManyLines), 0, rows, channels, pieces, eps, mean, var, rstd);
}

// Weight gradients of depthwise convolutions, one channel a group: dw[c, tap] = scale * sum over t of
// delta[t, c] * what tap sees at t of channel c. A product of tiles would be mostly empty.
template <class Source>
__global__ void depthwise_gradient_kernel(const float* delta, int64_t channels, const Patches<Source> x, int64_t chunks,
                                          double* sums) {
  const int c = static_cast<int>(blockIdx.x) * kColumns + static_cast<int>(threadIdx.x);
  const int tap = static_cast<int>(blockIdx.y), taps = static_cast<int>(gridDim.y);
  const int64_t chunk = blockIdx.z;
  double sum[1] = {};
  if (c < channels) {
    const int end = static_cast<int>(x.lines * (chunk + 1) / chunks);
    for (int t = static_cast<int>(x.lines * chunk / chunks) + static_cast<int>(threadIdx.y); t < end; t += kLines) {
      int i = tap;
      const auto line = x.line(c, t);
      const int token = x.token(line, i);
      if (token >= 0) sum[0] += static_cast<double>(delta[t * channels + c]) * x.source.at(line.image, token, c);
    }
  }
  add_rows<kLines>(sum);
  if (threadIdx.y == 0 && c < channels) sums[(chunk * taps + tap) * channels + c] = sum[0];
}

__global__ void finish_depthwise_kernel(const double* sums, int64_t channels, int taps, int64_t chunks, float scale,
                                        float* dw) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x, tap = blockIdx.y;
  double sum[1];
  add_chunks(c < channels ? sums + tap * channels + c : nullptr, chunks, taps * channels, 0, sum);
  if (threadIdx.y == 0 && c < channels) dw[c * taps + tap] = static_cast<float>(sum[0]) * scale;
}

inline int64_t depthwise_scratch(int64_t tokens, int64_t channels, int64_t taps) {
  return 8 * row_chunks(tokens, channels * taps) * taps * channels;
}
template <class Source>
inline bool run_depthwise_gradient(const Call& call, const float* delta, int64_t channels, const Patches<Source>& x,
                                   float scale, float* dw) {
  const int64_t taps = x.length, chunks = row_chunks(x.lines, channels * taps);
  double* const sums = static_cast<double*>(call.scratch);
  const unsigned blocks = static_cast<unsigned>(ceil_div(channels, kColumns)), y = static_cast<unsigned>(taps);
  return launch(call, depthwise_gradient_kernel<Source>, dim3(blocks, y, static_cast<unsigned>(chunks)),
                dim3(kColumns, kLines), 0, delta, channels, x, chunks, sums) &&
         launch(call, finish_depthwise_kernel, dim3(blocks, y), dim3(kColumns, kLines), 0, sums, channels,
                static_cast<int>(taps), chunks, scale, dw);
}

}  // namespace
}  // namespace auxgrad
