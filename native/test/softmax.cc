// Softmax and cross entropy against float64: few classes, many classes, far logits.
#include <algorithm>

#include "core/parallel.h"
#include "harness.h"

namespace {

struct Shape {
  int64_t rows, classes;
  float scale;
};

const Shape kShapes[] = {{1, 1, 1},    {5, 2, 3},    {300, 10, 1},   {7, 15, 2},   {3, 16, 30},   {4, 17, 1},
                         {2, 33, 5},   {3, 1000, 1}, {2, 1023, 100}, {2, 1025, 1}, {2, 30522, 3}, {1, 2048, 1},
                         {1100, 1, 1}, {0, 10, 1},   {37, 5, 2},     {29, 8, 1},   {19, 12, 30},  {600, 7, 1},
                         {11, 50, 1},  {5, 100, 1},  {40, 16, 3},    {35, 9, 2},   {6, 64, 2}};

// Exact log of the sum of exponentials of a row.
double log_sum_exp(const float* x, int64_t n) {
  double top = -INFINITY, sum = 0;
  for (int64_t i = 0; i < n; i++) top = std::max(top, double(x[i]));
  for (int64_t i = 0; i < n; i++) sum += std::exp(x[i] - top);
  return top + std::log(sum);
}

}  // namespace

TEST(softmax_and_gradients) {
  test::each_isa([] {
    for (const Shape& s : kShapes) {
      const int64_t n = s.classes;
      test::Array x = test::Array::normal({s.rows, n}, 1, s.scale), dy = test::Array::normal({s.rows, n}, 2);
      for (int64_t i = 0; i < x.count(); i++) x[i] += 1000;  // overflows without the shift by the maximum
      test::Array y = test::Array::f32({s.rows, n}), dx = test::Array::f32({s.rows, n});
      test::Array l = test::Array::f32({s.rows, n}), dl = test::Array::f32({s.rows, n});
      test::call("softmax", {x.view()}, {y.view()});
      test::call("softmax_grad", {dy.view(), y.view()}, {dx.view()});
      test::call("log_softmax", {x.view()}, {l.view()});
      test::call("log_softmax_grad", {dy.view(), l.view()}, {dl.view()});
      for (int64_t r = 0; r < s.rows; r++) {
        const double lse = log_sum_exp(x.f32() + r * n, n);
        double dot = 0, sum = 0, size = 0;
        for (int64_t i = r * n; i < (r + 1) * n; i++) {
          CHECK_NEAR(y[i], std::exp(x[i] - lse), 1e-6 * std::exp(x[i] - lse) + 1e-37);
          CHECK_NEAR(l[i], x[i] - lse, 4e-7 * (1 + std::fabs(x[i] - lse)));  // not a unit of 1000
          dot += double(dy[i]) * y[i];
          sum += dy[i];
          size += std::fabs(dy[i]);
        }
        for (int64_t i = r * n; i < (r + 1) * n; i++) {
          CHECK_NEAR(dx[i], y[i] * (dy[i] - dot), 1e-6 * y[i] * (1 + std::fabs(dy[i])) + 1e-37);
          CHECK_NEAR(dl[i], dy[i] - std::exp(double(l[i])) * sum,
                     1e-6 * (std::fabs(dy[i]) + std::exp(double(l[i])) * size));
        }
      }
    }
  });
}

TEST(softmax_of_rows_with_a_nan_or_an_infinity) {
  test::each_isa([] {
    for (int64_t n : {2, 7, 10, 16, 40, 64, 100}) {
      test::Array x = test::Array::normal({40, n}, 6), y = test::Array::f32({40, n});
      x[5 * n + 1] = NAN;
      x[6 * n + 1] = -INFINITY;
      test::call("softmax", {x.view()}, {y.view()});
      for (int64_t r = 0; r < 40; r++) {
        double sum = 0;
        for (int64_t i = 0; i < n; i++) sum += y[r * n + i];
        if (r != 5) CHECK_NEAR(sum, 1, 1e-6);
        else
          for (int64_t i = 0; i < n; i++) CHECK(std::isnan(y[r * n + i]));
      }
      CHECK(y[6 * n + 1] == 0);
    }
  });
}

TEST(cross_entropy_and_gradient) {
  test::each_isa([] {
    for (const Shape& s : kShapes)
      for (double smooth : {0.0, 0.1}) {
        const int64_t n = s.classes;
        test::Array x = test::Array::normal({s.rows, n}, 3, s.scale), up = test::Array::normal({s.rows}, 4);
        for (int64_t i = 0; i < x.count(); i++)
          x[i] += 1000;  // digits of the loss, were it a difference of such numbers
        test::Array labels(auxgrad::DType::i32, {s.rows});
        for (int64_t r = 0; r < s.rows; r++) labels.i32()[r] = r % 7 == 6 ? -100 : static_cast<int32_t>(r * 7919 % n);
        test::Array loss = test::Array::f32({s.rows}), log = test::Array::f32({s.rows}),
                    dx = test::Array::f32({s.rows, n});
        test::call("cross_entropy", {x.view(), labels.view()}, {loss.view(), log.view()}, {smooth, -100});
        test::call("cross_entropy_grad", {up.view(), x.view(), labels.view(), log.view()}, {dx.view()}, {smooth, -100});
        for (int64_t r = 0; r < s.rows; r++) {
          const float* row = x.f32() + r * n;
          const int64_t label = labels.i32()[r];
          const double exact = log_sum_exp(row, n);
          double expected = 0, mean = 0;
          for (int64_t i = 0; i < n; i++) mean += row[i] / double(n);
          if (label >= 0) expected = (1 - smooth) * (exact - row[label]) + smooth * (exact - mean);
          const double top = *std::max_element(row, row + n);
          CHECK_NEAR(log[r], exact - top, 4e-7 * (1 + exact - top));
          CHECK_NEAR(loss[r], expected, 1e-6 * (1 + std::fabs(expected) + s.scale));
          for (int64_t i = 0; i < n; i++) {
            const double target = (i == label ? 1 - smooth : 0) + smooth / double(n);
            const double g = label < 0 ? 0 : up[r] * (std::exp(row[i] - exact) - target);
            CHECK_NEAR(dx[r * n + i], g, 4e-7 * (s.scale + 1) * std::fabs(up[r]));
          }
        }
      }
  });
}

TEST(cross_entropy_refuses_labels_out_of_range) {
  test::Array x = test::Array::normal({2, 3}, 1), loss = test::Array::f32({2}), log = test::Array::f32({2});
  test::Array labels(auxgrad::DType::i32, {2});
  labels.i32()[0] = 0, labels.i32()[1] = 3;
  auxgrad::Failure failure;
  CHECK(!test::call("cross_entropy", {x.view(), labels.view()}, {loss.view(), log.view()}, {0, -100}, &failure));
  CHECK(std::string(failure.message).find("label 3 at row 1 is not in [0, 3)") != std::string::npos);
}

TEST(softmax_of_infinities_and_nan) {
  test::each_isa([] {
    for (int64_t n : {3, 16, 40, 1100}) {
      test::Array x = test::Array::normal({3, n}, 1), y = test::Array::f32({3, n}), l = test::Array::f32({3, n});
      x[1] = -INFINITY;  // a masked position: probability 0, the others as without it
      x[n + 2] = NAN;    // spreads over its row only
      test::call("softmax", {x.view()}, {y.view()});
      test::call("log_softmax", {x.view()}, {l.view()});
      CHECK(y[1] == 0 && l[1] == -INFINITY);
      double sum = 0;
      for (int64_t i = 0; i < n; i++) {
        sum += y[i];
        CHECK(std::isnan(y[n + i]) && std::isnan(l[n + i]));
        CHECK(std::isfinite(y[2 * n + i]) && std::isfinite(l[2 * n + i]));
      }
      CHECK_NEAR(sum, 1, 1e-6);
    }
  });
}

TEST(softmax_same_bits_for_any_threads_and_in_place) {
  test::each_isa([] {
    for (const Shape& s : {Shape{1000, 10, 1}, Shape{70, 500, 1}, Shape{3, 9000, 1}}) {
      std::vector<float> first;
      for (int threads : {1, 2, 5}) {
        auxgrad::set_threads(threads);
        test::Array x = test::Array::normal({s.rows, s.classes}, 5, s.scale);
        test::call("softmax", {x.view()}, {x.view()});
        const std::vector<float> now(x.f32(), x.f32() + x.count());
        if (threads == 1) first = now;
        CHECK(first == now);
      }
    }
    auxgrad::set_threads(auxgrad::default_threads());
  });
}
