// Group normalisation and root-mean-square normalisation of channels-last tensors.
#include "reduce.cuh"
#include "rows.cuh"

namespace auxgrad {
namespace {

// x [N, ..., C] as samples, rows of a sample, groups of neighbouring channels.
struct Groups {
  int64_t samples, rows, groups, width;
  Groups(const View& x, int64_t count)
      : samples(x.shape[0]),
        rows(x.count(1, x.rank - 1)),
        groups(count),
        width(x.shape[x.rank - 1] / max64(1, count)) {}
  __device__ int64_t channels() const { return groups * width; }
  __device__ int64_t channel(int64_t i) const { return i - quotient(i, channels()) * channels(); }
  // Of an element of x: its place in a tensor [N, G].
  __device__ int64_t group(int64_t i) const {
    return quotient(i, rows * channels()) * groups + quotient(channel(i), width);
  }
  // Terms of each [N, G].
  Split split() const {
    View v;
    v.rank = 4;
    const int64_t shape[] = {samples, rows, groups, width};
    int64_t stride = 1;
    for (int axis = 3; axis >= 0; axis--) {
      v.shape[axis] = shape[axis];
      v.stride[axis] = stride;
      stride *= shape[axis];
    }
    const bool gone[kMaxRank] = {false, true, false, true};
    return Split(v, gone);
  }
};

struct GroupStatistics : TwoSums {
  const float* x;
  float *mean, *rstd;
  double eps;
  __device__ void add(Two& p, int64_t, int64_t at, int64_t, int64_t first) const {
    const double d = static_cast<double>(x[at]) - x[first];
    p.a += d;
    p.b += d * d;
  }
  __device__ void finish(const Two& p, int64_t o, int64_t terms, int64_t first) const {
    const double n = static_cast<double>(terms), m = p.a / n, v = p.b / n - m * m;
    mean[o] = static_cast<float>(x[first] + m);
    rstd[o] = static_cast<float>(1 / sqrt((v < 0 ? 0 : v) + eps));
  }
};
__global__ void group_apply(Groups g, const float* x, const float* mean, const float* rstd, const float* gamma,
                            const float* beta, float* y, int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_step()) {
    const int64_t c = g.channel(i), k = g.group(i);
    y[i] = (x[i] - mean[k]) * (rstd[k] * gamma[c]) + beta[c];
  }
}
// group_norm: x [N, ..., C], gamma [C], beta [C] -> y, mean [N, G], rstd [N, G]; numbers: groups, eps
int64_t group_scratch(const Call& call, int) {
  return Groups(call.in[0], call.integer(0)).split().scratch<GroupStatistics>();
}
bool group_norm(const Call& call) {
  const View& x = call.in[0];
  const Groups g(x, call.integer(0));
  GroupStatistics op;
  op.x = x.f32();
  op.mean = call.out[1].f32();
  op.rstd = call.out[2].f32();
  op.eps = call.number[1];
  if (x.count() == 0) return true;
  return reduce(call, g.split(), op, call.scratch) &&
         launch_items(call, x.count(), group_apply, g, x.f32(), op.mean, op.rstd, call.in[1].f32(), call.in[2].f32(),
                      call.out[0].f32(), x.count());
}

// Means over a group of gamma dy, and of gamma dy times normalised x.
struct GroupMeans : TwoSums {
  const float *dy, *x, *mean, *rstd, *gamma;
  float* means;  // [N, G, 2]
  int64_t channels;
  __device__ void add(Two& p, int64_t o, int64_t at, int64_t, int64_t) const {
    const double given = static_cast<double>(gamma[at - quotient(at, channels) * channels]) * dy[at];
    p.a += given;
    p.b += given * ((x[at] - mean[o]) * rstd[o]);
  }
  __device__ void finish(const Two& p, int64_t o, int64_t terms, int64_t) const {
    means[2 * o] = static_cast<float>(p.a / static_cast<double>(terms));
    means[2 * o + 1] = static_cast<float>(p.b / static_cast<double>(terms));
  }
};
struct GroupScaleShift : TwoSums {
  Groups g;
  const float *dy, *x, *mean, *rstd;
  float *dgamma, *dbeta;
  explicit GroupScaleShift(const Groups& groups) : g(groups) {}
  __device__ void add(Two& p, int64_t, int64_t at, int64_t, int64_t) const {
    const int64_t k = g.group(at);
    p.a += dy[at] * ((x[at] - mean[k]) * rstd[k]);
    p.b += dy[at];
  }
  __device__ void finish(const Two& p, int64_t o, int64_t, int64_t) const {
    dgamma[o] = static_cast<float>(p.a);
    dbeta[o] = static_cast<float>(p.b);
  }
};
__global__ void group_input_grad(Groups g, const float* dy, const float* x, const float* mean, const float* rstd,
                                 const float* gamma, const float* means, float* dx, int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_step()) {
    const int64_t c = g.channel(i), k = g.group(i);
    const float normal = (x[i] - mean[k]) * rstd[k];
    dx[i] = rstd[k] * (dy[i] * gamma[c] - means[2 * k] - normal * means[2 * k + 1]);
  }
}
// group_norm_grad: dy, x, mean, rstd, gamma -> dx, dgamma, dbeta; numbers: groups
int64_t means_bytes(const Groups& g) { return round_up(g.samples * g.groups * 8, 64); }
int64_t group_grad_scratch(const Call& call, int) {
  const Groups g(call.in[1], call.integer(0));
  return means_bytes(g) + max64(g.split().scratch<GroupMeans>(), Split::columns(call.in[1]).scratch<GroupMeans>());
}
bool group_norm_grad(const Call& call) {
  const View& x = call.in[1];
  const Groups g(x, call.integer(0));
  float* means = static_cast<float*>(call.scratch);
  void* rest = static_cast<char*>(call.scratch) + means_bytes(g);
  GroupScaleShift sums(g);
  sums.dy = call.in[0].f32();
  sums.x = x.f32();
  sums.mean = call.in[2].f32();
  sums.rstd = call.in[3].f32();
  sums.dgamma = call.out[1].f32();
  sums.dbeta = call.out[2].f32();
  if (!reduce(call, Split::columns(x), sums, rest)) return false;
  if (x.count() == 0) return true;
  GroupMeans op;
  op.dy = sums.dy;
  op.x = sums.x;
  op.mean = sums.mean;
  op.rstd = sums.rstd;
  op.gamma = call.in[4].f32();
  op.means = means;
  op.channels = x.shape[x.rank - 1];
  return reduce(call, g.split(), op, rest) && launch_items(call, x.count(), group_input_grad, g, op.dy, op.x, op.mean,
                                                           op.rstd, op.gamma, means, call.out[0].f32(), x.count());
}

// rms_norm: x [..., C], gamma [C] -> y = x / sqrt(mean(x^2) + eps) gamma, rstd [rows]; numbers: eps
struct RmsNorm {
  const float *x, *gamma;
  float *y, *rstd;
  double eps;
  int64_t channels;
  template <class Threads>
  __device__ void operator()(Threads threads, int64_t r) const {
    const float* row = x + r * channels;
    double squares = 0;
    for (int64_t c = threads.lane(); c < channels; c += Threads::kStep) squares += static_cast<double>(row[c]) * row[c];
    const float scale = static_cast<float>(1 / sqrt(threads.sum(squares) / static_cast<double>(channels) + eps));
    if (threads.lane() == 0) rstd[r] = scale;
    for (int64_t c = threads.lane(); c < channels; c += Threads::kStep) y[r * channels + c] = row[c] * scale * gamma[c];
  }
};
bool rms_norm(const Call& call) {
  const View& x = call.in[0];
  const int64_t channels = x.shape[x.rank - 1];
  return each_row(call, x.count(0, x.rank - 1), channels,
                  RmsNorm{x.f32(), call.in[1].f32(), call.out[0].f32(), call.out[1].f32(), call.number[0], channels});
}

// rms_norm_grad: dy, x, rstd, gamma -> dx, dgamma
struct RmsScale : Sums {
  const float *dy, *x, *rstd;
  float* dgamma;
  __device__ void add(double& p, int64_t, int64_t at, int64_t t, int64_t) const { p += dy[at] * (x[at] * rstd[t]); }
  __device__ void finish(double p, int64_t o, int64_t, int64_t) const { dgamma[o] = static_cast<float>(p); }
};
struct RmsNormGrad {
  const float *dy, *x, *rstd, *gamma;
  float* dx;
  int64_t channels;
  template <class Threads>
  __device__ void operator()(Threads threads, int64_t r) const {
    const float *g = dy + r * channels, *row = x + r * channels, scale = rstd[r];
    double products = 0;
    for (int64_t c = threads.lane(); c < channels; c += Threads::kStep)
      products += static_cast<double>(g[c] * gamma[c]) * (row[c] * scale);
    const float b = static_cast<float>(threads.sum(products) / static_cast<double>(channels));
    for (int64_t c = threads.lane(); c < channels; c += Threads::kStep)
      dx[r * channels + c] = scale * (g[c] * gamma[c] - row[c] * scale * b);
  }
};
int64_t rms_scratch(const Call& call, int) { return Split::columns(call.in[1]).scratch<RmsScale>(); }
bool rms_norm_grad(const Call& call) {
  const View& x = call.in[1];
  const int64_t channels = x.shape[x.rank - 1];
  RmsScale op;
  op.dy = call.in[0].f32();
  op.x = x.f32();
  op.rstd = call.in[2].f32();
  op.dgamma = call.out[1].f32();
  return reduce(call, Split::columns(x), op, call.scratch) &&
         each_row(call, x.count(0, x.rank - 1), channels,
                  RmsNormGrad{op.dy, op.x, op.rstd, call.in[3].f32(), call.out[0].f32(), channels});
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"group_norm", group_norm, group_scratch}, {"group_norm_grad", group_norm_grad, group_grad_scratch},
                {"rms_norm", rms_norm}, {"rms_norm_grad", rms_norm_grad, rms_scratch})
