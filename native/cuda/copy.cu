// Moving elements: contiguous copies of strided views, fills.
#include "fill.cuh"

namespace auxgrad {
namespace {

constexpr int kSquare = 32;

template <class E>
__global__ void copy_dense(const E* x, E* y, int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_step()) y[i] = x[i];
}

template <class E>
__global__ void copy_strided(const E* x, Layout layout, E* y, int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_step()) y[i] = x[layout.at(i)];
}

// The dense axis of x is not the last one: squares are turned in shared memory. `outer` has all other axes, of x and of
// y, the dense one and the last left out.
template <class E>
__global__ void copy_turned(const E* x, Layout outer, Layout target, E* y, int64_t rows, int64_t columns, int64_t step,
                            int64_t pitch) {
  __shared__ E square[kSquare][kSquare + 1];
  const int64_t row_blocks = ceil_div(rows, kSquare), tiles = row_blocks * ceil_div(columns, kSquare);
  const int64_t tile = blockIdx.x % tiles, plane = blockIdx.x / tiles;
  const E* from = x + outer.at(plane);
  E* to = y + target.at(plane);
  const int64_t i0 = tile % row_blocks * kSquare, j0 = tile / row_blocks * kSquare;
  for (int k = threadIdx.y; k < kSquare; k += 8)
    if (j0 + k < columns && i0 + threadIdx.x < rows) square[k][threadIdx.x] = from[i0 + threadIdx.x + (j0 + k) * step];
  __syncthreads();
  for (int k = threadIdx.y; k < kSquare; k += 8)
    if (i0 + k < rows && j0 + threadIdx.x < columns) to[(i0 + k) * pitch + j0 + threadIdx.x] = square[threadIdx.x][k];
}

template <class E>
bool copy_as(const Call& call) {
  const View &x = call.in[0], &y = call.out[0];
  const E* from = static_cast<const E*>(x.data);
  E* to = static_cast<E*>(y.data);
  const int64_t n = y.count();
  if (x.contiguous()) {
    const int64_t bytes = n * static_cast<int64_t>(sizeof(E));
    if (bytes % 16 == 0 && aligned(from) && aligned(to))
      return launch_items(call, bytes / 16, copy_dense<uint4>, reinterpret_cast<const uint4*>(from),
                          reinterpret_cast<uint4*>(to), bytes / 16);
    return launch_items(call, n, copy_dense<E>, from, to, n);
  }
  const int last = x.rank - 1;
  int dense = -1;
  for (int axis = 0; axis < last; axis++)
    if (x.stride[axis] == 1 && x.shape[axis] >= 8) dense = axis;
  if (dense < 0 || x.stride[last] <= 1 || x.shape[last] < 8)
    return launch_items(call, n, copy_strided<E>, from, Layout(x), to, n);
  View outer, target;
  int64_t step = 1;
  for (int axis = last; axis >= 0; axis--) {
    if (axis != dense && axis != last) {
      outer.shape[outer.rank] = target.shape[target.rank] = x.shape[axis];
      outer.stride[outer.rank++] = x.stride[axis];
      target.stride[target.rank++] = step;
    }
    step *= x.shape[axis];
  }
  const int64_t rows = x.shape[dense], columns = x.shape[last], planes = rows * columns ? n / (rows * columns) : 0;
  const int64_t blocks = ceil_div(rows, kSquare) * ceil_div(columns, kSquare) * planes;
  return launch(call, copy_turned<E>, dim3(static_cast<unsigned>(blocks)), dim3(kSquare, 8), 0, from, Layout(outer),
                Layout(target), to, rows, columns, x.stride[last], x.count(dense + 1, x.rank));
}

bool contiguous(const Call& call) {
  switch (dtype_size(call.in[0].dtype)) {
    case 4: return copy_as<uint32_t>(call);
    case 2: return copy_as<uint16_t>(call);
    default: return copy_as<uint8_t>(call);
  }
}

bool fill(const Call& call) { return fill_view(call, call.out[0], call.number[0]); }

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"contiguous", contiguous}, {"fill", fill})
