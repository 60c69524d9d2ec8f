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

// x + (x > 0 ? positive : negative), packed.
struct WithSigns {
  Strided x;
  float positive, negative;

  void pack(int64_t first, int64_t count, int64_t k0, int64_t kc, int tile, float* out) const {
    x.pack(first, count, k0, kc, tile, out);
    if (positive == 0 && negative == 0) return;
    const int64_t n = round_up(count, tile) * kc;
    for (int64_t i = 0; i < n; i++) out[i] += out[i] > 0 ? positive : negative;
  }
};

// Bits of v > 0 packed along rows: bit t % 32 of word [t / 32][c]; bits beyond the last row are 0.
inline void pack_positive(const Call& call, const View& v, uint32_t* words) {
  const int64_t rows = v.shape[0], columns = v.shape[1];
  parallel_ranges(call, ceil_div(rows, 32), max64(1, 512 / max64(columns, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t w = begin; w < end; w++) {
      uint32_t* out = words + w * columns;
      memset(out, 0, static_cast<size_t>(columns) * 4);
      for (int64_t t = w * 32; t < min64(rows, w * 32 + 32); t++) {
        const float* row = v.f32() + t * v.stride[0];
        for (int64_t c = 0; c < columns; c++) out[c] |= static_cast<uint32_t>(row[c * v.stride[1]] > 0) << (t % 32);
      }
    }
  });
}

// linear: x [T, I], w [O, I], any strides, bias [O] or absent -> y [T, O], signs u32 [ceil(T/32), I] or absent,
// mask u32 [ceil(T/32), O] or absent
// numbers: epsilon, alphabet (0: -1/+1, 1: 0/1), activation (0: none, 1: relu); none of them means 0, 0, 0
// The operand is x + epsilon * s(x), s(x) = +1 if x > 0, else -1 (alphabet 1: 0); signs are the bits of x > 0, mask
// those of y > 0.
bool linear(const Call& call) {
  const View &x = call.in[0], &w = call.in[1], &y = call.out[0];
  const float* bias = call.in[2] ? call.in[2].f32() : nullptr;
  const int64_t tokens = y.shape[0], out = y.shape[1], in = x.shape[1];
  const bool fused = call.n_number > 0;
  const float epsilon = fused ? call.real(0) : 0;
  const bool relu = fused && call.integer(2) == 1;
  const WithSigns operand = {{x.f32(), x.stride[0], x.stride[1]}, epsilon,
                             fused && call.integer(1) == 1 ? 0.0f : -epsilon};
  if (call.n_out > 1 && call.out[1]) pack_positive(call, x, call.out[1].u32());
  gemm(call, operand, Strided{w.f32(), w.stride[0], w.stride[1]}, y.f32(), out, tokens, out, in, false,
       [&](int64_t i0, int64_t mc, int64_t j0, int64_t nc) {
         if (!bias && !relu) return;
         for (int64_t i = i0; i < i0 + mc; i++)
           for (int64_t j = j0; j < j0 + nc; j++) {
             const float sum = bias ? y.f32()[i * out + j] + bias[j] : y.f32()[i * out + j];
             y.f32()[i * out + j] = relu && sum < 0 ? 0 : sum;  // NaN stays NaN
           }
       });
  if (call.n_out > 2 && call.out[2]) pack_positive(call, y, call.out[2].u32());
  return true;
}

int64_t linear_scratch(const Call& call, int threads) {
  return gemm_scratch(call.out[0].shape[0], call.out[0].shape[1], call.in[0].shape[1], threads);
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"matmul", matmul, matmul_scratch}, {"linear", linear, linear_scratch})
