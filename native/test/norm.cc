// Normalisation against float64, with means far from zero.
#include "core/parallel.h"
#include "harness.h"

namespace {

struct Shape {
  int64_t rows, channels;
  double mean, deviation;
};

const Shape kShapes[] = {{1, 1, 0, 1},      {2, 3, 0, 1},      {33, 17, 100, 1},  {700, 16, -100, 0.5},
                         {257, 31, 5, 2},   {4100, 7, 1e3, 1}, {64, 300, 100, 1}, {5000, 33, 100, 1},
                         {16, 15, 0, 1e-3}, {31, 32, 0, 1},    {1000, 1, 1e4, 3}, {100, 2048, 0.1, 1}};

test::Array sample(const Shape& s, uint32_t seed) {
  test::Array x = test::Array::normal({s.rows, s.channels}, seed, static_cast<float>(s.deviation));
  // Every channel has a mean of its own.
  for (int64_t i = 0; i < x.count(); i++) x[i] += static_cast<float>(s.mean * (1 + i % s.channels % 5));
  return x;
}

double worst(test::Array& a, const std::vector<double>& b) {
  return test::relative_error(a.f32(), b.data(), a.count());
}

}  // namespace

TEST(batch_norm_statistics_of_any_mean) {
  test::each_isa([] {
    for (const Shape& s : kShapes) {
      test::Array x = sample(s, 1), mean = test::Array::f32({s.channels}), var = test::Array::f32({s.channels});
      test::Array rstd = test::Array::f32({s.channels});
      // An outlier in the first row, as a padded or rectified input has it.
      for (int64_t c = 0; c < s.channels; c++) x[c] = 0;
      test::call("batch_norm_stats", {x.view()}, {mean.view(), var.view(), rstd.view()}, {1e-5});
      for (int64_t c = 0; c < s.channels; c++) {
        double m = 0, v = 0;
        for (int64_t r = 0; r < s.rows; r++) m += x[r * s.channels + c];
        m /= double(s.rows);
        for (int64_t r = 0; r < s.rows; r++) v += (x[r * s.channels + c] - m) * (x[r * s.channels + c] - m);
        v /= double(s.rows);
        CHECK_NEAR(mean[c], m, 1.2e-7 * std::fabs(m) + 1e-7 * std::sqrt(v));
        CHECK_NEAR(var[c], v, 3e-6 * v);
        CHECK_NEAR(rstd[c], 1 / std::sqrt(v + 1e-5), 3e-6 / std::sqrt(v + 1e-5));
      }
    }
  });
}

TEST(batch_norm_apply_and_gradient) {
  test::each_isa([] {
    for (const Shape& s : kShapes)
      for (int own : {0, 1})
        for (int relu : {0, 1}) {
          test::Array x = sample(s, 2), dy = test::Array::normal({s.rows, s.channels}, 3),
                      gamma = test::Array::normal({s.channels}, 4);
          // Upstream gradients with a mean: their sums must not drown in it.
          for (int64_t i = 0; i < dy.count(); i++) dy[i] += 0.5f;
          test::Array beta = test::Array::normal({s.channels}, 5), mean = test::Array::f32({s.channels});
          test::Array var = test::Array::f32({s.channels}), rstd = test::Array::f32({s.channels});
          test::call("batch_norm_stats", {x.view()}, {mean.view(), var.view(), rstd.view()}, {1e-5});
          test::Array y = test::Array::f32({s.rows, s.channels}), dx = test::Array::f32({s.rows, s.channels});
          test::Array dgamma = test::Array::f32({s.channels}), dbeta = test::Array::f32({s.channels});
          test::call("batch_norm_apply", {x.view(), mean.view(), rstd.view(), gamma.view(), beta.view()}, {y.view()},
                     {double(relu)});
          test::call("batch_norm_grad", {dy.view(), x.view(), mean.view(), rstd.view(), gamma.view()},
                     {dx.view(), dgamma.view(), dbeta.view()}, {double(own)});
          std::vector<double> y_(size_t(x.count())), dx_(size_t(x.count())), dg(size_t(s.channels)),
              db(size_t(s.channels));
          const auto normal = [&](int64_t i) { return (double(x[i]) - mean[i % s.channels]) * rstd[i % s.channels]; };
          for (int64_t i = 0; i < x.count(); i++) {
            const int64_t c = i % s.channels;
            y_[size_t(i)] = normal(i) * gamma[c] + beta[c];
            if (relu && y_[size_t(i)] < 0) y_[size_t(i)] = 0;
            db[size_t(c)] += dy[i];
            dg[size_t(c)] += dy[i] * normal(i);
          }
          for (int64_t i = 0; i < x.count(); i++) {
            const int64_t c = i % s.channels;
            const double common = own ? (db[size_t(c)] + normal(i) * dg[size_t(c)]) / double(s.rows) : 0;
            dx_[size_t(i)] = double(gamma[c]) * rstd[c] * (dy[i] - common);
          }
          CHECK(worst(y, y_) < 4e-7);
          CHECK(worst(dbeta, db) < 4e-7);
          // Sums of products that cancel: against the sum of their magnitudes.
          for (int64_t c = 0; c < s.channels; c++) {
            double size = 0;
            for (int64_t r = 0; r < s.rows; r++) size += std::fabs(dy[r * s.channels + c] * normal(r * s.channels + c));
            CHECK_NEAR(dgamma[c], dg[size_t(c)], 3e-7 * size + 1e-30);
          }
          double scale = 1e-30;
          for (int64_t c = 0; c < s.channels; c++) scale = std::max(scale, std::fabs(double(gamma[c]) * rstd[c]));
          for (int64_t i = 0; i < x.count(); i++) CHECK_NEAR(dx[i], dx_[size_t(i)], 3e-6 * scale);
        }
  });
}

TEST(layer_norm_and_gradient) {
  test::each_isa([] {
    for (Shape s : kShapes) {
      test::Array x = sample(s, 6), dy = test::Array::normal({s.rows, s.channels}, 7),
                  gamma = test::Array::normal({s.channels}, 8);
      test::Array beta = test::Array::normal({s.channels}, 9), y = test::Array::f32({s.rows, s.channels});
      for (int64_t i = 0; i < x.count(); i++)
        x[i] = x[i] - static_cast<float>(s.mean * (i % s.channels % 5));  // one mean a row
      test::Array mean = test::Array::f32({s.rows}), rstd = test::Array::f32({s.rows});
      test::Array dx = test::Array::f32({s.rows, s.channels}), dgamma = test::Array::f32({s.channels}),
                  dbeta = test::Array::f32({s.channels});
      test::call("layer_norm", {x.view(), gamma.view(), beta.view()}, {y.view(), mean.view(), rstd.view()}, {1e-5});
      test::call("layer_norm_grad", {dy.view(), x.view(), mean.view(), rstd.view(), gamma.view()},
                 {dx.view(), dgamma.view(), dbeta.view()});
      std::vector<double> dg(size_t(s.channels)), db(size_t(s.channels)), size(size_t(s.channels), 1e-30);
      for (int64_t r = 0; r < s.rows; r++) {
        const int64_t at = r * s.channels;
        double m = 0, v = 0, a = 0, b = 0;
        for (int64_t c = 0; c < s.channels; c++) m += x[at + c];
        m /= double(s.channels);
        for (int64_t c = 0; c < s.channels; c++) v += (x[at + c] - m) * (x[at + c] - m);
        v /= double(s.channels);
        const double q = 1 / std::sqrt(v + 1e-5);
        CHECK_NEAR(mean[r], m, 2e-7 * std::fabs(m) + 1e-7 * std::sqrt(v));
        CHECK_NEAR(rstd[r], q, 2e-6 * q);
        // Gradients are those of the statistics that were kept.
        const auto normal = [&](int64_t c) { return (double(x[at + c]) - mean[r]) * rstd[r]; };
        for (int64_t c = 0; c < s.channels; c++) {
          CHECK_NEAR(y[at + c], normal(c) * gamma[c] + beta[c],
                     4e-7 * (std::fabs(normal(c) * gamma[c]) + std::fabs(beta[c])));
          a += double(dy[at + c]) * gamma[c] / double(s.channels);
          b += double(dy[at + c]) * gamma[c] * normal(c) / double(s.channels);
          dg[size_t(c)] += dy[at + c] * normal(c);
          db[size_t(c)] += dy[at + c];
          size[size_t(c)] += std::fabs(dy[at + c] * normal(c));
        }
        for (int64_t c = 0; c < s.channels; c++)
          CHECK_NEAR(dx[at + c], rstd[r] * (double(dy[at + c]) * gamma[c] - a - normal(c) * b),
                     2e-6 * rstd[r] * (1 + std::fabs(dy[at + c] * gamma[c]) + std::fabs(normal(c) * b)));
      }
      for (int64_t c = 0; c < s.channels; c++) {
        CHECK_NEAR(dgamma[c], dg[size_t(c)], 3e-7 * size[size_t(c)]);
        CHECK_NEAR(dbeta[c], db[size_t(c)], 1e-6 * std::sqrt(double(s.rows)));
      }
    }
  });
}

// dx may take the place of dy or of x.
TEST(norm_gradients_in_place) {
  test::each_isa([] {
    for (const bool of_rows : {false, true})
      for (const Shape s : {Shape{3, 6, 0, 1}, Shape{70, 37, 0, 1}, Shape{300, 128, 0, 1}}) {
        const int64_t groups = of_rows ? s.rows : s.channels;
        test::Array gamma = test::Array::normal({s.channels}, 22), mean = test::Array::normal({groups}, 23),
                    rstd = test::Array::normal({groups}, 24);
        std::vector<std::vector<float>> first;
        for (int place = 0; place < 3; place++) {
          test::Array dy = test::Array::normal({s.rows, s.channels}, 20),
                      x = test::Array::normal({s.rows, s.channels}, 21), own = test::Array::f32({s.rows, s.channels}),
                      dgamma = test::Array::f32({s.channels}), dbeta = test::Array::f32({s.channels});
          test::Array* const dx[] = {&own, &dy, &x};
          test::call(of_rows ? "layer_norm_grad" : "batch_norm_grad",
                     {dy.view(), x.view(), mean.view(), rstd.view(), gamma.view()},
                     {dx[place]->view(), dgamma.view(), dbeta.view()},
                     of_rows ? std::vector<double>{} : std::vector<double>{1});
          std::vector<std::vector<float>> now;
          for (test::Array* a : {dx[place], &dgamma, &dbeta}) now.emplace_back(a->f32(), a->f32() + a->count());
          if (place == 0) first = now;
          CHECK(first == now);
        }
      }
  });
}

// Of rows that are kept and of longer ones: against float64, and the same bits for any threads and wherever dx goes.
TEST(gradients_of_norms_along_rows) {
  test::each_isa([] {
    for (const bool centred : {false, true})
      for (const Shape s :
           {Shape{0, 5, 0, 1}, Shape{1, 1, 0, 1}, Shape{1, 1024, 0, 1}, Shape{2, 97, 0, 1}, Shape{1100, 33, 0, 1},
            Shape{67, 1023, 0, 1}, Shape{70, 1024, 0, 1}, Shape{69, 1025, 0, 1}, Shape{5, 4099, 0, 1}}) {
        const auto made = [&](uint32_t seed) { return test::Array::normal({s.rows, s.channels}, seed); };
        test::Array g = made(30), in = made(31), gamma = test::Array::normal({s.channels}, 32),
                    mean = test::Array::normal({s.rows}, 33), rstd = test::Array::normal({s.rows}, 34);
        const size_t channels = size_t(s.channels);
        std::vector<double> expected(size_t(g.count())), near(size_t(g.count())), dg(channels), db(channels);
        std::vector<double> dg_size(channels, 1e-30), db_size(channels, 1e-30);
        for (int64_t r = 0; r < s.rows; r++) {
          double a = 0, b = 0, a_size = 0, b_size = 0;
          const auto normal = [&](int64_t i) { return (double(in[i]) - (centred ? mean[r] : 0)) * rstd[r]; };
          const auto by = [&](int64_t i) { return double(g[i]) * gamma[i % s.channels]; };
          for (int64_t i = r * s.channels; i < (r + 1) * s.channels; i++) {
            const size_t c = size_t(i % s.channels);
            a += centred ? by(i) / double(s.channels) : 0;
            b += by(i) * normal(i) / double(s.channels);
            a_size += std::fabs(by(i)) / double(s.channels);
            b_size += std::fabs(by(i) * normal(i)) / double(s.channels);
            dg[c] += g[i] * normal(i);
            db[c] += g[i];
            dg_size[c] += std::fabs(g[i] * normal(i));
            db_size[c] += std::fabs(g[i]);
          }
          for (int64_t i = r * s.channels; i < (r + 1) * s.channels; i++) {
            expected[size_t(i)] = rstd[r] * (by(i) - a - normal(i) * b);
            near[size_t(i)] = 1e-6 * std::fabs(rstd[r]) * (std::fabs(by(i)) + a_size + std::fabs(normal(i)) * b_size);
          }
        }
        std::vector<std::vector<float>> first;
        for (const int threads : {1, 2, 5})
          for (int place = 0; place < 3; place++) {
            auxgrad::set_threads(threads);
            test::Array dy = made(30), x = made(31), own = test::Array::f32({s.rows, s.channels}),
                        dgamma = test::Array::f32({s.channels}), dbeta = test::Array::f32({s.channels});
            test::Array* const dx[] = {&own, &dy, &x};
            if (centred)
              test::call("layer_norm_grad", {dy.view(), x.view(), mean.view(), rstd.view(), gamma.view()},
                         {dx[place]->view(), dgamma.view(), dbeta.view()}, {});
            else
              test::call("rms_norm_grad", {dy.view(), x.view(), rstd.view(), gamma.view()},
                         {dx[place]->view(), dgamma.view()}, {});
            std::vector<std::vector<float>> now;
            for (test::Array* a : {dx[place], &dgamma}) now.emplace_back(a->f32(), a->f32() + a->count());
            if (centred) now.emplace_back(dbeta.f32(), dbeta.f32() + dbeta.count());
            if (first.empty()) first = now;
            CHECK(first == now);
          }
        auxgrad::set_threads(auxgrad::default_threads());
        for (size_t i = 0; i < expected.size(); i++) CHECK_NEAR(first[0][i], expected[i], near[i]);
        for (size_t c = 0; c < channels; c++) {
          CHECK_NEAR(first[1][c], dg[c], 5e-7 * dg_size[c]);
          if (centred) CHECK_NEAR(first[2][c], db[c], 5e-7 * db_size[c]);
        }
      }
  });
}

TEST(norm_same_bits_for_any_threads) {
  test::each_isa([] {
    const Shape s = {3001, 70, 3, 1};
    test::Array x = sample(s, 10), dy = test::Array::normal({s.rows, s.channels}, 11),
                gamma = test::Array::normal({s.channels}, 12);
    std::vector<std::vector<float>> first;
    for (int threads : {1, 2, 5}) {
      auxgrad::set_threads(threads);
      test::Array mean = test::Array::f32({s.channels}), var = test::Array::f32({s.channels}),
                  rstd = test::Array::f32({s.channels});
      test::Array dx = test::Array::f32({s.rows, s.channels}), dgamma = test::Array::f32({s.channels}),
                  dbeta = test::Array::f32({s.channels});
      test::call("batch_norm_stats", {x.view()}, {mean.view(), var.view(), rstd.view()}, {1e-5});
      test::call("batch_norm_grad", {dy.view(), x.view(), mean.view(), rstd.view(), gamma.view()},
                 {dx.view(), dgamma.view(), dbeta.view()}, {1});
      std::vector<std::vector<float>> now;
      for (test::Array* a : {&mean, &var, &dx, &dgamma, &dbeta}) now.emplace_back(a->f32(), a->f32() + a->count());
      if (threads == 1) first = now;
      CHECK(first == now);
    }
    auxgrad::set_threads(auxgrad::default_threads());
  });
}

TEST(batch_norm_keeps_nan_in_its_channel) {
  test::each_isa([] {
    test::Array x = test::Array::normal({40, 19}, 1), mean = test::Array::f32({19}), var = test::Array::f32({19}),
                rstd = test::Array::f32({19});
    x[7 * 19 + 3] = NAN;
    test::call("batch_norm_stats", {x.view()}, {mean.view(), var.view(), rstd.view()}, {1e-5});
    for (int64_t c = 0; c < 19; c++) CHECK(std::isnan(mean[c]) == (c == 3) && std::isnan(var[c]) == (c == 3));
  });
}

// Samples more and fewer than threads share, in groups that these share too; the bits are those of one thread.
TEST(group_norm_and_gradient) {
  struct Images {
    int64_t samples, rows, channels, groups;
  };
  test::each_isa([] {
    for (const Images& s : {Images{0, 5, 6, 2}, Images{1, 1, 1, 1}, Images{1, 300, 32, 4}, Images{5, 7, 33, 3},
                            Images{17, 65, 6, 6}, Images{41, 19, 96, 2}, Images{70, 3, 1040, 5}}) {
      const int64_t width = s.channels / s.groups;
      std::vector<std::vector<float>> first;
      for (int threads : {1, 2, 5}) {
        auxgrad::set_threads(threads);
        test::Array x = test::Array::normal({s.samples, s.rows, s.channels}, 1),
                    dy = test::Array::normal({s.samples, s.rows, s.channels}, 2),
                    gamma = test::Array::normal({s.channels}, 3), beta = test::Array::normal({s.channels}, 4),
                    mean = test::Array::f32({s.samples, s.groups}), rstd = test::Array::f32({s.samples, s.groups}),
                    y = test::Array::f32({s.samples, s.rows, s.channels}),
                    dx = test::Array::f32({s.samples, s.rows, s.channels}), dgamma = test::Array::f32({s.channels}),
                    dbeta = test::Array::f32({s.channels});
        for (int64_t i = 0; i < x.count(); i++) x[i] += static_cast<float>(10 * (i % s.channels / width));
        const double groups = static_cast<double>(s.groups);
        test::call("group_norm", {x.view(), gamma.view(), beta.view()}, {y.view(), mean.view(), rstd.view()},
                   {groups, 1e-5});
        test::call("group_norm_grad", {dy.view(), x.view(), mean.view(), rstd.view(), gamma.view()},
                   {dx.view(), dgamma.view(), dbeta.view()}, {groups});
        std::vector<std::vector<float>> now;
        for (test::Array* a : {&y, &mean, &rstd, &dx, &dgamma, &dbeta})
          now.emplace_back(a->f32(), a->f32() + a->count());
        if (threads > 1) {
          CHECK(first == now);
          continue;
        }
        first = now;
        std::vector<double> dg(size_t(s.channels)), db(size_t(s.channels)), size(size_t(s.channels), 1e-30);
        for (int64_t k = 0; k < s.samples * s.groups; k++) {
          const int64_t start = k / s.groups * s.rows * s.channels + k % s.groups * width;
          const auto at = [&](int64_t i) { return start + i / width * s.channels + i % width; };
          const int64_t n = s.rows * width;
          double m = 0, v = 0, a = 0, b = 0;
          for (int64_t i = 0; i < n; i++) m += x[at(i)] / double(n);
          for (int64_t i = 0; i < n; i++) v += (x[at(i)] - m) * (x[at(i)] - m) / double(n);
          const double q = 1 / std::sqrt(v + 1e-5);
          CHECK_NEAR(mean[k], m, 2e-7 * std::fabs(m) + 2e-7 * std::sqrt(v));
          CHECK_NEAR(rstd[k], q, 3e-6 * q);
          // Gradients are those of the statistics that were kept.
          const auto normal = [&](int64_t i) { return (double(x[at(i)]) - mean[k]) * rstd[k]; };
          for (int64_t i = 0; i < n; i++) {
            const int64_t c = at(i) % s.channels;
            const double g = double(dy[at(i)]) * gamma[c];
            a += g / double(n);
            b += g * normal(i) / double(n);
            dg[size_t(c)] += dy[at(i)] * normal(i);
            db[size_t(c)] += dy[at(i)];
            size[size_t(c)] += std::fabs(dy[at(i)] * normal(i)) + std::fabs(dy[at(i)]);
          }
          for (int64_t i = 0; i < n; i++) {
            const int64_t c = at(i) % s.channels;
            const double g = double(dy[at(i)]) * gamma[c], expected = normal(i) * gamma[c] + beta[c];
            CHECK_NEAR(y[at(i)], expected, 4e-7 * (std::fabs(normal(i) * gamma[c]) + std::fabs(beta[c])));
            CHECK_NEAR(dx[at(i)], rstd[k] * (g - a - normal(i) * b),
                       2e-6 * rstd[k] * (1 + std::fabs(g) + std::fabs(normal(i) * b)));
          }
        }
        for (int64_t c = 0; c < s.channels; c++) {
          CHECK_NEAR(dgamma[c], dg[size_t(c)], 1e-6 * size[size_t(c)]);
          CHECK_NEAR(dbeta[c], db[size_t(c)], 1e-6 * size[size_t(c)]);
        }
      }
    }
    auxgrad::set_threads(auxgrad::default_threads());
  });
}
