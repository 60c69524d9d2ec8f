// Dense matrix products; ../cpu/kernels/gemm.cc says what the kernels do.
#include "product.cuh"

namespace auxgrad {
namespace {

// Rows and columns of a view's last two axes, along which neighbours lie closest.
inline Strided matrix(const View& v, int line_axis, int axis) {
  Strided s;
  s.data = v.f32();
  s.lines = static_cast<int>(v.shape[line_axis]);
  s.length = static_cast<int>(v.shape[axis]);
  s.line_step = v.stride[line_axis];
  s.step = v.stride[axis];
  return s;
}

// Whether lines are along K: unless neighbours lie closer the other way.
inline bool along(const View& v, int k, int other) {
  return v.stride[k] == 1 || v.shape[k] <= 1 || (v.stride[other] != 1 && v.shape[other] > 1);
}

// a [.., M, K] (axes m, k of it), b (axes n, k of it).
inline bool run_matrices(const Call& call, const View& a, int am, int ak, const View& b, int bn, int bk,
                         const Auxiliary& auxiliary, const Output& out, int64_t batches, int axes, const View& c) {
  const auto operand = [&](const View& v, int line_axis, int axis, bool left) {
    Strided s = matrix(v, line_axis, axis);
    s.axes = axes;
    for (int i = 0; i < axes; i++) s.shape[i] = static_cast<int>(c.shape[i]), s.stride[i] = v.stride[i];
    if (left) s.auxiliary = auxiliary;
    s.settle();
    return s;
  };
  const int64_t m = a.shape[am], n = b.shape[bn], k = a.shape[ak];
  const bool left = along(a, ak, am), right = along(b, bk, bn);
  const Strided x = left ? operand(a, am, ak, true) : operand(a, ak, am, true);
  const Strided y = right ? operand(b, bn, bk, false) : operand(b, bk, bn, false);
  const auto run = left ? right ? run_product<true, true, Strided, Strided> : run_product<true, false, Strided, Strided>
                   : right ? run_product<false, true, Strided, Strided>
                           : run_product<false, false, Strided, Strided>;
  return run(call, x, y, out, m, n, k, batches, call.scratch);
}

// matmul: a [..., M, K], b [..., K, N], any strides -> c [..., M, N] contiguous; numbers: alpha
bool matmul(const Call& call) {
  const View &a = call.in[0], &b = call.in[1], &c = call.out[0];
  const int rank = c.rank;
  Output out;
  out.data = c.f32();
  out.row_step = c.shape[rank - 1];
  out.z_step = c.shape[rank - 2] * c.shape[rank - 1];
  out.alpha = call.real(0);
  return run_matrices(call, a, rank - 2, rank - 1, b, rank - 1, rank - 2, {}, out, c.count(0, rank - 2), rank - 2, c);
}
int64_t matmul_scratch(const Call& call, int) {
  const View &a = call.in[0], &c = call.out[0];
  const int rank = c.rank;
  return plan_product(c.shape[rank - 2], c.shape[rank - 1], a.shape[rank - 1], c.count(0, rank - 2)).scratch();
}

// linear: x [T, I], w [O, I], bias -> y [T, O], signs, mask; numbers: epsilon, alphabet, activation
bool linear(const Call& call) {
  const View &x = call.in[0], &w = call.in[1], &y = call.out[0];
  Output out;
  out.data = y.f32();
  out.row_step = y.shape[1];
  out.channels = static_cast<int>(y.shape[1]);
  out.bias = call.in[2].f32();
  Auxiliary auxiliary;
  if (call.n_number > 0) {
    auxiliary = Auxiliary::of(call.real(0), call.integer(1) == 1);
    out.relu = call.integer(2) == 1;
  }
  if (call.n_out > 2) out.mask = call.out[2].u32();
  if (call.n_out > 1 && call.out[1] &&
      !pack_signs(call, x.f32(), x.stride[0], x.stride[1], x.shape[0], x.shape[1], call.out[1].u32()))
    return false;
  return run_matrices(call, x, 0, 1, w, 0, 1, auxiliary, out, 1, 0, y);
}
int64_t linear_scratch(const Call& call, int) {
  const View &x = call.in[0], &y = call.out[0];
  return plan_product(y.shape[0], y.shape[1], x.shape[1], 1).scratch();
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"matmul", matmul, matmul_scratch}, {"linear", linear, linear_scratch})
