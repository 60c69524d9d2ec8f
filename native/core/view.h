// A strided window on memory: what every kernel operand is.
#pragma once
#include <cstdint>

#include "dtype.h"

namespace auxgrad {

constexpr int kMaxRank = 8;

struct View {
  void* data = nullptr;  // address of element [0, 0, ...]; null for an absent optional operand
  DType dtype = DType::f32;
  int32_t rank = 0;
  int64_t shape[kMaxRank] = {};
  int64_t stride[kMaxRank] = {};  // in elements; 0 repeats an element along the axis (broadcast)

  AUXGRAD_INLINE float* f32() const { return static_cast<float*>(data); }
  AUXGRAD_INLINE int32_t* i32() const { return static_cast<int32_t*>(data); }
  AUXGRAD_INLINE uint32_t* u32() const { return static_cast<uint32_t*>(data); }
  AUXGRAD_INLINE uint8_t* u8() const { return static_cast<uint8_t*>(data); }
  AUXGRAD_INLINE uint16_t* bf16() const { return static_cast<uint16_t*>(data); }

  AUXGRAD_INLINE explicit operator bool() const { return data != nullptr; }

  AUXGRAD_INLINE int64_t count() const {
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= shape[i];
    return n;
  }
  // Product of shape[from..to).
  AUXGRAD_INLINE int64_t count(int from, int to) const {
    int64_t n = 1;
    for (int i = from; i < to; i++) n *= shape[i];
    return n;
  }
  AUXGRAD_INLINE bool contiguous() const {
    int64_t expected = 1;
    for (int i = rank - 1; i >= 0; i--) {
      if (shape[i] != 1 && stride[i] != expected) return false;
      expected *= shape[i];
    }
    return true;
  }
};

}  // namespace auxgrad
