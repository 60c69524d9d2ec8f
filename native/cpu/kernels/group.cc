// Group normalisation and root-mean-square normalisation of channels-last tensors.
#include "../row_gradient.h"
#include "../statistics.h"

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
        width(channels / max64(1, count)) {}
  double size() const { return static_cast<double>(rows * width); }
  // Chunks of samples whose sums are kept side by side.
  int64_t chunks() const { return min64(samples, max64(1, min64(64, 16384 / max64(1, channels)))); }
};

// Calls f(begin, end, first, last, thread) for units [begin, end), samples or chunks of them, and groups [first, last). What
// a sample gives depends on nothing else, so that threads may say how many share the units, and where these are few the
// groups. In such a range each sample is read for the first time while the one before is read for the last.
template <class F>
inline void each_share(const Call& call, const Groups& g, int64_t units, const F& f) {
  const int64_t shares = 4 * call.pool->threads(), ranges = min64(units, shares);
  const int64_t parts = max64(1, min64(g.groups, ceil_div(shares, max64(1, ranges))));
  parallel_tasks(call, ranges * parts, [&](int64_t task, int thread) {
    const int64_t range = task / parts, part = task % parts;
    f(units * range / ranges, units * (range + 1) / ranges, g.groups * part / parts, g.groups * (part + 1) / parts,
      thread);
  });
}

// to[c] = value[group] for the channels of groups [first, last).
__attribute__((noinline)) void each_channel(const Groups& g, int64_t first, int64_t last, float* to,
                                            const float* value) {
  for (int64_t group = first; group < last; group++)
    for (int64_t c = 0; c < g.width; c++) *to++ = value[group];
}

// group_norm: x [N, ..., C], gamma [C], beta [C] -> y, mean [N, G], rstd [N, G]; numbers: groups, eps
int64_t group_scratch(const Call& call, int threads) {
  return threads * call.in[0].shape[call.in[0].rank - 1] * static_cast<int64_t>(2 * sizeof(double) + 4 * sizeof(float));
}

bool group_norm(const Call& call) {
  const Groups g(call.in[0], call.integer(0));
  const int64_t all = g.channels;
  const bool past = too_large(call.out[0], all);
  each_share(call, g, g.samples, [&](int64_t begin, int64_t end, int64_t first, int64_t last, int thread) {
    const int64_t start = first * g.width, n = (last - first) * g.width;
    const float *gamma = call.in[1].f32() + start, *beta = call.in[2].f32() + start;
    double* sums = static_cast<double*>(call.scratch) + thread * 4 * all;
    float *shift = reinterpret_cast<float*>(sums + 2 * n), *mean = shift + n, *scale = mean + n;
    const bool aside = past && start % kLineFloats == 0;
    for (int64_t sample = begin; sample <= end; sample++) {
      const int64_t at = sample * g.rows * all + start;
      const float *x = call.in[0].f32() + at, *before = x - g.rows * all;
      float* y = call.out[0].f32() + at - g.rows * all;
      // Two rows at once, after the second.
      const auto normalise = [ =, rows = g.rows ](int64_t r, int64_t c0, int64_t c1) __attribute__((noinline)) {
        if (r % 2 == 0 && r + 1 < rows) return;
        each_vector(c0, c1, [=](int64_t c, auto lanes) {
          const Vec middle = lanes.load(mean + c), by = lanes.load(scale + c), more = lanes.load(beta + c);
          for (int64_t at = (r - r % 2) * all + c; at <= r * all + c; at += all) {
            if (!aside) fetch_next(y + at, 2 * all);
            put(aside, lanes, y + at, (lanes.load(before + at) - middle) * by + more);
          }
        });
      };
      if (sample == end) {
        for (int64_t r = 0; r < g.rows; r++) normalise(r, 0, n);
        break;
      }
      sample_first_rows(x, g.rows, all, n, shift);
      for (int64_t group = 0; group < last - first; group++) {
        float sum = 0, *of = shift + group * g.width;
        for (int64_t c = 0; c < g.width; c++) sum += of[c] / static_cast<float>(g.width);
        for (int64_t c = 0; c < g.width; c++) of[c] = sum - sum == 0 ? sum : 0.0f;
      }
      memset(sums, 0, static_cast<size_t>(2 * n) * sizeof(double));
      const bool known = sample > begin;
      sum_columns(
          g.rows, n,
          [=](int64_t r, int64_t c, auto lanes, Vec& u, Vec& v) {
            u = lanes.load(x + r * all + c) - lanes.load(shift + c);
            v = u * u;
          },
          sums, sums + n,
          [=](int64_t r, int64_t c0, int64_t c1) {
            if (known) normalise(r, c0, c1);
          });
      float *means = call.out[1].f32() + sample * g.groups, *rstds = call.out[2].f32() + sample * g.groups;
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
      each_vector(
          0, n, [=](int64_t c, auto lanes) { lanes.store(scale + c, lanes.load(scale + c) * lanes.load(gamma + c)); });
    }
    if (past) end_bypass();
  });
  return true;
}

// group_norm_grad: dy, x, mean, rstd, gamma -> dx, dgamma, dbeta; numbers: groups
// The sums over a sample's rows of dy and dy times normalised x make the means for dx, and add up to dbeta and dgamma.
int64_t group_grad_scratch(const Call& call, int threads) {
  const Groups g(call.in[1], call.integer(0));
  return (g.chunks() + threads) * g.channels * static_cast<int64_t>(2 * sizeof(double)) +
         threads * g.channels * static_cast<int64_t>(6 * sizeof(float));
}

bool group_norm_grad(const Call& call) {
  const Groups g(call.in[1], call.integer(0));
  const int64_t chunks = g.chunks(), all = g.channels;
  const bool past = too_large(call.out[0], all);
  double* totals = static_cast<double*>(call.scratch);  // [chunks, 2, C]
  double* rest = totals + chunks * 2 * all;
  each_share(call, g, chunks, [&](int64_t begin, int64_t end, int64_t first, int64_t last, int thread) {
    const int64_t start = first * g.width, n = (last - first) * g.width;
    const float* gamma = call.in[4].f32() + start;
    double* sums = rest + thread * 5 * all;
    // Of a sample, and of the one before: dx = dy dy_scale + (x - middle) x_scale + less.
    float *mean = reinterpret_cast<float*>(sums + 2 * n), *rstd = mean + n, *middle = rstd + n;
    float *dy_scale = middle + n, *x_scale = dy_scale + n, *less = x_scale + n;
    const bool aside = past && start % kLineFloats == 0;
    const int64_t from_sample = g.samples * begin / chunks, to_sample = g.samples * end / chunks;
    for (int64_t chunk = begin, sample = from_sample; sample <= to_sample; sample++) {
      const int64_t at = sample * g.rows * all + start, before = at - g.rows * all;
      const float *dy = call.in[0].f32() + at, *x = call.in[1].f32() + at;
      const float *dy_before = call.in[0].f32() + before, *x_before = call.in[1].f32() + before;
      float* dx = call.out[0].f32() + before;
      const auto gradient = [=](int64_t r, int64_t c0, int64_t c1) __attribute__((noinline)) {
        each_vector(c0, c1, [=](int64_t c, auto lanes) {
          const int64_t i = r * all + c;
          if (!aside) fetch_next(dx + i, 2 * all);
          put(aside, lanes, dx + i,
              lanes.load(dy_before + i) * lanes.load(dy_scale + c) +
                  ((lanes.load(x_before + i) - lanes.load(middle + c)) * lanes.load(x_scale + c) +
                   lanes.load(less + c)));
        });
      };
      if (sample == to_sample) {
        for (int64_t r = 0; r < g.rows; r++) gradient(r, 0, n);
        break;
      }
      const float *means = call.in[2].f32() + sample * g.groups, *rstds = call.in[3].f32() + sample * g.groups;
      each_channel(g, first, last, mean, means);
      each_channel(g, first, last, rstd, rstds);
      memset(sums, 0, static_cast<size_t>(2 * n) * sizeof(double));
      const bool known = sample > from_sample;
      sum_columns(
          g.rows, n,
          [=](int64_t r, int64_t c, auto lanes, Vec& u, Vec& v) {
            u = lanes.load(dy + r * all + c);
            v = u * ((lanes.load(x + r * all + c) - lanes.load(mean + c)) * lanes.load(rstd + c));
          },
          sums, sums + n,
          [=](int64_t r, int64_t c0, int64_t c1) {
            if (known) gradient(r, c0, c1);
          });
      while (sample >= g.samples * (chunk + 1) / chunks) chunk++;
      double* total = totals + chunk * 2 * all + start;
      if (sample == g.samples * chunk / chunks) {
        memset(total, 0, static_cast<size_t>(n) * sizeof(double));
        memset(total + all, 0, static_cast<size_t>(n) * sizeof(double));
      }
      add_doubles(sums, n, total);
      add_doubles(sums + n, n, total + all);
      for (int64_t from = 0; from < n; from += g.width) {
        double a = 0, b = 0;
        for (int64_t c = from; c < from + g.width; c++) {
          a += gamma[c] * sums[c];
          b += gamma[c] * sums[n + c];
        }
        for (int64_t c = from; c < from + g.width; c++) {
          less[c] = -static_cast<float>(a / g.size());
          x_scale[c] = -static_cast<float>(b / g.size());
        }
      }
      each_vector(0, n, [=](int64_t c, auto lanes) {
        const Vec by = lanes.load(rstd + c);
        lanes.store(middle + c, lanes.load(mean + c));
        lanes.store(dy_scale + c, by * lanes.load(gamma + c));
        lanes.store(x_scale + c, by * by * lanes.load(x_scale + c));
        lanes.store(less + c, by * lanes.load(less + c));
      });
    }
    if (past) end_bypass();
  });
  for (int64_t chunk = 1; chunk < chunks; chunk++) add_doubles(totals + chunk * 2 * all, 2 * all, totals);
  if (chunks == 0) memset(totals, 0, static_cast<size_t>(2 * all) * sizeof(double));
  round_all(totals + all, all, call.out[1].f32());
  round_all(totals, all, call.out[2].f32());
  return true;
}

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

// rms_norm_grad: dy, x, rstd, gamma -> dx, dgamma; dx may take the place of dy or x
int64_t row_scratch(const Call& call, int threads) { return row_gradient_scratch(call.in[1], threads); }

bool rms_norm_grad(const Call& call) {
  row_gradient<false>(call, nullptr, call.in[2].f32(), call.in[3].f32());
  const int64_t channels = call.in[1].shape[call.in[1].rank - 1];
  round_all(static_cast<const double*>(call.scratch) + channels, channels, call.out[1].f32());
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"group_norm", group_norm, group_scratch}, {"group_norm_grad", group_norm_grad, group_grad_scratch},
                {"rms_norm", rms_norm}, {"rms_norm_grad", rms_norm_grad, row_scratch})
