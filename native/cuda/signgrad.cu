// Aux-only weight gradients: what a layer learns from one-bit signs or two-bit codes of its input, dW = scale * delta^T v;
// ../cpu/kernels/signgrad.cc says what the kernels do. Codes become numbers on their way into shared memory: signs are one
// exact bfloat16, so three products are enough where two floats need six.
#include "../core/code_gradient.h"
#include "columns.cuh"
#include "product.cuh"

namespace auxgrad {
namespace {

template <int Bits>
struct Gradient {
  CodeOperands g;
  Patches<Codes<Bits>> seen;

  explicit Gradient(const CodeOperands& operands) : g(operands) {
    seen.source.words = g.words;
    seen.source.channels = g.channels;
    seen.source.ranges = g.ranges;
    if (g.zero_one) seen.source.off = 0;
    seen.rows = static_cast<int>(g.H);
    seen.columns = static_cast<int>(g.W);
    seen.depth = static_cast<int>(g.depth);
    Axis* const axes[2] = {&seen.vertical, &seen.horizontal};
    for (int i = 0; i < 2; i++) {
      axes[i]->step = static_cast<int>(g.stride[i]);
      axes[i]->start = static_cast<int>(-g.pad[i]);
      axes[i]->tap_step = static_cast<int>(g.dilation[i]);
      axes[i]->taps = static_cast<int>(g.kernel[i]);
      axes[i]->outputs = static_cast<int>(i == 0 ? g.P : g.Q);
    }
    seen.settle(g.images);
  }
  static Gradient linear(const Call& call) {
    CodeOperands g = linear_codes(call, Bits);
    g.images = g.tokens;  // each token is an image of its own, as it has a range of its own
    g.W = g.Q = 1;
    return Gradient(g);
  }
  static Gradient convolution(const Call& call) { return Gradient(convolution_codes(call, Bits)); }

  bool depthwise() const { return g.depth == 1 && g.groups > 1 && g.outputs == g.groups; }
  int64_t scratch() const {
    if (g.groups < 1) return 0;
    return depthwise() ? depthwise_scratch(g.tokens, g.groups, seen.length)
                       : plan_product(g.outputs / g.groups, seen.length, g.tokens, g.groups).scratch();
  }

  bool run(const Call& call) const {
    if (!check_codes(call, g)) return false;
    if (g.images * g.H * g.W > INT32_MAX || g.tokens > INT32_MAX)
      return call.failure->set(ErrorCode::invalid_argument, "CUDA: a weight gradient of more than 2^31 tokens");
    if (depthwise()) return run_depthwise_gradient(call, g.delta, g.groups, seen, g.scale, g.dw);
    const int64_t width = g.outputs / g.groups;
    Strided left;
    left.data = g.delta;
    left.lines = static_cast<int>(g.tokens);
    left.length = static_cast<int>(width);
    left.line_step = g.outputs;
    left.axes = 1;
    left.shape[0] = static_cast<int>(g.groups);
    left.stride[0] = width;
    left.settle();
    Output out;
    out.data = g.dw;
    out.row_step = seen.length;
    out.z_step = width * seen.length;
    out.alpha = g.scale;
    return run_product<false, false>(call, left, seen, out, width, seen.length, g.tokens, g.groups, call.scratch);
  }
};

// linear_sign_weight_grad: delta [T, O], signs [ceil(T/32), I] -> dw [O, I]; numbers: scale, alphabet
bool linear_sign_weight_grad(const Call& call) { return Gradient<1>::linear(call).run(call); }
int64_t linear_sign_scratch(const Call& call, int) { return Gradient<1>::linear(call).scratch(); }

// conv2d_sign_weight_grad: dy [N, P, Q, O], signs of x [N, H, W, C] -> dw [O, KH, KW, C / groups]
// numbers: stride h, w, pad top, left, dilation h, w, groups, H, W, scale, alphabet
bool conv2d_sign_weight_grad(const Call& call) { return Gradient<1>::convolution(call).run(call); }
int64_t conv2d_sign_scratch(const Call& call, int) { return Gradient<1>::convolution(call).scratch(); }

// linear_code2_weight_grad: delta [T, O], codes [ceil(T/16), I], ranges [T, 2] -> dw [O, I]; numbers: scale
bool linear_code2_weight_grad(const Call& call) { return Gradient<2>::linear(call).run(call); }
int64_t linear_code2_scratch(const Call& call, int) { return Gradient<2>::linear(call).scratch(); }

// conv2d_code2_weight_grad: dy, codes of x, ranges [N, 2] -> dw; numbers: as of signs, without the alphabet
bool conv2d_code2_weight_grad(const Call& call) { return Gradient<2>::convolution(call).run(call); }
int64_t conv2d_code2_scratch(const Call& call, int) { return Gradient<2>::convolution(call).scratch(); }

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"linear_sign_weight_grad", linear_sign_weight_grad, linear_sign_scratch},
                {"conv2d_sign_weight_grad", conv2d_sign_weight_grad, conv2d_sign_scratch},
                {"linear_code2_weight_grad", linear_code2_weight_grad, linear_code2_scratch},
                {"conv2d_code2_weight_grad", conv2d_code2_weight_grad, conv2d_code2_scratch})
