// Group normalisation and root-mean-square normalisation of channels-last tensors.
#include "../bypass.h"
#include "../channels.h"
#include "../rows.h"

namespace auxgrad {
namespace {

// x [N, ..., C] as samples, rows of a sample, channels, and groups of neighbouring channels. Where samples are few the
// groups are shared out too, in parts.
struct Groups {
  int64_t samples, rows, channels, groups, width;
  Groups(const View& x, int64_t count)
      : samples(x.shape[0]),
        rows(x.count(1, x.rank - 1)),
        channels(x.shape[x.rank - 1]),
        groups(count),
        width(channels / max64(1, count)) {}
  double size() const { return static_cast<double>(rows * width); }
  // Chunks of samples whose sums are kept side by side, and parts of the groups for that many tasks.
  int64_t chunks() const { return max64(1, min64(samples, min64(64, 16384 / max64(1, channels)))); }
  int64_t parts(int64_t tasks) const { return max64(1, min64(groups, ceil_div(16, max64(1, tasks)))); }
};

// to[c] = value[group] for the channels of groups [first, last).
__attribute__((noinline)) void each_channel(const Groups& g, int64_t first, int64_t last, float* to,
                                            const float* value) {
  for (int64_t group = first; group < last; group++)
    for (int64_t c = 0; c < g.width; c++) *to++ = value[group];
}

constexpr int64_t kAhead = 512;  // elements

// group_norm: x [N, ..., C], gamma [C], beta [C] -> y, mean [N, G], rstd [N, G]; numbers: groups, eps
int64_t group_scratch(const Call& call, int threads) {
  return threads * call.in[0].shape[call.in[0].rank - 1] * static_cast<int64_t>(2 * sizeof(double) + 4 * sizeof(float));
}

bool group_norm(const Call& call) {
  const Groups g(call.in[0], call.integer(0));
  const int64_t parts = g.parts(g.samples);
  const bool past = too_large(call.out[0], g.channels);
  parallel_tasks(call, g.samples * parts, [&](int64_t task, int thread) {
    const int64_t sample = task / parts, part = task % parts;
    const int64_t first = g.groups * part / parts, last = g.groups * (part + 1) / parts;
    const int64_t n = (last - first) * g.width, at = sample * g.rows * g.channels + first * g.width;
    const float *x = call.in[0].f32() + at, *gamma = call.in[1].f32() + first * g.width,
                *beta = call.in[2].f32() + first * g.width;
    double* sums = static_cast<double*>(call.scratch) + thread * 4 * g.channels;
    float *floats = reinterpret_cast<float*>(sums + 2 * n), *shift = floats + 2 * n;
    sample_mean(x, g.rows, g.channels, n, shift);
    for (int64_t group = 0; group < last - first; group++) {
      float sum = 0, *of = shift + group * g.width;
      for (int64_t c = 0; c < g.width; c++) sum += of[c] / static_cast<float>(g.width);
      for (int64_t c = 0; c < g.width; c++) of[c] = sum - sum == 0 ? sum : 0.0f;
    }
    memset(sums, 0, static_cast<size_t>(2 * n) * sizeof(double));
    sum_columns(
        g.rows, n,
        [&](int64_t r, int64_t c, auto lanes, Vec& u, Vec& v) {
          fetch_next(x + r * g.channels + c, kAhead);
          u = lanes.load(x + r * g.channels + c) - lanes.load(shift + c);
          v = u * u;
        },
        sums, sums + n);
    float *means = call.out[1].f32() + sample * g.groups, *rstds = call.out[2].f32() + sample * g.groups;
    float *mean = floats, *scale = floats + n;
    for (int64_t group = first; group < last; group++) {
      const int64_t from = (group - first) * g.width;
      double sum = 0, squares = 0;
      for (int64_t c = from; c < from + g.width; c++) {
        sum += sums[c];
        squares += sums[n + c];
      }
      const double middle = sum / g.size(), var = squares / g.size() - middle * middle;
      means[group] = static_cast<float>(shift[from] + middle);
      rstds[group] = static_cast<float>(1 / __builtin_sqrt((var < 0 ? 0 : var) + call.number[1]));
    }
    each_channel(g, first, last, mean, means);
    each_channel(g, first, last, scale, rstds);
    for (int64_t c = 0; c < n; c++) scale[c] *= gamma[c];
    const bool aside = past && first * g.width % 16 == 0;
    for (int64_t r = 0; r < g.rows; r++) {
      const float* row = x + r * g.channels;
      float* y = call.out[0].f32() + at + r * g.channels;
      each_vector(0, n, [&](int64_t c, auto lanes) {
        if (!aside) fetch_next(y + c, 2 * g.channels);
        put(aside, lanes, y + c,
            (lanes.load(row + c) - lanes.load(mean + c)) * lanes.load(scale + c) + lanes.load(beta + c));
      });
    }
    if (past) end_bypass();
  });
  return true;
}

// group_norm_grad: dy, x, mean, rstd, gamma -> dx, dgamma, dbeta; numbers: groups
// The sums over a sample's rows of dy and dy times normalised x make the means for dx, and add up to dbeta and dgamma.
int64_t group_grad_scratch(const Call& call, int) {
  const Groups g(call.in[1], call.integer(0));
  return g.chunks() * g.channels * static_cast<int64_t>(4 * sizeof(double) + 4 * sizeof(float));
}

bool group_norm_grad(const Call& call) {
  const Groups g(call.in[1], call.integer(0));
  const int64_t chunks = g.chunks(), parts = g.parts(chunks), all = g.channels;
  const bool past = too_large(call.out[0], all);
  double* totals = static_cast<double*>(call.scratch);  // [chunks, 2, C]
  double* rest = totals + chunks * 2 * all;
  parallel_tasks(call, chunks * parts, [&](int64_t task, int) {
    const int64_t chunk = task / parts, part = task % parts;
    const int64_t first = g.groups * part / parts, last = g.groups * (part + 1) / parts;
    const int64_t start = first * g.width, n = (last - first) * g.width;
    const float* gamma = call.in[4].f32() + start;
    double *total = totals + chunk * 2 * all + start, *sums = rest + chunk * 4 * all + 4 * start;
    float *floats = reinterpret_cast<float*>(sums + 2 * n), *mean = floats + 2 * n, *rstd = mean + n;
    memset(total, 0, static_cast<size_t>(n) * sizeof(double));
    memset(total + all, 0, static_cast<size_t>(n) * sizeof(double));
    for (int64_t sample = g.samples * chunk / chunks; sample < g.samples * (chunk + 1) / chunks; sample++) {
      const int64_t at = sample * g.rows * all + start;
      const float *dy = call.in[0].f32() + at, *x = call.in[1].f32() + at;
      const float *means = call.in[2].f32() + sample * g.groups, *rstds = call.in[3].f32() + sample * g.groups;
      each_channel(g, first, last, mean, means);
      each_channel(g, first, last, rstd, rstds);
      memset(sums, 0, static_cast<size_t>(2 * n) * sizeof(double));
      sum_columns(
          g.rows, n,
          [&](int64_t r, int64_t c, auto lanes, Vec& u, Vec& v) {
            u = lanes.load(dy + r * all + c);
            v = u * ((lanes.load(x + r * all + c) - lanes.load(mean + c)) * lanes.load(rstd + c));
          },
          sums, sums + n);
      for (int64_t c = 0; c < n; c++) {
        total[c] += sums[c];
        total[all + c] += sums[n + c];
      }
      float *means_of_dy = floats, *means_of_products = floats + n;
      for (int64_t from = 0; from < n; from += g.width) {
        double a = 0, b = 0;
        for (int64_t c = from; c < from + g.width; c++) {
          a += gamma[c] * sums[c];
          b += gamma[c] * sums[n + c];
        }
        for (int64_t c = from; c < from + g.width; c++) {
          means_of_dy[c] = static_cast<float>(a / g.size());
          means_of_products[c] = static_cast<float>(b / g.size());
        }
      }
      const bool aside = past && start % 16 == 0;
      for (int64_t r = 0; r < g.rows; r++) {
        const float *given = dy + r * all, *row = x + r * all;
        float* dx = call.out[0].f32() + at + r * all;
        each_vector(0, n, [&](int64_t c, auto lanes) {
          if (!aside) fetch_next(dx + c, 2 * all);
          const Vec scale = lanes.load(rstd + c), normal = (lanes.load(row + c) - lanes.load(mean + c)) * scale;
          put(aside, lanes, dx + c,
              scale * (lanes.load(given + c) * lanes.load(gamma + c) - lanes.load(means_of_dy + c) -
                       normal * lanes.load(means_of_products + c)));
        });
      }
    }
    if (past) end_bypass();
  });
  for (int64_t c = 0; c < all; c++) {
    double sum = 0, dot = 0;
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
      sum += totals[chunk * 2 * all + c];
      dot += totals[chunk * 2 * all + all + c];
    }
    call.out[1].f32()[c] = static_cast<float>(dot);
    call.out[2].f32()[c] = static_cast<float>(sum);
  }
  return true;
}

int64_t grad_scratch(const Call& call, int) { return channel_scratch(call.in[1]); }

// rms_norm: x [..., C], gamma [C] -> y = x / sqrt(mean(x^2) + eps) gamma, rstd [rows]; numbers: eps
bool rms_norm(const Call& call) {
  const View& x = call.in[0];
  const int64_t channels = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1);
  const float* gamma = call.in[1].f32();
  const bool past = too_large(call.out[0], channels);
  parallel_ranges(call, rows, max64(1, 16384 / max64(channels, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float* in = x.f32() + r * channels;
      float* y = call.out[0].f32() + r * channels;
      const double squares = sum_terms(channels, [&](int64_t c, auto lanes) {
        const Vec v = lanes.load(in + c);
        return v * v;
      });
      const float rstd =
          static_cast<float>(1 / __builtin_sqrt(squares / static_cast<double>(channels) + call.number[0]));
      call.out[1].f32()[r] = rstd;
      const Vec scale = broadcast(rstd);
      each_vector(0, channels, [&](int64_t c, auto lanes) {
        fetch_next(in + c, channels);
        if (!past) fetch_next(y + c, channels);
        put(past, lanes, y + c, lanes.load(in + c) * scale * lanes.load(gamma + c));
      });
    }
    if (past) end_bypass();
  });
  return true;
}

// rms_norm_grad: dy, x, rstd, gamma -> dx, dgamma. Each row is read once, as in layer_norm_grad.
bool rms_norm_grad(const Call& call) {
  const View& x = call.in[1];
  const int64_t channels = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1);
  const float *dy = call.in[0].f32(), *rstd = call.in[2].f32(), *gamma = call.in[3].f32();
  double *dot = static_cast<double*>(call.scratch), *unused = dot + channels;
  const bool past = too_large(call.out[0], channels);
  const auto one = [&](int64_t r, float* dots, float*) {
    const float *g = dy + r * channels, *in = x.f32() + r * channels;
    float* dx = call.out[0].f32() + r * channels;
    const Vec scale = broadcast(rstd[r]);
    const double products = sum_terms(channels, [&](int64_t c, auto lanes) {
      return lanes.load(g + c) * lanes.load(gamma + c) * (lanes.load(in + c) * scale);
    });
    const Vec b = broadcast(static_cast<float>(products / static_cast<double>(channels)));
    each_vector(0, channels, [&](int64_t c, auto lanes) {
      fetch_next(g + c, channels);
      fetch_next(in + c, channels);
      if (!past) fetch_next(dx + c, channels);
      const Vec given = lanes.load(g + c), normal = lanes.load(in + c) * scale;
      put(past, lanes, dx + c, scale * (given * lanes.load(gamma + c) - normal * b));
      lanes.store(dots + c, lanes.load(dots + c) + given * normal);
    });
  };
  channel_sums(
      call, rows, channels,
      [&](int64_t begin, int64_t end, float* floats, double* all) {
        add_rows(begin, end, channels, one, floats, all);
        if (past) end_bypass();
      },
      dot, unused);
  for (int64_t c = 0; c < channels; c++) call.out[1].f32()[c] = static_cast<float>(dot[c]);
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"group_norm", group_norm, group_scratch}, {"group_norm_grad", group_norm_grad, group_grad_scratch},
                {"rms_norm", rms_norm}, {"rms_norm_grad", rms_norm_grad, grad_scratch})
