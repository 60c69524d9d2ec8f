// Softmax and softmax cross entropy over the last axis.
#include "../core/elementary.h"
#include "indices.cuh"
#include "rows.cuh"

namespace auxgrad {
namespace {

// The largest number of a row, whatever NaN there is.
template <class Threads>
__device__ inline float row_max(Threads threads, const float* x, int64_t n) {
  float top = -infinity();
  for (int64_t i = threads.lane(); i < n; i += Threads::kStep) top = x[i] > top ? x[i] : top;
  return threads.join(top, [](float a, float b) { return a > b ? a : b; });
}
template <class Threads>
__device__ inline double sum_of_exp(Threads threads, const float* x, int64_t n, float top) {
  double sum = 0;
  for (int64_t i = threads.lane(); i < n; i += Threads::kStep) sum += exp_f32(x[i] - top);
  return threads.sum(sum);
}
// log(sum(exp(x - top))), `top` the largest number: added to `top` it would be rounded to few digits where that is large.
template <class Threads>
__device__ inline float log_sum_exp(Threads threads, const float* x, int64_t n, float top) {
  return log_f32(static_cast<float>(sum_of_exp(threads, x, n, top)));
}

struct Rows {
  int64_t count, n;
  explicit Rows(const View& x) : count(x.count(0, x.rank - 1)), n(x.shape[x.rank - 1]) {}
};

// softmax: x [..., C] -> y
struct Softmax {
  const float* x;
  float* y;
  int64_t n;
  template <class Threads>
  __device__ void operator()(Threads threads, int64_t r) const {
    const float *row = x + r * n, top = row_max(threads, row, n);
    const float scale = static_cast<float>(1 / sum_of_exp(threads, row, n, top));
    for (int64_t i = threads.lane(); i < n; i += Threads::kStep) y[r * n + i] = exp_f32(row[i] - top) * scale;
  }
};
bool softmax(const Call& call) {
  const Rows rows(call.in[0]);
  return each_row(call, rows.count, rows.n, Softmax{call.in[0].f32(), call.out[0].f32(), rows.n});
}

// softmax_grad: dy, y -> dx = y (dy - sum(dy y))
struct SoftmaxGrad {
  const float *dy, *y;
  float* dx;
  int64_t n;
  template <class Threads>
  __device__ void operator()(Threads threads, int64_t r) const {
    const float *g = dy + r * n, *p = y + r * n;
    double sum = 0;
    for (int64_t i = threads.lane(); i < n; i += Threads::kStep) sum += static_cast<double>(g[i]) * p[i];
    const float dot = static_cast<float>(threads.sum(sum));
    for (int64_t i = threads.lane(); i < n; i += Threads::kStep) dx[r * n + i] = p[i] * (g[i] - dot);
  }
};
bool softmax_grad(const Call& call) {
  const Rows rows(call.in[1]);
  return each_row(call, rows.count, rows.n, SoftmaxGrad{call.in[0].f32(), call.in[1].f32(), call.out[0].f32(), rows.n});
}

// log_softmax: x [..., C] -> y
struct LogSoftmax {
  const float* x;
  float* y;
  int64_t n;
  template <class Threads>
  __device__ void operator()(Threads threads, int64_t r) const {
    const float top = row_max(threads, x + r * n, n), log = log_sum_exp(threads, x + r * n, n, top);
    for (int64_t i = threads.lane(); i < n; i += Threads::kStep) y[r * n + i] = x[r * n + i] - top - log;
  }
};
bool log_softmax(const Call& call) {
  const Rows rows(call.in[0]);
  return each_row(call, rows.count, rows.n, LogSoftmax{call.in[0].f32(), call.out[0].f32(), rows.n});
}

// log_softmax_grad: dy, y -> dx = dy - exp(y) sum(dy)
struct LogSoftmaxGrad {
  const float *dy, *y;
  float* dx;
  int64_t n;
  template <class Threads>
  __device__ void operator()(Threads threads, int64_t r) const {
    const float* g = dy + r * n;
    double total = 0;
    for (int64_t i = threads.lane(); i < n; i += Threads::kStep) total += g[i];
    const float sum = static_cast<float>(threads.sum(total));
    for (int64_t i = threads.lane(); i < n; i += Threads::kStep) dx[r * n + i] = g[i] - exp_f32(y[r * n + i]) * sum;
  }
};
bool log_softmax_grad(const Call& call) {
  const Rows rows(call.in[1]);
  return each_row(call, rows.count, rows.n,
                  LogSoftmaxGrad{call.in[0].f32(), call.in[1].f32(), call.out[0].f32(), rows.n});
}

// cross_entropy: logits [rows, C], labels i32 [rows] -> loss [rows], log(sum(exp(x - max(x)))) [rows]
// numbers: label smoothing, ignore index (its rows have loss 0)
struct CrossEntropy {
  const float* x;
  const int32_t* labels;
  float *loss, *logs;
  const Fault* fault;
  int64_t n, ignore;
  float smooth;
  template <class Threads>
  __device__ void operator()(Threads threads, int64_t r) const {
    if (fault->raised) return;
    const float *row = x + r * n, top = row_max(threads, row, n), log = log_sum_exp(threads, row, n, top);
    double sum = 0;
    if (smooth != 0) {
      for (int64_t i = threads.lane(); i < n; i += Threads::kStep) sum += row[i];
      sum = threads.sum(sum);
    }
    if (threads.lane() != 0) return;
    float y = 0;
    if (labels[r] != ignore) {
      y = (1 - smooth) * (top - row[labels[r]] + log);
      if (smooth != 0) y += smooth * static_cast<float>(top - sum / static_cast<double>(n) + log);
    }
    logs[r] = log;
    loss[r] = y;
  }
};
bool cross_entropy(const Call& call) {
  const Rows rows(call.in[0]);
  const View& labels = call.in[1];
  return check_indices(call, labels, rows.n, kFaultLabel, call.integer(1)) &&
         each_row(call, rows.count, rows.n,
                  CrossEntropy{call.in[0].f32(), labels.i32(), call.out[0].f32(), call.out[1].f32(), call.fault, rows.n,
                               call.integer(1), call.real(0)});
}

// cross_entropy_grad: upstream [rows], logits, labels, the second result -> dlogits; numbers as above
struct CrossEntropyGrad {
  const float *upstream, *x;
  const int32_t* labels;
  const float* logs;
  float* dx;
  int64_t n, ignore;
  float smooth;
  template <class Threads>
  __device__ void operator()(Threads threads, int64_t r) const {
    const int64_t label = labels[r];
    const float g = label == ignore ? 0.0f : upstream[r], rest = smooth / static_cast<float>(n);
    const float top = row_max(threads, x + r * n, n), log = logs[r];
    for (int64_t i = threads.lane(); i < n; i += Threads::kStep) {
      float v = 0;
      if (g != 0) {
        v = g * (exp_f32(x[r * n + i] - top - log) - rest);
        if (i == label) v -= g * (1 - smooth);
      }
      dx[r * n + i] = v;
    }
  }
};
bool cross_entropy_grad(const Call& call) {
  const Rows rows(call.in[1]);
  return each_row(call, rows.count, rows.n,
                  CrossEntropyGrad{call.in[0].f32(), call.in[1].f32(), call.in[2].i32(), call.in[3].f32(),
                                   call.out[0].f32(), rows.n, call.integer(1), call.real(0)});
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"softmax", softmax}, {"softmax_grad", softmax_grad}, {"log_softmax", log_softmax},
                {"log_softmax_grad", log_softmax_grad}, {"cross_entropy", cross_entropy},
                {"cross_entropy_grad", cross_entropy_grad})
