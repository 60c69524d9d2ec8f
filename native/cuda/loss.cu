// Losses that are worth a kernel of their own.
#include "elementary.cuh"
#include "elementwise.cuh"

namespace auxgrad {
namespace {

struct Bce {
  float weight;
  __device__ float operator()(float x, float y) const {
    return (1.0f - y) * x + (1.0f + (weight - 1.0f) * y) * softplus_f32(-x);
  }
};
bool bce_with_logits(const Call& call) {
  return map2<float, float>(call, call.in[0], call.in[1], call.out[0], Bce{call.real(0)});
}

struct BceGrad {
  float weight;
  __device__ float operator()(float g, float x, float target) const {
    const float p = sigmoid_f32(x);
    return g * ((1.0f - target) * p - weight * target * (1.0f - p));
  }
};
bool bce_with_logits_grad(const Call& call) {
  return map3<float, float, float>(call, call.in[0], call.in[1], call.in[2], call.out[0], BceGrad{call.real(0)});
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"bce_with_logits", bce_with_logits}, {"bce_with_logits_grad", bce_with_logits_grad})
