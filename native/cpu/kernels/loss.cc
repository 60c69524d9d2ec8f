// Losses that are worth a kernel of their own.
#include "../elementwise.h"

namespace auxgrad {
namespace {

// bce_with_logits: logits x, targets y (any strides) -> (1 - y) x + w log(1 + exp(-x)), w = 1 + (weight - 1) y
// numbers: weight of the positive class
bool bce_with_logits(const Call& call) {
  const float weight = call.real(0);
  map2<float, float>(call, call.in[0], call.in[1], call.out[0], [=](float x, float y) {
    return (1.0f - y) * x + (1.0f + (weight - 1.0f) * y) * softplus_f32(-x);
  });
  return true;
}

// bce_with_logits_grad: upstream, logits, targets (any strides) -> dlogits; numbers as above
bool bce_with_logits_grad(const Call& call) {
  const float weight = call.real(0);
  map3<float, float, float>(call, call.in[0], call.in[1], call.in[2], call.out[0], [=](float g, float x, float target) {
    const float p = sigmoid_f32(x);
    // For weight 1 this is p - target.
    return g * ((1.0f - target) * p - weight * target * (1.0f - p));
  });
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"bce_with_logits", bce_with_logits}, {"bce_with_logits_grad", bce_with_logits_grad})
