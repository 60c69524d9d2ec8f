// Softmax and softmax cross entropy over the last axis.
#include "../elementwise.h"

namespace auxgrad {
namespace {

// max and log(sum(exp(x - max))) of a row; the exponentials go to `e` if given.
inline float log_sum_exp(const float* x, int64_t n, float* e) {
  float top = -__builtin_inff();
  for (int64_t i = 0; i < n; i++) top = x[i] > top || x[i] != x[i] ? x[i] : top;
  float sum = 0;
  for (int64_t i = 0; i < n; i++) {
    const float v = exp_f32(x[i] - top);
    if (e) e[i] = v;
    sum += v;
  }
  return e ? sum : top + log_f32(sum);
}

// softmax: x [..., C] -> y
bool softmax(const Call& call) {
  const View& x = call.in[0];
  const int64_t n = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1);
  parallel_ranges(call, rows, max64(1, 8192 / max64(n, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      float* y = call.out[0].f32() + r * n;
      const float scale = 1.0f / log_sum_exp(x.f32() + r * n, n, y);
      for (int64_t i = 0; i < n; i++) y[i] *= scale;
    }
  });
  return true;
}

// softmax_grad: dy, y -> dx = y (dy - sum(dy y))
bool softmax_grad(const Call& call) {
  const View& y = call.in[1];
  const int64_t n = y.shape[y.rank - 1], rows = y.count(0, y.rank - 1);
  parallel_ranges(call, rows, max64(1, 8192 / max64(n, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float *g = call.in[0].f32() + r * n, *p = y.f32() + r * n;
      float dot = 0;
      for (int64_t i = 0; i < n; i++) dot += g[i] * p[i];
      for (int64_t i = 0; i < n; i++) call.out[0].f32()[r * n + i] = p[i] * (g[i] - dot);
    }
  });
  return true;
}

// log_softmax: x [..., C] -> y
bool log_softmax(const Call& call) {
  const View& x = call.in[0];
  const int64_t n = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1);
  parallel_ranges(call, rows, max64(1, 8192 / max64(n, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float* row = x.f32() + r * n;
      const float lse = log_sum_exp(row, n, nullptr);
      for (int64_t i = 0; i < n; i++) call.out[0].f32()[r * n + i] = row[i] - lse;
    }
  });
  return true;
}

// log_softmax_grad: dy, y -> dx = dy - exp(y) sum(dy)
bool log_softmax_grad(const Call& call) {
  const View& y = call.in[1];
  const int64_t n = y.shape[y.rank - 1], rows = y.count(0, y.rank - 1);
  parallel_ranges(call, rows, max64(1, 8192 / max64(n, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float *g = call.in[0].f32() + r * n, *p = y.f32() + r * n;
      float sum = 0;
      for (int64_t i = 0; i < n; i++) sum += g[i];
      for (int64_t i = 0; i < n; i++) call.out[0].f32()[r * n + i] = g[i] - exp_f32(p[i]) * sum;
    }
  });
  return true;
}

// cross_entropy: logits [rows, C], labels i32 [rows] -> loss [rows], lse [rows]
// numbers: label smoothing, ignore index (its rows have loss 0)
bool cross_entropy(const Call& call) {
  const View& x = call.in[0];
  const int64_t rows = x.shape[0], n = x.shape[1], ignore = call.integer(1);
  const float smooth = call.real(0);
  for (int64_t r = 0; r < rows; r++) {
    const int64_t label = call.in[1].i32()[r];
    if (label != ignore && (label < 0 || label >= n))
      return call.failure->set(ErrorCode::index_out_of_range, "crossEntropy: label %lld at row %lld is not in [0, %lld)",
                               static_cast<long long>(label), static_cast<long long>(r), static_cast<long long>(n));
  }
  parallel_ranges(call, rows, max64(1, 8192 / max64(n, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float* row = x.f32() + r * n;
      const int64_t label = call.in[1].i32()[r];
      const float lse = log_sum_exp(row, n, nullptr);
      call.out[1].f32()[r] = lse;
      if (label == ignore) {
        call.out[0].f32()[r] = 0;
        continue;
      }
      float loss = (1 - smooth) * (lse - row[label]);
      if (smooth != 0) {
        float sum = 0;
        for (int64_t i = 0; i < n; i++) sum += lse - row[i];
        loss += smooth / static_cast<float>(n) * sum;
      }
      call.out[0].f32()[r] = loss;
    }
  });
  return true;
}

// cross_entropy_grad: upstream [rows], logits, labels, lse -> dlogits; numbers as above
bool cross_entropy_grad(const Call& call) {
  const View& x = call.in[1];
  const int64_t rows = x.shape[0], n = x.shape[1], ignore = call.integer(1);
  const float smooth = call.real(0), rest = smooth / static_cast<float>(n);
  parallel_ranges(call, rows, max64(1, 8192 / max64(n, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float* row = x.f32() + r * n;
      float* dx = call.out[0].f32() + r * n;
      const int64_t label = call.in[2].i32()[r];
      const float g = label == ignore ? 0.0f : call.in[0].f32()[r], lse = call.in[3].f32()[r];
      for (int64_t i = 0; i < n; i++) dx[i] = g == 0 ? 0 : g * (exp_f32(row[i] - lse) - rest);
      if (label != ignore) dx[label] -= g * (1 - smooth);
    }
  });
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"softmax", softmax}, {"softmax_grad", softmax_grad}, {"log_softmax", log_softmax},
                {"log_softmax_grad", log_softmax_grad}, {"cross_entropy", cross_entropy},
                {"cross_entropy_grad", cross_entropy_grad})
