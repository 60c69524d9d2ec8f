// Aux-only weight gradients: what a layer learns from one-bit signs (spec section 4) or two-bit codes (section 15b) of its
// input, dW = scale * delta^T v. Nowhere are the codes written out as floats.
#include "../sign/gradient.h"

namespace auxgrad {
namespace {

inline CodeGradient linear(const Call& call, int bits) {
  const View &delta = call.in[0], &words = call.in[1];
  CodeGradient g = {};
  g.delta = delta.f32();
  g.tokens = delta.shape[0];
  g.outputs = delta.shape[1];
  g.words = words.u32();
  g.rows = words.shape[0];
  g.channels = g.depth = words.shape[1];
  g.bits = bits;
  g.scale = call.real(0);
  g.span = 1;
  g.H = g.P = 1;
  g.W = g.Q = g.tokens;
  g.groups = 1;
  for (int i = 0; i < 2; i++) g.stride[i] = g.dilation[i] = g.kernel[i] = 1;
  g.dw = call.out[0].f32();
  return g;
}

inline CodeGradient convolution(const Call& call, int bits) {
  const View &delta = call.in[0], &words = call.in[1], &dw = call.out[0];
  CodeGradient g = {};
  g.delta = delta.f32();
  g.tokens = delta.count(0, 3);
  g.outputs = delta.shape[3];
  g.words = words.u32();
  g.rows = words.shape[0];
  g.channels = words.shape[1];
  g.bits = bits;
  g.P = delta.shape[1];
  g.Q = delta.shape[2];
  for (int i = 0; i < 2; i++) {
    g.stride[i] = call.integer(i);
    g.pad[i] = call.integer(2 + i);
    g.dilation[i] = call.integer(4 + i);
    g.kernel[i] = dw.shape[1 + i];
  }
  g.groups = call.integer(6);
  g.H = call.integer(7);
  g.W = call.integer(8);
  g.scale = call.real(9);
  g.span = g.P * g.Q;
  g.depth = dw.shape[3];
  g.dw = dw.f32();
  return g;
}

// Whether the operands make the gradient they claim: what keeps reads and writes inside of them.
inline bool run_checked(const Call& call, const CodeGradient& g, int64_t images) {
  const View& dw = call.out[0];
  const int64_t tokens = images * g.H * g.W;
  const bool fits = g.groups >= 1 && g.stride[0] >= 1 && g.stride[1] >= 1 && g.dilation[0] >= 1 && g.dilation[1] >= 1 &&
                    g.depth * g.groups == g.channels && g.outputs % max64(1, g.groups) == 0 &&
                    dw.shape[0] == g.outputs && g.rows == ceil_div(tokens * g.bits, 32) && call.in[0].contiguous() &&
                    call.in[1].contiguous() && dw.contiguous();
  if (g.bits == 2) {
    const View& ranges = call.in[2];
    if (ranges.rank != 2 || ranges.shape[1] != 2 || ranges.shape[0] * g.span != g.tokens || !ranges.contiguous())
      return call.failure->set(ErrorCode::invalid_argument,
                               "weight gradient from codes: expected contiguous ranges [%lld, 2], got [%lld, ...]",
                               static_cast<long long>(g.tokens / max64(1, g.span)),
                               static_cast<long long>(ranges.rank > 0 ? ranges.shape[0] : 0));
  }
  if (!fits)
    return call.failure->set(
        ErrorCode::invalid_argument,
        "weight gradient from codes: expected contiguous delta of %lld outputs and ceil(%lld tokens * "
        "%d / 32) words of %lld channels, got %lld words of %lld channels for %lld outputs",
        static_cast<long long>(dw.shape[0]), static_cast<long long>(tokens), g.bits,
        static_cast<long long>(g.depth * g.groups), static_cast<long long>(g.rows), static_cast<long long>(g.channels),
        static_cast<long long>(g.outputs));
  run_gradient(call, g);
  return true;
}

// linear_sign_weight_grad: delta [T, O], signs [ceil(T/32), I] -> dw [O, I]; numbers: scale, alphabet (0: +1/-1, 1: 1/0)
bool linear_sign_weight_grad(const Call& call) {
  CodeGradient g = linear(call, 1);
  g.zero_one = call.integer(1) == 1;
  return run_checked(call, g, 1);
}
int64_t linear_sign_scratch(const Call& call, int threads) { return gradient_scratch(linear(call, 1), threads); }

// conv2d_sign_weight_grad: dy [N, P, Q, O], signs of x [N, H, W, C] -> dw [O, KH, KW, C / groups]
// numbers: stride h, w, pad top, left, dilation h, w, groups, H, W, scale, alphabet. Padding contributes 0.
bool conv2d_sign_weight_grad(const Call& call) {
  CodeGradient g = convolution(call, 1);
  g.zero_one = call.integer(10) == 1;
  return run_checked(call, g, call.in[0].shape[0]);
}
int64_t conv2d_sign_scratch(const Call& call, int threads) { return gradient_scratch(convolution(call, 1), threads); }

// linear_code2_weight_grad: delta [T, O], codes [ceil(T/16), I], ranges [T, 2] -> dw [O, I]; numbers: scale
// The value of code q is q r / 3 + m, (m, r) the range of its token.
bool linear_code2_weight_grad(const Call& call) {
  CodeGradient g = linear(call, 2);
  g.ranges = call.in[2].f32();
  return run_checked(call, g, 1);
}
int64_t linear_code2_scratch(const Call& call, int threads) { return gradient_scratch(linear(call, 2), threads); }

// conv2d_code2_weight_grad: dy [N, P, Q, O], codes of x [N, H, W, C], ranges [N, 2] -> dw [O, KH, KW, C / groups]
// numbers: stride h, w, pad top, left, dilation h, w, groups, H, W, scale. One range an image; padding contributes 0.
bool conv2d_code2_weight_grad(const Call& call) {
  CodeGradient g = convolution(call, 2);
  g.ranges = call.in[2].f32();
  return run_checked(call, g, call.in[0].shape[0]);
}
int64_t conv2d_code2_scratch(const Call& call, int threads) { return gradient_scratch(convolution(call, 2), threads); }

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"linear_sign_weight_grad", linear_sign_weight_grad, linear_sign_scratch},
                {"conv2d_sign_weight_grad", conv2d_sign_weight_grad, conv2d_sign_scratch},
                {"linear_code2_weight_grad", linear_code2_weight_grad, linear_code2_scratch},
                {"conv2d_code2_weight_grad", conv2d_code2_weight_grad, conv2d_code2_scratch})
