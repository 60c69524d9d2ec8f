// Sorting along the last axis, and running sums.
#include "../core/sort_key.h"
#include "unit.cuh"

namespace auxgrad {
namespace {

// Items are distinct (key, then position), so that any order of comparisons gives the same result; rows are padded with
// the largest item to a power of two.
template <class T>
__global__ void make_items(const T* x, uint64_t* items, int64_t n, int64_t padded, uint32_t turn, int64_t count) {
  for (int64_t i = first_item(); i < count; i += item_step()) {
    const int64_t row = i / padded, at = i % padded;
    items[i] = at < n ? static_cast<uint64_t>(sort_key(x[row * n + at]) ^ turn) << 32 | static_cast<uint32_t>(at)
                      : 0xffffffffffffffffull;
  }
}

// One step of a bitonic network (Batcher 1968): pairs `distance` apart, ascending in every other run of `run`.
__device__ inline void exchange(uint64_t* items, int64_t i, int64_t distance, int64_t run) {
  const int64_t low = i / distance * 2 * distance + i % distance;
  const uint64_t a = items[low], b = items[low + distance];
  if ((a > b) == ((low & run) == 0)) {
    items[low] = b;
    items[low + distance] = a;
  }
}
constexpr int64_t kShared = 2 * 1024;  // items of a row that a block sorts in shared memory
__global__ void __launch_bounds__(1024) sort_shared(uint64_t* items, int64_t padded) {
  __shared__ uint64_t own[kShared];
  uint64_t* row = items + blockIdx.x * padded;
  for (int64_t i = threadIdx.x; i < padded; i += blockDim.x) own[i] = row[i];
  for (int64_t run = 2; run <= padded; run *= 2)
    for (int64_t distance = run / 2; distance > 0; distance /= 2) {
      __syncthreads();
      if (threadIdx.x < padded / 2) exchange(own, threadIdx.x, distance, run);
    }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < padded; i += blockDim.x) row[i] = own[i];
}
__global__ void sort_step(uint64_t* items, int64_t distance, int64_t run, int64_t padded, int64_t pairs) {
  for (int64_t i = first_item(); i < pairs; i += item_step())
    exchange(items + i / (padded / 2) * padded, i % (padded / 2), distance, run);
}

template <class T>
__global__ void write_sorted(const T* x, const uint64_t* items, T* y, int32_t* places, int64_t n, int64_t padded,
                             int64_t k, int64_t count) {
  for (int64_t i = first_item(); i < count; i += item_step()) {
    const int64_t row = i / k;
    const uint32_t at = static_cast<uint32_t>(items[row * padded + i % k]);
    y[i] = x[row * n + at];
    places[i] = static_cast<int32_t>(at);
  }
}

int64_t padded_of(int64_t n) {
  int64_t padded = 2;
  while (padded < n) padded *= 2;
  return padded;
}
int64_t sort_scratch(const Call& call, int) {
  const View& x = call.in[0];
  return x.count(0, x.rank - 1) * padded_of(x.shape[x.rank - 1]) * static_cast<int64_t>(sizeof(uint64_t));
}

template <class T>
bool sort_rows(const Call& call) {
  const View& x = call.in[0];
  const int64_t n = x.shape[x.rank - 1], k = call.out[1].shape[x.rank - 1], rows = x.count(0, x.rank - 1);
  if (n == 0 || k == 0) return true;
  const int64_t padded = padded_of(n), pairs = rows * padded / 2;
  uint64_t* items = static_cast<uint64_t*>(call.scratch);
  const T* from = static_cast<const T*>(x.data);
  bool ok = launch_items(call, rows * padded, make_items<T>, from, items, n, padded, call.integer(0) ? 0xffffffffu : 0u,
                         rows * padded);
  if (padded <= kShared) {
    ok = ok && launch(call, sort_shared, dim3(static_cast<unsigned>(rows)), dim3(1024), 0, items, padded);
  } else {
    for (int64_t run = 2; run <= padded; run *= 2)
      for (int64_t distance = run / 2; ok && distance > 0; distance /= 2)
        ok = launch_items(call, pairs, sort_step, items, distance, run, padded, pairs);
  }
  return ok && launch_items(call, rows * k, write_sorted<T>, from, items, static_cast<T*>(call.out[0].data),
                            call.out[1].i32(), n, padded, k, rows * k);
}

// sort: x [..., n] f32 or i32 -> the first k values, their positions i32; stable; NaN counts as the largest
// numbers: 1 for descending order. k is the outputs' last size.
bool sort(const Call& call) {
  return call.in[0].dtype == DType::i32 ? sort_rows<int32_t>(call) : sort_rows<float>(call);
}

__global__ void running_sums(const float* x, float* y, int64_t n, int64_t inner, bool reverse, int64_t lanes) {
  for (int64_t lane = first_item(); lane < lanes; lane += item_step()) {
    const int64_t base = lane / inner * n * inner + lane % inner;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
      const int64_t at = base + (reverse ? n - 1 - i : i) * inner;
      sum += x[at];
      y[at] = static_cast<float>(sum);
    }
  }
}
// cumsum: x f32 -> running sums along an axis, in double; numbers: axis, 1 to run from the end
bool cumsum(const Call& call) {
  const View& x = call.in[0];
  const int axis = static_cast<int>(call.integer(0));
  const int64_t n = x.shape[axis], inner = x.count(axis + 1, x.rank);
  if (x.count() == 0) return true;
  return launch_items(call, x.count() / n, running_sums, x.f32(), call.out[0].f32(), n, inner, call.integer(1) != 0,
                      x.count() / n);
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"sort", sort, sort_scratch}, {"cumsum", cumsum})
