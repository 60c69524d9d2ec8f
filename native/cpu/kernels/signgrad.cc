// Aux-only weight gradients: what a layer learns from one-bit signs (spec section 4) or two-bit codes (section 15b) of its
// input, dW = scale * delta^T v. Nowhere are the codes written out as floats.
#include "../sign/gradient.h"

namespace auxgrad {
namespace {

inline CodeGradient linear(const Call& call, int bits) { return {linear_codes(call, bits)}; }
inline CodeGradient convolution(const Call& call, int bits) { return {convolution_codes(call, bits)}; }

inline bool run_checked(const Call& call, const CodeGradient& g) {
  if (!check_codes(call, g)) return false;
  run_gradient(call, g);
  return true;
}

// linear_sign_weight_grad: delta [T, O], signs [ceil(T/32), I] -> dw [O, I]; numbers: scale, alphabet (0: +1/-1, 1: 1/0)
bool linear_sign_weight_grad(const Call& call) { return run_checked(call, linear(call, 1)); }
int64_t linear_sign_scratch(const Call& call, int threads) { return gradient_scratch(linear(call, 1), threads); }

// conv2d_sign_weight_grad: dy [N, P, Q, O], signs of x [N, H, W, C] -> dw [O, KH, KW, C / groups]
// numbers: stride h, w, pad top, left, dilation h, w, groups, H, W, scale, alphabet. Padding contributes 0.
bool conv2d_sign_weight_grad(const Call& call) { return run_checked(call, convolution(call, 1)); }
int64_t conv2d_sign_scratch(const Call& call, int threads) { return gradient_scratch(convolution(call, 1), threads); }

// linear_code2_weight_grad: delta [T, O], codes [ceil(T/16), I], ranges [T, 2] -> dw [O, I]; numbers: scale
// The value of code q is q r / 3 + m, (m, r) the range of its token.
bool linear_code2_weight_grad(const Call& call) { return run_checked(call, linear(call, 2)); }
int64_t linear_code2_scratch(const Call& call, int threads) { return gradient_scratch(linear(call, 2), threads); }

// conv2d_code2_weight_grad: dy [N, P, Q, O], codes of x [N, H, W, C], ranges [N, 2] -> dw [O, KH, KW, C / groups]
// numbers: stride h, w, pad top, left, dilation h, w, groups, H, W, scale. One range an image; padding contributes 0.
bool conv2d_code2_weight_grad(const Call& call) { return run_checked(call, convolution(call, 2)); }
int64_t conv2d_code2_scratch(const Call& call, int threads) { return gradient_scratch(convolution(call, 2), threads); }

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"linear_sign_weight_grad", linear_sign_weight_grad, linear_sign_scratch},
                {"conv2d_sign_weight_grad", conv2d_sign_weight_grad, conv2d_sign_scratch},
                {"linear_code2_weight_grad", linear_code2_weight_grad, linear_code2_scratch},
                {"conv2d_code2_weight_grad", conv2d_code2_weight_grad, conv2d_code2_scratch})
