// Dense matrix products.
#include "../gemm/gemm.h"

namespace auxgrad {
namespace {

// matmul: a [..., M, K], b [..., K, N], any strides, equal batch axes (stride 0 repeats) -> c [..., M, N] contiguous
// numbers: alpha
bool matmul(const Call& call) {
  const View &a = call.in[0], &b = call.in[1], &c = call.out[0];
  const int rank = c.rank;
  const int64_t m = c.shape[rank - 2], n = c.shape[rank - 1], k = a.shape[rank - 1];
  const int64_t batches = c.count(0, rank - 2);
  const float alpha = call.real(0);
  const auto product = [&](const Call& with, int64_t batch) {
    int64_t offset_a = 0, offset_b = 0, rest = batch;
    for (int axis = rank - 3; axis >= 0; axis--) {
      const int64_t i = rest % c.shape[axis];
      rest /= c.shape[axis];
      offset_a += i * a.stride[axis];
      offset_b += i * b.stride[axis];
    }
    float* out = c.f32() + batch * m * n;
    gemm(with, Strided{a.f32() + offset_a, a.stride[rank - 2], a.stride[rank - 1]},
         Strided{b.f32() + offset_b, b.stride[rank - 1], b.stride[rank - 2]}, out, n, m, n, k, false,
         [&](int64_t i0, int64_t mc, int64_t j0, int64_t nc) {
           if (alpha == 1.0f) return;
           for (int64_t i = i0; i < i0 + mc; i++)
             for (int64_t j = j0; j < j0 + nc; j++) out[i * n + j] *= alpha;
         });
  };
  if (batches == 1) {
    product(call, 0);
    return true;
  }
  // Many products: one a task, each on one thread with that thread's share of the scratch.
  const int64_t share = gemm_scratch(m, n, k, 1);
  parallel_tasks(call, batches, [&](int64_t batch, int thread) {
    Call own = call;
    own.pool = &serial_pool();
    own.scratch = static_cast<char*>(call.scratch) + thread * share;
    product(own, batch);
  });
  return true;
}

int64_t matmul_scratch(const Call& call, int threads) {
  const View& c = call.out[0];
  const int64_t m = c.shape[c.rank - 2], n = c.shape[c.rank - 1], k = call.in[0].shape[c.rank - 1];
  if (c.count(0, c.rank - 2) == 1) return gemm_scratch(m, n, k, threads);
  return gemm_scratch(m, n, k, 1) * threads;
}

// linear: x [T, I], w [O, I], bias [O] or absent -> y [T, O]
bool linear(const Call& call) {
  const View &x = call.in[0], &w = call.in[1], &y = call.out[0];
  const float* bias = call.in[2] ? call.in[2].f32() : nullptr;
  const int64_t tokens = y.shape[0], out = y.shape[1], in = x.shape[1];
  gemm(call, Strided{x.f32(), x.stride[0], x.stride[1]}, Strided{w.f32(), w.stride[0], w.stride[1]}, y.f32(), out,
       tokens, out, in, false, [&](int64_t i0, int64_t mc, int64_t j0, int64_t nc) {
         if (!bias) return;
         for (int64_t i = i0; i < i0 + mc; i++)
           for (int64_t j = j0; j < j0 + nc; j++) y.f32()[i * out + j] += bias[j];
       });
  return true;
}

int64_t linear_scratch(const Call& call, int threads) {
  return gemm_scratch(call.out[0].shape[0], call.out[0].shape[1], call.in[0].shape[1], threads);
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"matmul", matmul, matmul_scratch}, {"linear", linear, linear_scratch})
