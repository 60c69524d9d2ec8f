// In-place updates of parameters and running statistics: parameter, state and gradient in one pass.
#include "unit.cuh"

namespace auxgrad {
namespace {

const float* optional(const Call& call, int i) { return call.n_in > i && call.in[i] ? call.in[i].f32() : nullptr; }

__global__ void sgd(const float* grad, const float* lr, const float* scale, float* w, float* buffer, float momentum,
                    bool nesterov, float decay, int64_t n) {
  const float rate = *lr, factor = scale ? *scale : 1.0f;
  for (int64_t i = first_item(); i < n; i += item_step()) {
    float g = grad[i] * factor + decay * w[i];
    if (buffer) {
      const float v = momentum * buffer[i] + g;
      buffer[i] = v;
      g = nesterov ? g + momentum * v : v;
    }
    w[i] -= rate * g;
  }
}

// sgd_update: grad, lr [], grad scale [] or absent -> param (in place), momentum buffer (in place) or absent
// numbers: momentum, nesterov, weight decay
bool sgd_update(const Call& call) {
  const int64_t n = call.out[0].count();
  float* buffer = call.n_out > 1 && call.out[1] ? call.out[1].f32() : nullptr;
  return launch_items(call, n, sgd, call.in[0].f32(), call.in[1].f32(), optional(call, 2), call.out[0].f32(), buffer,
                      call.real(0), call.integer(1) != 0, call.real(2), n);
}

// x^n for whole n >= 0 by squaring, in double.
__device__ inline double whole_power(double x, int64_t n) {
  double y = 1;
  for (; n > 0; n >>= 1, x *= x)
    if (n & 1) y *= x;
  return y;
}

struct Adam {
  double beta1, beta2, decay;
  float eps;
  bool decoupled;
};

__global__ void adam(const float* grad, const float* rates, const float* steps, const float* scale, float* w, float* m,
                     float* v, Adam a, int64_t n) {
  __shared__ float shared[3];
  if (threadIdx.x == 0) {
    const double lr = *rates;
    const int64_t step = static_cast<int64_t>(*steps);
    shared[0] = static_cast<float>(lr / (1 - whole_power(a.beta1, step)));
    shared[1] = static_cast<float>(1 / (1 - whole_power(a.beta2, step)));
    shared[2] = a.decoupled ? static_cast<float>(1 - lr * a.decay) : 1.0f;
  }
  __syncthreads();
  const float rate = shared[0], correction = shared[1], shrink = shared[2], factor = scale ? *scale : 1.0f;
  const float beta1 = static_cast<float>(a.beta1), beta2 = static_cast<float>(a.beta2);
  const float fresh1 = static_cast<float>(1 - a.beta1), fresh2 = static_cast<float>(1 - a.beta2);
  const float l2 = a.decoupled ? 0.0f : static_cast<float>(a.decay);
  for (int64_t i = first_item(); i < n; i += item_step()) {
    const float g = grad[i] * factor + l2 * w[i];
    const float mean = beta1 * m[i] + fresh1 * g, square = beta2 * v[i] + fresh2 * g * g;
    m[i] = mean;
    v[i] = square;
    w[i] = w[i] * shrink - rate * mean / (sqrtf(square * correction) + a.eps);
  }
}

// adam_update: grad, lr [], step [] (f32, counts from 1), grad scale [] or absent -> param, m, v (in place)
// numbers: beta1, beta2, eps, weight decay, decoupled
bool adam_update(const Call& call) {
  const int64_t n = call.out[0].count();
  const Adam a = {call.number[0], call.number[1], call.number[3], call.real(2), call.integer(4) != 0};
  return launch_items(call, n, adam, call.in[0].f32(), call.in[1].f32(), call.in[2].f32(), optional(call, 3),
                      call.out[0].f32(), call.out[1].f32(), call.out[2].f32(), a, n);
}

// running_update: value -> running (in place); numbers: momentum, factor
__global__ void running(const float* value, float* r, float momentum, float factor, int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_step()) r[i] = (1 - momentum) * r[i] + momentum * factor * value[i];
}
bool running_update(const Call& call) {
  const int64_t n = call.out[0].count();
  return launch_items(call, n, running, call.in[0].f32(), call.out[0].f32(), call.real(0), call.real(1), n);
}

// accumulate: x -> total (in place) += x
__global__ void add_to(const float* x, float* total, int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_step()) total[i] += x[i];
}
bool accumulate(const Call& call) {
  const int64_t n = call.out[0].count();
  return launch_items(call, n, add_to, call.in[0].f32(), call.out[0].f32(), n);
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"sgd_update", sgd_update}, {"adam_update", adam_update}, {"running_update", running_update},
                {"accumulate", accumulate})
