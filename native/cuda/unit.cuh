// First include of every CUDA source. The contract, as on the processor (../cpu/unit.h):
//
// - One source a family, the same families, kernel names, operands and numbers as ../cpu/kernels; the comment there is the
//   specification. Each ends with AUXGRAD_KERNELS({"name", run}, {"name", run, scratch}, ...).
// - run(call) launches on the stream of the call with launch() and returns at once; it never waits, allocates, copies to
//   or from the processor, or reads what an operand's data points to. False, with call.failure set, if a launch failed.
//   Views are by value in the processor's memory: pass pointers, shapes and strides on as kernel parameters.
// - scratch(call, threads) depends on shapes and numbers only (`threads` is 1 here). Data pointers of views are aligned
//   no more than their dtype demands: whoever reads float4 asks aligned() first. Scratch is 64-byte aligned.
// - The same bits at every run: no atomic float sums; partial results go to scratch and are added up in a fixed order.
// - Sums of many terms are double (or float in short stretches), products as exact as float32's.
// - Who looks up by index checks all indices first (indices.cuh); a wrong one fails the step at its end.
// - All code sits in an anonymous namespace. Compiled with -fmad=false, for the same rounding as the processor's kernels:
//   matrix products say fmaf().
#pragma once
#include <cuda_runtime.h>

#include "../core/arithmetic.h"
#include "../core/kernel.h"

#define AUXGRAD_KERNELS(...) AUXGRAD_KERNEL_TABLE(AUXGRAD_JOIN(kernels_cuda_, AUXGRAD_FAMILY, ), __VA_ARGS__)

namespace auxgrad {
namespace {

constexpr int kBlock = 256;      // threads of a block, where nothing speaks for another number
constexpr int64_t kGrid = 4096;  // blocks, at most, of kernels that loop over what is left

// kernel<<<grid, block, shared>>>(arguments...) on the call's stream; an empty grid is no error.
template <class... P, class... A>
inline bool launch(const Call& call, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, A... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return true;
  cudaError_t error = cudaSuccess;
  if (shared > 48 * 1024)
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  if (error == cudaSuccess) {
    kernel<<<grid, block, shared, static_cast<cudaStream_t>(call.stream)>>>(static_cast<P>(arguments)...);
    error = cudaGetLastError();
  }
  if (error == cudaSuccess) return true;
  return call.failure->set(ErrorCode::invalid_argument, "CUDA: %s", cudaGetErrorString(error));
}

// One thread an item, in a loop over the grid: kernel(arguments...) with `for (i : each(n))` as below.
template <class... P, class... A>
inline bool launch_items(const Call& call, int64_t n, void (*kernel)(P...), A... arguments) {
  return launch(call, kernel, dim3(static_cast<unsigned>(min64(kGrid, ceil_div(n, kBlock)))), dim3(kBlock), 0,
                arguments...);
}

// for (int64_t i = first_item(); i < n; i += item_step()): the items of this thread.
__device__ inline int64_t first_item() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline int64_t item_step() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

__host__ __device__ inline bool aligned(const void* p, int64_t bytes = 16) {
  return reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(bytes) == 0;
}

// Shape and strides of a view, as a parameter of a kernel, with neighbouring axes made one where they lie so; at(i) is
// the offset, in elements, of the view's i-th element in row-major order.
struct Layout {
  int32_t rank = 0;
  int64_t shape[kMaxRank], stride[kMaxRank];

  Layout() = default;
  explicit Layout(const View& v) : Layout(v.rank, v.shape, v.stride) {}
  Layout(int axes, const int64_t* sizes, const int64_t* strides) {
    for (int i = 0; i < axes; i++) {
      if (sizes[i] == 1) continue;
      if (rank > 0 && stride[rank - 1] == strides[i] * sizes[i]) shape[rank - 1] *= sizes[i];
      else shape[rank++] = sizes[i];
      stride[rank - 1] = strides[i];
    }
  }
  __device__ int64_t at(int64_t i) const {
    int64_t offset = 0;
    for (int axis = rank - 1; axis > 0; axis--) {
      const int64_t q = quotient(i, shape[axis]);
      offset += (i - q * shape[axis]) * stride[axis];
      i = q;
    }
    return rank > 0 ? offset + i * stride[0] : 0;
  }
};

// add(a, b) over the threads of a warp or block, in a fixed order; every thread gets the result. A block has at most
// 1024 threads, a multiple of 32, and `add` is the same for all.
template <class T, class Add>
__device__ inline T warp_reduce(T value, const Add& add) {
  for (int half = 16; half > 0; half /= 2) value = add(value, __shfl_xor_sync(0xffffffffu, value, half));
  return value;
}
template <class T, class Add>
__device__ inline T block_reduce(T value, const Add& add) {
  __shared__ T part[32];
  value = warp_reduce(value, add);
  const int warps = static_cast<int>(blockDim.x) / 32;
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = value;
  __syncthreads();
  value = part[0];
  for (int w = 1; w < warps; w++) value = add(value, part[w]);
  __syncthreads();  // part may be written again
  return value;
}

struct Add {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

}  // namespace
}  // namespace auxgrad
