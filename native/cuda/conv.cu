// Convolutions of channels-last images as products of their patches; ../cpu/kernels/conv.cc says what the kernels do.
// Nothing is unfolded in memory: loaders find what a tap sees.
#include "../core/convolution.h"
#include "columns.cuh"
#include "product.cuh"

namespace auxgrad {
namespace {

// The same, and what a device counts in 32 bits.
inline bool check(const Call& call, const View& x, const View& w, const View& y) {
  if (!check_convolution(call, x, w, y)) return false;
  if (x.count(0, 3) <= INT32_MAX && y.count(0, 3) <= INT32_MAX && w.count() <= INT32_MAX) return true;
  return call.failure->set(ErrorCode::invalid_argument, "CUDA: a convolution of more than 2^31 positions");
}

// What an image's positions see of another: `seen` by taps along both axes.
inline Patches<Floats> patches(const View& seen, int64_t depth, const Axis& vertical, const Axis& horizontal) {
  Patches<Floats> p;
  p.source.data = seen.f32();
  p.source.channels = seen.shape[3];
  p.rows = static_cast<int>(seen.shape[1]);
  p.columns = static_cast<int>(seen.shape[2]);
  p.depth = static_cast<int>(depth);
  p.vertical = vertical;
  p.horizontal = horizontal;
  p.settle(seen.shape[0]);
  return p;
}

// Axis i (0: vertical, 1: horizontal) of y's positions, which see x.
inline Axis forward_axis(const View& y, const View& w, const Attributes& a, int i) {
  Axis axis;
  axis.step = static_cast<int>(a.stride[i]);
  axis.start = static_cast<int>(-a.pad[i]);
  axis.tap_step = static_cast<int>(a.dilation[i]);
  axis.taps = static_cast<int>(w.shape[1 + i]);
  axis.outputs = static_cast<int>(y.shape[1 + i]);
  return axis;
}

// Positions phase, phase + stride, ... of dx: those share the kernel positions k with phase + pad - k * dilation divisible
// by stride, and see neighbours in dy.
inline Axis gradient_axis(const View& dx, const View& w, const Attributes& a, int i, int64_t phase) {
  const int64_t stride = a.stride[i], size = dx.shape[1 + i];
  Axis axis;
  axis.outputs = static_cast<int>(phase < size ? ceil_div(size - phase, stride) : 0);
  axis.output_start = static_cast<int>(phase);
  axis.output_step = static_cast<int>(stride);
  axis.taps = 0;
  for (int64_t k = 0; k < w.shape[1 + i]; k++) {
    const int64_t from = phase + a.pad[i] - k * a.dilation[i];
    if (from % stride != 0) continue;
    if (axis.taps == 0) axis.kernel_start = static_cast<int>(k), axis.start = static_cast<int>(from / stride);
    if (axis.taps == 1) {
      axis.kernel_step = static_cast<int>(k) - axis.kernel_start;
      axis.tap_step = static_cast<int>(from / stride) - axis.start;
    }
    axis.taps++;
  }
  return axis;
}

// The weights as right operand of the input gradient: line (tap, o), whose neighbours are the input channels.
struct TurnedWeights {
  static constexpr int kPlanes = 3;
  const float* data;
  int lines, depth;               // outputs and inputs of a group
  int64_t output_step, row_step;  // from an output to the next, from a kernel row to the next
  Axis vertical, horizontal;
  Divisor by_outputs, taps_across;
  bool vectors;

  typedef const float* Origin;
  typedef const float* Line;
  __device__ Origin origin(int z) const { return data + z * static_cast<int64_t>(by_outputs.divisor) * output_step; }
  __device__ Line line(Origin origin, int i) const {
    if (i >= lines) return nullptr;
    int across = by_outputs.split(i);
    const int down = taps_across.split(across);
    return origin + i * output_step + (vertical.kernel_start + down * vertical.kernel_step) * row_step +
           (horizontal.kernel_start + across * horizontal.kernel_step) * depth;
  }
  __device__ float at(Origin, Line line, int i) const { return line && i < depth ? __ldg(line + i) : 0.0f; }
  __device__ void load(Origin origin, Line line, int first, float (&v)[8]) const {
    if (vectors && line && first + 8 <= depth) return load8(line + first, v);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = at(origin, line, first + i);
  }
};

// Depthwise: each thread makes some outputs. y[n, p, q, c] = sum over taps of what it sees.
__global__ void depthwise_kernel(const Patches<Floats> x, int64_t channels, const float* w, const float* bias,
                                 bool relu, float* y, int64_t items) {
  for (int64_t item = first_item(); item < items; item += item_step()) {
    const int64_t position = quotient(item, channels);
    const int c = static_cast<int>(item - position * channels);
    const auto line = x.line(c, static_cast<int>(position));
    float sum = 0;
    for (int tap = 0; tap < x.length; tap++) {
      int i = tap;
      const int token = x.token(line, i);
      if (token >= 0) sum = fmaf(x.source.at(line.image, token, c), w[c * static_cast<int64_t>(x.length) + tap], sum);
    }
    if (bias) sum += bias[c];
    y[item] = relu && sum < 0 ? 0.0f : sum;
  }
}

__global__ void depthwise_input_gradient_kernel(const float* dy, const float* w, int64_t channels, int rows,
                                                int columns, int out_rows, int out_columns, int kernel_rows,
                                                int kernel_columns, const Attributes a, float* dx, int64_t items) {
  for (int64_t item = first_item(); item < items; item += item_step()) {
    const int64_t position = quotient(item, channels), c = item - position * channels;
    const int64_t line = quotient(position, columns), image = quotient(line, rows);
    const int column = static_cast<int>(position - line * columns), row = static_cast<int>(line - image * rows);
    float sum = 0;
    for (int i = 0; i < kernel_rows; i++) {
      const int p = row + static_cast<int>(a.pad[0] - i * a.dilation[0]), s = static_cast<int>(a.stride[0]);
      if (p < 0 || p % s != 0 || p / s >= out_rows) continue;
      for (int j = 0; j < kernel_columns; j++) {
        const int q = column + static_cast<int>(a.pad[1] - j * a.dilation[1]), t = static_cast<int>(a.stride[1]);
        if (q < 0 || q % t != 0 || q / t >= out_columns) continue;
        sum = fmaf(dy[((image * out_rows + p / s) * out_columns + q / t) * channels + c],
                   w[(c * kernel_rows + i) * kernel_columns + j], sum);
      }
    }
    dx[item] = sum;
  }
}

inline Plan forward_plan(const View& w, const View& y, int64_t groups) {
  return plan_product(y.count(0, 3), w.shape[0] / groups, w.count(1, 4), groups);
}

// conv2d: x, w, bias -> y, signs, mask, mean, var, rstd; further numbers: epsilon, alphabet, activation, eps
bool conv2d(const Call& call) {
  const View &x = call.in[0], &w = call.in[1], &bias = call.in[2], &y = call.out[0];
  if (!check(call, x, w, y)) return false;
  const Attributes a = attributes(call);
  const int64_t outputs = w.shape[0], width = outputs / a.groups, taps = w.count(1, 4), positions = y.count(0, 3);
  const bool relu = call.integer(9) == 1;
  uint32_t* const mask = call.n_out > 2 ? call.out[2].u32() : nullptr;
  Patches<Floats> image = patches(x, w.shape[3], forward_axis(y, w, a, 0), forward_axis(y, w, a, 1));
  image.source.auxiliary = Auxiliary::of(call.real(7), call.integer(8) != 0);
  if (call.n_out > 1 && call.out[1] &&
      !pack_signs(call, x.f32(), x.shape[3], 1, x.count(0, 3), x.shape[3], call.out[1].u32()))
    return false;
  // Behind the parts of sums.
  const int64_t parts = is_depthwise(w, a) ? 0 : forward_plan(w, y, a.groups).scratch();
  float* const pieces = reinterpret_cast<float*>(static_cast<char*>(call.scratch) + round_up(parts, 64));
  const bool made = asks_statistics(call) && !is_depthwise(w, a) && parts == 0;
  if (is_depthwise(w, a)) {
    if (!launch_items(call, y.count(), depthwise_kernel, image, outputs, w.f32(), bias.f32(), relu, y.f32(), y.count()))
      return false;
    if (mask && !pack_signs(call, y.f32(), outputs, 1, positions, outputs, mask)) return false;
  } else {
    Strided weights;
    weights.data = w.f32();
    weights.lines = static_cast<int>(width);
    weights.length = static_cast<int>(taps);
    weights.line_step = taps;
    weights.axes = 1;
    weights.shape[0] = static_cast<int>(a.groups);
    weights.stride[0] = width * taps;
    weights.settle();
    Output out;
    out.data = y.f32();
    out.row_step = outputs;
    out.z_step = width;
    out.channels = static_cast<int>(outputs);
    out.z_channels = static_cast<int>(width);
    out.bias = bias.f32();
    out.relu = relu;
    out.mask = mask;
    if (made) out.pieces = pieces;
    if (!run_product<true, true>(call, image, weights, out, positions, width, taps, a.groups, call.scratch))
      return false;
  }
  if (!asks_statistics(call)) return true;
  return run_statistics(call, y.f32(), positions, outputs, made, pieces, call.number[10], call.out[3].f32(),
                        call.out[4].f32(), call.out[5].f32());
}

int64_t conv2d_scratch(const Call& call, int) {
  const View &w = call.in[1], &y = call.out[0];
  const Attributes a = attributes(call);
  const int64_t parts = is_depthwise(w, a) ? 0 : forward_plan(w, y, a.groups).scratch();
  return round_up(parts, 64) + (asks_statistics(call) ? statistics_scratch(y.count(0, 3), w.shape[0]) : 0);
}

// Runs f(vertical, horizontal) for every phase of the input gradient.
template <class F>
inline bool each_phase(const View& dx, const View& w, const Attributes& a, const F& f) {
  for (int64_t i = 0; i < a.stride[0]; i++)
    for (int64_t j = 0; j < a.stride[1]; j++)
      if (!f(gradient_axis(dx, w, a, 0, i), gradient_axis(dx, w, a, 1, j))) return false;
  return true;
}

// conv2d_input_grad: dy, w -> dx
bool conv2d_input_grad(const Call& call) {
  const View &dy = call.in[0], &w = call.in[1], &dx = call.out[0];
  if (!check(call, dx, w, dy)) return false;
  const Attributes a = attributes(call);
  if (is_depthwise(w, a))
    return launch_items(call, dx.count(), depthwise_input_gradient_kernel, dy.f32(), w.f32(), dx.shape[3],
                        static_cast<int>(dx.shape[1]), static_cast<int>(dx.shape[2]), static_cast<int>(dy.shape[1]),
                        static_cast<int>(dy.shape[2]), static_cast<int>(w.shape[1]), static_cast<int>(w.shape[2]), a,
                        dx.f32(), dx.count());
  const int64_t outputs = w.shape[0] / a.groups, depth = w.shape[3], channels = dx.shape[3];
  TurnedWeights weights = {};
  weights.data = w.f32();
  weights.depth = static_cast<int>(depth);
  weights.output_step = w.count(1, 4);
  weights.row_step = w.shape[2] * depth;
  weights.by_outputs = Divisor(outputs);
  weights.vectors = aligned(w.f32()) && depth % 4 == 0;
  return each_phase(dx, w, a, [&](const Axis& vertical, const Axis& horizontal) {
    const Patches<Floats> image = patches(dy, outputs, vertical, horizontal);
    weights.lines = image.length;
    weights.vertical = vertical;
    weights.horizontal = horizontal;
    weights.taps_across = Divisor(horizontal.taps);
    Output out;
    out.data = dx.f32() + (vertical.output_start * dx.shape[2] + horizontal.output_start) * channels;
    out.z_step = depth;
    out.positions = true;
    out.across = Divisor(horizontal.outputs);
    out.down = Divisor(vertical.outputs);
    out.image_step = dx.count(1, 4);
    out.down_step = vertical.output_step * dx.shape[2] * channels;
    out.across_step = horizontal.output_step * channels;
    return run_product<true, false>(call, image, weights, out, image.lines, depth, image.length, a.groups,
                                    call.scratch);
  });
}

int64_t conv2d_input_grad_scratch(const Call& call, int) {
  const View &w = call.in[1], &dx = call.out[0];
  const Attributes a = attributes(call);
  int64_t bytes = 0;
  if (!is_depthwise(w, a))
    each_phase(dx, w, a, [&](const Axis& vertical, const Axis& horizontal) {
      const int64_t m = dx.shape[0] * vertical.outputs * horizontal.outputs;
      const int64_t k = int64_t{1} * vertical.taps * horizontal.taps * (w.shape[0] / a.groups);
      bytes = max64(bytes, plan_product(m, w.shape[3], k, a.groups).scratch());
      return true;
    });
  return bytes;
}

// conv2d_weight_grad: dy, x -> dw
bool conv2d_weight_grad(const Call& call) {
  const View &dy = call.in[0], &x = call.in[1], &dw = call.out[0];
  if (!check(call, x, dw, dy)) return false;
  const Attributes a = attributes(call);
  const Patches<Floats> image = patches(x, dw.shape[3], forward_axis(dy, dw, a, 0), forward_axis(dy, dw, a, 1));
  if (is_depthwise(dw, a)) return run_depthwise_gradient(call, dy.f32(), dy.shape[3], image, 1, dw.f32());
  const int64_t width = dw.shape[0] / a.groups, taps = dw.count(1, 4);
  Strided delta;
  delta.data = dy.f32();
  delta.lines = image.lines;
  delta.length = static_cast<int>(width);
  delta.line_step = dy.shape[3];
  delta.axes = 1;
  delta.shape[0] = static_cast<int>(a.groups);
  delta.stride[0] = width;
  delta.settle();
  Output out;
  out.data = dw.f32();
  out.row_step = taps;
  out.z_step = width * taps;
  return run_product<false, false>(call, delta, image, out, width, taps, image.lines, a.groups, call.scratch);
}

int64_t conv2d_weight_grad_scratch(const Call& call, int) {
  const View &dy = call.in[0], &dw = call.out[0];
  const Attributes a = attributes(call);
  if (is_depthwise(dw, a)) return depthwise_scratch(dy.count(0, 3), dw.shape[0], dw.count(1, 3));
  return plan_product(dw.shape[0] / a.groups, dw.count(1, 4), dy.count(0, 3), a.groups).scratch();
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"conv2d", conv2d, conv2d_scratch}, {"conv2d_input_grad", conv2d_input_grad, conv2d_input_grad_scratch},
                {"conv2d_weight_grad", conv2d_weight_grad, conv2d_weight_grad_scratch})
