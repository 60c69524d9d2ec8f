// Batch and layer normalisation over the last axis of channels-last tensors.
#include "../channels.h"

namespace auxgrad {
namespace {

// batch_norm_stats: x [..., C] -> mean [C], var [C] (biased), rstd [C] = 1 / sqrt(var + eps); numbers: eps
// Sums are of x minus the first row, so that a mean far from zero costs no digits.
int64_t stats_scratch(const Call& call, int) { return channel_scratch(call.in[0]); }

bool batch_norm_stats(const Call& call) {
  const View& x = call.in[0];
  const int64_t channels = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1);
  double *sum = static_cast<double*>(call.scratch), *squares = sum + channels;
  const float* shift = x.f32();
  if (rows > 0)
    channel_sums(call, rows, channels, [&](int64_t r, float* a, float* b) {
      const float* row = x.f32() + r * channels;
      for (int64_t c = 0; c < channels; c++) {
        const float d = row[c] - shift[c];
        a[c] += d;
        b[c] += d * d;
      }
    }, sum, squares);
  for (int64_t c = 0; c < channels; c++) {
    const double n = static_cast<double>(rows), mean = rows ? sum[c] / n : 0;
    const double var = rows ? squares[c] / n - mean * mean : 0;
    call.out[0].f32()[c] = static_cast<float>((rows ? shift[c] : 0) + mean);
    call.out[1].f32()[c] = static_cast<float>(var > 0 ? var : var == var ? 0 : var);
    call.out[2].f32()[c] = static_cast<float>(1 / __builtin_sqrt((var > 0 ? var : var == var ? 0 : var) + call.number[0]));
  }
  return true;
}

// batch_norm_apply: x [..., C], mean, rstd, gamma, beta (each [C]) -> y; numbers: 1 to apply ReLU
bool batch_norm_apply(const Call& call) {
  const View& x = call.in[0];
  const int64_t channels = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1);
  const float *mean = call.in[1].f32(), *rstd = call.in[2].f32(), *gamma = call.in[3].f32(), *beta = call.in[4].f32();
  const bool relu = call.integer(0) != 0;
  parallel_ranges(call, rows, max64(1, 16384 / max64(channels, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float* in = x.f32() + r * channels;
      float* y = call.out[0].f32() + r * channels;
      for (int64_t c = 0; c < channels; c++) {
        const float v = (in[c] - mean[c]) * (rstd[c] * gamma[c]) + beta[c];
        y[c] = relu && v < 0 ? 0 : v;
      }
    }
  });
  return true;
}

// batch_norm_grad: dy, x, mean, rstd, gamma -> dx, dgamma, dbeta; numbers: 1 if mean and rstd are the batch's own
int64_t grad_scratch(const Call& call, int) { return channel_scratch(call.in[1]); }

bool batch_norm_grad(const Call& call) {
  const View& x = call.in[1];
  const int64_t channels = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1);
  const float *dy = call.in[0].f32(), *mean = call.in[2].f32(), *rstd = call.in[3].f32(), *gamma = call.in[4].f32();
  double *sum = static_cast<double*>(call.scratch), *dot = sum + channels;
  channel_sums(call, rows, channels, [&](int64_t r, float* a, float* b) {
    const float *g = dy + r * channels, *row = x.f32() + r * channels;
    for (int64_t c = 0; c < channels; c++) {
      a[c] += g[c];
      b[c] += g[c] * ((row[c] - mean[c]) * rstd[c]);
    }
  }, sum, dot);
  float *dgamma = call.out[1].f32(), *dbeta = call.out[2].f32();
  for (int64_t c = 0; c < channels; c++) {
    dgamma[c] = static_cast<float>(dot[c]);
    dbeta[c] = static_cast<float>(sum[c]);
  }
  const float share = call.integer(0) && rows ? 1.0f / static_cast<float>(rows) : 0.0f;
  parallel_ranges(call, rows, max64(1, 16384 / max64(channels, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float *g = dy + r * channels, *row = x.f32() + r * channels;
      float* dx = call.out[0].f32() + r * channels;
      for (int64_t c = 0; c < channels; c++) {
        const float normal = (row[c] - mean[c]) * rstd[c];
        dx[c] = gamma[c] * rstd[c] * (g[c] - share * (dbeta[c] + normal * dgamma[c]));
      }
    }
  });
  return true;
}

// layer_norm: x [..., C], gamma [C], beta [C] -> y, mean [rows], rstd [rows]; numbers: eps
bool layer_norm(const Call& call) {
  const View& x = call.in[0];
  const int64_t channels = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1);
  const float *gamma = call.in[1].f32(), *beta = call.in[2].f32();
  parallel_ranges(call, rows, max64(1, 16384 / max64(channels, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float* in = x.f32() + r * channels;
      float* y = call.out[0].f32() + r * channels;
      double sum = 0, squares = 0;
      for (int64_t c = 0; c < channels; c++) sum += in[c];
      const float mean = static_cast<float>(sum / static_cast<double>(channels));
      for (int64_t c = 0; c < channels; c++) squares += static_cast<double>((in[c] - mean) * (in[c] - mean));
      const float rstd = static_cast<float>(1 / __builtin_sqrt(squares / static_cast<double>(channels) + call.number[0]));
      call.out[1].f32()[r] = mean;
      call.out[2].f32()[r] = rstd;
      for (int64_t c = 0; c < channels; c++) y[c] = (in[c] - mean) * rstd * gamma[c] + beta[c];
    }
  });
  return true;
}

// layer_norm_grad: dy, x, mean, rstd, gamma -> dx, dgamma, dbeta
bool layer_norm_grad(const Call& call) {
  const View& x = call.in[1];
  const int64_t channels = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1);
  const float *dy = call.in[0].f32(), *mean = call.in[2].f32(), *rstd = call.in[3].f32(), *gamma = call.in[4].f32();
  double *sum = static_cast<double*>(call.scratch), *dot = sum + channels;
  channel_sums(call, rows, channels, [&](int64_t r, float* a, float* b) {
    const float *g = dy + r * channels, *row = x.f32() + r * channels;
    for (int64_t c = 0; c < channels; c++) {
      a[c] += g[c];
      b[c] += g[c] * ((row[c] - mean[r]) * rstd[r]);
    }
  }, sum, dot);
  for (int64_t c = 0; c < channels; c++) {
    call.out[1].f32()[c] = static_cast<float>(dot[c]);
    call.out[2].f32()[c] = static_cast<float>(sum[c]);
  }
  parallel_ranges(call, rows, max64(1, 16384 / max64(channels, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float *g = dy + r * channels, *row = x.f32() + r * channels;
      float* dx = call.out[0].f32() + r * channels;
      double total = 0, product = 0;
      for (int64_t c = 0; c < channels; c++) {
        total += g[c] * gamma[c];
        product += g[c] * gamma[c] * ((row[c] - mean[r]) * rstd[r]);
      }
      const float a = static_cast<float>(total / static_cast<double>(channels));
      const float b = static_cast<float>(product / static_cast<double>(channels));
      for (int64_t c = 0; c < channels; c++)
        dx[c] = rstd[r] * (g[c] * gamma[c] - a - (row[c] - mean[r]) * rstd[r] * b);
    }
  });
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"batch_norm_stats", batch_norm_stats, stats_scratch}, {"batch_norm_apply", batch_norm_apply},
                {"batch_norm_grad", batch_norm_grad, grad_scratch}, {"layer_norm", layer_norm},
                {"layer_norm_grad", layer_norm_grad, grad_scratch})
