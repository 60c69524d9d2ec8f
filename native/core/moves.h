// Moving elements to other places: what the kernels of it are given.
#pragma once
#include "arithmetic.h"
#include "kernel.h"

namespace auxgrad {
namespace {

// A value as an element of that type, in the lower bits.
inline uint32_t element_bits(DType type, double value) {
  switch (type) {
    case DType::f32: return bits_of(static_cast<float>(value));
    case DType::bf16: return f32_to_bf16(static_cast<float>(value));
    case DType::i32: return static_cast<uint32_t>(static_cast<int32_t>(value));
    case DType::u32: return static_cast<uint32_t>(value);
    default: return static_cast<uint8_t>(value);
  }
}

// place: x (any strides) -> y, every element number[0] but for the window that x fills
// numbers: value, first index per axis, step per axis
struct Window {
  int64_t offset = 0, stride[kMaxRank];  // of x's elements in y

  explicit Window(const Call& call) {
    const View &x = call.in[0], &y = call.out[0];
    for (int axis = 0; axis < x.rank; axis++) {
      offset += call.integer(1 + axis) * y.stride[axis];
      stride[axis] = call.integer(1 + x.rank + axis) * y.stride[axis];
    }
  }
};

// concat: up to 24 tensors (any strides) -> y, one after the other along an axis; numbers: axis
// copy(x, offset in y) for each; false if one was
template <class F>
inline bool each_joined(const Call& call, const F& copy) {
  const int axis = static_cast<int>(call.integer(0));
  int64_t at = 0;
  for (int i = 0; i < call.n_in; i++) {
    if (!copy(call.in[i], at * call.out[0].stride[axis])) return false;
    at += call.in[i].shape[axis];
  }
  return true;
}

// flip: x (any strides) -> y in reverse along the axes in numbers
inline View flipped(const Call& call) {
  View x = call.in[0];
  int64_t offset = 0;
  for (int i = 0; i < call.n_number; i++) {
    const int axis = static_cast<int>(call.integer(i));
    offset += (x.shape[axis] - 1) * x.stride[axis];
    x.stride[axis] = -x.stride[axis];
  }
  if (x.count() > 0) x.data = x.u8() + offset * dtype_size(x.dtype);
  return x;
}

}  // namespace
}  // namespace auxgrad
