// Losses that are worth a kernel of their own.
#pragma once
#include "elementary.h"
#include "elementwise.h"

namespace auxgrad {
namespace {

// Binary cross entropy of a logit x and a target y: (1 - y) x + w log(1 + exp(-x)), w = 1 + (weight - 1) y, where `weight`
// is that of the positive class. Written so that nothing cancels: small losses have all their digits.
struct Bce {
  float weight;
  AUXGRAD_HOST_DEVICE float operator()(float x, float y) const {
    const float size = x > 0 ? (1.0f - y) * x : -weight * y * x;
    return size + (1.0f + (weight - 1.0f) * y) * log1p_finite(exp_f32(-__builtin_fabsf(x)));
  }
};

struct BceGrad {
  float weight;
  AUXGRAD_HOST_DEVICE float operator()(float upstream, float x, float target) const {
    const float p = sigmoid_f32(x);
    // For weight 1 this is p - target.
    return upstream * ((1.0f - target) * p - weight * target * (1.0f - p));
  }
};

// bce_with_logits: logits, targets (any strides) -> loss of each element; numbers: weight of the positive class
bool bce_with_logits(const Call& call) {
  return map2<float, float>(call, call.in[0], call.in[1], call.out[0], Bce{call.real(0)});
}

// bce_with_logits_grad: upstream, logits, targets (any strides) -> dlogits; numbers as above
bool bce_with_logits_grad(const Call& call) {
  return map3<float, float, float>(call, call.in[0], call.in[1], call.in[2], call.out[0], BceGrad{call.real(0)});
}

#define AUXGRAD_LOSS_KERNELS \
  AUXGRAD_ROWS({"bce_with_logits", bce_with_logits}, {"bce_with_logits_grad", bce_with_logits_grad})

}  // namespace
}  // namespace auxgrad
