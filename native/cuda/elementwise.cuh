// y = f(x...) elementwise; operands of y's shape with any strides (0 repeats), y contiguous.
#pragma once
#include <utility>

#include "unit.cuh"

namespace auxgrad {
namespace {

constexpr int kEach = 4;  // elements of a thread that are in flight together

// The axes of the output and the strides of the operands over them, neighbours made one where all agree.
template <int N>
struct Axes {
  int rank = 0;
  int64_t shape[kMaxRank], stride[N][kMaxRank];

  Axes(const View& out, const View* const (&operands)[N]) {
    for (int axis = 0; axis < out.rank; axis++) {
      if (out.shape[axis] == 1) continue;
      bool joins = rank > 0;
      for (int o = 0; o < N; o++) joins = joins && stride[o][rank - 1] == operands[o]->stride[axis] * out.shape[axis];
      if (joins) shape[rank - 1] *= out.shape[axis];
      else shape[rank++] = out.shape[axis];
      for (int o = 0; o < N; o++) stride[o][rank - 1] = operands[o]->stride[axis];
    }
    if (rank > 0) return;
    shape[rank++] = 1;
    for (int o = 0; o < N; o++) stride[o][0] = 0;
  }
  __device__ void at(int64_t i, int64_t (&offset)[N]) const {
    for (int o = 0; o < N; o++) offset[o] = 0;
    for (int axis = rank - 1; axis > 0; axis--) {
      const int64_t q = quotient(i, shape[axis]), r = i - q * shape[axis];
      for (int o = 0; o < N; o++) offset[o] += r * stride[o][axis];
      i = q;
    }
    for (int o = 0; o < N; o++) offset[o] += i * stride[o][0];
  }
};

template <class R, class F, class... T, size_t... K>
__device__ inline R map_one(const F& f, const Axes<sizeof...(T)>& axes, int64_t i, std::index_sequence<K...>,
                            const T*... x) {
  int64_t offset[sizeof...(T)];
  axes.at(i, offset);
  return f(x[offset[K]]...);
}

template <class R, class F, class... T>
__global__ void map_kernel(F f, Axes<sizeof...(T)> axes, R* y, int64_t n, const T*... x) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kBlock * kEach;
  for (int64_t begin = static_cast<int64_t>(blockIdx.x) * kBlock * kEach + threadIdx.x; begin < n; begin += step) {
    R value[kEach];
#pragma unroll
    for (int k = 0; k < kEach; k++)
      if (begin + k * kBlock < n)
        value[k] = map_one<R>(f, axes, begin + k * kBlock, std::index_sequence_for<T...>(), x...);
#pragma unroll
    for (int k = 0; k < kEach; k++)
      if (begin + k * kBlock < n) y[begin + k * kBlock] = value[k];
  }
}

template <class R, class F, class... T, class... V>
inline bool map_views(const Call& call, const F& f, const View& y,
                      void (*kernel)(F, Axes<sizeof...(V)>, R*, int64_t, const T*...), const V&... x) {
  const View* const operands[] = {&x...};
  const int64_t n = y.count();
  return launch(call, kernel, dim3(static_cast<unsigned>(min64(2 * kGrid, ceil_div(n, kBlock * kEach)))), dim3(kBlock),
                0, f, Axes<sizeof...(V)>(y, operands), static_cast<R*>(y.data), n, static_cast<const T*>(x.data)...);
}

template <class T, class R, class F>
inline bool map1(const Call& call, const View& x, const View& y, const F& f) {
  return map_views<R>(call, f, y, map_kernel<R, F, T>, x);
}
template <class T, class R, class F>
inline bool map2(const Call& call, const View& a, const View& b, const View& y, const F& f) {
  return map_views<R>(call, f, y, map_kernel<R, F, T, T>, a, b);
}
// a of type S.
template <class S, class T, class R, class F>
inline bool map3(const Call& call, const View& a, const View& b, const View& c, const View& y, const F& f) {
  return map_views<R>(call, f, y, map_kernel<R, F, S, T, T>, a, b, c);
}

// The numbers of a call that functions of elements read, by value.
struct Numbers {
  float number[2];
  explicit Numbers(const Call& call) {
    for (int i = 0; i < 2; i++) number[i] = i < call.n_number ? call.real(i) : 0.0f;
  }
  __device__ float real(int i) const { return number[i]; }
};

}  // namespace
}  // namespace auxgrad
