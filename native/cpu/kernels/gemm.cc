// Dense matrix products, and attention, which is made of their tiles.
#include "../gemm/gemm.h"
#include "../attention.h"

namespace auxgrad {
namespace {

// matmul: a [..., M, K], b [..., K, N], any strides, equal batch axes (stride 0 repeats) -> c [..., M, N] contiguous
// numbers: alpha
inline Products matmul_products(const Call& call) {
  const View &a = call.in[0], &b = call.in[1], &c = call.out[0];
  const int rank = c.rank;
  Product p = {};
  p.m = c.shape[rank - 2];
  p.n = c.shape[rank - 1];
  p.k = a.shape[rank - 1];
  p.a = a.f32();
  p.a_row = a.stride[rank - 2];
  p.a_k = a.stride[rank - 1];
  p.b = b.f32();
  p.b_k = b.stride[rank - 2];
  p.b_column = b.stride[rank - 1];
  p.c = c.f32();
  p.finish.alpha = call.real(0);
  return {p, a, b, c};
}

bool matmul(const Call& call) {
  gemm(call, matmul_products(call));
  return true;
}

int64_t matmul_scratch(const Call& call, int threads) { return gemm_scratch(matmul_products(call), threads); }

// linear: x [T, I], w [O, I], any strides, bias [O] or absent -> y [T, O], signs u32 [ceil(T/32), I] or absent,
// mask u32 [ceil(T/32), O] or absent
// numbers: epsilon, alphabet (0: -1/+1, 1: 0/1), activation (0: none, 1: relu); none of them means 0, 0, 0
// The operand is x + epsilon * s(x), s(x) = +1 if x > 0, else -1 (alphabet 1: 0); signs are the bits of x > 0, mask
// those of y > 0. Bit t % 32 of word [t / 32][c] is token t; bits beyond the last token are 0.
inline Products linear_products(const Call& call) {
  const View &x = call.in[0], &w = call.in[1], &y = call.out[0];
  Product p = {};
  p.m = y.shape[0];
  p.n = y.shape[1];
  p.k = x.shape[1];
  p.a = x.f32();
  p.a_row = x.stride[0];
  p.a_k = x.stride[1];
  p.b = w.f32();
  p.b_k = w.stride[1];
  p.b_column = w.stride[0];
  p.c = y.f32();
  p.finish.bias = call.in[2].f32();
  if (call.n_number > 0) {
    p.positive = call.real(0);
    p.negative = call.integer(1) == 1 ? 0.0f : -p.positive;
    p.finish.relu = call.integer(2) == 1;
  }
  if (call.n_out > 1) p.signs = call.out[1].u32();
  if (call.n_out > 2) p.finish.mask = call.out[2].u32();
  return {p, x, w, y};
}

bool linear(const Call& call) {
  gemm(call, linear_products(call));
  return true;
}

int64_t linear_scratch(const Call& call, int threads) { return gemm_scratch(linear_products(call), threads); }

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"matmul", matmul, matmul_scratch}, {"linear", linear, linear_scratch},
                {"attention", attention, attention_scratch}, {"attention_grad", attention_grad, attention_grad_scratch})
