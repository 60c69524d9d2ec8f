// Elementwise functions of broadcast operands.
#pragma once
#include <utility>

#include "../core/elementwise.h"
#include "unit.cuh"

namespace auxgrad {
namespace {

constexpr int kEach = 4;  // elements of a thread that are in flight together

template <int N>
__device__ inline void offsets_at(const Axes<N>& axes, int64_t i, int64_t (&offset)[N]) {
  for (int o = 0; o < N; o++) offset[o] = 0;
  for (int axis = axes.rank - 1; axis > 0; axis--) {
    const int64_t q = quotient(i, axes.shape[axis]), r = i - q * axes.shape[axis];
    for (int o = 0; o < N; o++) offset[o] += r * axes.stride[o][axis];
    i = q;
  }
  for (int o = 0; o < N; o++) offset[o] += i * axes.stride[o][0];
}

template <class R, class F, class... T, size_t... K>
__device__ inline R map_one(const F& f, const Axes<sizeof...(T)>& axes, int64_t i, std::index_sequence<K...>,
                            const T*... x) {
  int64_t offset[sizeof...(T)];
  offsets_at(axes, i, offset);
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
template <class S, class T, class R, class F>
inline bool map3(const Call& call, const View& a, const View& b, const View& c, const View& y, const F& f) {
  return map_views<R>(call, f, y, map_kernel<R, F, S, T, T>, a, b, c);
}

}  // namespace
}  // namespace auxgrad
