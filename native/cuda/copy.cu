// Moving elements to other places: copies of strided views, fills, windows, joins.
#include "../core/moves.h"
#include "unit.cuh"

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
bool contiguous_as(const Call& call) {
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
    case 4: return contiguous_as<uint32_t>(call);
    case 2: return contiguous_as<uint16_t>(call);
    default: return contiguous_as<uint8_t>(call);
  }
}

template <class E>
__global__ void fill_with(E* y, E value, int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_step()) y[i] = value;
}

template <class E>
bool fill_as(const Call& call, E* y, int64_t n, E value) {
  return launch_items(call, n, fill_with<E>, y, value, n);
}
// fill: -> y, every element number[0]
bool fill(const Call& call) {
  const View& y = call.out[0];
  const uint32_t bits = element_bits(y.dtype, call.number[0]);
  switch (dtype_size(y.dtype)) {
    case 1: return fill_as(call, y.u8(), y.count(), static_cast<uint8_t>(bits));
    case 2: return fill_as(call, y.bf16(), y.count(), static_cast<uint16_t>(bits));
    default: return fill_as(call, y.u32(), y.count(), bits);
  }
}

template <class E>
__global__ void copy_elements(const E* x, Layout from, E* y, Layout to, int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_step()) y[to.at(i)] = x[from.at(i)];
}
template <class E>
bool copy_as(const Call& call, const View& x, const View& y, int64_t offset, const int64_t* y_stride) {
  return launch_items(call, x.count(), copy_elements<E>, static_cast<const E*>(x.data), Layout(x),
                      static_cast<E*>(y.data) + offset, Layout(x.rank, x.shape, y_stride), x.count());
}
// Copies x (any strides) to y with the given strides, both of x's shape, as raw bits; `offset` elements into y.
bool copy_bits(const Call& call, const View& x, const View& y, int64_t offset, const int64_t* y_stride) {
  switch (dtype_size(x.dtype)) {
    case 1: return copy_as<uint8_t>(call, x, y, offset, y_stride);
    case 2: return copy_as<uint16_t>(call, x, y, offset, y_stride);
    default: return copy_as<uint32_t>(call, x, y, offset, y_stride);
  }
}

// place
bool place(const Call& call) {
  const Window at(call);
  return fill(call) && copy_bits(call, call.in[0], call.out[0], at.offset, at.stride);
}

// concat
bool concat(const Call& call) {
  return each_joined(
      call, [&](const View& x, int64_t offset) { return copy_bits(call, x, call.out[0], offset, call.out[0].stride); });
}

// flip
bool flip(const Call& call) { return copy_bits(call, flipped(call), call.out[0], 0, call.out[0].stride); }

__global__ void keep_triangle(const float* x, float* y, int64_t rows, int64_t columns, int64_t diagonal, bool upper,
                              int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_step()) {
    const int64_t r = quotient(i, columns), c = i - r * columns, border = r % rows + diagonal;
    y[i] = (upper ? c >= border : c <= border) ? x[i] : 0.0f;
  }
}
// triangle: x [..., M, N] f32 -> y, zero where column - row > diagonal (lower) or < diagonal (upper)
// numbers: diagonal, 1 for the upper triangle
bool triangle(const Call& call) {
  const View& x = call.in[0];
  return launch_items(call, x.count(), keep_triangle, x.f32(), call.out[0].f32(), x.shape[x.rank - 2],
                      x.shape[x.rank - 1], call.integer(0), call.integer(1) != 0, x.count());
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"contiguous", contiguous}, {"fill", fill}, {"place", place}, {"concat", concat}, {"flip", flip},
                {"triangle", triangle})
