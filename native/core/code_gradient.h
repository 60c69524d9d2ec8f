// What a weight gradient from codes of one or two bits is given: dW[o, tap, c] = scale * sum over output tokens t of
// delta[t, o] v[in(t, tap), c], v the value of the code, 0 in the padding.
#pragma once
#include "arithmetic.h"
#include "kernel.h"

namespace auxgrad {
namespace {

struct CodeOperands {
  const float* delta;  // [tokens, outputs]
  int64_t tokens, outputs;
  const uint32_t* words;  // [rows, channels]
  int64_t rows, channels;
  int bits;
  // Signs: +1 and -1, or 1 and 0; dW times scale. Two bits: (2 q - 3) r / 6 + m + r / 2, q = 0..3.
  bool zero_one;
  float scale;
  const float* ranges;  // m, r of each `span` output tokens; two bits only
  int64_t span;
  // Output token (n, p, q) reads input token (n, p * stride + kh * dilation - pad, ...) for tap (kh, kw).
  int64_t H, W, P, Q, stride[2], pad[2], dilation[2], kernel[2], groups;
  int64_t depth;  // channels a group
  float* dw;      // [outputs, taps, depth]
  int64_t images;
};

// What both kinds of layers have: delta, words and ranges, scale among the numbers, the alphabet of signs last of them.
inline CodeOperands code_operands(const Call& call, int bits, int scale) {
  const View &delta = call.in[0], &words = call.in[1];
  CodeOperands g = {};
  g.delta = delta.f32();
  g.tokens = delta.count(0, delta.rank - 1);
  g.outputs = delta.shape[delta.rank - 1];
  g.words = words.u32();
  g.rows = words.shape[0];
  g.channels = words.shape[1];
  g.bits = bits;
  g.scale = call.real(scale);
  if (bits == 1) g.zero_one = call.integer(call.n_number - 1) == 1;
  else g.ranges = call.in[2].f32();
  g.dw = call.out[0].f32();
  return g;
}

// delta [T, O], words, ranges [T, 2] -> dw [O, I]; numbers: scale, alphabet
__attribute__((noinline)) inline CodeOperands linear_codes(const Call& call, int bits) {
  CodeOperands g = code_operands(call, bits, 0);
  g.depth = g.channels;
  g.span = g.images = g.H = g.P = g.groups = 1;
  g.W = g.Q = g.tokens;
  for (int i = 0; i < 2; i++) g.stride[i] = g.dilation[i] = g.kernel[i] = 1;
  return g;
}

// dy [N, P, Q, O], words, ranges [N, 2] -> dw [O, KH, KW, C / groups]
// numbers: stride h, w, pad top, left, dilation h, w, groups, H, W, scale, alphabet
__attribute__((noinline)) inline CodeOperands convolution_codes(const Call& call, int bits) {
  const View &delta = call.in[0], &dw = call.out[0];
  CodeOperands g = code_operands(call, bits, 9);
  g.images = delta.shape[0];
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
  g.span = g.P * g.Q;
  g.depth = dw.shape[3];
  return g;
}

// Whether the operands make the gradient they claim: what keeps reads and writes inside of them.
__attribute__((noinline)) inline bool check_codes(const Call& call, const CodeOperands& g) {
  const View& dw = call.out[0];
  const int64_t tokens = g.images * g.H * g.W;
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
  if (fits) return true;
  return call.failure->set(
      ErrorCode::invalid_argument,
      "weight gradient from codes: expected contiguous delta of %lld outputs and ceil(%lld tokens * "
      "%d / 32) words of %lld channels, got %lld words of %lld channels for %lld outputs",
      static_cast<long long>(dw.shape[0]), static_cast<long long>(tokens), g.bits,
      static_cast<long long>(g.depth * g.groups), static_cast<long long>(g.rows), static_cast<long long>(g.channels),
      static_cast<long long>(g.outputs));
}

}  // namespace
}  // namespace auxgrad
