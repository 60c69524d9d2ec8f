// One value everywhere.
#pragma once
#include "../core/moves.h"
#include "unit.cuh"

namespace auxgrad {
namespace {

template <class E>
__global__ void fill_with(E* y, E value, int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_step()) y[i] = value;
}

template <class E>
bool fill_as(const Call& call, E* y, int64_t n, E value) {
  return launch_items(call, n, fill_with<E>, y, value, n);
}
inline bool fill_view(const Call& call, const View& y, double value) {
  const uint32_t bits = element_bits(y.dtype, value);
  switch (dtype_size(y.dtype)) {
    case 1: return fill_as(call, y.u8(), y.count(), static_cast<uint8_t>(bits));
    case 2: return fill_as(call, y.bf16(), y.count(), static_cast<uint16_t>(bits));
    default: return fill_as(call, y.u32(), y.count(), bits);
  }
}

}  // namespace
}  // namespace auxgrad
