// In-place updates of parameters and running statistics: parameter, state and gradient in one pass.
#include "../adam.h"
#include "../weights.h"

namespace auxgrad {
namespace {

// The parameter of an update is f32 or bf16 (../weights.h).

// sgd_update: grad, lr [], grad scale [] or absent -> param (in place), momentum buffer (in place) or absent
// numbers: momentum, nesterov, weight decay
bool sgd_update(const Call& call) {
  const float* grad = call.in[0].f32();
  float* buffer = call.n_out > 1 && call.out[1] ? call.out[1].f32() : nullptr;
  const Weights weights(call);
  const Sgd s = {call.in[1].f32()[0], gradient_scale(call, 2), call.real(0), call.real(2)};
  const bool nesterov = call.integer(1) != 0;
  parallel_ranges(call, call.out[0].count(), 32768, [&](int64_t begin, int64_t end) {
    const Sgd step = s;  // numbers that the loop need not read again
    weights.change(begin, end, [&](float* w, int64_t at, int64_t n) {
      const float* g = grad + at;
      float* b = buffer ? buffer + at : nullptr;
      each_vector(0, n, [&](int64_t i, auto lanes) {
        Vec x = lanes.load(w + i), v = {};
        if (b) v = lanes.load(b + i);
        step(lanes.load(g + i), x, nesterov, b ? &v : nullptr);
        if (b) lanes.store(b + i, v);
        lanes.store(w + i, x);
      });
    });
  });
  return true;
}

// adam_update: grad, lr [], step [], grad scale [] or absent -> param, m, v (in place)
// numbers: beta1, beta2, eps, weight decay, decoupled, as Adam has them
bool adam_update(const Call& call) {
  const AdamRun a(call);
  const float* grad = call.in[0].f32();
  float *m = call.out[1].f32(), *v = call.out[2].f32();
  const Weights weights(call);
  parallel_ranges(call, call.out[0].count(), 32768, [&](int64_t begin, int64_t end) {
    weights.change(begin, end, [&](float* w, int64_t at, int64_t n) { a.update(grad + at, w, m + at, v + at, n); });
  });
  return true;
}

// rms_update: grad, lr [], grad scale [] or absent -> param, squares, mean of gradients or absent, last update or absent
// (in place); numbers: those of Rms
bool rms_update(const Call& call) {
  const Rms rms(call, call.in[1].f32()[0], gradient_scale(call, 2));
  const float* grad = call.in[0].f32();
  float* square = call.out[1].f32();
  const Weights weights(call);
  float *mean = call.out[2] ? call.out[2].f32() : nullptr, *last = call.out[3] ? call.out[3].f32() : nullptr;
  parallel_ranges(call, call.out[0].count(), 32768, [&](int64_t begin, int64_t end) {
    const Rms step = rms;
    weights.change(begin, end, [&](float* w, int64_t at, int64_t n) {
      each_vector(0, n, [&](int64_t i, auto lanes) {
        const int64_t k = at + i;
        Vec x = lanes.load(w + i), s = lanes.load(square + k), m = {}, u = {};
        if (mean) m = lanes.load(mean + k);
        if (last) u = lanes.load(last + k);
        step(lanes.load(grad + k), x, s, mean ? &m : nullptr, last ? &u : nullptr, root);
        if (mean) lanes.store(mean + k, m);
        if (last) lanes.store(last + k, u);
        lanes.store(square + k, s);
        lanes.store(w + i, x);
      });
    });
  });
  return true;
}

// The momentum of Lion: f32, or bf16 in half the memory.
inline float momentum_of(float m) { return m; }
inline float momentum_of(uint16_t m) { return bf16_to_f32(m); }
inline void set_momentum(float* m, float value) { *m = value; }
inline void set_momentum(uint16_t* m, float value) { *m = f32_to_bf16(value); }

struct Lion {
  float lr, scale, beta1, fresh1, beta2, fresh2, shrink;
};

template <class T>
__attribute__((noinline)) void lion_step(const float* grad, float* w, T* m, int64_t n, const Lion a) {
  AUXGRAD_INDEPENDENT
  for (int64_t i = 0; i < n; i++) {
    const float g = grad[i] * a.scale, before = momentum_of(m[i]), u = a.beta1 * before + a.fresh1 * g;
    const float sign = u > 0 ? 1.0f : u < 0 ? -1.0f : u;  // of NaN it is NaN
    w[i] = w[i] * a.shrink - a.lr * sign;
    set_momentum(m + i, a.beta2 * before + a.fresh2 * g);
  }
}

// lion_update: grad, lr [], grad scale [] or absent -> param, momentum f32 or bf16 (in place)
// numbers: beta1, beta2, weight decay (decoupled). Chen et al. 2023, "Symbolic discovery of optimization algorithms".
bool lion_update(const Call& call) {
  const float* grad = call.in[0].f32();
  const float lr = call.in[1].f32()[0];
  const Lion a = {lr,
                  gradient_scale(call, 2),
                  call.real(0),
                  static_cast<float>(1 - call.number[0]),
                  call.real(1),
                  static_cast<float>(1 - call.number[1]),
                  static_cast<float>(1 - lr * call.number[2])};
  const Weights weights(call);
  const View& m = call.out[1];
  parallel_ranges(call, call.out[0].count(), 32768, [&](int64_t begin, int64_t end) {
    weights.change(begin, end, [&](float* w, int64_t at, int64_t n) {
      if (m.dtype == DType::f32) lion_step(grad + at, w, m.f32() + at, n, a);
      else lion_step(grad + at, w, m.bf16() + at, n, a);
    });
  });
  return true;
}

// round_bf16: x, key -> y bf16, x rounded stochastically (Weights); numbers: stream
bool round_bf16(const Call& call) {
  const float* x = call.in[0].f32();
  const Weights y(call);
  parallel_ranges(call, call.out[0].count(), 32768,
                  [&](int64_t begin, int64_t end) { y.write(begin, end - begin, x + begin); });
  return true;
}

// running_update: value -> running (in place) = (1 - momentum) running + momentum * factor * value
// numbers: momentum, factor
bool running_update(const Call& call) {
  const float momentum = call.real(0), factor = call.real(1);
  const float* value = call.in[0].f32();
  float* running = call.out[0].f32();
  for (int64_t i = 0; i < call.out[0].count(); i++) running[i] = next_running(running[i], value[i], momentum, factor);
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

AUXGRAD_KERNELS({"sgd_update", sgd_update}, {"adam_update", adam_update}, {"rms_update", rms_update},
                {"lion_update", lion_update}, {"round_bf16", round_bf16}, {"running_update", running_update},
                {"accumulate", accumulate})
