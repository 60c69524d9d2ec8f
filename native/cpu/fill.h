// One value everywhere.
#pragma once
#include "../core/moves.h"
#include "unit.h"

namespace auxgrad {
namespace {

template <class E>
inline void fill_with(const Call& call, E* y, int64_t n, E value) {
  parallel_ranges(call, n, 65536, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) y[i] = value;
  });
}
inline void fill_view(const Call& call, const View& y, double value) {
  const uint32_t bits = element_bits(y.dtype, value);
  switch (dtype_size(y.dtype)) {
    case 1: return fill_with(call, y.u8(), y.count(), static_cast<uint8_t>(bits));
    case 2: return fill_with(call, y.bf16(), y.count(), static_cast<uint16_t>(bits));
    default: return fill_with(call, y.u32(), y.count(), bits);
  }
}

}  // namespace
}  // namespace auxgrad
