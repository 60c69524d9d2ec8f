// The step of Adam on a run of elements, whatever form its moments are kept in.
#pragma once
#include "../core/optim.h"
#include "elementwise.h"

namespace auxgrad {
namespace {

// What gradients are multiplied by: operand i, 1 if it is absent.
inline float gradient_scale(const Call& call, int i) {
  return call.n_in > i && call.in[i] ? call.in[i].f32()[0] : 1.0f;
}

// Operands: grad, lr [], step [] (f32, counts from 1), grad scale [] or absent. Numbers: those of Adam.
struct AdamRun : AdamStep {
  explicit AdamRun(const Call& call) {
    const Adam adam(call);
    const double lr = call.in[1].f32()[0];
    const int64_t step = static_cast<int64_t>(call.in[2].f32()[0]);
    static_cast<AdamStep&>(*this) =
        adam.step(gradient_scale(call, 3), adam.rate(lr, step), adam.correction(step), adam.shrink(lr));
  }

  __attribute__((noinline)) void update(const float* grad, float* w, float* m, float* v, int64_t n) const {
    const AdamStep a = *this;  // numbers that the loop need not read again
    AUXGRAD_INDEPENDENT
    for (int64_t i = 0; i < n; i++) a(grad[i], w[i], m[i], v[i]);
  }
};

}  // namespace
}  // namespace auxgrad
