// Aux-only weight gradients: what a layer learns from one-bit signs or two-bit codes of its input, dW = scale * delta^T v;
// ../cpu/kernels/signgrad.cc says what the kernels do. Codes become numbers on their way into shared memory: signs are one
// exact bfloat16, so three products are enough where two floats need six.
#include "columns.cuh"
#include "product.cuh"

namespace auxgrad {
namespace {

template <int Bits>
struct Gradient {
  const View &delta, &words, &dw;
  int64_t tokens, groups = 1, images = 0, span = 1;  // of the output, which share a range
  bool fits = true;
  float scale = 1;
  Patches<Codes<Bits>> seen;

  // Of a linear layer; every token is an image of its own, as it has a range of its own.
  static Gradient linear(const Call& call) {
    Gradient g = {call.in[0], call.in[1], call.out[0], call.in[0].shape[0]};
    g.scale = call.real(0);
    g.seen.rows = g.seen.columns = 1;
    g.seen.vertical.outputs = g.seen.horizontal.outputs = 1;
    g.finish(call, g.tokens, g.words.shape[1], 1);
    return g;
  }
  static Gradient convolution(const Call& call) {
    Gradient g = {call.in[0], call.in[1], call.out[0], call.in[0].count(0, 3)};
    g.groups = call.integer(6);
    g.scale = call.real(9);
    g.seen.rows = static_cast<int>(call.integer(7));
    g.seen.columns = static_cast<int>(call.integer(8));
    Axis* const axes[2] = {&g.seen.vertical, &g.seen.horizontal};
    for (int i = 0; i < 2; i++) {
      axes[i]->step = static_cast<int>(call.integer(i));
      axes[i]->start = static_cast<int>(-call.integer(2 + i));
      axes[i]->tap_step = static_cast<int>(call.integer(4 + i));
      axes[i]->taps = static_cast<int>(g.dw.shape[1 + i]);
      axes[i]->outputs = static_cast<int>(g.delta.shape[1 + i]);
      g.fits = g.fits && axes[i]->step >= 1 && axes[i]->tap_step >= 1;
    }
    g.finish(call, g.delta.shape[0], g.dw.shape[3], g.delta.shape[1] * g.delta.shape[2]);
    return g;
  }

  int64_t outputs() const { return dw.shape[0]; }
  bool depthwise() const { return seen.depth == 1 && groups > 1 && outputs() == groups; }
  int64_t scratch() const {
    if (groups < 1) return 0;
    return depthwise() ? depthwise_scratch(tokens, groups, seen.length)
                       : plan_product(outputs() / groups, seen.length, tokens, groups).scratch();
  }

  bool run(const Call& call) const {
    if (!checked(call)) return false;
    const float* const d = delta.f32();
    if (depthwise()) return run_depthwise_gradient(call, d, groups, seen, scale, dw.f32());
    const int64_t width = outputs() / groups;
    Strided left;
    left.data = d;
    left.lines = static_cast<int>(tokens);
    left.length = static_cast<int>(width);
    left.line_step = outputs();
    left.axes = 1;
    left.shape[0] = static_cast<int>(groups);
    left.stride[0] = width;
    left.settle();
    Output out;
    out.data = dw.f32();
    out.row_step = seen.length;
    out.z_step = width * seen.length;
    out.alpha = scale;
    return run_product<false, false>(call, left, seen, out, width, seen.length, tokens, groups, call.scratch);
  }

  void finish(const Call& call, int64_t n, int64_t depth, int64_t tokens_an_image) {
    images = n, span = tokens_an_image;
    seen.source.words = words.u32();
    seen.source.channels = words.shape[1];
    if (Bits == 2) seen.source.ranges = call.in[2].f32();
    else if (call.integer(call.n_number - 1) == 1) seen.source.off = 0;
    seen.depth = static_cast<int>(depth);
    seen.settle(images);
  }

  bool checked(const Call& call) const {
    const int64_t input_tokens = images * seen.rows * seen.columns;
    if (Bits == 2) {
      const View& ranges = call.in[2];
      if (ranges.rank != 2 || ranges.shape[1] != 2 || ranges.shape[0] * span != tokens || !ranges.contiguous())
        return call.failure->set(ErrorCode::invalid_argument,
                                 "weight gradient from codes: expected contiguous ranges [%lld, 2], got [%lld, ...]",
                                 static_cast<long long>(tokens / max64(1, span)),
                                 static_cast<long long>(ranges.rank > 0 ? ranges.shape[0] : 0));
    }
    if (fits && groups >= 1 && seen.depth * groups == words.shape[1] && outputs() % groups == 0 &&
        delta.shape[delta.rank - 1] == outputs() && words.shape[0] == ceil_div(input_tokens * Bits, 32) &&
        delta.contiguous() && words.contiguous() && dw.contiguous() && input_tokens <= INT32_MAX && tokens <= INT32_MAX)
      return true;
    return call.failure->set(
        ErrorCode::invalid_argument,
        "weight gradient from codes: expected contiguous delta of %lld outputs and ceil(%lld tokens * "
        "%d / 32) words of %lld channels, got %lld words of %lld channels for %lld outputs",
        static_cast<long long>(dw.shape[0]), static_cast<long long>(input_tokens), Bits,
        static_cast<long long>(seen.depth * groups), static_cast<long long>(words.shape[0]),
        static_cast<long long>(words.shape[1]), static_cast<long long>(delta.shape[delta.rank - 1]));
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
