// Kernels whose unit is a row of the last axis: a warp for a short row, a block for a long one.
#pragma once
#include "unit.cuh"

namespace auxgrad {
namespace {

// kLanes threads (32 or kBlock) share a row: their numbers, and values joined among them.
template <int kLanes>
struct RowThreads {
  static constexpr int kStep = kLanes;
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % kLanes; }
  __device__ static int64_t row() {
    return static_cast<int64_t>(blockIdx.x) * (kBlock / kLanes) + threadIdx.x / kLanes;
  }
  template <class T, class F>
  __device__ static T join(T value, const F& f) {
    if constexpr (kLanes == 32) return warp_reduce(value, f);
    else return block_reduce(value, f);
  }
  __device__ static double sum(double value) { return join(value, Add()); }
};

// f(RowThreads, row) for each row, all threads of a row together.
template <int kLanes, class F>
__global__ void __launch_bounds__(kBlock) row_kernel(F f, int64_t rows) {
  if (RowThreads<kLanes>::row() < rows) f(RowThreads<kLanes>(), RowThreads<kLanes>::row());
}
template <class F>
inline bool each_row(const Call& call, int64_t rows, int64_t n, const F& f) {
  const auto blocks = [](int64_t count) { return dim3(static_cast<unsigned>(count)); };
  return n <= 1024 ? launch(call, row_kernel<32, F>, blocks(ceil_div(rows, kBlock / 32)), dim3(kBlock), 0, f, rows)
                   : launch(call, row_kernel<kBlock, F>, blocks(rows), dim3(kBlock), 0, f, rows);
}

}  // namespace
}  // namespace auxgrad
