#include "convolution.h"
#include "harness.h"

namespace {

struct Packed {
  test::Array codes, ranges;
};

Packed packed(test::Array& x, int64_t tokens, int64_t channels, int64_t groups) {
  Packed p = {test::Array(auxgrad::DType::u32, {(tokens + 15) / 16, channels}), test::Array::f32({groups, 2})};
  test::call("code2_pack", {x.view()}, {p.codes.view(), p.ranges.view()});
  return p;
}

// What the codes stand for, in float64.
std::vector<double> values(Packed& p, int64_t tokens, int64_t channels, int64_t groups) {
  std::vector<double> v;
  for (int64_t t = 0; t < tokens; t++)
    for (int64_t c = 0; c < channels; c++) {
      const int64_t group = t / (tokens / groups);
      const uint32_t q = p.codes.u32()[t / 16 * channels + c] >> (t % 16 * 2) & 3u;
      v.push_back(q * static_cast<double>(p.ranges[2 * group + 1]) / 3 + static_cast<double>(p.ranges[2 * group]));
    }
  return v;
}

void check_pack(int64_t tokens, int64_t channels, int64_t groups) {
  test::Array x = test::Array::normal({tokens, channels}, 1);
  Packed p = packed(x, tokens, channels, groups);
  const std::vector<double> v = values(p, tokens, channels, groups);
  for (int64_t g = 0; g < groups; g++) {
    const int64_t n = tokens / groups * channels;
    float low = x[g * n], high = x[g * n];
    for (int64_t i = g * n; i < g * n + n; i++) low = std::fmin(low, x[i]), high = std::fmax(high, x[i]);
    CHECK(p.ranges[2 * g] == low && p.ranges[2 * g + 1] == high - low);
    // Nearest of levels r / 3 apart: at most half of that away.
    const double r = static_cast<double>(high) - static_cast<double>(low);
    for (int64_t i = g * n; i < g * n + n; i++)
      CHECK(std::fabs(v[static_cast<size_t>(i)] - static_cast<double>(x[i])) <= r / 6 * (1 + 1e-5));
  }
  for (int64_t t = tokens; t < (tokens + 15) / 16 * 16; t++)
    for (int64_t c = 0; c < channels; c++) CHECK((p.codes.u32()[t / 16 * channels + c] >> (t % 16 * 2) & 3u) == 0);

  test::Array y = test::Array::f32({tokens, channels});
  test::call("code2_unpack", {p.codes.view(), p.ranges.view()}, {y.view()});
  CHECK(test::relative_error(y.f32(), v.data(), y.count()) <= 2e-7);
  // Values that have a code keep it.
  Packed again = packed(y, tokens, channels, groups);
  CHECK(std::memcmp(p.codes.data(), again.codes.data(), static_cast<size_t>(p.codes.count()) * 4) == 0);
}

void check_linear(int64_t tokens, int64_t outputs, int64_t inputs) {
  test::Array x = test::Array::normal({tokens, inputs}, 1), delta = test::Array::normal({tokens, outputs}, 2);
  for (int64_t i = 0; i < x.count(); i++) x[i] += 0.5f;
  Packed p = packed(x, tokens, inputs, tokens);
  const std::vector<double> v = values(p, tokens, inputs, tokens);
  test::Array dw = test::Array::f32({outputs, inputs});
  test::call("linear_code2_weight_grad", {delta.view(), p.codes.view(), p.ranges.view()}, {dw.view()}, {0.5});
  std::vector<double> expected;
  for (int64_t o = 0; o < outputs; o++)
    for (int64_t i = 0; i < inputs; i++) {
      double sum = 0;
      for (int64_t t = 0; t < tokens; t++)
        sum += 0.5 * static_cast<double>(delta[t * outputs + o]) * v[static_cast<size_t>(t * inputs + i)];
      expected.push_back(sum);
    }
  CHECK(test::relative_error(dw.f32(), expected.data(), dw.count()) <= 1e-6);
}

void check_conv(const test::SquareConvolution& layer) {
  const test::Convolution s = layer;
  const int64_t tokens = s.n * s.h * s.w;
  test::Array x = test::Array::normal(s.x(), 1), dy = test::Array::normal(s.y(), 2);
  for (int64_t i = 0; i < x.count(); i++) x[i] += 0.5f;
  Packed p = packed(x, tokens, s.c, s.n);
  const std::vector<double> v = values(p, tokens, s.c, s.n);
  test::Array dw = test::Array::f32(s.weight());
  std::vector<double> numbers = s.numbers(), expected(static_cast<size_t>(dw.count()));
  numbers.insert(numbers.end(), {double(s.h), double(s.w), 0.5});
  test::call("conv2d_code2_weight_grad", {dy.view(), p.codes.view(), p.ranges.view()}, {dw.view()}, numbers);
  test::each_product(s, [&](int64_t o, int64_t i, int64_t k) {
    expected[static_cast<size_t>(k)] += 0.5 * static_cast<double>(dy[o]) * v[static_cast<size_t>(i)];
  });
  CHECK(test::relative_error(dw.f32(), expected.data(), dw.count()) <= 1e-6);
}

}  // namespace

TEST(code2_pack_is_nearest_within_its_range) {
  test::each_isa([] {
    check_pack(1, 1, 1);
    check_pack(33, 37, 33);
    check_pack(48, 16, 3);
    check_pack(96, 21, 2);
  });
}

TEST(code2_of_constant_and_nan) {
  test::each_isa([] {
    test::Array x = test::Array::f32({2, 19});
    for (int i = 0; i < 38; i++) x[i] = 7.0f;
    x[20] = NAN;
    Packed p = packed(x, 2, 19, 2);
    CHECK(p.ranges[0] == 7.0f && p.ranges[1] == 0.0f && std::isnan(p.ranges[2]) && std::isnan(p.ranges[3]));
    for (int c = 0; c < 19; c++) CHECK(p.codes.u32()[c] == 0);
  });
}

TEST(code2_ranges_must_divide_the_tokens) {
  test::Array x = test::Array::integers({5, 3}, 1), codes(auxgrad::DType::u32, {1, 3}),
              ranges = test::Array::f32({2, 2});
  auxgrad::Failure failure;
  CHECK(!test::call("code2_pack", {x.view()}, {codes.view(), ranges.view()}, {}, &failure));
  CHECK(failure.code == auxgrad::ErrorCode::invalid_argument);
}

TEST(linear_code2_weight_grad_equals_dense_values) {
  test::each_isa([] {
    check_linear(1, 1, 1);
    check_linear(131, 13, 37);
    check_linear(400, 70, 16);
    check_linear(0, 3, 5);
    check_linear(3000, 9, 50);
  });
}

// Few columns and many, in blocks of 16 that are summed one, two or four at a time; tokens that end anywhere in a word.
TEST(linear_code2_weight_grad_of_any_size) {
  test::each_isa([] {
    const int64_t tokens[] = {15, 17, 32, 47, 63, 65, 129, 385, 401}, outputs[] = {1, 4, 16, 17, 31, 40};
    int turn = 0;
    for (int64_t blocks = 1; blocks <= 13; blocks++)
      for (int64_t inputs : {blocks * 16, blocks * 16 - 5}) {
        check_linear(tokens[turn % 9], outputs[turn % 6], inputs);
        turn++;
      }
  });
}

// Deltas that are integers, on ranges whose levels are -1 ... 2, are summed without rounding.
TEST(linear_code2_weight_grad_is_exact_for_integers) {
  test::each_isa([] {
    for (int64_t inputs : {20, 150}) {
      const int64_t tokens = 777, outputs = 19;
      test::Array x = test::Array::integers({tokens, inputs}, 1), delta = test::Array::integers({tokens, outputs}, 2);
      for (int64_t i = 0; i < x.count(); i++)
        x[i] = i % inputs < 2 ? static_cast<float>(i % inputs * 3 - 1) : std::fmod(std::fabs(x[i]), 4.0f) - 1.0f;
      Packed p = packed(x, tokens, inputs, tokens);
      test::Array dw = test::Array::f32({outputs, inputs});
      test::call("linear_code2_weight_grad", {delta.view(), p.codes.view(), p.ranges.view()}, {dw.view()}, {1});
      for (int64_t o = 0; o < outputs; o++)
        for (int64_t i = 0; i < inputs; i++) {
          float sum = 0;
          for (int64_t t = 0; t < tokens; t++) sum += delta[t * outputs + o] * x[t * inputs + i];
          CHECK(dw[o * inputs + i] == sum);
        }
    }
  });
}

TEST(conv2d_code2_weight_grad_equals_dense_values) {
  test::each_isa([] {
    check_conv({2, 7, 6, 3, 5, 3, 1, 1, 1, 1});
    check_conv({2, 9, 11, 17, 10, 3, 2, 1, 1, 1});
    check_conv({3, 8, 8, 4, 6, 1, 1, 0, 1, 2});
    check_conv({2, 11, 10, 1, 70, 7, 2, 3, 1, 1});
    check_conv({1, 12, 13, 6, 6, 3, 1, 2, 2, 6});
    check_conv({1, 9, 9, 4, 4, 2, 3, 0, 1, 1});
    check_conv({2, 21, 20, 18, 21, 3, 1, 1, 1, 1});  // several steps, each with padding
  });
}

// Codes in a place of each thread, and shared by more of them.
TEST(code2_weight_grads_do_not_depend_on_threads) {
  test::each_isa([] {
    test::Array x = test::Array::normal({3, 20, 20, 40}, 1), dy = test::Array::normal({3, 20, 20, 72}, 2);
    Packed p = packed(x, 1200, 40, 3);
    test::Array first = test::Array::f32({72, 3, 3, 40});
    for (int threads : {1, 2, 5}) {
      auxgrad::set_threads(threads);
      test::Array dw = test::Array::f32({72, 3, 3, 40});
      test::call("conv2d_code2_weight_grad", {dy.view(), p.codes.view(), p.ranges.view()},
                 {threads == 1 ? first.view() : dw.view()}, {1, 1, 1, 1, 1, 1, 1, 20, 20, 1});
      if (threads > 1) CHECK(std::memcmp(first.data(), dw.data(), static_cast<size_t>(dw.count()) * 4) == 0);
    }
    auxgrad::set_threads(auxgrad::default_threads());
  });
}
