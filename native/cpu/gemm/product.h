// What a matrix product is asked for: operands, what goes before and what follows.
#pragma once
#include "../unit.h"

namespace auxgrad {
namespace {

// What becomes of a finished sum: alpha * sum + bias, then relu (NaN stays), then the bit of > 0.
struct Finish {
  float alpha = 1;
  const float* bias = nullptr;
  bool relu = false;
  uint32_t* mask = nullptr;  // [ceil(M/32), N]
};

struct Product {
  int64_t m, n, k;
  const float* a;
  int64_t a_row, a_k;  // strides
  const float* b;
  int64_t b_k, b_column;
  float* c;  // [M, N]
  // Added to elements of A above 0 and to the others.
  float positive = 0, negative = 0;
  uint32_t* signs = nullptr;  // bits of A > 0, [ceil(M/32), K]
  Finish finish = {};
};

}  // namespace
}  // namespace auxgrad
