// Pooling of channels-last images: x [N, H, W, C], y [N, P, Q, C]. Gradients gather: every input sums the outputs whose
// window holds it, in a fixed order. One thread an element, neighbours at neighbouring channels.
#include "../core/pool.h"
#include "unit.cuh"

namespace auxgrad {
namespace {

// Image, row, column and channel of an element.
struct Place {
  int64_t n, row, column, channel;
  __device__ Place(int64_t i, int64_t rows, int64_t columns, int64_t channels) {
    int64_t rest = quotient(i, channels);
    channel = i - rest * channels;
    i = rest;
    rest = quotient(i, columns);
    column = i - rest * columns;
    n = quotient(rest, rows);
    row = rest - n * rows;
  }
};

__global__ void maxima(const float* x, Windows v, Windows h, int64_t channels, float* y, uint8_t* index, int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_step()) {
    const Place at(i, v.outputs, h.outputs, channels);
    const Range a = v.taps(at.row), b = h.taps(at.column);
    const float* image = x + at.n * v.inputs * h.inputs * channels + at.channel;
    float best = __int_as_float(0xff800000);
    int64_t tap = 0;
    bool first = true;
    for (int64_t kh = a.begin; kh < a.end; kh++)
      for (int64_t kw = b.begin; kw < b.end; kw++) {
        const float value =
            image[((v.start(at.row) + kh * v.dilation) * h.inputs + h.start(at.column) + kw * h.dilation) * channels];
        if (first || value > best || (value != value && best == best)) {
          best = value;
          tap = kh * h.kernel + kw;
        }
        first = false;
      }
    y[i] = best;
    index[i] = static_cast<uint8_t>(tap);
  }
}

// max_pool2d: x -> y, index u8 [N, P, Q, C]: the position kh * KW + kw of the first maximum; NaN counts as larger.
// Numbers: KH, KW, strideH, strideW, padTop, padLeft, dilationH, dilationW. A window outside the image gives -inf, 0.
bool max_pool2d(const Call& call) {
  const View &x = call.in[0], &y = call.out[0];
  if (!check_max_pool(call, x, y)) return false;
  return launch_items(call, y.count(), maxima, x.f32(), max_windows(call, 0, x.shape[1], y.shape[1]),
                      max_windows(call, 1, x.shape[2], y.shape[2]), x.shape[3], y.f32(), call.out[1].u8(), y.count());
}

__global__ void gather_maxima(const float* dy, const uint8_t* index, Windows v, Windows h, int64_t channels, float* dx,
                              int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_step()) {
    const Place at(i, v.inputs, h.inputs, channels);
    const Range a = v.readers(at.row), b = h.readers(at.column);
    float sum = 0;
    for (int64_t p = a.begin; p < a.end; p++) {
      const int64_t kh = v.tap(p, at.row);
      for (int64_t q = b.begin; kh >= 0 && q < b.end; q++) {
        const int64_t kw = h.tap(q, at.column), from = ((at.n * v.outputs + p) * h.outputs + q) * channels + at.channel;
        if (kw >= 0 && index[from] == kh * h.kernel + kw) sum += dy[from];
      }
    }
    dx[i] = sum;
  }
}

// max_pool2d_grad: dy, index -> dx; numbers as max_pool2d
bool max_pool2d_grad(const Call& call) {
  const View &dy = call.in[0], &dx = call.out[0];
  if (!check_max_pool(call, dx, dy)) return false;
  return launch_items(call, dx.count(), gather_maxima, dy.f32(), call.in[1].u8(),
                      max_windows(call, 0, dx.shape[1], dy.shape[1]), max_windows(call, 1, dx.shape[2], dy.shape[2]),
                      dx.shape[3], dx.f32(), dx.count());
}

// Rows of a window are shared by kWays threads of a warp where windows are large (global pooling).
template <int kWays>
__global__ void averages(const float* x, Windows v, Windows h, bool padding_counts, int64_t channels, float* y,
                         int64_t n) {
  // Threads of one element are 32 / kWays apart, so that those of neighbouring channels stay neighbours.
  constexpr int kSide = 32 / kWays;
  const int64_t lane = threadIdx.x % 32, way = lane / kSide;
  const int64_t warps = ceil_div(n, kSide);
  for (int64_t w = first_item() / 32; w < warps; w += item_step() / 32) {
    const int64_t i = w * kSide + lane % kSide;
    float sum = 0, scale = 0;
    if (i < n) {
      const Place at(i, v.outputs, h.outputs, channels);
      const Range a = v.taps(at.row), b = h.taps(at.column);
      const float* corner =
          x + ((at.n * v.inputs + v.start(at.row)) * h.inputs + h.start(at.column)) * channels + at.channel;
      const int64_t wide = b.end - b.begin, taps = (a.end - a.begin) * wide;
      for (int64_t t = way; t < taps; t += kWays) {
        const int64_t kh = quotient(t, wide);
        sum += corner[((a.begin + kh) * h.inputs + b.begin + t - kh * wide) * channels];
      }
      scale = share(v, h, a, b, padding_counts);
    }
    for (int half = 16; half >= kSide; half /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, half);
    if (way == 0 && i < n) y[i] = sum * scale;
  }
}

__global__ void gather_averages(const float* dy, Windows v, Windows h, bool padding_counts, int64_t channels, float* dx,
                                int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_step()) {
    const Place at(i, v.inputs, h.inputs, channels);
    const Range a = v.readers(at.row), b = h.readers(at.column);
    float sum = 0;
    for (int64_t p = a.begin; p < a.end; p++)
      for (int64_t q = b.begin; q < b.end; q++)
        sum += dy[((at.n * v.outputs + p) * h.outputs + q) * channels + at.channel] *
               share(v, h, v.taps(p), h.taps(q), padding_counts);
    dx[i] = sum;
  }
}

bool average(const Call& call, const Windows& v, const Windows& h, bool padding_counts) {
  const View &x = call.in[0], &y = call.out[0];
  const int64_t n = y.count(), window = x.count() / max64(1, n);
  const auto run = [&](auto kernel, int ways) {
    return launch_items(call, ceil_div(n, 32 / ways) * 32, kernel, x.f32(), v, h, padding_counts, x.shape[3], y.f32(),
                        n);
  };
  return window >= 32 ? run(averages<4>, 4) : run(averages<1>, 1);
}
bool average_grad(const Call& call, const Windows& v, const Windows& h, bool padding_counts) {
  const View& dx = call.out[0];
  return launch_items(call, dx.count(), gather_averages, call.in[0].f32(), v, h, padding_counts, dx.shape[3], dx.f32(),
                      dx.count());
}

// avg_pool2d: x -> y. Numbers: KH, KW, strideH, strideW, padTop, padLeft, countIncludePad.
bool avg_pool2d(const Call& call) {
  const View &x = call.in[0], &y = call.out[0];
  return check_average(call, x, y) && average(call, average_windows(call, 0, x.shape[1], y.shape[1]),
                                              average_windows(call, 1, x.shape[2], y.shape[2]), call.integer(6) != 0);
}

// avg_pool2d_grad: dy -> dx; numbers as avg_pool2d
bool avg_pool2d_grad(const Call& call) {
  const View &dy = call.in[0], &dx = call.out[0];
  return check_average(call, dx, dy) &&
         average_grad(call, average_windows(call, 0, dx.shape[1], dy.shape[1]),
                      average_windows(call, 1, dx.shape[2], dy.shape[2]), call.integer(6) != 0);
}

// adaptive_avg_pool2d: x -> y
bool adaptive_avg_pool2d(const Call& call) {
  const View &x = call.in[0], &y = call.out[0];
  return check_pool(call, x, y) &&
         average(call, adaptive_windows(x.shape[1], y.shape[1]), adaptive_windows(x.shape[2], y.shape[2]), false);
}

// adaptive_avg_pool2d_grad: dy -> dx
bool adaptive_avg_pool2d_grad(const Call& call) {
  const View &dy = call.in[0], &dx = call.out[0];
  return check_pool(call, dx, dy) && average_grad(call, adaptive_windows(dx.shape[1], dy.shape[1]),
                                                  adaptive_windows(dx.shape[2], dy.shape[2]), false);
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"max_pool2d", max_pool2d}, {"max_pool2d_grad", max_pool2d_grad}, {"avg_pool2d", avg_pool2d},
                {"avg_pool2d_grad", avg_pool2d_grad}, {"adaptive_avg_pool2d", adaptive_avg_pool2d},
                {"adaptive_avg_pool2d_grad", adaptive_avg_pool2d_grad})
