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

// Products of the same sizes and strides, one for each matrix of c; a and b have the same axes before those of theirs.
struct Products {
  Product first;
  const View &a, &b, &c;

  int64_t count() const { return c.count(0, c.rank - 2); }
  Product at(int64_t i) const {
    Product p = first;
    p.c += i * p.m * p.n;
    for (int axis = c.rank - 3; axis >= 0; axis--) {
      const int64_t along = i % c.shape[axis];
      i /= c.shape[axis];
      p.a += along * a.stride[axis];
      p.b += along * b.stride[axis];
    }
    return p;
  }
};

}  // namespace
}  // namespace auxgrad
