// Convolutions of channels-last images; core/convolution.h says what all of them are given.
#include "../../core/convolution.h"
#include "../conv/depthwise.h"
#include "../conv/matrix.h"
#include "../conv/matrix_grad.h"
#include "../conv/narrow.h"
#include "../conv/winograd.h"

namespace auxgrad {
namespace {

inline Image image_of(const View& v) { return {v.f32(), v.shape[1], v.shape[2], v.shape[3]}; }

// A 1x1 kernel at stride 1 without padding sees no neighbours: all positions make one row. (Depthwise kernels go by rows.)
inline bool is_pointwise(const View& w, const Attributes& a, const View& x, const View& y) {
  return !is_depthwise(w, a) && w.shape[1] == 1 && w.shape[2] == 1 && a.stride[0] == 1 && a.stride[1] == 1 &&
         a.pad[0] == 0 && a.pad[1] == 0 && x.shape[1] == y.shape[1] && x.shape[2] == y.shape[2];
}

// What a product and a depthwise one have in common.
template <class P>
inline void set_images(P& p, const View& in, const View& out) {
  p.image = image_of(in);
  p.images = in.shape[0];
  p.out = out.f32();
  p.out_rows = out.shape[1];
  p.out_columns = out.shape[2];
}

inline Product forward_product(const Call& call) {
  const View &x = call.in[0], &w = call.in[1], &y = call.out[0];
  const Attributes a = attributes(call);
  Product p = {};
  set_images(p, x, y);
  p.out_channels = y.shape[3];
  p.vertical = forward_axis(y.shape[1], w.shape[1], a.stride[0], a.pad[0], a.dilation[0]);
  p.horizontal = forward_axis(y.shape[2], w.shape[2], a.stride[1], a.pad[1], a.dilation[1]);
  if (is_pointwise(w, a, x, y)) {
    p.image.columns = p.out_columns = p.horizontal.count = x.count(0, 3);
    p.images = p.image.rows = p.out_rows = p.vertical.count = 1;
  }
  p.groups = a.groups;
  p.depth = w.shape[3];
  p.width = w.shape[0] / a.groups;
  p.weight = w.f32();
  p.kernel_columns = w.shape[2];
  p.tap_step = p.depth;
  p.k_step = 1;
  p.c_step = w.shape[1] * w.shape[2] * p.depth;
  p.weight_group = p.width * p.c_step;
  return p;
}

#if defined(AUXGRAD_HAS_AMX)
// Whether a product suits the matrix unit; as `u` then.
inline bool as_matrix(const Product& p, Product& u) {
  if (taps_of(p) == 0) return false;
  u = unfolded(p);
  return suits_matrix(u);
}
#endif

inline void run(const Call& call, const Product& p) {
#if defined(AUXGRAD_HAS_AMX)
  Product u;
  if (amx_in_force() && as_matrix(p, u)) return run_matrix(call, u);
#endif
  if (taps_of(p) == 0) {
    if (p.signs) pack_image(call, p);
    zero_outputs(call, p);
  } else if (suits_patches(p)) run_patches(call, p);
  else run_product(call, p);
}
inline int64_t scratch_of(const Product& p, int threads) {
  const int64_t bytes = suits_patches(p) ? patch_scratch(p, threads) : product_scratch(p, threads);
#if defined(AUXGRAD_HAS_AMX)
  Product u;
  if (amx_possible() && as_matrix(p, u)) return max64(bytes, matrix_scratch(plan_matrix(u), threads));
#endif
  return bytes;
}
// Chunks of the statistics, as run() makes them; Matrix: on the matrix unit.
template <bool Matrix>
inline int64_t chunks_of(const Product& p) {
#if defined(AUXGRAD_HAS_AMX)
  Product u;
  if (Matrix && as_matrix(p, u)) return plan_matrix(u).runs();
#endif
  return taps_of(p) == 0 ? 0 : suits_patches(p) ? plan_patches(p).blocks.count() : plan_product(p).blocks.count();
}

// Positive and negative values of the auxiliary epsilon * s(x).
inline void set_auxiliary(const Call& call, Image& image) {
  const float epsilon = call.real(7);
  image.positive = epsilon;
  image.negative = call.integer(8) == 0 ? -epsilon : 0.0f;
}

// Without its axes.
inline Depthwise depthwise_of(const View& in, const View& w, const View& out) {
  Depthwise d = {};
  set_images(d, in, out);
  d.weight = w.f32();
  d.kernel_rows = w.shape[1];
  d.kernel_columns = w.shape[2];
  return d;
}

// conv2d: x, w, bias [O] or absent -> y, signs u32 [ceil(N*H*W/32), C], mask u32 [ceil(N*P*Q/32), O], mean [O], var [O]
// (biased), rstd [O] = 1 / sqrt(var + eps), all but y or absent. Further numbers: epsilon, alphabet (0: -1/+1, 1: 0/1),
// activation (0: none, 1: relu), eps.
// The operand is x + epsilon * s(x), zero in the padding; signs are the bits of x > 0, mask those of y > 0; mean and
// variance are those of y as it is written, over all but the last axis.
bool conv2d(const Call& asked) {
  const View &x = asked.in[0], &w = asked.in[1], &bias = asked.in[2], &y = asked.out[0];
  if (!check_convolution(asked, x, w, y)) return false;
  const Attributes a = attributes(asked);
  const bool relu = asked.integer(9) == 1, depthwise = is_depthwise(w, a);
  Product p = forward_product(asked);
  Depthwise d = depthwise_of(x, w, y);
  Call call = asked;
  Statistics statistics;
  if (asks_statistics(asked)) {
    const int64_t chunks = depthwise ? d.chunks() : amx_in_force() ? chunks_of<true>(p) : chunks_of<false>(p);
    statistics = statistics_at(asked.scratch, w.shape[0], chunks);
    call.scratch = static_cast<char*>(asked.scratch) + statistics_bytes(w.shape[0], chunks);
  }
  p.signs = call.n_out > 1 ? call.out[1].u32() : nullptr;
  uint32_t* const mask = call.n_out > 2 ? call.out[2].u32() : nullptr;
  if (depthwise) {
    if (p.signs) pack_image(call, p);
    d.vertical = p.vertical;
    d.horizontal = p.horizontal;
    set_auxiliary(call, d.image);
    d.bias = bias.f32();
    d.relu = relu;
    d.mask = mask;
    d.statistics = statistics;
    run_depthwise(call, d, [](Depthwise&, int64_t row, const auto& run) { run(row); });
  } else {
    set_auxiliary(call, p.image);
    p.bias = bias.f32();
    p.relu = relu;
    p.mask = mask;
    p.statistics = statistics;
    run(call, p);
  }
  if (statistics)
    finish_statistics(call, statistics, call.number[10], call.out[3].f32(), call.out[4].f32(), call.out[5].f32());
  return true;
}

int64_t conv2d_scratch(const Call& call, int threads) {
  const View& w = call.in[1];
  const bool statistics = asks_statistics(call);
  const auto bytes = [&](int64_t chunks) { return statistics ? statistics_bytes(w.shape[0], chunks) : 0; };
  if (is_depthwise(w, attributes(call)))
    return w.count() * 4 + bytes(depthwise_of(call.in[0], w, call.out[0]).chunks());
  const Product p = forward_product(call);
  return scratch_of(p, threads) + max64(bytes(chunks_of<false>(p)), amx_possible() ? bytes(chunks_of<true>(p)) : 0);
}

// Runs f(vertical, horizontal) for every phase of the input gradient: the positions of dx that share their taps.
template <class F>
inline void each_phase(const View& dx, const View& w, const Attributes& a, const F& f) {
  for (int64_t i = 0; i < a.stride[0]; i++)
    for (int64_t j = 0; j < a.stride[1]; j++)
      f(gradient_axis(dx.shape[1], w.shape[1], a.stride[0], a.pad[0], a.dilation[0], i),
        gradient_axis(dx.shape[2], w.shape[2], a.stride[1], a.pad[1], a.dilation[1], j));
}

inline Product gradient_product(const Call& call) {
  const View &dy = call.in[0], &w = call.in[1], &dx = call.out[0];
  const Attributes a = attributes(call);
  Product p = {};
  set_images(p, dy, dx);
  p.out_channels = dx.shape[3];
  if (is_pointwise(w, a, dx, dy)) {
    p.image.columns = p.out_columns = dy.count(0, 3);
    p.images = p.image.rows = p.out_rows = 1;
  }
  p.groups = a.groups;
  p.depth = w.shape[0] / a.groups;
  p.width = w.shape[3];
  p.weight = w.f32();
  p.kernel_columns = w.shape[2];
  p.tap_step = p.width;
  p.k_step = w.shape[1] * w.shape[2] * p.width;
  p.c_step = 1;
  p.weight_group = p.depth * p.k_step;
  return p;
}

// Runs f(product) for every phase.
template <class F>
inline void each_gradient_product(const Call& call, const F& f) {
  const View &w = call.in[1], &dx = call.out[0];
  Product p = gradient_product(call);
  View flat = dx;
  flat.shape[1] = p.out_rows;
  flat.shape[2] = p.out_columns;
  each_phase(flat, w, attributes(call), [&](const Axis& vertical, const Axis& horizontal) {
    p.vertical = vertical;
    p.horizontal = horizontal;
    if (vertical.taps == 0) {  // rows without taps, whole
      if (horizontal.out_start > 0) return;
      p.horizontal.count = p.out_columns;
      p.horizontal.out_step = 1;
    }
    f(p);
  });
}

// All phases of a gradient by minimal filtering, where that pays.
inline bool as_transposed(const Call& call, Product& p) {
  const View &w = call.in[1], &dx = call.out[0];
  const Attributes a = attributes(call);
  const auto suits = [&](int axis) {
    return w.shape[1 + axis] == 3 && a.stride[axis] == 2 && a.dilation[axis] == 1 && a.pad[axis] % 2 == 1;
  };
  if (!suits(0) || !suits(1)) return false;
  p = gradient_product(call);
  p.transposed = true;
  p.vertical = forward_axis(dx.shape[1], 3, 1, (1 - a.pad[0]) / 2, 1);
  p.horizontal = forward_axis(dx.shape[2], 3, 1, (1 - a.pad[1]) / 2, 1);
  return suits_patches(p);
}

// Few channels to write: a vector of them would be mostly empty.
inline bool is_narrow(const Call& call) {
  const View &dy = call.in[0], &w = call.in[1];
  const Attributes a = attributes(call);
  return a.groups == 1 && a.dilation[1] == 1 && w.shape[3] * 2 <= kLanes && w.shape[2] > 1 && w.shape[0] >= 8 &&
         w.shape[3] > 0 && dy.count() > 0;
}

inline Narrow narrow_gradient(const Call& call) {
  const View &dy = call.in[0], &w = call.in[1], &dx = call.out[0];
  const Attributes a = attributes(call);
  return {dy.f32(),
          dx.f32(),
          w.f32(),
          dx.shape[0],
          dx.shape[1],
          dx.shape[2],
          dx.shape[3],
          dy.shape[1],
          dy.shape[2],
          dy.shape[3],
          w.shape[1],
          w.shape[2],
          {a.stride[0], a.stride[1]},
          {a.pad[0], a.pad[1]},
          a.dilation[0]};
}

// conv2d_input_grad: dy, w -> dx
bool conv2d_input_grad(const Call& call) {
  const View &dy = call.in[0], &w = call.in[1], &dx = call.out[0];
  if (!check_convolution(call, dx, w, dy)) return false;
  const Attributes a = attributes(call);
  if (is_narrow(call)) {
    run_narrow(call, narrow_gradient(call));
    return true;
  }
  if (!is_depthwise(w, a)) {
    Product all;
    if (!amx_in_force() && as_transposed(call, all)) run_patches(call, all);
    else {
      // A single tap without padding has outputs in the first phase alone.
      const bool fills = !kFallback && !amx_in_force() && w.shape[1] == 1 && w.shape[2] == 1 && a.pad[0] == 0 &&
                         a.pad[1] == 0 && a.stride[0] * a.stride[1] > 1;
      each_gradient_product(call, [&](Product p) {
        p.fills = fills && taps_of(p) > 0;
        if (p.fills || !fills) run(call, p);
      });
    }
    return true;
  }
  const Depthwise d = depthwise_of(dy, w, dx);
  run_depthwise(call, d, [&](Depthwise& own, int64_t row, const auto& run_row) {
    own.vertical = gradient_axis(dx.shape[1], w.shape[1], a.stride[0], a.pad[0], a.dilation[0], row % a.stride[0]);
    for (int64_t j = 0; j < a.stride[1]; j++) {
      own.horizontal = gradient_axis(dx.shape[2], w.shape[2], a.stride[1], a.pad[1], a.dilation[1], j);
      run_row(row / a.stride[0]);
    }
  });
  return true;
}

int64_t conv2d_input_grad_scratch(const Call& call, int threads) {
  const View& w = call.in[1];
  if (is_narrow(call)) return narrow_scratch(narrow_gradient(call), threads);
  if (is_depthwise(w, attributes(call))) return w.count() * 4;
  Product all;
  int64_t bytes = as_transposed(call, all) ? patch_scratch(all, threads) : 0;
  each_gradient_product(call, [&](const Product& p) { bytes = max64(bytes, scratch_of(p, threads)); });
  return bytes;
}

inline WeightGradient weight_gradient(const Call& call) {
  const View &dy = call.in[0], &x = call.in[1], &dw = call.out[0];
  const Attributes a = attributes(call);
  WeightGradient p = {};
  p.image = image_of(x);
  p.images = x.shape[0];
  p.vertical = forward_axis(dy.shape[1], dw.shape[1], a.stride[0], a.pad[0], a.dilation[0]);
  p.horizontal = forward_axis(dy.shape[2], dw.shape[2], a.stride[1], a.pad[1], a.dilation[1]);
  p.dy = dy.f32();
  p.out_rows = dy.shape[1];
  p.out_columns = dy.shape[2];
  p.out_channels = dy.shape[3];
  if (is_pointwise(dw, a, x, dy)) {
    p.image.columns = p.out_columns = p.horizontal.count = x.count(0, 3);
    p.images = p.image.rows = p.out_rows = p.vertical.count = 1;
  }
  p.groups = a.groups;
  p.depth = dw.shape[3];
  p.width = dw.shape[0] / a.groups;
  p.dw = dw.f32();
  return p;
}

inline DepthwiseGradient depthwise_gradient(const Call& call) {
  const View &dy = call.in[0], &x = call.in[1], &dw = call.out[0];
  const Attributes a = attributes(call);
  return {image_of(x),
          x.shape[0],
          forward_axis(dy.shape[1], dw.shape[1], a.stride[0], a.pad[0], a.dilation[0]),
          forward_axis(dy.shape[2], dw.shape[2], a.stride[1], a.pad[1], a.dilation[1]),
          dy.f32(),
          dw.f32()};
}

// conv2d_weight_grad: dy, x -> dw
bool conv2d_weight_grad(const Call& call) {
  if (!check_convolution(call, call.in[1], call.out[0], call.in[0])) return false;
  if (is_depthwise(call.out[0], attributes(call))) run_depthwise_gradient(call, depthwise_gradient(call));
  else run_dense_gradient(call, weight_gradient(call));
  return true;
}

int64_t conv2d_weight_grad_scratch(const Call& call, int threads) {
  if (is_depthwise(call.out[0], attributes(call))) return depthwise_gradient_scratch(depthwise_gradient(call));
  return dense_gradient_scratch(weight_gradient(call), threads);
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"conv2d", conv2d, conv2d_scratch}, {"conv2d_input_grad", conv2d_input_grad, conv2d_input_grad_scratch},
                {"conv2d_weight_grad", conv2d_weight_grad, conv2d_weight_grad_scratch})
