// In-place updates of parameters and running statistics: parameter, state and gradient in one pass.
#include "../core/distributions.h"
#include "../core/optim.h"
#include "stream.cuh"

namespace auxgrad {
namespace {

const float* optional(const Call& call, int i) { return call.n_in > i && call.in[i] ? call.in[i].f32() : nullptr; }

// The parameter of an update: f32, or bf16 that is rounded stochastically on its way back (../cpu/weights.h).
struct Weights {
  float* f32 = nullptr;
  uint16_t* bf16 = nullptr;
  Stream stream;

  explicit Weights(const Call& call) {
    if (call.out[0].dtype == DType::f32) f32 = call.out[0].f32();
    else
      bf16 = call.out[0].bf16(), stream = Stream(call.in[call.n_in - 1], call.number[call.n_number - 1], kNoiseRounds);
  }
  __device__ void write(int64_t i, float w) const {
    if (!bf16) {
      f32[i] = w;
      return;
    }
    uint32_t words[4];
    stream.words(i / 8, words);
    bf16[i] = rounded_by(half_of(words, static_cast<int>(i % 8)), w);
  }
  // f(w) changes element i.
  template <class F>
  __device__ void change(int64_t i, const F& f) const {
    float w = bf16 ? bf16_to_f32(bf16[i]) : f32[i];
    f(w);
    write(i, w);
  }
};

__global__ void sgd(const float* grad, const float* lr, const float* scale, Weights weights, float* buffer,
                    float momentum, bool nesterov, float decay, int64_t n) {
  const Sgd update = {*lr, scale ? *scale : 1.0f, momentum, decay};
  for (int64_t i = first_item(); i < n; i += item_step())
    weights.change(i, [&](float& w) { update(grad[i], w, nesterov, buffer ? buffer + i : nullptr); });
}

// sgd_update: grad, lr [], grad scale [] or absent -> param (in place), momentum buffer (in place) or absent
// numbers: momentum, nesterov, weight decay
bool sgd_update(const Call& call) {
  const int64_t n = call.out[0].count();
  float* buffer = call.n_out > 1 && call.out[1] ? call.out[1].f32() : nullptr;
  return launch_items(call, n, sgd, call.in[0].f32(), call.in[1].f32(), optional(call, 2), Weights(call), buffer,
                      call.real(0), call.integer(1) != 0, call.real(2), n);
}

__global__ void adam(const float* grad, const float* rates, const float* steps, const float* scale, Weights weights,
                     float* m, float* v, Adam a, int64_t n) {
  __shared__ float shared[3];
  if (threadIdx.x == 0) {
    const double lr = *rates;
    const int64_t step = static_cast<int64_t>(*steps);
    shared[0] = a.rate(lr, step);
    shared[1] = a.correction(step);
    shared[2] = a.shrink(lr);
  }
  __syncthreads();
  const AdamStep update = a.step(scale ? *scale : 1.0f, shared[0], shared[1], shared[2]);
  for (int64_t i = first_item(); i < n; i += item_step())
    weights.change(i, [&](float& w) { update(grad[i], w, m[i], v[i]); });
}

// adam_update: grad, lr [], step [] (f32, counts from 1), grad scale [] or absent -> param, m, v (in place)
// numbers: those of Adam
bool adam_update(const Call& call) {
  const int64_t n = call.out[0].count();
  return launch_items(call, n, adam, call.in[0].f32(), call.in[1].f32(), call.in[2].f32(), optional(call, 3),
                      Weights(call), call.out[1].f32(), call.out[2].f32(), Adam(call), n);
}

__global__ void rms(const float* grad, const float* lr, const float* scale, Weights weights, float* square, float* mean,
                    float* last, Rms a, int64_t n) {
  a.lr = *lr;
  a.scale = scale ? *scale : 1.0f;
  for (int64_t i = first_item(); i < n; i += item_step())
    weights.change(i, [&](float& w) {
      a(grad[i], w, square[i], mean ? mean + i : nullptr, last ? last + i : nullptr, [](float x) { return sqrtf(x); });
    });
}

// rms_update: grad, lr [], grad scale [] or absent -> param, squares, mean of gradients or absent, last update or absent
// (in place); numbers: those of Rms
bool rms_update(const Call& call) {
  const int64_t n = call.out[0].count();
  const auto state = [&](int i) { return call.out[i] ? call.out[i].f32() : nullptr; };
  return launch_items(call, n, rms, call.in[0].f32(), call.in[1].f32(), optional(call, 2), Weights(call), state(1),
                      state(2), state(3), Rms(call, 0, 1), n);
}

// round_bf16: x, key -> y bf16, x rounded stochastically; numbers: stream
__global__ void round_each(const float* x, Weights y, int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_step()) y.write(i, x[i]);
}
bool round_bf16(const Call& call) {
  const int64_t n = call.out[0].count();
  return launch_items(call, n, round_each, call.in[0].f32(), Weights(call), n);
}

// running_update: value -> running (in place); numbers: momentum, factor
__global__ void running(const float* value, float* r, float momentum, float factor, int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_step()) r[i] = next_running(r[i], value[i], momentum, factor);
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

AUXGRAD_KERNELS({"sgd_update", sgd_update}, {"adam_update", adam_update}, {"rms_update", rms_update},
                {"round_bf16", round_bf16}, {"running_update", running_update}, {"accumulate", accumulate})
