#include "harness.h"

namespace {

void check_matmul(int64_t batch, int64_t m, int64_t n, int64_t k, bool ta, bool tb, bool exact) {
  const auto make = exact ? [](std::vector<int64_t> s, uint32_t seed) { return test::Array::integers(s, seed); }
                          : [](std::vector<int64_t> s, uint32_t seed) { return test::Array::normal(s, seed); };
  test::Array a = ta ? make({batch, k, m}, 1) : make({batch, m, k}, 1);
  test::Array b = tb ? make({batch, n, k}, 2) : make({batch, k, n}, 2);
  test::Array c = test::Array::f32({batch, m, n});
  const auxgrad::View va = ta ? test::permuted(a.view(), {0, 2, 1}) : a.view();
  const auxgrad::View vb = tb ? test::permuted(b.view(), {0, 2, 1}) : b.view();
  test::call("matmul", {va, vb}, {c.view()}, {1.0});
  std::vector<double> expected(static_cast<size_t>(batch * m * n));
  for (int64_t p = 0; p < batch; p++)
    for (int64_t i = 0; i < m; i++)
      for (int64_t j = 0; j < n; j++) {
        double sum = 0;
        for (int64_t q = 0; q < k; q++)
          sum += static_cast<double>(va.f32()[p * m * k + i * va.stride[1] + q * va.stride[2]]) *
                 vb.f32()[p * k * n + q * vb.stride[1] + j * vb.stride[2]];
        expected[static_cast<size_t>((p * m + i) * n + j)] = sum;
      }
  CHECK(c.guards_intact());
  const double error = test::relative_error(c.f32(), expected.data(), c.count());
  CHECK(error <= (exact ? 0.0 : 1e-6));
}

}  // namespace

TEST(matmul_equals_the_reference) {
  test::each_isa([] {
    for (bool exact : {true, false})
      for (int t = 0; t < 4; t++) {
        check_matmul(1, 1, 1, 1, t & 1, t & 2, exact);
        check_matmul(1, 37, 61, 67, t & 1, t & 2, exact);
        check_matmul(3, 13, 33, 5, t & 1, t & 2, exact);
        check_matmul(1, 5, 7, 0, t & 1, t & 2, exact);
        check_matmul(1, 200, 40, 600, t & 1, t & 2, exact);
        check_matmul(1, 9, 17, 9001, t & 1, t & 2, exact);  // K in parts
      }
    check_matmul(1, 0, 3, 4, false, false, true);
  });
}

TEST(linear_adds_its_bias_after_the_last_block) {
  test::each_isa([] {
    test::Array x = test::Array::integers({29, 700}, 1), w = test::Array::integers({35, 700}, 2);
    test::Array bias = test::Array::integers({35}, 3), y = test::Array::f32({29, 35});
    test::call("linear", {x.view(), w.view(), bias.view()}, {y.view()});
    for (int64_t i = 0; i < 29; i++)
      for (int64_t j = 0; j < 35; j++) {
        float sum = bias[j];
        for (int64_t k = 0; k < 700; k++) sum += x[i * 700 + k] * w[j * 700 + k];
        CHECK(y[i * 35 + j] == sum);
      }
  });
}
