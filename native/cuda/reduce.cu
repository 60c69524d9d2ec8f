// Reductions over any axes. numbers: the reduced axes.
#include "../core/elementary.h"
#include "reduce.cuh"

namespace auxgrad {
namespace {

Split split_axes(const Call& call, const View& x, int from = 0) {
  bool gone[kMaxRank] = {};
  for (int i = from; i < call.n_number; i++) gone[call.integer(i)] = true;
  return Split(x, gone);
}

template <class Op>
int64_t scratch_of(const Call& call, int) {
  return split_axes(call, call.in[0]).scratch<Op>();
}
template <class Op>
bool run(const Call& call, const Op& op) {
  return reduce(call, split_axes(call, call.in[0]), op, call.scratch);
}

struct FloatSum : Sums {
  const float* x;
  float* y;
  bool mean;
  __device__ void add(double& p, int64_t, int64_t at, int64_t, int64_t) const { p += x[at]; }
  __device__ void finish(double p, int64_t o, int64_t terms, int64_t) const {
    y[o] = static_cast<float>(mean ? p * (1 / static_cast<double>(terms)) : p);
  }
};
struct WholeSum {
  using Part = int64_t;
  const int32_t* x;
  int32_t* y;
  __device__ int64_t none() const { return 0; }
  __device__ void add(int64_t& p, int64_t, int64_t at, int64_t, int64_t) const { p += x[at]; }
  __device__ void join(int64_t& p, int64_t later) const { p += later; }
  __device__ void finish(int64_t p, int64_t o, int64_t, int64_t) const { y[o] = static_cast<int32_t>(p); }
};
bool float_sum(const Call& call, bool mean) {
  FloatSum op;
  op.x = call.in[0].f32();
  op.y = call.out[0].f32();
  op.mean = mean;
  return run(call, op);
}
bool sum(const Call& call) {
  if (call.in[0].dtype == DType::i32) return run(call, WholeSum{call.in[0].i32(), call.out[0].i32()});
  return float_sum(call, false);
}
bool mean(const Call& call) { return float_sum(call, true); }

// The largest (smallest); the first NaN.
template <bool kMax>
struct Extreme {
  using Part = float;
  const float* x;
  float* y;
  __device__ float none() const { return kMax ? -infinity() : infinity(); }
  __device__ void join(float& p, float v) const {
    if (p == p && ((kMax ? v > p : v < p) || v != v)) p = v;
  }
  __device__ void add(float& p, int64_t, int64_t at, int64_t, int64_t) const { join(p, x[at]); }
  __device__ void finish(float p, int64_t o, int64_t, int64_t) const { y[o] = p; }
};
template <bool kMax>
struct WholeExtreme {
  using Part = int32_t;
  const int32_t* x;
  int32_t* y;
  __device__ int32_t none() const { return kMax ? INT32_MIN : INT32_MAX; }
  __device__ void join(int32_t& p, int32_t v) const {
    if (kMax ? v > p : v < p) p = v;
  }
  __device__ void add(int32_t& p, int64_t, int64_t at, int64_t, int64_t) const { join(p, x[at]); }
  __device__ void finish(int32_t p, int64_t o, int64_t, int64_t) const { y[o] = p; }
};
template <bool kMax>
bool extreme(const Call& call) {
  if (call.in[0].dtype == DType::i32) return run(call, WholeExtreme<kMax>{call.in[0].i32(), call.out[0].i32()});
  return run(call, Extreme<kMax>{call.in[0].f32(), call.out[0].f32()});
}

// argmax over the one axis in numbers: x f32 -> i32; the first of equals wins, the first NaN beats all.
struct Place {
  float value;
  int32_t at;  // -1: none
};
struct ArgMax {
  using Part = Place;
  const float* x;
  int32_t* y;
  __device__ Place none() const { return {0, -1}; }
  __device__ void join(Place& p, const Place& q) const {
    if (q.at < 0) return;
    const bool p_nan = p.value != p.value, q_nan = q.value != q.value;
    const bool same = p_nan ? q_nan : p.value == q.value, above = q_nan ? !p_nan : q.value > p.value;
    if (p.at < 0 || above || (same && q.at < p.at)) p = q;
  }
  __device__ void add(Place& p, int64_t, int64_t at, int64_t t, int64_t) const {
    join(p, {x[at], static_cast<int32_t>(t)});
  }
  __device__ void finish(const Place& p, int64_t o, int64_t, int64_t) const { y[o] = p.at < 0 ? 0 : p.at; }
};
bool argmax(const Call& call) { return run(call, ArgMax{call.in[0].f32(), call.out[0].i32()}); }

struct Product {
  using Part = double;
  const float* x;
  float* y;
  __device__ double none() const { return 1; }
  __device__ void join(double& p, double later) const { p *= later; }
  __device__ void add(double& p, int64_t, int64_t at, int64_t, int64_t) const { p *= x[at]; }
  __device__ void finish(double p, int64_t o, int64_t, int64_t) const { y[o] = static_cast<float>(p); }
};
bool prod(const Call& call) { return run(call, Product{call.in[0].f32(), call.out[0].f32()}); }

// prod_grad: x, dy (both contiguous) -> dx, dy times the product of the other terms; numbers: the reduced axes. First the
// product of the terms that are not 0 and the number of those that are, to scratch; then each term's.
struct Others {
  double product;
  int64_t zeros;
};
struct ProductOfOthers {
  using Part = Others;
  const float* x;
  Others* result;
  __device__ Others none() const { return {1, 0}; }
  __device__ void join(Others& p, const Others& q) const {
    p.product *= q.product;
    p.zeros += q.zeros;
  }
  __device__ void add(Others& p, int64_t, int64_t at, int64_t, int64_t) const {
    if (x[at] == 0) p.zeros++;
    else p.product *= x[at];
  }
  __device__ void finish(const Others& p, int64_t o, int64_t, int64_t) const { result[o] = p; }
};
__global__ void spread_product(Split s, const float* x, const float* dy, const Others* others, float* dx) {
  for (int64_t i = first_item(); i < s.outputs * s.terms; i += item_step()) {
    const int64_t o = i / s.terms, at = s.kept.at(o) + s.reduced.at(i % s.terms);
    const double scaled = others[o].product * dy[o];
    const float v = x[at];
    const int64_t zeros = others[o].zeros;
    dx[at] = static_cast<float>(zeros == 0 ? scaled / v : (zeros == 1 && v == 0 ? scaled : 0.0));
  }
}
int64_t prod_grad_scratch(const Call& call, int) {
  const Split s = split_axes(call, call.in[0]);
  return s.scratch<ProductOfOthers>() + s.outputs * static_cast<int64_t>(sizeof(Others));
}
bool prod_grad(const Call& call) {
  const Split s = split_axes(call, call.in[0]);
  Others* others = reinterpret_cast<Others*>(static_cast<char*>(call.scratch) + s.scratch<ProductOfOthers>());
  return reduce(call, s, ProductOfOthers{call.in[0].f32(), others}, call.scratch) &&
         launch_items(call, s.outputs * s.terms, spread_product, s, call.in[0].f32(), call.in[1].f32(), others,
                      call.out[0].f32());
}

template <bool kAll>
struct Logical {
  using Part = uint8_t;
  const uint8_t* x;
  uint8_t* y;
  __device__ uint8_t none() const { return kAll; }
  __device__ void join(uint8_t& p, uint8_t v) const { p = kAll ? p && v : p || v; }
  __device__ void add(uint8_t& p, int64_t, int64_t at, int64_t, int64_t) const { join(p, x[at]); }
  __device__ void finish(uint8_t p, int64_t o, int64_t, int64_t) const { y[o] = p; }
};
template <bool kAll>
bool logical(const Call& call) {
  return run(call, Logical<kAll>{call.in[0].u8(), call.out[0].u8()});
}

// norm: the Euclidean norm
struct Norm : Sums {
  const float* x;
  float* y;
  __device__ void add(double& p, int64_t, int64_t at, int64_t, int64_t) const {
    p += static_cast<double>(x[at]) * x[at];
  }
  __device__ void finish(double p, int64_t o, int64_t, int64_t) const { y[o] = static_cast<float>(sqrt(p)); }
};
bool norm(const Call& call) {
  Norm op;
  op.x = call.in[0].f32();
  op.y = call.out[0].f32();
  return run(call, op);
}

// var: numbers: correction, then the reduced axes. Sums of the distances from the first term, in double: a mean far from
// zero costs no digits.
struct Variance : TwoSums {
  const float* x;
  float* y;
  double correction;
  __device__ void add(Two& p, int64_t, int64_t at, int64_t, int64_t first) const {
    const double d = static_cast<double>(x[at]) - x[first];
    p.a += d;
    p.b += d * d;
  }
  __device__ void finish(const Two& p, int64_t o, int64_t terms, int64_t) const {
    const double n = static_cast<double>(terms), rest = n - correction, squares = p.b - p.a / n * p.a;
    y[o] = static_cast<float>((squares < 0 ? 0 : squares) / (rest > 0 ? rest : 0.0));
  }
};
int64_t var_scratch(const Call& call, int) { return split_axes(call, call.in[0], 1).scratch<Variance>(); }
bool var(const Call& call) {
  Variance op;
  op.x = call.in[0].f32();
  op.y = call.out[0].f32();
  op.correction = call.number[0];
  return reduce(call, split_axes(call, call.in[0], 1), op, call.scratch);
}

// The largest term and the sum of exp(x - it), which moves as it grows.
struct Exponentials {
  float top;
  double sum;
};
struct LogSumExp {
  using Part = Exponentials;
  const float* x;
  float* y;
  __device__ Exponentials none() const { return {-infinity(), 0}; }
  __device__ void join(Exponentials& p, const Exponentials& q) const {
    if (p.top != p.top || q.top == -infinity()) return;
    if (q.top != q.top || p.top == -infinity()) {
      p = q;
    } else if (q.top > p.top) {
      p = {q.top, p.sum * exp_f32(p.top - q.top) + q.sum};
    } else if (q.top <= p.top) {
      p.sum += q.sum * exp_f32(q.top - p.top);
    }
  }
  __device__ void add(Exponentials& p, int64_t, int64_t at, int64_t, int64_t) const { join(p, {x[at], 1}); }
  __device__ void finish(const Exponentials& p, int64_t o, int64_t, int64_t) const {
    y[o] = p.top - p.top == 0 ? p.top + log_f32(static_cast<float>(p.sum)) : p.top;
  }
};
bool log_sum_exp(const Call& call) { return run(call, LogSumExp{call.in[0].f32(), call.out[0].f32()}); }

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"sum", sum, scratch_of<FloatSum>}, {"mean", mean, scratch_of<FloatSum>},
                {"max", extreme<true>, scratch_of<Extreme<true>>}, {"min", extreme<false>, scratch_of<Extreme<true>>},
                {"argmax", argmax, scratch_of<ArgMax>}, {"prod", prod, scratch_of<Product>},
                {"prod_grad", prod_grad, prod_grad_scratch}, {"any", logical<false>, scratch_of<Logical<false>>},
                {"all", logical<true>, scratch_of<Logical<true>>}, {"norm", norm, scratch_of<Norm>},
                {"var", var, var_scratch}, {"log_sum_exp", log_sum_exp, scratch_of<LogSumExp>})
