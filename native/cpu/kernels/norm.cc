// Batch and layer normalisation over the last axis of channels-last tensors.
#include "../row_gradient.h"
#include "../statistics.h"

namespace auxgrad {
namespace {

// batch_norm_stats: x [..., C] -> mean [C], var [C] (biased), rstd [C] = 1 / sqrt(var + eps); numbers: eps
inline int64_t stats_chunks(const View& x) {
  const int64_t rows = x.count(0, x.rank - 1);
  return rows > 0 ? row_chunks(rows, x.shape[x.rank - 1]) : 0;
}
int64_t stats_scratch(const Call& call, int) {
  const View& x = call.in[0];
  return statistics_bytes(x.shape[x.rank - 1], stats_chunks(x));
}

bool batch_norm_stats(const Call& call) {
  const View& x = call.in[0];
  const int64_t channels = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1), chunks = stats_chunks(x);
  const Statistics s = statistics_at(call.scratch, channels, chunks);
  parallel_tasks(call, chunks, [&](int64_t chunk, int) {
    const int64_t begin = rows * chunk / chunks, end = rows * (chunk + 1) / chunks;
    sum_chunk(s, chunk, x.f32() + begin * channels, end - begin);
  });
  finish_statistics(call, s, call.number[0], call.out[0].f32(), call.out[1].f32(), call.out[2].f32());
  return true;
}

// batch_norm_apply: x [..., C], mean, rstd, gamma, beta (each [C]) -> y; numbers: 1 to apply ReLU
bool batch_norm_apply(const Call& call) {
  const View& x = call.in[0];
  const int64_t channels = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1);
  const float *mean = call.in[1].f32(), *rstd = call.in[2].f32(), *gamma = call.in[3].f32(), *beta = call.in[4].f32();
  const bool relu = call.integer(0) != 0, past = too_large(call.out[0], channels);
  parallel_ranges(call, rows, max64(1, 16384 / max64(channels, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float* in = x.f32() + r * channels;
      float* y = call.out[0].f32() + r * channels;
      each_vector(0, channels, [&](int64_t c, auto lanes) {
        const Vec v = (lanes.load(in + c) - lanes.load(mean + c)) * (lanes.load(rstd + c) * lanes.load(gamma + c)) +
                      lanes.load(beta + c);
        put(past, lanes, y + c, relu ? (v < Vec{} ? Vec{} : v) : v);
      });
    }
    if (past) end_bypass();
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
  channel_sums(
      call, rows, channels,
      [&](int64_t begin, int64_t end, int, double* sums) {
        const float *g = dy + begin * channels, *in = x.f32() + begin * channels;
        sum_columns(
            end - begin, channels,
            [=](int64_t r, int64_t c, auto lanes, Vec& u, Vec& v) {
              u = lanes.load(g + r * channels + c);
              v = u * (lanes.load(in + r * channels + c) - lanes.load(mean + c));
            },
            sums, sums + channels);
      },
      sum);
  float *dgamma = call.out[1].f32(), *dbeta = call.out[2].f32();
  for (int64_t c = 0; c < channels; c++) dot[c] *= rstd[c];
  round_all(dot, channels, dgamma);
  round_all(sum, channels, dbeta);
  const bool past = too_large(call.out[0], channels);
  const Vec shared = broadcast(call.integer(0) && rows ? 1.0f / static_cast<float>(rows) : 0.0f);
  parallel_ranges(call, rows, max64(1, 16384 / max64(channels, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float *g = dy + r * channels, *row = x.f32() + r * channels;
      float* dx = call.out[0].f32() + r * channels;
      each_vector(0, channels, [&](int64_t c, auto lanes) {
        const Vec scale = lanes.load(rstd + c), normal = (lanes.load(row + c) - lanes.load(mean + c)) * scale;
        const Vec common = shared * (lanes.load(dbeta + c) + normal * lanes.load(dgamma + c));
        put(past, lanes, dx + c, lanes.load(gamma + c) * scale * (lanes.load(g + c) - common));
      });
    }
    if (past) end_bypass();
  });
  return true;
}

// layer_norm: x [..., C], gamma [C], beta [C] -> y, mean [rows], rstd [rows]; numbers: eps
// Short rows are taken some at a time, each step for all of them: else all that is done with a row would wait for its sums.
// From memory there are fewer, as it rests while they are summed.
bool layer_norm(const Call& call) {
  constexpr int64_t kRows = 16;
  const View& x = call.in[0];
  const int64_t channels = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1);
  const float *gamma = call.in[1].f32(), *beta = call.in[2].f32();
  const bool past = too_large(call.out[0], channels);
  const int64_t together = max64(1, min64(kRows, (past ? 512 : 2048) / max64(channels, 1))), step = together * channels;
  const double n = static_cast<double>(channels), eps = call.number[0];
  const int64_t grain = ceil_div(max64(1, 16384 / max64(channels, 1)), together) * together;
  parallel_ranges(call, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += together) {
      const int64_t some = min64(together, end - first);
      const float* in = x.f32() + first * channels;
      float *y = call.out[0].f32() + first * channels, *mean = call.out[1].f32() + first,
            *rstd = call.out[2].f32() + first;
      double sums[kRows];
      for (int64_t r = 0; r < some; r++) sums[r] = row_sum(in + r * channels, channels);
      for (int64_t r = 0; r < some; r++) mean[r] = static_cast<float>(sums[r] / n);
      for (int64_t r = 0; r < some; r++) {
        const Vec middle = broadcast(mean[r]);
        sums[r] = sum_terms(channels, [=, row = in + r * channels](int64_t c, auto lanes) {
          fetch_next(row + c / 2, step);
          const Vec d = lanes.load(row + c) - middle;
          return d * d;
        });
      }
      for (int64_t r = 0; r < some; r++) rstd[r] = static_cast<float>(1 / __builtin_sqrt(sums[r] / n + eps));
      for (int64_t r = 0; r < some; r++) {
        const Vec middle = broadcast(mean[r]), scale = broadcast(rstd[r]);
        each_vector(0, channels, [=, row = in + r * channels, to = y + r * channels](int64_t c, auto lanes) {
          fetch_next(row + (channels + c) / 2, step);
          if (!past) fetch_next(to + c, step);
          put(past, lanes, to + c,
              (lanes.load(row + c) - middle) * scale * lanes.load(gamma + c) + lanes.load(beta + c));
        });
      }
    }
    if (past) end_bypass();
  });
  return true;
}

// layer_norm_grad: dy, x, mean, rstd, gamma -> dx, dgamma, dbeta; dx may take the place of dy or x
int64_t row_scratch(const Call& call, int threads) { return row_gradient_scratch(call.in[1], threads); }

bool layer_norm_grad(const Call& call) {
  row_gradient<true>(call, call.in[2].f32(), call.in[3].f32(), call.in[4].f32());
  const int64_t channels = call.in[1].shape[call.in[1].rank - 1];
  const double *sum = static_cast<const double*>(call.scratch), *dot = sum + channels;
  round_all(dot, channels, call.out[1].f32());
  round_all(sum, channels, call.out[2].f32());
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"batch_norm_stats", batch_norm_stats, stats_scratch}, {"batch_norm_apply", batch_norm_apply},
                {"batch_norm_grad", batch_norm_grad, grad_scratch}, {"layer_norm", layer_norm},
                {"layer_norm_grad", layer_norm_grad, row_scratch})
