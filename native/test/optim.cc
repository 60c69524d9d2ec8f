// Parameter updates against the published formulas in float64, several steps in a row.
#include "harness.h"

namespace {

test::Array scalar(float v) {
  test::Array a = test::Array::f32({});
  a[0] = v;
  return a;
}

std::vector<double> doubles(test::Array& a) { return {a.f32(), a.f32() + a.count()}; }

}  // namespace

TEST(sgd_update_steps) {
  test::each_isa([] {
    for (int64_t n : {0, 1, 15, 16, 17, 33, 40001})
      for (double momentum : {0.0, 0.9})
        for (int nesterov : {0, 1}) {
          test::Array w = test::Array::normal({n}, 1), buffer = test::Array::f32({n}), lr = scalar(0.1f),
                      scale = scalar(0.5f);
          for (int64_t i = 0; i < n; i++) buffer[i] = 0;
          std::vector<double> w_ = doubles(w), b_(static_cast<size_t>(n));
          for (uint32_t step = 0; step < 3; step++) {
            test::Array g = test::Array::normal({n}, 2 + step);
            test::call("sgd_update", {g.view(), lr.view(), scale.view()},
                       {w.view(), momentum ? buffer.view() : test::absent()}, {momentum, double(nesterov), 0.01});
            for (size_t i = 0; i < w_.size(); i++) {
              double d = 0.5 * g[int64_t(i)] + 0.01 * w_[i];
              if (momentum) {
                b_[i] = momentum * b_[i] + d;
                d = nesterov ? d + momentum * b_[i] : b_[i];
              }
              w_[i] -= double(lr[0]) * d;
            }
          }
          for (int64_t i = 0; i < n; i++) CHECK_NEAR(w[i], w_[size_t(i)], 6e-7 * (1 + std::fabs(w_[size_t(i)])));
          CHECK(w.guards_intact() && buffer.guards_intact());
        }
  });
}

TEST(adam_update_steps) {
  test::each_isa([] {
    for (int64_t n : {0, 1, 15, 16, 17, 33, 40001})
      for (int decoupled : {0, 1}) {
        test::Array w = test::Array::normal({n}, 1), m = test::Array::f32({n}), v = test::Array::f32({n});
        test::Array lr = scalar(1e-2f);
        for (int64_t i = 0; i < n; i++) m[i] = v[i] = 0;
        std::vector<double> w_ = doubles(w), m_(static_cast<size_t>(n)), v_(static_cast<size_t>(n));
        for (int step = 1; step <= 4; step++) {
          test::Array g = test::Array::normal({n}, uint32_t(1 + step)), count = scalar(float(step));
          test::call("adam_update", {g.view(), lr.view(), count.view()}, {w.view(), m.view(), v.view()},
                     {0.9, 0.999, 1e-8, 0.1, double(decoupled)});
          for (size_t i = 0; i < w_.size(); i++) {
            const double d = g[int64_t(i)] + (decoupled ? 0 : 0.1 * w_[i]), rate = lr[0];
            m_[i] = 0.9 * m_[i] + 0.1 * d;
            v_[i] = 0.999 * v_[i] + 0.001 * d * d;
            const double mean = m_[i] / (1 - std::pow(0.9, step)), square = v_[i] / (1 - std::pow(0.999, step));
            if (decoupled) w_[i] *= 1 - rate * 0.1;
            w_[i] -= rate * mean / (std::sqrt(square) + 1e-8);
          }
        }
        // 1 - 0.999 in float is off by 5e-8 of 1e-3: 5e-5 of v, half of that in a step of at most 1e-2.
        for (int64_t i = 0; i < n; i++) CHECK_NEAR(w[i], w_[size_t(i)], 2e-6 + 3e-7 * std::fabs(w_[size_t(i)]));
        CHECK(w.guards_intact() && m.guards_intact() && v.guards_intact());
      }
  });
}

TEST(running_update_and_accumulate) {
  test::each_isa([] {
    for (int64_t n : {0, 1, 17, 40001}) {
      test::Array r = test::Array::normal({n}, 1), x = test::Array::normal({n}, 2),
                  total = test::Array::integers({n}, 3);
      test::Array add = test::Array::integers({n}, 4);
      const std::vector<double> before = doubles(r), sums = doubles(total);
      test::call("running_update", {x.view()}, {r.view()}, {0.1, 1.25});
      test::call("accumulate", {add.view()}, {total.view()});
      for (int64_t i = 0; i < n; i++) {
        CHECK_NEAR(r[i], 0.9 * before[size_t(i)] + 0.125 * x[i], 3e-7 * (1 + std::fabs(x[i])));
        CHECK(total[i] == sums[size_t(i)] + add[i]);
      }
      CHECK(r.guards_intact() && total.guards_intact());
    }
  });
}
