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
  const View &g = call.in[0], &x = call.in[1], &y = call.in[2], &dx = call.out[0];
  const float weight = call.real(0);
  const View* const operands[3] = {&g, &x, &y};
  for_rows(call, dx, operands, [&](const int64_t(&offset)[3], const int64_t(&step)[3], int64_t at, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
      const float target = y.f32()[offset[2] + i * step[2]], p = sigmoid_f32(x.f32()[offset[1] + i * step[1]]);
      // For weight 1 this is p - target.
      dx.f32()[at + i] = g.f32()[offset[0] + i * step[0]] * ((1.0f - target) * p - weight * target * (1.0f - p));
    }
  });
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"bce_with_logits", bce_with_logits}, {"bce_with_logits_grad", bce_with_logits_grad})
