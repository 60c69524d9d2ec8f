// Indices are all checked before anything is written: a kernel that looks up by them does nothing if one was wrong.
#pragma once
#include "unit.cuh"

namespace auxgrad {
namespace {

// The first to come stays: calls may run side by side.
__device__ inline void raise(Fault* fault, int32_t who, int64_t value, int64_t position, int64_t limit) {
  if (atomicCAS(&fault->raised, 0, 1) != 0) return;
  fault->who = who;
  fault->value = value;
  fault->position = position;
  fault->limit = limit;
}

// One block: the first wrong one is found, whatever the order of the threads. `allowed` is no index, and right.
__global__ void find_wrong_index(const int32_t* index, int64_t n, int64_t limit, int64_t allowed, int32_t who,
                                 Fault* fault) {
  int64_t first = n;
  for (int64_t i = threadIdx.x; i < n && first == n; i += blockDim.x)
    if (index[i] != allowed && (index[i] < 0 || index[i] >= limit)) first = i;
  first = block_reduce(first, [](int64_t a, int64_t b) { return a < b ? a : b; });
  if (threadIdx.x == 0 && first < n) raise(fault, who, index[first], first, limit);
}

inline bool check_indices(const Call& call, const View& indices, int64_t limit, int32_t who,
                          int64_t allowed = INT64_MIN) {
  const int64_t n = indices.count();
  if (n == 0) return true;
  return launch(call, find_wrong_index, dim3(1), dim3(1024), 0, indices.i32(), n, limit, allowed, who, call.fault);
}

}  // namespace
}  // namespace auxgrad
