// What elementwise kernels share. Whole families of them are written once (unary.h, binary.h, loss.h), over map1() to map3().
#pragma once
#include "arithmetic.h"
#include "kernel.h"

namespace auxgrad {
namespace {

// The axes of a contiguous output and the strides of N operands over them, neighbours made one where all agree.
template <int N>
struct Axes {
  int rank = 0;
  int64_t shape[kMaxRank], stride[N][kMaxRank];

  __attribute__((noinline)) Axes(const View& out, const View* const (&operands)[N]) {
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
};

// The numbers that functions of elements read, by value.
struct Numbers {
  float number[2];

  __attribute__((noinline)) explicit Numbers(const Call& call) {
    for (int i = 0; i < 2; i++) number[i] = i < call.n_number ? call.real(i) : 0.0f;
  }
  AUXGRAD_HOST_DEVICE float real(int i) const { return number[i]; }
};

// y = f(x...) elementwise; operands of y's shape with any strides (0 repeats), y contiguous. The processor and the device
// define them, each in its way.
template <class T, class R, class F>
bool map1(const Call& call, const View& x, const View& y, const F& f);
template <class T, class R, class F>
bool map2(const Call& call, const View& a, const View& b, const View& y, const F& f);
// a of type S.
template <class S, class T, class R, class F>
bool map3(const Call& call, const View& a, const View& b, const View& c, const View& y, const F& f);

}  // namespace
}  // namespace auxgrad
