// The step of Adam on a run of elements, whatever form its moments are kept in.
#pragma once
#include "elementwise.h"

namespace auxgrad {
namespace {

// x^n for whole n >= 0 by squaring, in double.
inline double whole_power(double x, int64_t n) {
  double y = 1;
  for (; n > 0; n >>= 1, x *= x)
    if (n & 1) y *= x;
  return y;
}

// Operands: grad, lr [], step [] (f32, counts from 1), grad scale [] or absent. Numbers: beta1, beta2, eps, weight decay,
// decoupled (1: AdamW, Loshchilov & Hutter 2019; 0: Kingma & Ba 2015).
struct AdamStep {
  explicit AdamStep(const Call& call) {
    const double lr = call.in[1].f32()[0];
    const int64_t step = static_cast<int64_t>(call.in[2].f32()[0]);
    const bool decoupled = call.integer(4) != 0;
    scale = call.n_in > 3 && call.in[3] ? call.in[3].f32()[0] : 1.0f;
    beta1 = call.real(0);
    beta2 = call.real(1);
    eps = call.real(2);
    // Taken in double: 1 - 0.999f is 1.3e-5 of itself away from 0.001.
    fresh1 = static_cast<float>(1 - call.number[0]);
    fresh2 = static_cast<float>(1 - call.number[1]);
    rate = static_cast<float>(lr / (1 - whole_power(call.number[0], step)));
    correction = static_cast<float>(1 / (1 - whole_power(call.number[1], step)));
    shrink = decoupled ? static_cast<float>(1 - lr * call.number[3]) : 1.0f;
    l2 = decoupled ? 0.0f : call.real(3);
  }

  __attribute__((noinline)) void update(const float* grad, float* w, float* m, float* v, int64_t n) const {
    const AdamStep a = *this;  // numbers that the loop need not read again
    AUXGRAD_INDEPENDENT
    for (int64_t i = 0; i < n; i++) {
      const float g = grad[i] * a.scale + a.l2 * w[i];
      m[i] = a.beta1 * m[i] + a.fresh1 * g;
      v[i] = a.beta2 * v[i] + a.fresh2 * g * g;
      w[i] = w[i] * a.shrink - a.rate * m[i] / (__builtin_sqrtf(v[i] * a.correction) + a.eps);
    }
  }

  float scale, beta1, beta2, eps, fresh1, fresh2, rate, correction, shrink, l2;
};

}  // namespace
}  // namespace auxgrad
