// Windows of pooling over channels-last images: x [N, H, W, C], y [N, P, Q, C].
#pragma once
#include "arithmetic.h"
#include "kernel.h"

namespace auxgrad {
namespace {

struct Range {
  int64_t begin, end;
};

// One axis of the windows: output p reads inputs p * stride - pad + k * dilation for k in [0, kernel); adaptive
// windows are [floor(p * inputs / outputs), ceil((p + 1) * inputs / outputs)).
struct Windows {
  int64_t inputs, outputs;
  int64_t kernel, stride, pad, dilation;
  bool adaptive;

  // Kernel positions of output p that are inside.
  AUXGRAD_HOST_DEVICE Range taps(int64_t p) const {
    if (adaptive) return {0, ceil_div((p + 1) * inputs, outputs) - start(p)};
    const int64_t first = start(p);
    const int64_t begin = first < 0 ? min64(kernel, ceil_div(-first, dilation)) : 0;
    return {begin, max64(begin, first < inputs ? min64(kernel, ceil_div(inputs - first, dilation)) : 0)};
  }
  AUXGRAD_HOST_DEVICE int64_t start(int64_t p) const { return adaptive ? p * inputs / outputs : p * stride - pad; }

  // Outputs whose window may hold input h.
  AUXGRAD_HOST_DEVICE Range readers(int64_t h) const {
    if (adaptive) return {h * outputs / inputs, ceil_div((h + 1) * outputs, inputs)};
    const int64_t lowest = h + pad - (kernel - 1) * dilation;
    return {lowest <= 0 ? 0 : quotient(lowest + stride - 1, stride), min64(outputs, quotient(h + pad, stride) + 1)};
  }
  // Kernel position of input h in the window of output p, a reader; -1 if the dilation skips it.
  AUXGRAD_HOST_DEVICE int64_t tap(int64_t p, int64_t h) const {
    const int64_t distance = h - start(p);
    return dilation == 1 ? distance : distance % dilation == 0 ? distance / dilation : -1;
  }
};

// The divisor of an output: its inputs, or the whole window where padding counts.
AUXGRAD_HOST_DEVICE inline float share(const Windows& v, const Windows& h, Range a, Range b, bool padding_counts) {
  const int64_t n = padding_counts ? v.kernel * h.kernel : (a.end - a.begin) * (b.end - b.begin);
  return n > 0 ? 1.0f / static_cast<float>(n) : 0.0f;
}

inline Windows max_windows(const Call& call, int axis, int64_t inputs, int64_t outputs) {
  return {inputs, outputs, call.integer(axis), call.integer(2 + axis), call.integer(4 + axis), call.integer(6 + axis),
          false};
}

// What keeps reads and writes inside the operands.
inline bool check_pool(const Call& call, const View& x, const View& y) {
  const bool fits = x.rank == 4 && y.rank == 4 && x.shape[0] == y.shape[0] && x.shape[3] == y.shape[3] &&
                    x.contiguous() && y.contiguous();
  if (fits) return true;
  return call.failure->set(ErrorCode::invalid_argument,
                           "pooling: expected contiguous x [N,H,W,C] and y [N,P,Q,C], got ranks %d and %d, N = %lld "
                           "and %lld, C = %lld and %lld",
                           x.rank, y.rank, static_cast<long long>(x.shape[0]), static_cast<long long>(y.shape[0]),
                           static_cast<long long>(x.shape[3]), static_cast<long long>(y.shape[3]));
}

inline bool check_max_pool(const Call& call, const View& x, const View& y) {
  if (!check_pool(call, x, y)) return false;
  const int64_t kernel = call.integer(0) * call.integer(1);
  bool positive = kernel >= 1;
  for (int i = 0; i < 4; i++) positive = positive && call.integer(i) >= 1;
  positive = positive && call.integer(6) >= 1 && call.integer(7) >= 1;
  if (positive && kernel <= 256) return true;
  return call.failure->set(ErrorCode::invalid_argument,
                           "max_pool2d: expected positive strides and dilations and a window of 1..256 positions, got "
                           "%lld x %lld",
                           static_cast<long long>(call.integer(0)), static_cast<long long>(call.integer(1)));
}

inline Windows average_windows(const Call& call, int axis, int64_t inputs, int64_t outputs) {
  return {inputs, outputs, call.integer(axis), call.integer(2 + axis), call.integer(4 + axis), 1, false};
}
inline Windows adaptive_windows(int64_t inputs, int64_t outputs) { return {inputs, outputs, 0, 1, 0, 1, true}; }

inline bool check_average(const Call& call, const View& x, const View& y) {
  if (!check_pool(call, x, y)) return false;
  for (int i = 0; i < 4; i++)
    if (call.integer(i) < 1)
      return call.failure->set(ErrorCode::invalid_argument,
                               "avg_pool2d: expected a positive window and stride, got %lld",
                               static_cast<long long>(call.integer(i)));
  return true;
}

}  // namespace
}  // namespace auxgrad
