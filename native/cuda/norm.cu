// Batch and layer normalisation over the last axis of channels-last tensors.
#include "reduce.cuh"
#include "rows.cuh"

namespace auxgrad {
namespace {

int64_t channels_of(const View& x) { return x.shape[x.rank - 1]; }
int64_t rows_of(const View& x) { return x.count(0, x.rank - 1); }

// batch_norm_stats: x [..., C] -> mean [C], var [C] (biased), rstd [C] = 1 / sqrt(var + eps); numbers: eps
// Sums of the distances from the first row, in double: a mean far from zero costs no digits.
struct Statistics : TwoSums {
  const float* x;
  float *mean, *var, *rstd;
  double eps;
  __device__ double shift(int64_t first) const { return isfinite(x[first]) ? x[first] : 0.0f; }
  __device__ void add(Two& p, int64_t, int64_t at, int64_t, int64_t first) const {
    const double d = x[at] - shift(first);
    p.a += d;
    p.b += d * d;
  }
  __device__ void finish(const Two& p, int64_t o, int64_t rows, int64_t first) const {
    const double n = static_cast<double>(rows), m = rows ? p.a / n : 0, v = rows ? p.b / n - m * m : 0;
    const double square = v > 0 || v != v ? v : 0;
    mean[o] = rows ? static_cast<float>(shift(first) + m) : 0;
    var[o] = static_cast<float>(square);
    rstd[o] = static_cast<float>(1 / sqrt(square + eps));
  }
};
int64_t stats_scratch(const Call& call, int) { return Split::columns(call.in[0]).scratch<Statistics>(); }
bool batch_norm_stats(const Call& call) {
  Statistics op;
  op.x = call.in[0].f32();
  op.mean = call.out[0].f32();
  op.var = call.out[1].f32();
  op.rstd = call.out[2].f32();
  op.eps = call.number[0];
  return reduce(call, Split::columns(call.in[0]), op, call.scratch);
}

__global__ void batch_apply(const float* x, const float* mean, const float* rstd, const float* gamma, const float* beta,
                            float* y, bool relu, int64_t channels, int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_step()) {
    const int64_t c = i - quotient(i, channels) * channels;
    const float v = (x[i] - mean[c]) * (rstd[c] * gamma[c]) + beta[c];
    y[i] = relu && v < 0 ? 0.0f : v;
  }
}
// batch_norm_apply: x [..., C], mean, rstd, gamma, beta (each [C]) -> y; numbers: 1 to apply ReLU
bool batch_norm_apply(const Call& call) {
  const View& x = call.in[0];
  return launch_items(call, x.count(), batch_apply, x.f32(), call.in[1].f32(), call.in[2].f32(), call.in[3].f32(),
                      call.in[4].f32(), call.out[0].f32(), call.integer(0) != 0, channels_of(x), x.count());
}

// Gradients of scale and shift: sums over the rows of dy times normalised x, and of dy. Mean and rstd are those of the
// channel, or of the row.
template <bool kOfRow>
struct ScaleShift : TwoSums {
  const float *dy, *x, *mean, *rstd;
  float *dgamma, *dbeta;  // dbeta and mean may be absent
  __device__ void add(Two& p, int64_t o, int64_t at, int64_t t, int64_t) const {
    const int64_t k = kOfRow ? t : o;
    p.a += dy[at] * ((mean ? x[at] - mean[k] : x[at]) * rstd[k]);
    p.b += dy[at];
  }
  __device__ void finish(const Two& p, int64_t o, int64_t, int64_t) const {
    dgamma[o] = static_cast<float>(p.a);
    if (dbeta) dbeta[o] = static_cast<float>(p.b);
  }
};
template <bool kOfRow>
bool scale_shift(const Call& call) {
  ScaleShift<kOfRow> op;
  op.dy = call.in[0].f32();
  op.x = call.in[1].f32();
  op.mean = call.in[2].f32();
  op.rstd = call.in[3].f32();
  op.dgamma = call.out[1].f32();
  op.dbeta = call.out[2].f32();
  return reduce(call, Split::columns(call.in[1]), op, call.scratch);
}
int64_t grad_scratch(const Call& call, int) { return Split::columns(call.in[1]).scratch<ScaleShift<false>>(); }

__global__ void batch_input_grad(const float* dy, const float* x, const float* mean, const float* rstd,
                                 const float* gamma, const float* dgamma, const float* dbeta, float* dx, float share,
                                 int64_t channels, int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_step()) {
    const int64_t c = i - quotient(i, channels) * channels;
    const float normal = (x[i] - mean[c]) * rstd[c], common = share * (dbeta[c] + normal * dgamma[c]);
    dx[i] = gamma[c] * rstd[c] * (dy[i] - common);
  }
}
// batch_norm_grad: dy, x, mean, rstd, gamma -> dx, dgamma, dbeta; numbers: 1 if mean and rstd are the batch's own
bool batch_norm_grad(const Call& call) {
  const View& x = call.in[1];
  const int64_t rows = rows_of(x);
  const float share = call.integer(0) && rows ? 1.0f / static_cast<float>(rows) : 0.0f;
  return scale_shift<false>(call) &&
         launch_items(call, x.count(), batch_input_grad, call.in[0].f32(), x.f32(), call.in[2].f32(), call.in[3].f32(),
                      call.in[4].f32(), call.out[1].f32(), call.out[2].f32(), call.out[0].f32(), share, channels_of(x),
                      x.count());
}

// layer_norm: x [..., C], gamma [C], beta [C] -> y, mean [rows], rstd [rows]; numbers: eps
struct LayerNorm {
  const float *x, *gamma, *beta;
  float *y, *mean, *rstd;
  double eps;
  int64_t channels;
  template <class Threads>
  __device__ void operator()(Threads threads, int64_t r) const {
    const float* row = x + r * channels;
    const double n = static_cast<double>(channels);
    double sum = 0, squares = 0;
    for (int64_t c = threads.lane(); c < channels; c += Threads::kStep) sum += row[c];
    const float middle = static_cast<float>(threads.sum(sum) / n);
    for (int64_t c = threads.lane(); c < channels; c += Threads::kStep) {
      const float d = row[c] - middle;
      squares += static_cast<double>(d) * d;
    }
    const float scale = static_cast<float>(1 / sqrt(threads.sum(squares) / n + eps));
    if (threads.lane() == 0) mean[r] = middle, rstd[r] = scale;
    for (int64_t c = threads.lane(); c < channels; c += Threads::kStep)
      y[r * channels + c] = (row[c] - middle) * scale * gamma[c] + beta[c];
  }
};
bool layer_norm(const Call& call) {
  const View& x = call.in[0];
  return each_row(call, rows_of(x), channels_of(x),
                  LayerNorm{x.f32(), call.in[1].f32(), call.in[2].f32(), call.out[0].f32(), call.out[1].f32(),
                            call.out[2].f32(), call.number[0], channels_of(x)});
}

// layer_norm_grad: dy, x, mean, rstd, gamma -> dx, dgamma, dbeta
struct LayerNormGrad {
  const float *dy, *x, *mean, *rstd, *gamma;
  float* dx;
  int64_t channels;
  template <class Threads>
  __device__ void operator()(Threads threads, int64_t r) const {
    const float *g = dy + r * channels, *row = x + r * channels, middle = mean[r], scale = rstd[r];
    const double n = static_cast<double>(channels);
    double grads = 0, products = 0;
    for (int64_t c = threads.lane(); c < channels; c += Threads::kStep) {
      const float given = g[c] * gamma[c];
      grads += given;
      products += static_cast<double>(given) * ((row[c] - middle) * scale);
    }
    const float a = static_cast<float>(threads.sum(grads) / n), b = static_cast<float>(threads.sum(products) / n);
    for (int64_t c = threads.lane(); c < channels; c += Threads::kStep)
      dx[r * channels + c] = scale * (g[c] * gamma[c] - a - (row[c] - middle) * scale * b);
  }
};
bool layer_norm_grad(const Call& call) {
  const View& x = call.in[1];
  // dx may lie where dy does: what reads dy comes first.
  return scale_shift<true>(call) &&
         each_row(call, rows_of(x), channels_of(x),
                  LayerNormGrad{call.in[0].f32(), x.f32(), call.in[2].f32(), call.in[3].f32(), call.in[4].f32(),
                                call.out[0].f32(), channels_of(x)});
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"batch_norm_stats", batch_norm_stats, stats_scratch}, {"batch_norm_apply", batch_norm_apply},
                {"batch_norm_grad", batch_norm_grad, grad_scratch}, {"layer_norm", layer_norm},
                {"layer_norm_grad", layer_norm_grad, grad_scratch})
