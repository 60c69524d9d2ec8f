// Convolutions of channels-last images: x [N, H, W, C], w [O, KH, KW, C / groups], y [N, P, Q, O].
// Numbers of all: strideH, strideW, padTop, padLeft, dilationH, dilationW, groups; the output's shape implies the
// padding at the other ends.
#pragma once
#include "kernel.h"

namespace auxgrad {
namespace {

struct Attributes {
  int64_t stride[2], pad[2], dilation[2], groups;
};

inline Attributes attributes(const Call& call) {
  return {{call.integer(0), call.integer(1)},
          {call.integer(2), call.integer(3)},
          {call.integer(4), call.integer(5)},
          call.integer(6)};
}

inline bool is_depthwise(const View& w, const Attributes& a) {
  return w.shape[3] == 1 && w.shape[0] == a.groups && a.groups > 1;
}

// Whether the views of a call make a convolution: what keeps reads and writes inside of them.
inline bool check_convolution(const Call& call, const View& x, const View& w, const View& y) {
  const Attributes a = attributes(call);
  const bool fits = x.rank == 4 && w.rank == 4 && y.rank == 4 && a.groups >= 1 && a.stride[0] >= 1 &&
                    a.stride[1] >= 1 && a.dilation[0] >= 1 && a.dilation[1] >= 1 && x.shape[0] == y.shape[0] &&
                    w.shape[3] * a.groups == x.shape[3] && w.shape[0] == y.shape[3] && w.shape[0] % a.groups == 0;
  if (fits && x.contiguous() && w.contiguous() && y.contiguous()) return true;
  return call.failure->set(
      ErrorCode::invalid_argument,
      "conv2d: expected contiguous x [N,H,W,C], w [O,KH,KW,C/groups] and y [N,P,Q,O] that fit, got "
      "C = %lld, w of %lld inputs, O = %lld, groups = %lld",
      static_cast<long long>(x.shape[3]), static_cast<long long>(w.shape[3]), static_cast<long long>(y.shape[3]),
      static_cast<long long>(a.groups));
}

// Whether conv2d has mean, variance or their like to write: outputs from the fourth on.
inline bool asks_statistics(const Call& call) {
  for (int i = 3; i < call.n_out; i++)
    if (call.out[i]) return true;
  return false;
}

}  // namespace
}  // namespace auxgrad
