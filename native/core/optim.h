// In-place updates of parameters: parameter, state and gradient in one pass.
#pragma once
#include "arithmetic.h"
#include "kernel.h"

namespace auxgrad {
namespace {

// A parameter of bf16 on its way back: down or up, by a draw of 16 bits, of which the mean is the number. NaN stays NaN.
AUXGRAD_HOST_DEVICE inline uint16_t rounded_by(uint32_t draw, float f) {
  const uint32_t bits = bits_of(f);
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : (bits + draw) >> 16);
}

// The formulas are PyTorch's.
struct Sgd {
  float lr, scale, momentum, decay;

  // Of a number or a vector; buffer: of the momentum, null without.
  template <class T>
  AUXGRAD_HOST_DEVICE void operator()(T grad, T& w, bool nesterov, T* buffer) const {
    T g = grad * scale + w * decay;
    if (buffer) {
      const T v = *buffer * momentum + g;
      *buffer = v;
      g = nesterov ? g + v * momentum : v;
    }
    w -= g * lr;
  }
};

// x^n for whole n >= 0 by squaring, in double.
AUXGRAD_HOST_DEVICE inline double whole_power(double x, int64_t n) {
  double y = 1;
  for (; n > 0; n >>= 1, x *= x)
    if (n & 1) y *= x;
  return y;
}

// Of one step for one element.
struct AdamStep {
  float beta1, beta2, fresh1, fresh2, eps, l2, scale, rate, correction, shrink;

  AUXGRAD_HOST_DEVICE void operator()(float grad, float& w, float& m, float& v) const {
    const float g = grad * scale + l2 * w;
    const float mean = beta1 * m + fresh1 * g, square = beta2 * v + fresh2 * g * g;
    m = mean;
    v = square;
    w = w * shrink - rate * mean / (__builtin_sqrtf(square * correction) + eps);
  }
};

// numbers: beta1, beta2, eps, weight decay, decoupled (1: AdamW, Loshchilov & Hutter 2019; 0: Kingma & Ba 2015)
struct Adam {
  double beta1, beta2, decay;
  float eps;
  bool decoupled;

  explicit Adam(const Call& call)
      : beta1(call.number[0]),
        beta2(call.number[1]),
        decay(call.number[3]),
        eps(call.real(2)),
        decoupled(call.integer(4) != 0) {}
  AUXGRAD_HOST_DEVICE float rate(double lr, int64_t step) const {
    return static_cast<float>(lr / (1 - whole_power(beta1, step)));
  }
  AUXGRAD_HOST_DEVICE float correction(int64_t step) const {
    return static_cast<float>(1 / (1 - whole_power(beta2, step)));
  }
  AUXGRAD_HOST_DEVICE float shrink(double lr) const { return decoupled ? static_cast<float>(1 - lr * decay) : 1.0f; }
  AUXGRAD_HOST_DEVICE AdamStep step(float scale, float rate, float correction, float shrink) const {
    // Taken in double: 1 - 0.999f is 1.3e-5 of itself away from 0.001.
    const float fresh1 = static_cast<float>(1 - beta1), fresh2 = static_cast<float>(1 - beta2);
    return {static_cast<float>(beta1),
            static_cast<float>(beta2),
            fresh1,
            fresh2,
            eps,
            decoupled ? 0.0f : static_cast<float>(decay),
            scale,
            rate,
            correction,
            shrink};
  }
};

// RMSprop and Adagrad. numbers: what is left of the squares, share of new ones, added to squares, eps, weight decay (added
// to the gradient), momentum.
struct Rms {
  float lr, scale, keep, fresh, start, eps, decay, momentum;

  Rms(const Call& call, float lr_, float scale_)
      : lr(lr_),
        scale(scale_),
        keep(call.real(0)),
        fresh(call.real(1)),
        start(call.real(2)),
        eps(call.real(3)),
        decay(call.real(4)),
        momentum(call.real(5)) {}
  // Of a number or a vector. The mean of gradients is taken off squares, where there is one; a last update goes on, where
  // there is one.
  template <class T, class Root>
  AUXGRAD_HOST_DEVICE void operator()(T grad, T& w, T& square, T* mean, T* last, const Root& root) const {
    const T g = grad * scale + w * decay;
    square = square * keep + g * g * fresh;
    T spread = square + start;
    if (mean) {
      *mean = *mean * keep + g * fresh;
      spread -= *mean * *mean;
      spread = spread < T{} ? T{} : spread;  // by rounding; NaN stays
    }
    T u = g / (root(spread) + eps);
    if (last) u = *last = *last * momentum + u;
    w -= u * lr;
  }
};

AUXGRAD_HOST_DEVICE inline float next_running(float running, float value, float momentum, float factor) {
  return (1 - momentum) * running + momentum * factor * value;
}

}  // namespace
}  // namespace auxgrad
