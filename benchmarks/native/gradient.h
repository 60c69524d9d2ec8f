// What the benchmarks of weight gradients share: dense operands, the check of a gradient, and BLAS as the peer.
#pragma once
#include "bench.h"
#include "blas.h"

namespace bench {

// Whether dw [O, I] = delta^T v for delta [T, O] and v [T, I], by Freivalds: both times a vector of integers. All
// numbers are integers or halves far below 2^53, so both sides are exact.
inline std::string check_gradient(const float* dw, const float* delta, const float* v, int64_t tokens, int64_t outputs,
                                  int64_t inputs) {
  std::vector<double> expected(static_cast<size_t>(outputs));
  const auto weight = [](int64_t i) { return static_cast<double>(1 + (i * 7919 + 13) % 101); };
  for (int64_t t = 0; t < tokens; t++) {
    double sum = 0;
    for (int64_t i = 0; i < inputs; i++) sum += static_cast<double>(v[t * inputs + i]) * weight(i);
    for (int64_t o = 0; o < outputs; o++)
      expected[static_cast<size_t>(o)] += static_cast<double>(delta[t * outputs + o]) * sum;
  }
  for (int64_t o = 0; o < outputs; o++) {
    double sum = 0;
    for (int64_t i = 0; i < inputs; i++) sum += static_cast<double>(dw[o * inputs + i]) * weight(i);
    if (!(sum == expected[static_cast<size_t>(o)])) return "row " + std::to_string(o) + " of the gradient is wrong";
  }
  return "";
}

// The dense product of each library of the machine: dw = delta^T v with v as floats.
inline void add_dense_products(Prepared& prepared, Array delta, Array v, int64_t tokens, int64_t outputs,
                               int64_t inputs) {
  for (const Blas& blas : blas_libraries()) {
    const Blas* library = &blas;
    Array dw({outputs, inputs});
    prepared.contenders.push_back(
        {blas.name, [=] { library->sgemm(true, false, outputs, inputs, tokens, delta.f32(), v.f32(), dw.f32()); },
         [=] { return check_gradient(dw.f32(), delta.f32(), v.f32(), tokens, outputs, inputs); }});
  }
}

}  // namespace bench
