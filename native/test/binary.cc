// Elementwise functions of one and two tensors: every layout of operands, ragged sizes, values that are not finite.
#include <algorithm>

#include "core/parallel.h"
#include "harness.h"

namespace {

// View of `a` with the shape of the output and these strides.
auxgrad::View strided(test::Array& a, std::vector<int64_t> shape, std::vector<int64_t> stride) {
  auxgrad::View v = a.view();
  v.rank = static_cast<int32_t>(shape.size());
  for (size_t i = 0; i < shape.size(); i++) v.shape[i] = shape[i], v.stride[i] = stride[i];
  return v;
}

// The element of a view at place `i` of its order.
float element(const auxgrad::View& v, int64_t i) {
  int64_t offset = 0;
  for (int axis = v.rank - 1; axis >= 0; axis--) {
    offset += i % v.shape[axis] * v.stride[axis];
    i /= v.shape[axis];
  }
  return v.f32()[offset];
}

using Function = float (*)(float, float);
const struct {
  const char* kernel;
  Function exact;
} kArithmetic[] = {
    {"add", [](float a, float b) { return a + b; }},
    {"sub", [](float a, float b) { return a - b; }},
    {"mul", [](float a, float b) { return a * b; }},
    {"div", [](float a, float b) { return a / b; }},
    {"maximum", [](float a, float b) { return std::isnan(a) || std::isnan(b) ? NAN : std::max(a, b); }},
    {"minimum", [](float a, float b) { return std::isnan(a) || std::isnan(b) ? NAN : std::min(a, b); }},
};

bool same(float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }

test::Array values(int64_t n, uint32_t seed) {
  test::Array x = test::Array::normal({std::max<int64_t>(n, 1)}, seed);
  const float special[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e-40f, 3e38f};
  for (int64_t i = 3, k = 0; i < n; i += 5) x[i] = special[k++ % 7];
  return x;
}

void check_pair(const auxgrad::View& a, const auxgrad::View& b) {
  std::vector<int64_t> shape(a.shape, a.shape + a.rank);
  for (const auto& f : kArithmetic) {
    test::Array y = test::Array::f32(shape);
    test::call(f.kernel, {a, b}, {y.view()});
    for (int64_t i = 0; i < y.count(); i++) CHECK(same(y[i], f.exact(element(a, i), element(b, i))));
  }
  test::Array less(auxgrad::DType::boolean, shape);
  test::call("lt", {a, b}, {less.view()});
  for (int64_t i = 0; i < less.count(); i++) CHECK(less.u8()[i] == (element(a, i) < element(b, i)));
  test::Array chosen = test::Array::f32(shape);
  test::call("where", {less.view(), a, b}, {chosen.view()});
  for (int64_t i = 0; i < chosen.count(); i++) CHECK(same(chosen[i], less.u8()[i] ? element(a, i) : element(b, i)));
}

}  // namespace

TEST(arithmetic_of_every_layout) {
  test::each_isa([] {
    for (int64_t n : {0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 64, 129, 256, 300, 1024, 1025, 1500}) {
      test::Array a = values(5 * n, 1), b = values(5 * n, 2);
      check_pair(strided(a, {n}, {1}), strided(b, {n}, {1}));
      check_pair(strided(a, {n}, {1}), strided(b, {n}, {0}));
      check_pair(strided(a, {n}, {0}), strided(b, {n}, {1}));
      check_pair(strided(a, {5, n}, {n, 1}), strided(b, {5, n}, {0, 1}));  // a bias
      check_pair(strided(a, {5, n}, {0, 1}), strided(b, {5, n}, {n, 1}));
      check_pair(strided(a, {5, n}, {n, 1}), strided(b, {5, n}, {1, 0}));  // a value a row
      check_pair(strided(a, {5, n}, {n, 1}), strided(b, {5, n}, {0, 0}));
      check_pair(strided(a, {n, 5}, {1, n}), strided(b, {n, 5}, {5, 1}));  // a transposed operand
      check_pair(strided(a, {5, 1, n}, {n, 7, 1}),
                 strided(b, {5, 1, n}, {n, 0, 1}));  // axes of size 1 may have any stride
    }
    test::Array a = values(2 * 3 * 4 * 5, 3), b = values(60, 4);
    check_pair(strided(a, {2, 3, 4, 5}, {60, 20, 5, 1}), strided(b, {2, 3, 4, 5}, {0, 20, 0, 1}));
    check_pair(strided(a, {2, 3, 4, 5}, {60, 20, 5, 1}), strided(b, {2, 3, 4, 5}, {20, 0, 5, 0}));
    check_pair(strided(a, {}, {}), strided(b, {}, {}));
  });
}

TEST(bias_over_many_rows_and_long_rows) {
  test::each_isa([] {
    for (auto [rows, n] : {std::pair<int64_t, int64_t>{9001, 7}, {3000, 64}, {300, 128}, {300, 129}, {2, 70001}}) {
      test::Array a = test::Array::integers({rows, n}, 1), b = test::Array::integers({n}, 2),
                  y = test::Array::f32({rows, n});
      test::call("add", {a.view(), strided(b, {rows, n}, {0, 1})}, {y.view()});
      for (int64_t i = 0; i < y.count(); i++) CHECK(y[i] == a[i] + b[i % n]);
      test::call("sub", {strided(b, {rows, n}, {0, 1}), a.view()}, {a.view()});  // in place of an operand
      for (int64_t i = 0; i < y.count(); i++) CHECK(a[i] == b[i % n] - (y[i] - b[i % n]));
    }
  });
}

TEST(remainders_have_the_sign_of_the_divisor) {
  test::each_isa([] {
    const float divided[] = {-7, -6, -0.5f, 0, 0.5f, 6, 7, 1e30f, INFINITY, NAN},
                by[] = {-3, -2.5f, 0.3f, 2, 3, 1e10f, INFINITY, -INFINITY, 0, NAN};
    test::Array a = test::Array::f32({100}), b = test::Array::f32({100}), y = test::Array::f32({100});
    for (int i = 0; i < 100; i++) a[i] = divided[i / 10], b[i] = by[i % 10];
    test::call("remainder", {a.view(), b.view()}, {y.view()});
    for (int i = 0; i < 100; i++) {
      double expected = std::fmod(double(a[i]), double(b[i]));
      if (expected != 0 && (expected < 0) != (b[i] < 0)) expected += b[i];
      CHECK(same(y[i], float(expected)));
    }
    const int32_t whole[] = {INT32_MIN, -7, -6, -1, 0, 1, 6, 7, INT32_MAX}, divisors[] = {-3, -1, 0, 1, 3, INT32_MAX};
    test::Array p(auxgrad::DType::i32, {54}), q(auxgrad::DType::i32, {54}), r(auxgrad::DType::i32, {54});
    for (int i = 0; i < 54; i++) p.i32()[i] = whole[i / 6], q.i32()[i] = divisors[i % 6];
    test::call("remainder", {p.view(), q.view()}, {r.view()});
    for (int i = 0; i < 54; i++) {
      const int64_t n = q.i32()[i];
      CHECK(r.i32()[i] == (n == 0 ? 0 : (p.i32()[i] % n + n) % n));
    }
  });
}

TEST(angles_of_all_quadrants_and_limits) {
  test::each_isa([] {
    const float values[] = {-INFINITY, -2, -1e-30f, -0.0f, 0, 1e-30f, 0.7f, 3, INFINITY, NAN};
    test::Array a = test::Array::f32({100}), b = test::Array::f32({100}), y = test::Array::f32({100});
    for (int i = 0; i < 100; i++) a[i] = values[i / 10], b[i] = values[i % 10];
    test::call("atan2", {a.view(), b.view()}, {y.view()});
    for (int i = 0; i < 100; i++) CHECK(same(y[i], float(std::atan2(double(a[i]), double(b[i])))));
  });
}

TEST(power_by_sign_and_exponent) {
  test::each_isa([] {
    const float bases[] = {0, 0.5f, 1, 2, 3.7f, 100, -0.5f, -1, -2, -3.7f},
                exponents[] = {0, 1, 2, 3, 0.5f, -1, -2, 5, 7.5f, -3};
    test::Array a = test::Array::f32({100}), b = test::Array::f32({100}), y = test::Array::f32({100});
    for (int i = 0; i < 100; i++) a[i] = bases[i / 10], b[i] = exponents[i % 10];
    test::call("pow", {a.view(), b.view()}, {y.view()});
    for (int i = 0; i < 100; i++) {
      const double expected = std::pow(double(a[i]), double(b[i]));
      if (std::isnan(expected)) CHECK(std::isnan(y[i]));
      else if (std::isinf(expected)) CHECK(std::isinf(y[i]));
      else CHECK_NEAR(y[i], expected, 4e-6 * std::fabs(expected));
    }
  });
}

TEST(unary_of_special_values_and_ragged_sizes) {
  struct Row {
    const char* kernel;
    float nan, inf, minus_inf, zero;  // what these become; NaN stands for NaN
  };
  static const Row rows[] = {
      {"neg", NAN, -INFINITY, INFINITY, 0},
      {"abs", NAN, INFINITY, INFINITY, 0},
      {"exp", NAN, INFINITY, 0, 1},
      {"log", NAN, INFINITY, NAN, -INFINITY},
      {"sqrt", NAN, INFINITY, NAN, 0},
      {"square", NAN, INFINITY, INFINITY, 0},
      {"tanh", NAN, 1, -1, 0},
      {"sigmoid", NAN, 1, 0, 0.5f},
      {"relu", NAN, INFINITY, 0, 0},
      {"floor", NAN, INFINITY, -INFINITY, 0},
      {"reciprocal", NAN, 0, 0, INFINITY},
      {"sign", NAN, 1, -1, 0},
  };
  test::each_isa([] {
    for (const Row& r : rows)
      for (int64_t n : {1, 2, 15, 16, 17, 33, 100}) {
        test::Array x = test::Array::normal({n}, 1), y = test::Array::f32({n}), z = test::Array::f32({n});
        test::call(r.kernel, {x.view()}, {z.view()});
        const float given[] = {NAN, INFINITY, -INFINITY, 0}, expected[] = {r.nan, r.inf, r.minus_inf, r.zero};
        for (int k = 0; k < 4; k++) {
          const int64_t at = k * 7 % n;
          const float kept = x[at];
          x[at] = given[k];
          test::call(r.kernel, {x.view()}, {y.view()});
          CHECK(same(y[at], expected[k]));
          // The others are what they were: no lane leaks into another.
          for (int64_t i = 0; i < n; i++) CHECK(i == at || same(y[i], z[i]));
          x[at] = kept;
        }
        test::call(r.kernel, {x.view()}, {x.view()});  // in place
        for (int64_t i = 0; i < n; i++) CHECK(same(x[i], z[i]));
      }
  });
}

TEST(activation_gradients_are_derivatives) {
  struct Row {
    const char* kernel;
    bool of_output;  // the second operand is y, not x
    double (*f)(double);
  };
  static const Row rows[] = {
      {"sigmoid_grad", true, [](double x) { return 1 / (1 + std::exp(-x)); }},
      {"tanh_grad", true, [](double x) { return std::tanh(x); }},
      {"gelu_grad", false, [](double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }},
      {"silu_grad", false, [](double x) { return x / (1 + std::exp(-x)); }},
      {"relu_grad", true, [](double x) { return x > 0 ? x : 0; }},
  };
  test::each_isa([] {
    for (const Row& r : rows) {
      test::Array x = test::Array::normal({1003}, 1, 2), dy = test::Array::normal({1003}, 2),
                  v = test::Array::f32({1003});
      test::Array dx = test::Array::f32({1003});
      for (int64_t i = 0; i < x.count(); i++) v[i] = r.of_output ? float(r.f(x[i])) : x[i];
      test::call(r.kernel, {dy.view(), v.view()}, {dx.view()});
      for (int64_t i = 0; i < x.count(); i++) {
        const double h = 1e-6, slope = (r.f(x[i] + h) - r.f(x[i] - h)) / (2 * h);
        if (std::fabs(x[i]) > h) CHECK_NEAR(dx[i], dy[i] * slope, 2e-6 * std::fabs(dy[i]));
      }
    }
  });
}
