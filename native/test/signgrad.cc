#include "harness.h"

namespace {

test::Array packed(test::Array& x, int64_t tokens, int64_t channels) {
  test::Array signs(auxgrad::DType::u32, {(tokens + 31) / 32, channels});
  test::call("sign_pack", {x.view()}, {signs.view()});
  CHECK(signs.guards_intact());
  return signs;
}

float sign_of(float x, int alphabet) { return x > 0 ? 1.0f : alphabet ? 0.0f : -1.0f; }

void check_linear(int64_t tokens, int64_t outputs, int64_t inputs, int alphabet) {
  test::Array x = test::Array::integers({tokens, inputs}, 1), delta = test::Array::normal({tokens, outputs}, 2);
  test::Array signs = packed(x, tokens, inputs), dw = test::Array::f32({outputs, inputs});
  test::call("linear_sign_weight_grad", {delta.view(), signs.view()}, {dw.view()}, {0.5, static_cast<double>(alphabet)});
  std::vector<double> expected;
  for (int64_t o = 0; o < outputs; o++)
    for (int64_t i = 0; i < inputs; i++) {
      double sum = 0;
      for (int64_t t = 0; t < tokens; t++)
        sum += 0.5 * delta[t * outputs + o] * static_cast<double>(sign_of(x[t * inputs + i], alphabet));
      expected.push_back(sum);
    }
  CHECK(test::relative_error(dw.f32(), expected.data(), dw.count()) <= 1e-6);
  CHECK(dw.guards_intact());
}

void check_conv(int64_t side, int64_t C, int64_t O, int64_t K, int64_t stride, int64_t pad, int64_t groups, int alphabet) {
  const int64_t N = 2, P = (side + 2 * pad - K) / stride + 1, depth = C / groups;
  test::Array x = test::Array::integers({N, side, side, C}, 1), dy = test::Array::integers({N, P, P, O}, 2);
  test::Array signs = packed(x, N * side * side, C), dw = test::Array::f32({O, K, K, depth});
  const auto d = [](int64_t v) { return static_cast<double>(v); };
  test::call("conv2d_sign_weight_grad", {dy.view(), signs.view()}, {dw.view()},
             {d(stride), d(stride), d(pad), d(pad), 1, 1, d(groups), d(side), d(side), 1.0, d(alphabet)});
  for (int64_t o = 0; o < O; o++)
    for (int64_t kh = 0; kh < K; kh++)
      for (int64_t kw = 0; kw < K; kw++)
        for (int64_t c = 0; c < depth; c++) {
          float sum = 0;  // exact: small integers
          for (int64_t n = 0; n < N; n++)
            for (int64_t p = 0; p < P; p++)
              for (int64_t q = 0; q < P; q++) {
                const int64_t h = p * stride - pad + kh, w = q * stride - pad + kw;
                if (h < 0 || h >= side || w < 0 || w >= side) continue;
                const int64_t channel = o / (O / groups) * depth + c;
                sum += dy[((n * P + p) * P + q) * O + o] *
                       sign_of(x[((n * side + h) * side + w) * C + channel], alphabet);
              }
          CHECK(dw[((o * K + kh) * K + kw) * depth + c] == sum);
        }
  CHECK(dw.guards_intact());
}

}  // namespace

TEST(linear_sign_weight_grad_equals_dense_signs) {
  test::each_isa([] {
    for (int alphabet : {0, 1}) {
      check_linear(1, 1, 1, alphabet);
      check_linear(131, 13, 37, alphabet);
      check_linear(96, 8, 16, alphabet);
      check_linear(0, 3, 5, alphabet);
      check_linear(3000, 9, 50, alphabet);
    }
  });
}

TEST(conv2d_sign_weight_grad_equals_dense_signs) {
  test::each_isa([] {
    for (int alphabet : {0, 1}) {
      check_conv(7, 3, 5, 3, 1, 1, 1, alphabet);
      check_conv(9, 17, 10, 3, 2, 1, 1, alphabet);
      check_conv(8, 4, 6, 1, 1, 0, 2, alphabet);
      check_conv(11, 1, 70, 7, 2, 3, 1, alphabet);
    }
  });
}

TEST(signs_of_zero_and_nan_are_not_set) {
  test::each_isa([] {
    test::Array x = test::Array::f32({4, 1});
    x[0] = 0.0f, x[1] = -0.0f, x[2] = NAN, x[3] = 1.0f;
    test::Array signs = packed(x, 4, 1);
    CHECK(signs.u32()[0] == 8u);
  });
}
