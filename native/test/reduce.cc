// Reductions over any axes against float64.
#include "core/parallel.h"
#include "harness.h"

namespace {

struct Shape {
  std::vector<int64_t> shape;
  std::vector<double> axes;  // reduced
};

const Shape kShapes[] = {{{1}, {0}},
                         {{15}, {0}},
                         {{16}, {0}},
                         {{17}, {0}},
                         {{63, 5}, {1}},
                         {{5, 63}, {1}},
                         {{5, 65}, {1}},
                         {{3, 1000}, {1}},
                         {{3, 1000}, {0}},
                         {{700, 33}, {0}},
                         {{200, 9, 33}, {0, 1}},
                         {{4, 5, 6}, {1}},
                         {{4, 5, 6}, {0, 2}},
                         {{4, 5, 6}, {1, 2}},
                         {{4, 5, 6}, {0, 1, 2}},
                         {{200001}, {0}},
                         {{2, 70000}, {1}},
                         {{3, 1, 4}, {1}},
                         {{1, 7}, {0}},
                         {{4, 5}, {}},
                         {{9, 130, 1030}, {1}},
                         {{40, 3, 70, 12}, {0, 2}},
                         {{3, 900, 5}, {0, 2}},
                         {{50, 2}, {1}},
                         {{37, 3}, {1}},
                         {{41, 12}, {1}},
                         {{9, 16}, {1}},
                         {{50000, 3}, {0}}};

// Calls f(output, input) for every element; returns the number of outputs.
template <class F>
int64_t each_element(const Shape& s, const F& f) {
  std::vector<bool> gone(s.shape.size());
  for (double a : s.axes) gone[size_t(a)] = true;
  int64_t count = 1, outputs = 1;
  for (size_t a = 0; a < s.shape.size(); a++) count *= s.shape[a], outputs *= gone[a] ? 1 : s.shape[a];
  for (int64_t i = 0; i < count; i++) {
    int64_t rest = i, out = 0, step = 1;
    for (size_t a = s.shape.size(); a-- > 0;) {
      if (!gone[a]) out += rest % s.shape[a] * step, step *= s.shape[a];
      rest /= s.shape[a];
    }
    f(out, i);
  }
  return outputs;
}

}  // namespace

TEST(sum_mean_and_extremes) {
  test::each_isa([] {
    uint32_t seed = 1;
    for (const Shape& s : kShapes) {
      test::Array x = test::Array::normal(s.shape, seed++);
      for (int64_t i = 0; i < x.count(); i++) x[i] += 10;
      const int64_t n = each_element(s, [](int64_t, int64_t) {});
      const size_t size = static_cast<size_t>(n);
      std::vector<double> sum(size), top(size, -INFINITY), low(size, INFINITY), terms(size);
      each_element(s, [&](int64_t o, int64_t i) {
        sum[size_t(o)] += x[i];
        terms[size_t(o)]++;
        top[size_t(o)] = std::max(top[size_t(o)], double(x[i]));
        low[size_t(o)] = std::min(low[size_t(o)], double(x[i]));
      });
      test::Array y = test::Array::f32({n}), m = test::Array::f32({n}), a = test::Array::f32({n}),
                  b = test::Array::f32({n});
      test::call("sum", {x.view()}, {y.view()}, s.axes);
      test::call("mean", {x.view()}, {m.view()}, s.axes);
      test::call("max", {x.view()}, {a.view()}, s.axes);
      test::call("min", {x.view()}, {b.view()}, s.axes);
      for (int64_t o = 0; o < n; o++) {
        // All terms have one sign: rounding of at most some thirty float additions, whatever the number of terms.
        CHECK_NEAR(y[o], sum[size_t(o)], 4e-7 * std::fabs(sum[size_t(o)]));
        CHECK_NEAR(m[o], sum[size_t(o)] / terms[size_t(o)], 4e-7 * std::fabs(sum[size_t(o)]) / terms[size_t(o)]);
        CHECK(a[o] == top[size_t(o)] && b[o] == low[size_t(o)]);
      }
    }
  });
}

// Dense inputs, and inputs whose elements are two apart.
TEST(norm_variance_product_and_log_sum_exp) {
  test::each_isa([] {
    uint32_t seed = 1;
    for (const Shape& s : kShapes)
      for (int64_t apart : {1, 2}) {
        std::vector<int64_t> shape = s.shape;
        shape.push_back(apart);
        test::Array x = test::Array::normal(shape, seed++, 0.1f);
        for (int64_t i = 0; i < x.count(); i++) x[i] += 1;
        auxgrad::View view = x.view();
        view.rank--;
        const int64_t n = each_element(s, [](int64_t, int64_t) {});
        const size_t size = static_cast<size_t>(n);
        std::vector<double> sum(size), square(size), product(size, 1), exp(size), var(size), terms(size);
        each_element(s, [&](int64_t o, int64_t i) {
          const double v = x[i * apart];
          const size_t at = static_cast<size_t>(o);
          sum[at] += v, square[at] += v * v, product[at] *= v, exp[at] += std::exp(v), terms[at]++;
        });
        each_element(s, [&](int64_t o, int64_t i) {
          const size_t at = static_cast<size_t>(o);
          var[at] += std::pow(x[i * apart] - sum[at] / terms[at], 2);
        });
        std::vector<double> corrected = {1};
        corrected.insert(corrected.end(), s.axes.begin(), s.axes.end());
        test::Array a = test::Array::f32({n}), b = test::Array::f32({n}), c = test::Array::f32({n}),
                    d = test::Array::f32({n});
        test::call("norm", {view}, {a.view()}, s.axes);
        test::call("var", {view}, {b.view()}, corrected);
        test::call("prod", {view}, {c.view()}, s.axes);
        test::call("log_sum_exp", {view}, {d.view()}, s.axes);
        for (int64_t o = 0; o < n; o++) {
          const size_t at = static_cast<size_t>(o);
          CHECK_NEAR(a[o], std::sqrt(square[at]), 1e-7 * std::sqrt(square[at]));
          if (terms[at] > 1) CHECK_NEAR(b[o], var[at] / (terms[at] - 1), 1e-6 * var[at] / (terms[at] - 1));
          else CHECK(std::isnan(b[o]));
          CHECK_NEAR(c[o], product[at], 1e-7 * std::fabs(product[at]) + 1e-45);
          CHECK_NEAR(d[o], std::log(exp[at]), 1e-6 * std::log(exp[at]));
        }
      }
  });
}

// Squares of what is large or small do not leave the range of numbers, and a mean far from zero costs no digits.
TEST(norm_and_variance_of_extreme_numbers) {
  test::each_isa([] {
    for (auto [scale, middle] : {std::pair<float, float>{1e30f, 0}, {1e-30f, 0}, {0.25f, 1e5f}}) {
      test::Array x = test::Array::integers({40, 300}, 1), y = test::Array::f32({300}), v = test::Array::f32({40});
      for (int64_t i = 0; i < x.count(); i++) x[i] = x[i] * scale + middle;
      test::call("norm", {x.view()}, {y.view()}, {0});
      for (int64_t c = 0; c < 300; c++) {
        double sum = 0;
        for (int64_t r = 0; r < 40; r++) sum += double(x[r * 300 + c]) * x[r * 300 + c];
        CHECK_NEAR(y[c], std::sqrt(sum), 1e-7 * std::sqrt(sum));
      }
      test::call("norm", {x.view()}, {v.view()}, {1});
      for (int64_t r = 0; r < 40; r++) {
        double sum = 0;
        for (int64_t c = 0; c < 300; c++) sum += double(x[r * 300 + c]) * x[r * 300 + c];
        CHECK_NEAR(v[r], std::sqrt(sum), 1e-7 * std::sqrt(sum));
      }
      if (middle == 0) continue;
      test::call("var", {x.view()}, {v.view()}, {0, 1});
      for (int64_t r = 0; r < 40; r++) {
        double sum = 0, squares = 0;
        for (int64_t c = 0; c < 300; c++) sum += x[r * 300 + c];
        for (int64_t c = 0; c < 300; c++) squares += std::pow(x[r * 300 + c] - sum / 300, 2);
        CHECK_NEAR(v[r], squares / 300, 1e-6 * squares / 300);
      }
    }
  });
}

// NaN beats infinity; of infinities alone the sum is one, too.
TEST(log_sum_exp_of_rows_with_no_numbers) {
  test::each_isa([] {
    for (int64_t n : {2, 10, 50}) {
      test::Array x = test::Array::normal({4, n}, 8), y = test::Array::f32({4});
      x[0] = INFINITY;
      x[1] = NAN;
      x[n] = INFINITY;
      for (int64_t i = 0; i < n; i++) x[2 * n + i] = -INFINITY;
      x[3 * n] = -INFINITY;
      test::call("log_sum_exp", {x.view()}, {y.view()}, {1});
      CHECK(std::isnan(y[0]) && y[1] == INFINITY && y[2] == -INFINITY && std::isfinite(y[3]));
    }
  });
}

// Of whole numbers and of truths, along axes first, last and in the middle.
TEST(reductions_of_whole_numbers_and_truths) {
  test::each_isa([] {
    for (const Shape& s : kShapes) {
      test::Array x(auxgrad::DType::i32, s.shape), t(auxgrad::DType::boolean, s.shape);
      for (int64_t i = 0; i < x.count(); i++) {
        x.i32()[i] = int32_t(i * 7919 % 2003) * 1000003 / 3 - 1000000;
        t.u8()[i] = i * 7919 % 2003 < 900;
      }
      const int64_t n = each_element(s, [](int64_t, int64_t) {});
      const size_t size = static_cast<size_t>(n);
      std::vector<int64_t> sum(size), top(size, INT32_MIN), low(size, INT32_MAX), some(size, 0), every(size, 1);
      each_element(s, [&](int64_t o, int64_t i) {
        const size_t at = static_cast<size_t>(o);
        sum[at] += x.i32()[i], top[at] = std::max<int64_t>(top[at], x.i32()[i]);
        low[at] = std::min<int64_t>(low[at], x.i32()[i]);
        some[at] |= t.u8()[i], every[at] &= t.u8()[i];
      });
      test::Array a(auxgrad::DType::i32, {n}), b(auxgrad::DType::i32, {n}), c(auxgrad::DType::i32, {n});
      test::Array d(auxgrad::DType::boolean, {n}), e(auxgrad::DType::boolean, {n});
      test::call("sum", {x.view()}, {a.view()}, s.axes);
      test::call("max", {x.view()}, {b.view()}, s.axes);
      test::call("min", {x.view()}, {c.view()}, s.axes);
      test::call("any", {t.view()}, {d.view()}, s.axes);
      test::call("all", {t.view()}, {e.view()}, s.axes);
      for (int64_t o = 0; o < n; o++) {
        const size_t at = static_cast<size_t>(o);
        CHECK(a.i32()[o] == static_cast<int32_t>(sum[at]));  // the lower bits, where it does not fit
        CHECK(b.i32()[o] == top[at] && c.i32()[o] == low[at]);
        CHECK(d.u8()[o] == some[at] && e.u8()[o] == every[at]);
      }
    }
  });
}

TEST(running_sums_along_any_axis) {
  test::each_isa([] {
    for (std::vector<int64_t> shape : {std::vector<int64_t>{3, 5, 7}, {2, 9, 1100}, {1, 40, 1}, {4, 1, 3}, {2, 0, 3}})
      for (int axis = 0; axis < 3; axis++)
        for (double reverse : {0, 1}) {
          test::Array x = test::Array::normal(shape, 1), y = test::Array::f32(shape);
          test::call("cumsum", {x.view()}, {y.view()}, {double(axis), reverse});
          const int64_t n = shape[size_t(axis)], inner = x.view().stride[axis];
          for (int64_t i = 0; i < x.count(); i++) {
            const int64_t place = i / inner % n, last = reverse != 0 ? n - 1 : 0, step = reverse != 0 ? -1 : 1;
            double sum = 0;
            for (int64_t k = last; k != place + step; k += step) sum += x[i + (k - place) * inner];
            CHECK_NEAR(y[i], sum, 1e-6 * (1 + std::fabs(sum)));
          }
        }
  });
}

TEST(reductions_of_strided_and_empty_inputs) {
  test::each_isa([] {
    test::Array x = test::Array::integers({6, 35}, 1), y = test::Array::f32({6}), z = test::Array::f32({35});
    test::call("sum", {test::permuted(x.view(), {1, 0})}, {y.view()}, {0});
    test::call("max", {test::permuted(x.view(), {1, 0})}, {z.view()}, {1});
    for (int64_t i = 0; i < 6; i++) {
      float sum = 0;
      for (int64_t j = 0; j < 35; j++) sum += x[i * 35 + j];
      CHECK(y[i] == sum);
    }
    for (int64_t j = 0; j < 35; j++) {
      float top = -INFINITY;
      for (int64_t i = 0; i < 6; i++) top = std::max(top, x[i * 35 + j]);
      CHECK(z[j] == top);
    }
    test::Array none = test::Array::f32({4, 0}), s = test::Array::f32({4}), t = test::Array::f32({0});
    test::call("sum", {none.view()}, {s.view()}, {1});
    test::call("sum", {none.view()}, {t.view()}, {0});
    for (int64_t i = 0; i < 4; i++) CHECK(s[i] == 0);
    test::Array whole(auxgrad::DType::i32, {3, 40}), w(auxgrad::DType::i32, {3});
    for (int64_t i = 0; i < 120; i++) whole.i32()[i] = int32_t(i * i % 101) - 50;
    test::call("sum", {whole.view()}, {w.view()}, {1});
    for (int64_t i = 0; i < 3; i++) {
      int32_t sum = 0;
      for (int64_t j = 0; j < 40; j++) sum += whole.i32()[i * 40 + j];
      CHECK(w.i32()[i] == sum);
    }
  });
}

TEST(extremes_and_argmax_with_nan_infinities_and_ties) {
  test::each_isa([] {
    for (int64_t n : {1, 2, 3, 5, 15, 16, 31, 33, 64, 65, 200, 70001})
      for (int64_t at : {int64_t{0}, n / 2, n - 1}) {
        test::Array x = test::Array::integers({2, n}, 7), a = test::Array::f32({2}), b = test::Array::f32({2});
        test::Array i(auxgrad::DType::i32, {2});
        int64_t first = 0;
        for (int64_t k = 1; k < n; k++)
          if (x[n + k] > x[n + first]) first = k;
        const float top = x[n + first];
        x[at] = NAN;
        test::call("max", {x.view()}, {a.view()}, {1});
        test::call("min", {x.view()}, {b.view()}, {1});
        test::call("argmax", {x.view()}, {i.view()}, {1});
        CHECK(std::isnan(a[0]) && std::isnan(b[0]) && i.i32()[0] == at);
        CHECK(a[1] == top && i.i32()[1] == first);
        x[at] = -INFINITY;
        test::call("min", {x.view()}, {b.view()}, {1});
        CHECK(b[0] == -INFINITY);
        test::Array all = test::Array::f32({n, 3}), c = test::Array::f32({3});
        for (int64_t k = 0; k < 3 * n; k++) all[k] = float(k % 11);
        all[at * 3 + 1] = NAN;
        test::call("max", {all.view()}, {c.view()}, {0});
        CHECK(!std::isnan(c[0]) && std::isnan(c[1]) && !std::isnan(c[2]));
      }
  });
}

// Of equals the first, of what has NaN the first of them: axes in the middle, many columns, elements apart.
TEST(argmax_along_any_axis) {
  test::each_isa([] {
    for (std::vector<int64_t> shape : {std::vector<int64_t>{3, 5, 7}, {2, 9, 1100}, {2, 40, 1}, {1, 4, 17}})
      for (int axis = 0; axis < 3; axis++)
        for (int64_t apart : {1, 2}) {
          std::vector<int64_t> wide = shape;
          wide.push_back(apart);
          test::Array x = test::Array::integers(wide, 1);
          for (int64_t i = 0; i < x.count(); i += 11 * apart) x[i] = NAN;
          auxgrad::View view = x.view();
          view.rank--;
          const int64_t n = shape[size_t(axis)], inner = view.stride[axis] / apart, count = x.count() / apart;
          test::Array y(auxgrad::DType::i32, {count / n});
          CHECK(test::call("argmax", {view}, {y.view()}, {double(axis)}));
          for (int64_t o = 0; o < count / n; o++) {
            const int64_t start = o / inner * inner * n + o % inner;
            const auto at = [&](int64_t i) { return x[(start + i * inner) * apart]; };
            int64_t best = 0;
            for (int64_t i = 1; i < n; i++)
              if (!std::isnan(at(best)) && (std::isnan(at(i)) || at(i) > at(best))) best = i;
            CHECK(y.i32()[o] == best);
          }
        }
  });
}

TEST(reductions_same_bits_for_any_threads) {
  test::each_isa([] {
    test::Array x = test::Array::normal({3000, 97}, 1);
    std::vector<float> first;
    for (int threads : {1, 2, 5}) {
      auxgrad::set_threads(threads);
      test::Array rows = test::Array::f32({3000}), columns = test::Array::f32({97}), all = test::Array::f32({1});
      test::call("sum", {x.view()}, {rows.view()}, {1});
      test::call("sum", {x.view()}, {columns.view()}, {0});
      test::call("sum", {x.view()}, {all.view()}, {0, 1});
      std::vector<float> now(rows.f32(), rows.f32() + 3000);
      now.insert(now.end(), columns.f32(), columns.f32() + 97);
      now.push_back(all[0]);
      if (threads == 1) first = now;
      CHECK(first == now);
    }
    auxgrad::set_threads(auxgrad::default_threads());
  });
}

// Sums and maxima give the same bits on every instruction set: vectors differ, accumulators do not. exp may round its
// polynomial differently: softmax to 5e-7.
TEST(rows_same_bits_on_every_isa) {
  static std::vector<std::vector<float>> first;
  first.clear();
  test::each_isa([] {
    size_t at = 0;
    for (int64_t n : {1, 7, 16, 63, 64, 65, 130, 511, 513, 1100, 70001}) {
      test::Array x = test::Array::normal({3, n}, 1), y = test::Array::f32({3, n}), sum = test::Array::f32({3});
      test::Array top = test::Array::f32({3});
      x[n / 2] = -0.0f;
      test::call("softmax", {x.view()}, {y.view()});
      test::call("sum", {x.view()}, {sum.view()}, {1});
      test::call("max", {x.view()}, {top.view()}, {1});
      for (test::Array* a : {&y, &sum, &top}) {
        const std::vector<float> now(a->f32(), a->f32() + a->count());
        if (at == first.size()) first.push_back(now);
        if (a != &y) CHECK(first[at] == now);
        else
          for (size_t i = 0; i < now.size(); i++) CHECK(std::abs(now[i] - first[at][i]) <= 5e-7f * first[at][i]);
        at++;
      }
    }
  });
}
