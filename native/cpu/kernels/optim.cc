// In-place updates of parameters and running statistics: parameter, state and gradient in one pass.
#include "../elementwise.h"

namespace auxgrad {
namespace {

// What one element's update takes.
struct Sgd {
  float lr, scale, momentum, decay;
};

// Choices stand outside the loop, and numbers come as values: so the compiler makes vectors of it.
template <bool kMomentum, bool kNesterov>
void sgd_step(const float* grad, float* w, float* buffer, int64_t begin, int64_t end, const Sgd s) {
  AUXGRAD_INDEPENDENT
  for (int64_t i = begin; i < end; i++) {
    float g = grad[i] * s.scale + s.decay * w[i];
    if (kMomentum) {
      const float v = s.momentum * buffer[i] + g;
      buffer[i] = v;
      g = kNesterov ? g + s.momentum * v : v;
    }
    w[i] -= s.lr * g;
  }
}

// sgd_update: grad, lr [], grad scale [] or absent -> param (in place), momentum buffer (in place) or absent
// numbers: momentum, nesterov, weight decay. The formulas are PyTorch's.
bool sgd_update(const Call& call) {
  const float* grad = call.in[0].f32();
  float *w = call.out[0].f32(), *buffer = call.n_out > 1 && call.out[1] ? call.out[1].f32() : nullptr;
  const float scale = call.n_in > 2 && call.in[2] ? call.in[2].f32()[0] : 1.0f;
  const Sgd s = {call.in[1].f32()[0], scale, call.real(0), call.real(2)};
  const auto step = !buffer                ? sgd_step<false, false>
                    : call.integer(1) != 0 ? sgd_step<true, true>
                                           : sgd_step<true, false>;
  parallel_ranges(call, call.out[0].count(), 32768,
                  [&](int64_t begin, int64_t end) { step(grad, w, buffer, begin, end, s); });
  return true;
}

// x^n for whole n >= 0 by squaring, in double.
double whole_power(double x, int64_t n) {
  double y = 1;
  for (; n > 0; n >>= 1, x *= x)
    if (n & 1) y *= x;
  return y;
}

// adam_update: grad, lr [], step [] (f32, counts from 1), grad scale [] or absent -> param, m, v (in place)
// numbers: beta1, beta2, eps, weight decay, decoupled (1: AdamW, Loshchilov & Hutter 2019; 0: Kingma & Ba 2015)
bool adam_update(const Call& call) {
  const float* grad = call.in[0].f32();
  const double lr = call.in[1].f32()[0];
  const int64_t step = static_cast<int64_t>(call.in[2].f32()[0]);
  const float scale = call.n_in > 3 && call.in[3] ? call.in[3].f32()[0] : 1.0f;
  float *w = call.out[0].f32(), *m = call.out[1].f32(), *v = call.out[2].f32();
  const float beta1 = call.real(0), beta2 = call.real(1), eps = call.real(2), decay = call.real(3);
  // Taken in double: 1 - 0.999f is 1.3e-5 of itself away from 0.001.
  const float fresh1 = static_cast<float>(1 - call.number[0]), fresh2 = static_cast<float>(1 - call.number[1]);
  const bool decoupled = call.integer(4) != 0;
  const float rate = static_cast<float>(lr / (1 - whole_power(call.number[0], step)));
  const float correction = static_cast<float>(1 / (1 - whole_power(call.number[1], step)));
  const float shrink = decoupled ? static_cast<float>(1 - lr * call.number[3]) : 1.0f;
  const float l2 = decoupled ? 0.0f : decay;
  parallel_ranges(call, call.out[0].count(), 32768, [&](int64_t begin, int64_t end) {
    AUXGRAD_INDEPENDENT
    for (int64_t i = begin; i < end; i++) {
      const float g = grad[i] * scale + l2 * w[i];
      m[i] = beta1 * m[i] + fresh1 * g;
      v[i] = beta2 * v[i] + fresh2 * g * g;
      w[i] = w[i] * shrink - rate * m[i] / (__builtin_sqrtf(v[i] * correction) + eps);
    }
  });
  return true;
}

// running_update: value -> running (in place) = (1 - momentum) running + momentum * factor * value
// numbers: momentum, factor
bool running_update(const Call& call) {
  const float momentum = call.real(0), factor = call.real(1);
  for (int64_t i = 0; i < call.out[0].count(); i++) {
    float& r = call.out[0].f32()[i];
    r = (1 - momentum) * r + momentum * factor * call.in[0].f32()[i];
  }
  return true;
}

// accumulate: x -> total (in place) += x
bool accumulate(const Call& call) {
  const float* x = call.in[0].f32();
  float* total = call.out[0].f32();
  parallel_ranges(call, call.out[0].count(), 32768, [&](int64_t begin, int64_t end) {
    AUXGRAD_INDEPENDENT
    for (int64_t i = begin; i < end; i++) total[i] += x[i];
  });
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"sgd_update", sgd_update}, {"adam_update", adam_update}, {"running_update", running_update},
                {"accumulate", accumulate})
