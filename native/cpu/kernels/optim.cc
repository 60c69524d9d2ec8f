// In-place updates of parameters and running statistics: parameter, state and gradient in one pass.
#include "../../core/optim.h"
#include "../elementwise.h"

namespace auxgrad {
namespace {

// Choices stand outside the loop, and numbers come as values: so the compiler makes vectors of it.
template <bool kMomentum, bool kNesterov>
void sgd_steps(const float* grad, float* w, float* buffer, int64_t begin, int64_t end, const Sgd s) {
  AUXGRAD_INDEPENDENT
  for (int64_t i = begin; i < end; i++) s(grad[i], w[i], kMomentum, kNesterov, kMomentum ? buffer + i : nullptr);
}

// sgd_update: grad, lr [], grad scale [] or absent -> param (in place), momentum buffer (in place) or absent
// numbers: momentum, nesterov, weight decay
bool sgd_update(const Call& call) {
  const float* grad = call.in[0].f32();
  float *w = call.out[0].f32(), *buffer = call.n_out > 1 && call.out[1] ? call.out[1].f32() : nullptr;
  const float scale = call.n_in > 2 && call.in[2] ? call.in[2].f32()[0] : 1.0f;
  const Sgd s = {call.in[1].f32()[0], scale, call.real(0), call.real(2)};
  const auto step = !buffer                ? sgd_steps<false, false>
                    : call.integer(1) != 0 ? sgd_steps<true, true>
                                           : sgd_steps<true, false>;
  parallel_ranges(call, call.out[0].count(), 32768,
                  [&](int64_t begin, int64_t end) { step(grad, w, buffer, begin, end, s); });
  return true;
}

__attribute__((noinline)) void adam_steps(const float* grad, float* w, float* m, float* v, int64_t begin, int64_t end,
                                          const AdamStep s) {
  AUXGRAD_INDEPENDENT
  for (int64_t i = begin; i < end; i++) s(grad[i], w[i], m[i], v[i]);
}

// adam_update: grad, lr [], step [] (f32, counts from 1), grad scale [] or absent -> param, m, v (in place)
// numbers: those of Adam
bool adam_update(const Call& call) {
  const float* grad = call.in[0].f32();
  const double lr = call.in[1].f32()[0];
  const int64_t step = static_cast<int64_t>(call.in[2].f32()[0]);
  const float scale = call.n_in > 3 && call.in[3] ? call.in[3].f32()[0] : 1.0f;
  float *w = call.out[0].f32(), *m = call.out[1].f32(), *v = call.out[2].f32();
  const Adam adam(call);
  const AdamStep update = adam.step(scale, adam.rate(lr, step), adam.correction(step), adam.shrink(lr));
  parallel_ranges(call, call.out[0].count(), 32768,
                  [&](int64_t begin, int64_t end) { adam_steps(grad, w, m, v, begin, end, update); });
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

AUXGRAD_KERNELS({"sgd_update", sgd_update}, {"adam_update", adam_update}, {"running_update", running_update},
                {"accumulate", accumulate})
