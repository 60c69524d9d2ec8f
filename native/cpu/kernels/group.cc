// Group normalisation and root-mean-square normalisation of channels-last tensors.
#include "../channels.h"

namespace auxgrad {
namespace {

// x [N, ..., C] as samples, rows of a sample, channels, and groups of neighbouring channels.
struct Groups {
  int64_t samples, rows, channels, groups, width;
  Groups(const View& x, int64_t count)
      : samples(x.shape[0]),
        rows(x.count(1, x.rank - 1)),
        channels(x.shape[x.rank - 1]),
        groups(count),
        width(channels / count) {}
  int64_t size() const { return rows * width; }
  int64_t at(int64_t sample, int64_t group) const { return sample * rows * channels + group * width; }
  // f(offset of a row of the group)
  template <class F>
  void each_row(int64_t sample, int64_t group, const F& f) const {
    for (int64_t r = 0; r < rows; r++) f(at(sample, group) + r * channels);
  }
};

// group_norm: x [N, ..., C], gamma [C], beta [C] -> y, mean [N, G], rstd [N, G]; numbers: groups, eps
bool group_norm(const Call& call) {
  const Groups g(call.in[0], call.integer(0));
  const float *x = call.in[0].f32(), *gamma = call.in[1].f32(), *beta = call.in[2].f32();
  float *y = call.out[0].f32(), *means = call.out[1].f32(), *rstds = call.out[2].f32();
  const double n = static_cast<double>(g.size());
  parallel_tasks(call, g.samples * g.groups, [&](int64_t task, int) {
    const int64_t sample = task / g.groups, group = task % g.groups;
    double sum = 0, squares = 0;
    g.each_row(sample, group, [&](int64_t at) {
      for (int64_t c = 0; c < g.width; c++) sum += x[at + c];
    });
    const float mean = static_cast<float>(sum / n);
    g.each_row(sample, group, [&](int64_t at) {
      for (int64_t c = 0; c < g.width; c++) squares += static_cast<double>((x[at + c] - mean) * (x[at + c] - mean));
    });
    const float rstd = static_cast<float>(1 / __builtin_sqrt(squares / n + call.number[1]));
    means[task] = mean;
    rstds[task] = rstd;
    g.each_row(sample, group, [&](int64_t at) {
      for (int64_t c = 0; c < g.width; c++)
        y[at + c] = (x[at + c] - mean) * rstd * gamma[group * g.width + c] + beta[group * g.width + c];
    });
  });
  return true;
}

int64_t grad_scratch(const Call& call, int) { return channel_scratch(call.in[1]); }

// group_norm_grad: dy, x, mean, rstd, gamma -> dx, dgamma, dbeta; numbers: groups
bool group_norm_grad(const Call& call) {
  const Groups g(call.in[1], call.integer(0));
  const float *dy = call.in[0].f32(), *x = call.in[1].f32(), *means = call.in[2].f32(), *rstds = call.in[3].f32(),
              *gamma = call.in[4].f32();
  double *sum = static_cast<double*>(call.scratch), *dot = sum + g.channels;
  channel_sums(
      call, g.samples * g.rows, g.channels,
      [&](int64_t r, float* a, float* b) {
        const float *mean = means + r / g.rows * g.groups, *rstd = rstds + r / g.rows * g.groups;
        for (int64_t group = 0, c = 0; group < g.groups; group++)
          for (int64_t i = 0; i < g.width; i++, c++) {
            const float d = dy[r * g.channels + c];
            a[c] += d;
            b[c] += d * ((x[r * g.channels + c] - mean[group]) * rstd[group]);
          }
      },
      sum, dot);
  for (int64_t c = 0; c < g.channels; c++) {
    call.out[1].f32()[c] = static_cast<float>(dot[c]);
    call.out[2].f32()[c] = static_cast<float>(sum[c]);
  }
  const double n = static_cast<double>(g.size());
  parallel_tasks(call, g.samples * g.groups, [&](int64_t task, int) {
    const int64_t sample = task / g.groups, group = task % g.groups;
    const float mean = means[task], rstd = rstds[task], *scale = gamma + group * g.width;
    double total = 0, product = 0;
    g.each_row(sample, group, [&](int64_t at) {
      for (int64_t c = 0; c < g.width; c++) {
        const float d = dy[at + c] * scale[c];
        total += d;
        product += d * ((x[at + c] - mean) * rstd);
      }
    });
    const float a = static_cast<float>(total / n), b = static_cast<float>(product / n);
    g.each_row(sample, group, [&](int64_t at) {
      for (int64_t c = 0; c < g.width; c++)
        call.out[0].f32()[at + c] = rstd * (dy[at + c] * scale[c] - a - (x[at + c] - mean) * rstd * b);
    });
  });
  return true;
}

// rms_norm: x [..., C], gamma [C] -> y = x / sqrt(mean(x^2) + eps) gamma, rstd [rows]; numbers: eps
bool rms_norm(const Call& call) {
  const View& x = call.in[0];
  const int64_t channels = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1);
  const float* gamma = call.in[1].f32();
  parallel_ranges(call, rows, max64(1, 16384 / max64(channels, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float* in = x.f32() + r * channels;
      double squares = 0;
      for (int64_t c = 0; c < channels; c++) squares += static_cast<double>(in[c]) * in[c];
      const float rstd =
          static_cast<float>(1 / __builtin_sqrt(squares / static_cast<double>(channels) + call.number[0]));
      call.out[1].f32()[r] = rstd;
      for (int64_t c = 0; c < channels; c++) call.out[0].f32()[r * channels + c] = in[c] * rstd * gamma[c];
    }
  });
  return true;
}

// rms_norm_grad: dy, x, rstd, gamma -> dx, dgamma
bool rms_norm_grad(const Call& call) {
  const View& x = call.in[1];
  const int64_t channels = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1);
  const float *dy = call.in[0].f32(), *rstd = call.in[2].f32(), *gamma = call.in[3].f32();
  double *dot = static_cast<double*>(call.scratch), *unused = dot + channels;
  channel_sums(
      call, rows, channels,
      [&](int64_t r, float* a, float*) {
        const float *g = dy + r * channels, *in = x.f32() + r * channels;
        for (int64_t c = 0; c < channels; c++) a[c] += g[c] * (in[c] * rstd[r]);
      },
      dot, unused);
  for (int64_t c = 0; c < channels; c++) call.out[1].f32()[c] = static_cast<float>(dot[c]);
  parallel_ranges(call, rows, max64(1, 16384 / max64(channels, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float *g = dy + r * channels, *in = x.f32() + r * channels;
      double product = 0;
      for (int64_t c = 0; c < channels; c++) product += g[c] * gamma[c] * (in[c] * rstd[r]);
      const float b = static_cast<float>(product / static_cast<double>(channels));
      for (int64_t c = 0; c < channels; c++)
        call.out[0].f32()[r * channels + c] = rstd[r] * (g[c] * gamma[c] - in[c] * rstd[r] * b);
    }
  });
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"group_norm", group_norm}, {"group_norm_grad", group_norm_grad, grad_scratch}, {"rms_norm", rms_norm},
                {"rms_norm_grad", rms_norm_grad, grad_scratch})
