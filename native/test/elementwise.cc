#include "harness.h"

namespace {

// Largest error in units in the last place of the expected value over values between low and high.
double worst_ulp(const char* kernel, double (*f)(double), float low, float high, bool logarithmic = false) {
  constexpr int64_t kCount = 200001;
  test::Array x = test::Array::f32({kCount}), y = test::Array::f32({kCount});
  for (int64_t i = 0; i < kCount; i++) {
    const double t = static_cast<double>(i) / (kCount - 1);
    x[i] = static_cast<float>(logarithmic ? low * std::pow(static_cast<double>(high) / low, t)
                                          : low + (static_cast<double>(high) - low) * t);
  }
  test::call(kernel, {x.view()}, {y.view()});
  double worst = 0;
  for (int64_t i = 0; i < kCount; i++) {
    const double expected = f(x[i]);
    const float near = std::fabs(static_cast<float>(expected));
    const double unit = static_cast<double>(std::nextafter(near, INFINITY)) - near;
    const double error = std::fabs(y[i] - expected) / unit;
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

}  // namespace

TEST(elementary_functions_are_within_their_ulp) {
  test::each_isa([] {
    CHECK(worst_ulp("erf", std::erf, -4, 4) <= 2);
    CHECK(worst_ulp("erf", std::erf, 1e-30f, 1, true) <= 2);
    CHECK(worst_ulp("exp", std::exp, -87, 88.5f) <= 2);
    CHECK(worst_ulp("log", std::log, 1e-37f, 1e38f, true) <= 2);
    CHECK(worst_ulp("tanh", std::tanh, -10, 10) <= 4);
    CHECK(worst_ulp("tanh", std::tanh, 1e-38f, 1, true) <= 4);
    CHECK(worst_ulp("expm1", std::expm1, -10, 20) <= 4);
    CHECK(worst_ulp("expm1", std::expm1, 1e-30f, 1, true) <= 4);
    CHECK(worst_ulp("log1p", std::log1p, -0.999f, 10) <= 4);
    CHECK(worst_ulp("log1p", std::log1p, 1e-30f, 1e30f, true) <= 4);
    CHECK(worst_ulp("sin", std::sin, -1e5f, 1e5f) <= 0.51);
    CHECK(worst_ulp("cos", std::cos, -1e5f, 1e5f) <= 0.51);
#ifdef _WIN32
    const float most = 1e5f;  // of larger numbers the sine of its C library is not good enough to compare with
#else
    const float most = 1e15f;
#endif
    CHECK(worst_ulp("sin", std::sin, 1e-38f, most, true) <= 0.51);
    CHECK(worst_ulp("cos", std::cos, 1e-38f, most, true) <= 0.51);
    test::Array far = test::Array::f32({64}), y = test::Array::f32({64});
    for (int i = 0; i < 64; i++) far[i] = std::ldexp(i % 2 ? -1.9f : 1.1f, 64 + i);
    for (const char* kernel : {"sin", "cos"}) {
      test::call(kernel, {far.view()}, {y.view()});
      for (int i = 0; i < 64; i++) CHECK(std::fabs(y[i]) <= 1);
    }
  });
}

TEST(gelu_keeps_its_precision_in_the_lower_tail) {
  test::each_isa([] {
    const auto gelu = [](double x) { return x * normal_cdf(x); };
    CHECK(worst_ulp("gelu", gelu, 0, 10) <= 4);
    CHECK(worst_ulp("gelu", gelu, -3, 0) <= 24);
    CHECK(worst_ulp("gelu", gelu, -10, -3) <= 160);  // relative 1e-5 where the value is 1e-22
    // Near numbers beside far ones.
    test::Array x = test::Array::f32({4096}), y = test::Array::f32({4096});
    for (int64_t i = 0; i < x.count(); i++) x[i] = static_cast<float>(i * 1031 % 4096) * 0x1p-8f - 10;
    test::call("gelu", {x.view()}, {y.view()});
    for (int64_t i = 0; i < x.count(); i++) CHECK_NEAR(y[i], gelu(x[i]), 1e-5 * std::fabs(gelu(x[i])));
  });
}

double gelu_tanh(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

double gelu_tanh_slope(double x) {
  const double c = std::sqrt(2 / std::acos(-1.0)), t = std::tanh(c * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x);
}

TEST(gelu_by_tanh_within_a_unit_of_1) {
  test::each_isa([] {
    CHECK(worst_ulp("gelu_tanh", gelu_tanh, 0, 20) <= 4);
    test::Array x = test::Array::f32({100001}), y = test::Array::f32({100001}), dy = test::Array::f32({100001}),
                dx = test::Array::f32({100001});
    for (int64_t i = 0; i < x.count(); i++) {
      x[i] = static_cast<float>(static_cast<double>(i) / 100000 * 30 - 15);
      dy[i] = i % 2 ? 1.0f : -1.0f;
    }
    test::call("gelu_tanh", {x.view()}, {y.view()});
    test::call("gelu_tanh_grad", {dy.view(), x.view()}, {dx.view()});
    for (int64_t i = 0; i < x.count(); i++) {
      const double expected = gelu_tanh(x[i]);
      CHECK_NEAR(y[i], expected, 1e-7 + 3e-7 * std::fabs(expected));
      CHECK_NEAR(dx[i], dy[i] * gelu_tanh_slope(x[i]), 2e-7);
    }
  });
}

// Where its cube would overflow, where nothing is left, and where there is no number.
TEST(gelu_by_tanh_at_the_ends) {
  test::each_isa([] {
    const float inf = INFINITY, given[] = {0.0f, 1e-45f, 13.0f, 100.0f, 3e38f, inf, -13.0f, -100.0f, -3e38f, -inf, NAN};
    for (float v : given) {
      test::Array x = test::Array::f32({1}), y = test::Array::f32({1}), dy = test::Array::f32({1}),
                  dx = test::Array::f32({1});
      x[0] = v;
      dy[0] = 1;
      test::call("gelu_tanh", {x.view()}, {y.view()});
      test::call("gelu_tanh_grad", {dy.view(), x.view()}, {dx.view()});
      if (std::isnan(v)) CHECK(std::isnan(y[0]) && std::isnan(dx[0]));
      else if (v > 1) CHECK(y[0] == v && dx[0] == 1);
      else if (v >= 0) CHECK(y[0] <= v && dx[0] == 0.5f);
      else CHECK(!(std::fabs(y[0]) > 0) && dx[0] == 0);  // -inf times 0
    }
  });
}

TEST(gelu_grad_within_a_unit_of_1) {
  test::each_isa([] {
    constexpr int64_t kCount = 100001;
    test::Array x = test::Array::f32({kCount}), dy = test::Array::f32({kCount}), dx = test::Array::f32({kCount});
    for (int64_t i = 0; i < kCount; i++) {
      x[i] = static_cast<float>(static_cast<double>(i) / (kCount - 1) * 30 - 15);
      dy[i] = i % 2 ? 1.0f : -1.0f;
    }
    test::call("gelu_grad", {dy.view(), x.view()}, {dx.view()});
    for (int64_t i = 0; i < kCount; i++) {
      const double density = std::exp(-0.5 * x[i] * x[i]) / std::sqrt(2 * std::acos(-1.0));
      CHECK_NEAR(dx[i], dy[i] * (normal_cdf(x[i]) + x[i] * density), 1.3e-7);
    }
  });
}

// Where one polynomial ends, where nothing is left, and where there is no number.
TEST(tanh_and_gelu_at_the_ends) {
  test::each_isa([] {
    const float inf = INFINITY, far[] = {0.0f, 1e-45f, 9.0f, 9.02f, 12.9f, 13.0f, 13.2f, 100.0f, 3e38f, inf, NAN};
    for (float sign : {1.0f, -1.0f})
      for (float a : far) {
        test::Array x = test::Array::f32({1}), y = test::Array::f32({1}), z = test::Array::f32({1});
        x[0] = std::copysign(a, sign);
        test::call("tanh", {x.view()}, {y.view()});
        test::call("gelu", {x.view()}, {z.view()});
        if (std::isnan(a)) {
          CHECK(std::isnan(y[0]) && std::isnan(z[0]));
          continue;
        }
        CHECK((a == 0 || std::signbit(y[0]) == std::signbit(x[0])) &&
              (a < 9.02f ? std::fabs(y[0]) <= 1 : std::fabs(y[0]) == 1));
        if (a == inf) {
          CHECK(sign > 0 ? z[0] == inf : !(std::fabs(z[0]) > 0));  // -inf times 0
        } else {
          const double expected = double{x[0]} * normal_cdf(x[0]);
          CHECK_NEAR(z[0], expected, 1e-36 + 1e-5 * std::fabs(expected));
        }
      }
  });
}
