// Sums along rows for each of many columns: a block takes kColumns columns, neighbours in memory, and a chunk of the rows;
// the chunks' sums go to scratch, and are added up in order.
#pragma once
#include "operand.cuh"

namespace auxgrad {
namespace {

constexpr int kColumns = 32, kLines = 8;  // of threads

// Chunks of the rows: by sizes alone, enough to keep all processors busy.
inline int64_t row_chunks(int64_t rows, int64_t columns) {
  return max64(1, min64(ceil_div(rows, 8 * kLines), ceil_div(2048, ceil_div(max64(1, columns), kColumns))));
}

// Of the block's threads in the same column, in order; in the first row.
template <int N>
__device__ inline void add_rows(double (&sum)[N]) {
  __shared__ double shared[N][kLines][kColumns];
#pragma unroll
  for (int i = 0; i < N; i++) shared[i][threadIdx.y][threadIdx.x] = sum[i];
  __syncthreads();
  if (threadIdx.y > 0) return;
  for (int r = 1; r < kLines; r++)
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
  add_rows(sum);
}

// Mean and variance of the channels of rows. The shift, an element of the channel, keeps digits where the mean is large.
__device__ inline double channel_shift(const float* y, int64_t c) { return isfinite(y[c]) ? y[c] : 0.0f; }

__global__ void statistics_kernel(const float* y, int64_t rows, int64_t channels, int64_t chunks, double* sums) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x, chunk = blockIdx.y;
  double sum[2] = {};
  if (c < channels) {
    const double shift = channel_shift(y, c);
    const int64_t end = rows * (chunk + 1) / chunks;
#pragma unroll 4
    for (int64_t r = rows * chunk / chunks + threadIdx.y; r < end; r += kLines) {
      const double d = y[r * channels + c] - shift;
      sum[0] += d;
      sum[1] += d * d;
    }
  }
  add_rows(sum);
  if (threadIdx.y == 0 && c < channels)
    for (int i = 0; i < 2; i++) sums[(chunk * 2 + i) * channels + c] = sum[i];
}

__global__ void finish_statistics_kernel(const float* y, int64_t rows, int64_t channels, int64_t chunks,
                                         const double* sums, double eps, float* mean, float* var, float* rstd) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
  double sum[2];
  add_chunks(c < channels ? sums + c : nullptr, chunks, 2 * channels, channels, sum);
  if (threadIdx.y > 0 || c >= channels) return;
  const double m = rows > 0 ? sum[0] / rows : 0, v = rows > 0 ? sum[1] / rows - m * m : 0;
  const double variance = v > 0 || v != v ? v : 0;
  if (mean) mean[c] = static_cast<float>(rows > 0 ? channel_shift(y, c) + m : 0);
  if (var) var[c] = static_cast<float>(variance);
  if (rstd) rstd[c] = static_cast<float>(1 / sqrt(variance + eps));
}

inline int64_t statistics_scratch(int64_t rows, int64_t channels) { return 16 * row_chunks(rows, channels) * channels; }

// mean, var (biased), rstd = 1 / sqrt(var + eps), each [channels] or null, of y [rows, channels].
inline bool run_statistics(const Call& call, const float* y, int64_t rows, int64_t channels, double eps, float* mean,
                           float* var, float* rstd, void* scratch) {
  const int64_t chunks = row_chunks(rows, channels);
  double* const sums = static_cast<double*>(scratch);
  const unsigned blocks = static_cast<unsigned>(ceil_div(channels, kColumns));
  return launch(call, statistics_kernel, dim3(blocks, static_cast<unsigned>(chunks)), dim3(kColumns, kLines), 0, y,
                rows, channels, chunks, sums) &&
         launch(call, finish_statistics_kernel, dim3(blocks), dim3(kColumns, kLines), 0, y, rows, channels, chunks,
                sums, eps, mean, var, rstd);
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
  add_rows(sum);
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
