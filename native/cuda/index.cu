// Look-ups by index and their gradients. Every element has one writer and sums run in the order of the source.
#include "indices.cuh"

namespace auxgrad {
namespace {

int32_t caller(const Call& call, int which) { return static_cast<int32_t>(call.integer(which)); }

template <class E>
__global__ void take_rows(const E* x, const int32_t* index, E* y, int64_t n, int64_t m, int64_t inner, int64_t count,
                          const Fault* fault) {
  if (fault->raised) return;
  for (int64_t i = first_item(); i < count; i += item_step()) {
    const int64_t r = quotient(i, inner), o = quotient(r, m);
    y[i] = x[(o * n + index[r - o * m]) * inner + (i - r * inner)];
  }
}
template <class E>
bool take_as(const Call& call, int axis, int64_t bytes) {
  const View &x = call.in[0], &indices = call.in[1];
  const int64_t m = indices.count(), inner = bytes / static_cast<int64_t>(sizeof(E)),
                count = x.count(0, axis) * m * inner;
  return launch_items(call, count, take_rows<E>, static_cast<const E*>(x.data), indices.i32(),
                      static_cast<E*>(call.out[0].data), x.shape[axis], m, inner, count, call.fault);
}
// take: x [..., n, ...], indices i32 of any shape -> y with the axis replaced by the indices' axes
// numbers: axis, caller
bool take(const Call& call) {
  const View& x = call.in[0];
  const int axis = static_cast<int>(call.integer(0));
  const int64_t bytes = x.count(axis + 1, x.rank) * dtype_size(x.dtype);
  if (!check_indices(call, call.in[1], x.shape[axis], caller(call, 1))) return false;
  switch (dtype_size(x.dtype)) {
    case 1: return take_as<uint8_t>(call, axis, bytes);
    case 2: return take_as<uint16_t>(call, axis, bytes);
    default: return take_as<uint32_t>(call, axis, bytes);
  }
}

// A block for each row of dx: it looks through all indices, and adds the rows of dy that were taken from it.
__global__ void __launch_bounds__(kBlock) add_taken(const float* dy, const int32_t* index, float* dx, int64_t n,
                                                    int64_t m, int64_t inner, int64_t padding, const Fault* fault) {
  __shared__ uint32_t found[kBlock / 32];
  if (__syncthreads_or(fault->raised)) return;  // a call beside this one may raise it now: all threads agree
  const int64_t o = blockIdx.x / n, r = blockIdx.x % n;
  float* to = dx + static_cast<int64_t>(blockIdx.x) * inner;
  // Columns of a row in stretches that the threads' registers hold.
  constexpr int kColumns = 4;
  for (int64_t c0 = 0; c0 < inner; c0 += kColumns * kBlock) {
    float sum[kColumns] = {};
    for (int64_t begin = 0; r != padding && begin < m; begin += kBlock) {
      const int64_t i = begin + threadIdx.x;
      const uint32_t here = __ballot_sync(0xffffffffu, i < m && index[i] == r);
      if (threadIdx.x % 32 == 0) found[threadIdx.x / 32] = here;
      if (!__syncthreads_or(here != 0)) continue;
      for (int w = 0; w < kBlock / 32; w++)
        for (uint32_t bits = found[w]; bits != 0; bits &= bits - 1) {
          const float* from = dy + (o * m + begin + w * 32 + __ffs(static_cast<int>(bits)) - 1) * inner;
#pragma unroll
          for (int k = 0; k < kColumns; k++) {
            const int64_t c = c0 + k * kBlock + threadIdx.x;
            if (c < inner) sum[k] += from[c];
          }
        }
      __syncthreads();
    }
    for (int k = 0; k < kColumns; k++) {
      const int64_t c = c0 + k * kBlock + threadIdx.x;
      if (c < inner) to[c] = sum[k];
    }
  }
}

// take_grad: dy, indices -> dx, each row the sum of the rows of dy that were taken from it
// numbers: axis, caller, an index that gets no gradient (-1: none)
bool take_grad(const Call& call) {
  const View &indices = call.in[1], &dx = call.out[0];
  const int axis = static_cast<int>(call.integer(0));
  const int64_t n = dx.shape[axis], outer = dx.count(0, axis), inner = dx.count(axis + 1, dx.rank);
  return check_indices(call, indices, n, caller(call, 1)) &&
         launch(call, add_taken, dim3(static_cast<unsigned>(outer * n)), dim3(kBlock), 0, call.in[0].f32(),
                indices.i32(), dx.f32(), n, indices.count(), inner, call.integer(2), call.fault);
}

// Where an element of the index looks, along the axis left out of `rest`.
template <class E>
__global__ void gather_elements(const E* x, Layout rest, int64_t step, const int32_t* index, E* y, int64_t n,
                                const Fault* fault) {
  if (fault->raised) return;
  for (int64_t i = first_item(); i < n; i += item_step()) y[i] = x[rest.at(i) + index[i] * step];
}
template <class E>
bool gather_as(const Call& call, int axis) {
  const View &x = call.in[0], &index = call.in[1];
  int64_t stride[kMaxRank];
  for (int a = 0; a < index.rank; a++) stride[a] = a == axis ? 0 : x.stride[a];
  return launch_items(call, index.count(), gather_elements<E>, static_cast<const E*>(x.data),
                      Layout(index.rank, index.shape, stride), x.stride[axis], index.i32(),
                      static_cast<E*>(call.out[0].data), index.count(), call.fault);
}
// gather: x (any strides), index i32 of x's rank -> y of index's shape, y[.., j, ..] = x[.., index[.., j, ..], ..]
// numbers: axis, caller
bool gather(const Call& call) {
  const View& x = call.in[0];
  const int axis = static_cast<int>(call.integer(0));
  if (!check_indices(call, call.in[1], x.shape[axis], caller(call, 1))) return false;
  switch (dtype_size(x.dtype)) {
    case 1: return gather_as<uint8_t>(call, axis);
    case 2: return gather_as<uint16_t>(call, axis);
    default: return gather_as<uint32_t>(call, axis);
  }
}

__global__ void copy_or_zero(const float* x, float* y, int64_t n, const Fault* fault) {
  if (fault->raised) return;
  for (int64_t i = first_item(); i < n; i += item_step()) y[i] = x ? x[i] : 0.0f;
}
// A lane is a line of the index along the axis; lanes write to different places.
__global__ void add_lanes(const int32_t* index, const float* source, Layout from, int64_t from_step, float* y,
                          Layout to, int64_t to_step, int64_t n, int64_t lanes, const Fault* fault) {
  if (fault->raised) return;
  for (int64_t lane = first_item(); lane < lanes; lane += item_step()) {
    const int64_t first = from.at(lane), base = to.at(lane);
    for (int64_t i = 0; i < n; i++) {
      const int64_t at = first + i * from_step;
      y[base + index[at] * to_step] += source[at];
    }
  }
}
// scatter_add: x or absent (zeros), index i32, source of index's shape -> y = x, plus source at the indexed places
// numbers: axis, caller
bool scatter_add(const Call& call) {
  const View &x = call.in[0], &index = call.in[1], &y = call.out[0];
  const int axis = static_cast<int>(call.integer(0));
  if (!check_indices(call, index, y.shape[axis], caller(call, 1)) ||
      !launch_items(call, y.count(), copy_or_zero, x ? x.f32() : nullptr, y.f32(), y.count(), call.fault))
    return false;
  if (index.count() == 0) return true;
  int64_t shape[kMaxRank], from[kMaxRank], to[kMaxRank];
  int rank = 0;
  for (int a = 0; a < index.rank; a++) {
    if (a == axis) continue;
    shape[rank] = index.shape[a];
    from[rank] = index.stride[a];
    to[rank++] = y.stride[a];
  }
  const int64_t n = index.shape[axis], lanes = index.count() / n;
  return launch_items(call, lanes, add_lanes, index.i32(), call.in[2].f32(), Layout(rank, shape, from),
                      index.stride[axis], y.f32(), Layout(rank, shape, to), y.stride[axis], n, lanes, call.fault);
}

__global__ void mark_labels(const int32_t* labels, float* y, int64_t classes, int64_t n, const Fault* fault) {
  if (fault->raised) return;
  for (int64_t i = first_item(); i < n; i += item_step()) {
    const int64_t r = quotient(i, classes);
    y[i] = labels[r] == i - r * classes ? 1.0f : 0.0f;
  }
}
// one_hot: labels i32 -> y f32 [..., classes]; numbers: caller
bool one_hot(const Call& call) {
  const View& y = call.out[0];
  const int64_t classes = y.shape[y.rank - 1];
  return check_indices(call, call.in[0], classes, caller(call, 0)) &&
         launch_items(call, y.count(), mark_labels, call.in[0].i32(), y.f32(), classes, y.count(), call.fault);
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"take", take}, {"take_grad", take_grad}, {"gather", gather}, {"scatter_add", scatter_add},
                {"one_hot", one_hot})
