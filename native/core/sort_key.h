// Numbers as unsigned integers in the same order.
#pragma once
#include "arithmetic.h"

namespace auxgrad {
namespace {

// -inf < ... < -0 = 0 < ... < inf < NaN.
AUXGRAD_HOST_DEVICE inline uint32_t sort_key(float x) {
  if (x != x) return 0xffffffffu;
  const uint32_t bits = bits_of(x == 0 ? 0.0f : x);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
AUXGRAD_HOST_DEVICE inline uint32_t sort_key(int32_t x) { return static_cast<uint32_t>(x) ^ 0x80000000u; }

}  // namespace
}  // namespace auxgrad
