// Parameter updates against the published formulas in float64, several steps in a row.
#include <algorithm>

#include "core/arithmetic.h"
#include "core/philox.h"
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
      }
  });
}

TEST(rms_update_steps) {
  test::each_isa([] {
    for (int64_t n : {0, 1, 15, 16, 17, 33, 40001})
      for (int kind = 0; kind < 8; kind++) {
        const bool centered = kind & 1, last = kind & 2, adagrad = kind & 4;
        const double keep = adagrad ? 1 : 0.9, fresh = adagrad ? 1 : 1 - 0.9, start = adagrad ? 0.1 : 0;
        if (adagrad && centered) continue;
        test::Array w = test::Array::normal({n}, 1), square = test::Array::f32({n}), mean = test::Array::f32({n}),
                    before = test::Array::f32({n}), lr = scalar(1e-2f), scale = scalar(0.5f);
        for (int64_t i = 0; i < n; i++) square[i] = mean[i] = before[i] = 0;
        std::vector<double> w_ = doubles(w), s_(static_cast<size_t>(n)), m_ = s_, u_ = s_;
        for (uint32_t step = 0; step < 4; step++) {
          test::Array g = test::Array::normal({n}, 2 + step);
          test::call(
              "rms_update", {g.view(), lr.view(), scale.view()},
              {w.view(), square.view(), centered ? mean.view() : test::absent(), last ? before.view() : test::absent()},
              {keep, fresh, start, 1e-3, 0.1, 0.8});
          for (size_t i = 0; i < w_.size(); i++) {
            const double d = 0.5 * g[int64_t(i)] + 0.1 * w_[i];
            s_[i] = keep * s_[i] + fresh * d * d;
            m_[i] = keep * m_[i] + fresh * d;
            const double spread = s_[i] + start - (centered ? m_[i] * m_[i] : 0);
            u_[i] = (last ? 0.8 * u_[i] : 0) + d / (std::sqrt(spread) + 1e-3);
            w_[i] -= double(lr[0]) * u_[i];
          }
        }
        for (int64_t i = 0; i < n; i++) {
          CHECK_NEAR(w[i], w_[size_t(i)], 2e-6 * (1 + std::fabs(w_[size_t(i)])));
          CHECK_NEAR(square[i], s_[size_t(i)], 2e-6 * (1 + s_[size_t(i)]));
          if (centered) CHECK_NEAR(mean[i], m_[size_t(i)], 1e-6);
          if (last) CHECK_NEAR(before[i], u_[size_t(i)], 1e-5 * (1 + std::fabs(u_[size_t(i)])));
        }
      }
  });
}

// Gradients that do not change have no spread, whatever is lost by rounding.
TEST(rms_update_without_spread) {
  test::each_isa([] {
    test::Array w = test::Array::normal({33}, 1), g = test::Array::normal({33}, 2), square = test::Array::f32({33}),
                mean = test::Array::f32({33}), lr = scalar(1e-9f);
    for (int64_t i = 0; i < 33; i++) square[i] = mean[i] = 0;
    g[7] = std::nanf("");
    for (int step = 0; step < 300; step++)
      test::call("rms_update", {g.view(), lr.view()}, {w.view(), square.view(), mean.view(), test::absent()},
                 {0.9, 1 - 0.9, 0, 1e-3, 0, 0});
    for (int64_t i = 0; i < 33; i++) CHECK(std::isfinite(w[i]) == (i != 7));
  });
}

namespace {

// The dynamic code of Dettmers et al. 2022 as its authors make it: middles of equal parts of seven decades, 0 and 1.
std::vector<double> dynamic_code(bool with_sign) {
  std::vector<double> table(256);
  table[with_sign ? 128 : 1] = 1;
  for (int decade = 0; decade < 7; decade++) {
    const int parts = (with_sign ? 1 : 2) << decade;
    for (int j = 0; j < parts; j++) {
      const double x = std::pow(10.0, decade - 6) * (0.1 + 0.9 * (j + 0.5) / parts);
      table[size_t(parts + j)] = x;
      if (with_sign) table[size_t(128 + parts + j)] = -x;
    }
  }
  return table;
}

// Whether a code stands for x as well as any other does, zero left out where it must be.
bool is_nearest(const std::vector<double>& table, uint8_t code, double x, bool no_zero) {
  double best = 2;
  for (size_t k = no_zero ? 1 : 0; k < 256; k++) best = std::min(best, std::fabs(table[k] - x));
  return !(no_zero && code == 0) && std::fabs(table[code] - x) <= best + 1e-6 * std::fabs(x);
}

}  // namespace

// Those from here to sm3 are not among the CUDA kernels yet.
TEST(adam8_update_steps) {
  if (test::device()) return;
  test::each_isa([] {
    const std::vector<double> means = dynamic_code(true), squares = dynamic_code(false);
    for (int64_t n : {0, 1, 15, 255, 256, 257, 1021, 40001})
      for (int decoupled : {0, 1}) {
        const int64_t blocks = (n + 255) / 256;
        test::Array w = test::Array::normal({n}, 1), largest = test::Array::f32({2, blocks});
        test::Array m = test::Array(auxgrad::DType::u8, {n}), v = test::Array(auxgrad::DType::u8, {n});
        for (int64_t i = 0; i < n; i++) m.u8()[i] = v.u8()[i] = 0;
        for (int64_t i = 0; i < 2 * blocks; i++) largest[i] = 0;
        test::Array lr = scalar(1e-2f);
        for (int step = 1; step <= 3; step++) {
          test::Array g = test::Array::normal({n}, uint32_t(1 + step)), count = scalar(float(step));
          // Of all sizes, and nothing at all.
          for (int64_t i = 0; i < n; i++) g[i] *= i % 7 == 0 ? 0.0f : float(std::pow(10.0, -double(i % 5)));
          std::vector<double> w_, m_, v_;
          for (int64_t i = 0; i < n; i++) {
            const double d = g[i] + (decoupled ? 0 : 0.1 * w[i]), rate = lr[0];
            m_.push_back(0.9 * means[m.u8()[i]] * largest[i / 256] + 0.1 * d);
            v_.push_back(0.999 * squares[v.u8()[i]] * largest[blocks + i / 256] + 0.001 * d * d);
            const double mean = m_.back() / (1 - std::pow(0.9, step)), square = v_.back() / (1 - std::pow(0.999, step));
            w_.push_back(w[i] * (decoupled ? 1 - rate * 0.1 : 1) - rate * mean / (std::sqrt(square) + 1e-8));
          }
          test::call("adam8_update", {g.view(), lr.view(), count.view()},
                     {w.view(), m.view(), v.view(), largest.view()}, {0.9, 0.999, 1e-8, 0.1, double(decoupled)});
          for (int64_t i = 0; i < n; i++) {
            CHECK_NEAR(w[i], w_[size_t(i)], 2e-6 + 3e-7 * std::fabs(w_[size_t(i)]));
            double top = 0, most = 0;
            for (int64_t k = i / 256 * 256; k < std::min(n, i / 256 * 256 + 256); k++) {
              top = std::max(top, std::fabs(m_[size_t(k)]));
              most = std::max(most, v_[size_t(k)]);
            }
            if (i % 256 == 0) {
              CHECK_NEAR(largest[i / 256], top, 1e-6 * top);
              CHECK_NEAR(largest[blocks + i / 256], most, 1e-5 * most);
            }
            if (top > 0) CHECK(is_nearest(means, m.u8()[i], m_[size_t(i)] / largest[i / 256], false));
            if (most > 0)
              CHECK(is_nearest(squares, v.u8()[i], v_[size_t(i)] / largest[blocks + i / 256], v_[size_t(i)] > 0));
          }
        }
      }
  });
}

// Gradients of 0 scale all moments of a block alike.
TEST(adam8_update_keeps_every_code) {
  if (test::device()) return;
  test::each_isa([] {
    const std::vector<double> means = dynamic_code(true), squares = dynamic_code(false);
    test::Array w = test::Array::f32({512}), g = test::Array::f32({512}), largest = test::Array::f32({2, 2});
    test::Array m = test::Array(auxgrad::DType::u8, {512}), v = test::Array(auxgrad::DType::u8, {512});
    test::Array lr = scalar(1), count = scalar(5);
    const auto square_code = [](int64_t i) { return uint8_t(i * 37 + 5); };
    for (int64_t i = 0; i < 512; i++) w[i] = g[i] = 0, m.u8()[i] = uint8_t(i), v.u8()[i] = square_code(i);
    for (int64_t i = 0; i < 4; i++) largest[i] = i % 2 ? 3.0f : 0.7f;
    test::call("adam8_update", {g.view(), lr.view(), count.view()}, {w.view(), m.view(), v.view(), largest.view()},
               {0.9, 0.999, 1e-8, 0, 1});
    for (int64_t i = 0; i < 512; i++) {
      const double top = i < 256 ? 0.7f : 3.0f, mean = 0.9 * means[size_t(i % 256)] * top / (1 - std::pow(0.9, 5));
      const double square = 0.999 * squares[square_code(i)] * top / (1 - std::pow(0.999, 5));
      const double step = mean / (std::sqrt(square) + 1e-8);
      CHECK_NEAR(w[i], -step, 1e-6 * std::fabs(step));
      CHECK(m.u8()[i] == uint8_t(i) && v.u8()[i] == square_code(i));
    }
    for (int64_t i = 0; i < 2; i++) {
      CHECK_NEAR(largest[i], 0.9 * (i ? 3.0f : 0.7f), 1e-6);
      CHECK_NEAR(largest[2 + i], 0.999 * (i ? 3.0f : 0.7f), 1e-6);
    }
  });
}

// On both sides of where one code ends and the next begins.
TEST(adam8_update_takes_the_nearest_code) {
  if (test::device()) return;
  test::each_isa([] {
    for (const bool with_sign : {true, false}) {
      const std::vector<double> table = dynamic_code(with_sign);
      std::vector<double> sorted = table, x;
      std::sort(sorted.begin(), sorted.end());
      for (size_t k = 0; k + 1 < sorted.size(); k++)
        for (const double side : {1 - 4e-6, 1 + 4e-6}) {
          if (x.size() % 256 == 0) x.push_back(1);  // the largest of each block
          x.push_back((sorted[k] + sorted[k + 1]) / 2 * side);
        }
      const int64_t n = int64_t(x.size()), blocks = (n + 255) / 256;
      test::Array w = test::Array::normal({n}, 1), g = test::Array::f32({n}), largest = test::Array::f32({2, blocks});
      test::Array m = test::Array(auxgrad::DType::u8, {n}), v = test::Array(auxgrad::DType::u8, {n});
      test::Array lr = scalar(1e-2f), count = scalar(1);
      for (int64_t i = 0; i < 2 * blocks; i++) largest[i] = 0;
      for (int64_t i = 0; i < n; i++) {
        g[i] = float(with_sign ? x[size_t(i)] : std::sqrt(x[size_t(i)]));
        m.u8()[i] = v.u8()[i] = 0;
      }
      test::call("adam8_update", {g.view(), lr.view(), count.view()}, {w.view(), m.view(), v.view(), largest.view()},
                 {0.9, 0.999, 1e-8, 0, 1});
      for (int64_t i = 0; i < n; i++) {
        const double given = g[i], exact = with_sign ? given : given * given;
        CHECK(is_nearest(table, with_sign ? m.u8()[i] : v.u8()[i], exact, !with_sign && given != 0));
      }
    }
  });
}

TEST(adam8_update_of_what_is_not_finite) {
  if (test::device()) return;
  test::each_isa([] {
    test::Array w = test::Array::normal({512}, 1), g = test::Array::normal({512}, 2), lr = scalar(1e-2f);
    test::Array m = test::Array(auxgrad::DType::u8, {512}), v = test::Array(auxgrad::DType::u8, {512});
    test::Array largest = test::Array::f32({2, 2}), count = scalar(1);
    for (int64_t i = 0; i < 512; i++) m.u8()[i] = v.u8()[i] = 0;
    for (int64_t i = 0; i < 4; i++) largest[i] = 0;
    g[3] = std::nanf("");
    test::call("adam8_update", {g.view(), lr.view(), count.view()}, {w.view(), m.view(), v.view(), largest.view()},
               {0.9, 0.999, 1e-8, 0, 1});
    CHECK(std::isnan(w[3]) && std::isnan(largest[0]) && std::isnan(largest[2]));
    for (int64_t i = 0; i < 512; i++) CHECK(i == 3 || std::isfinite(w[i]));
    CHECK(std::isfinite(largest[1]) && std::isfinite(largest[3]));
  });
}

TEST(lion_update_steps) {
  if (test::device()) return;
  test::each_isa([] {
    for (int64_t n : {0, 1, 17, 40001})
      for (auxgrad::DType dtype : {auxgrad::DType::f32, auxgrad::DType::bf16}) {
        test::Array w = test::Array::normal({n}, 1), m = test::Array(dtype, {n}), lr = scalar(1e-2f);
        const bool whole = dtype == auxgrad::DType::f32;
        const auto momentum = [&](int64_t i) {
          const uint32_t bits = whole ? m.u32()[i] : uint32_t(reinterpret_cast<uint16_t*>(m.data())[i]) << 16;
          float x;
          std::memcpy(&x, &bits, 4);
          return x;
        };
        std::memset(m.data(), 0, size_t(n) * (whole ? 4 : 2));
        test::Array scale = scalar(0.5f);
        for (uint32_t step = 0; step < 3; step++) {
          test::Array g = test::Array::normal({n}, 2 + step);
          if (n > 5) g[5] = 0;
          std::vector<double> w_, m_;
          for (int64_t i = 0; i < n; i++) {
            const double before = double(momentum(i)), u = 0.9 * before + 0.1 * 0.5 * g[i];
            w_.push_back(w[i] * (1 - lr[0] * 0.1) - lr[0] * (u > 0 ? 1 : u < 0 ? -1 : 0));
            m_.push_back(0.99 * before + 0.01 * 0.5 * g[i]);
          }
          test::call("lion_update", {g.view(), lr.view(), scale.view()}, {w.view(), m.view()}, {0.9, 0.99, 0.1});
          for (int64_t i = 0; i < n; i++) {
            CHECK_NEAR(w[i], w_[size_t(i)], 3e-7 * (1 + std::fabs(w_[size_t(i)])));
            CHECK_NEAR(momentum(i), m_[size_t(i)], (whole ? 3e-7 : 1.0 / 256) * std::fabs(m_[size_t(i)]) + 1e-8);
          }
        }
      }
  });
}

TEST(adafactor_update_steps) {
  if (test::device()) return;
  test::each_isa([] {
    for (auto [rows, columns] : {std::pair<int64_t, int64_t>{2, 3},
                                 {5, 17},
                                 {64, 100},
                                 {37, 1031},
                                 {700, 65},
                                 {0, 9},
                                 {1, 40001},
                                 {1, 1},
                                 {1, 16}})
      for (double least : {0.0, 1e-3}) {
        const bool matrix = rows > 1;
        const int64_t n = rows * columns;
        const std::vector<int64_t> shape = matrix ? std::vector<int64_t>{rows, columns} : std::vector<int64_t>{n};
        test::Array w = test::Array::normal(shape, 1), lr = scalar(2e-2f), scale = scalar(0.5f);
        test::Array first = test::Array::f32({matrix ? rows : n}), second = test::Array::f32({columns});
        for (int64_t i = 0; i < first.count(); i++) first[i] = 0;
        for (int64_t i = 0; i < columns; i++) second[i] = 0;
        std::vector<double> w_ = doubles(w), a(size_t(first.count())), b(static_cast<size_t>(columns));
        for (int step = 1; step <= 3; step++) {
          test::Array g = test::Array::normal(shape, uint32_t(1 + step));
          test::Array count = scalar(float(step));
          test::call("adafactor_update", {g.view(), lr.view(), count.view(), scale.view()},
                     {w.view(), first.view(), matrix ? second.view() : test::absent()}, {1e-30, least, 1, 0.1, 0.8});
          const double share = std::pow(step, -0.8), keep = 1 - share;
          std::vector<double> square;
          for (int64_t i = 0; i < n; i++) square.push_back(0.25 * g[i] * g[i] + 1e-30);
          std::vector<double> u(square.size());
          if (matrix) {
            for (int64_t i = 0; i < rows; i++) {
              double sum = 0;
              for (int64_t j = 0; j < columns; j++) sum += square[size_t(i * columns + j)];
              a[size_t(i)] = keep * a[size_t(i)] + share * sum / double(columns);
            }
            for (int64_t j = 0; j < columns; j++) {
              double sum = 0;
              for (int64_t i = 0; i < rows; i++) sum += square[size_t(i * columns + j)];
              b[size_t(j)] = keep * b[size_t(j)] + share * sum / double(rows);
            }
            double mean = 0;
            for (double x : a) mean += x / double(rows);
            for (int64_t i = 0; i < n; i++)
              u[size_t(i)] = 0.5 * g[i] / std::sqrt(a[size_t(i / columns)] * b[size_t(i % columns)] / mean);
          } else {
            for (size_t i = 0; i < u.size(); i++) {
              a[i] = keep * a[i] + share * square[i];
              u[i] = 0.5 * g[int64_t(i)] / std::sqrt(a[i]);
            }
          }
          double update = 0, size = 0;
          for (size_t i = 0; i < u.size(); i++) {
            update += u[i] * u[i] / double(n);
            size += w_[i] * w_[i] / double(n);
          }
          const double rate = lr[0] * (least > 0 ? std::max(least, std::sqrt(size)) : 1);
          for (size_t i = 0; i < u.size(); i++)
            w_[i] = w_[i] * (1 - rate * 0.1) - rate * u[i] / std::max(1.0, std::sqrt(update));
          for (int64_t i = 0; i < n; i++) CHECK_NEAR(w[i], w_[size_t(i)], 5e-7 * (1 + std::fabs(w_[size_t(i)])));
          for (int64_t i = 0; i < first.count(); i++) CHECK_NEAR(first[i], a[size_t(i)], 1e-6 * a[size_t(i)]);
          for (int64_t j = 0; matrix && j < columns; j++) CHECK_NEAR(second[j], b[size_t(j)], 1e-6 * b[size_t(j)]);
        }
      }
  });
}

TEST(sm3_update_steps) {
  if (test::device()) return;
  test::each_isa([] {
    for (auto [rows, columns] :
         {std::pair<int64_t, int64_t>{2, 3}, {5, 17}, {64, 100}, {37, 1031}, {700, 65}, {0, 9}, {1, 40001}, {1, 1}})
      for (double momentum : {0.0, 0.9}) {
        const bool matrix = rows > 1;
        const int64_t n = rows * columns;
        const std::vector<int64_t> shape = matrix ? std::vector<int64_t>{rows, columns} : std::vector<int64_t>{n};
        test::Array w = test::Array::normal(shape, 1), m = test::Array::f32(shape), lr = scalar(2e-2f);
        test::Array first = test::Array::f32({matrix ? rows : n}), second = test::Array::f32({columns});
        for (int64_t i = 0; i < n; i++) m[i] = 0;
        for (int64_t i = 0; i < first.count(); i++) first[i] = 0;
        for (int64_t i = 0; i < columns; i++) second[i] = 0;
        std::vector<double> w_ = doubles(w), m_(size_t(n), 0.0);
        for (uint32_t step = 0; step < 3; step++) {
          test::Array g = test::Array::normal(shape, 2 + step);
          if (n > 2) g[2] = 0;
          std::vector<double> a = doubles(first), b = doubles(second), top(a.size()), highest(b.size());
          for (int64_t i = 0; i < n; i++) {
            const size_t r = size_t(matrix ? i / columns : i), c = size_t(i % columns);
            const double square = (matrix ? std::min(a[r], b[c]) : a[r]) + double(g[i]) * g[i];
            top[r] = std::max(top[r], square);
            highest[c] = std::max(highest[c], square);
            const double u = square > 0 ? g[i] / std::sqrt(square) : 0;
            m_[size_t(i)] = momentum * m_[size_t(i)] + (1 - momentum) * u;
            w_[size_t(i)] = w_[size_t(i)] * (1 - double(lr[0]) * 0.1) - lr[0] * (momentum ? m_[size_t(i)] : u);
          }
          test::call(
              "sm3_update", {g.view(), lr.view()},
              {w.view(), first.view(), matrix ? second.view() : test::absent(), momentum ? m.view() : test::absent()},
              {momentum, 0.1});
          for (int64_t i = 0; i < n; i++) CHECK_NEAR(w[i], w_[size_t(i)], 5e-7 * (1 + std::fabs(w_[size_t(i)])));
          for (int64_t i = 0; i < first.count(); i++) CHECK_NEAR(first[i], top[size_t(i)], 1e-6 * top[size_t(i)]);
          for (int64_t j = 0; matrix && j < columns; j++)
            CHECK_NEAR(second[j], highest[size_t(j)], 1e-6 * highest[size_t(j)]);
        }
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
    }
  });
}

namespace {

constexpr uint32_t kKey[4] = {5, 6, 7, 8};
constexpr uint32_t kStream = 3;

test::Array key_of_rounding() {
  test::Array key(auxgrad::DType::i32, {4});
  std::memcpy(key.data(), kKey, sizeof(kKey));
  return key;
}

uint16_t* patterns(test::Array& a) { return reinterpret_cast<uint16_t*>(a.data()); }

// Element i of what is rounded: half i % 8 of Philox block i / 8 is what is added below the bits that stay.
uint16_t rounded(float x, int64_t i) {
  const uint32_t counter[4] = {uint32_t(i / 8), kStream, kKey[2], kKey[3]};
  uint32_t words[4];
  auxgrad::Philox{{kKey[0], kKey[1]}, auxgrad::kNoiseRounds}(counter, words);
  const uint32_t draw = words[i % 8 / 2] >> (16 * (i % 2)) & 0xffffu, bits = auxgrad::bits_of(x);
  return std::isnan(x) ? uint16_t(bits >> 16 | 0x40) : uint16_t((bits + draw) >> 16);
}

}  // namespace

TEST(round_bf16_draws_the_bits_that_it_drops) {
  test::each_isa([] {
    for (int64_t n : {0, 1, 7, 9, 255, 257, 70001}) {
      test::Array x = test::Array::normal({n}, 1), y(auxgrad::DType::bf16, {n}), key = key_of_rounding();
      const float odd[] = {0.0f, -0.0f, INFINITY, -INFINITY, std::nanf(""), -std::nanf(""), 1.5f, -3.0f, 1e-40f};
      for (int64_t i = 0; i < n && i < 90; i++) x[i] = odd[i % 9];
      test::call("round_bf16", {x.view(), key.view()}, {y.view()}, {kStream});
      for (int64_t i = 0; i < n; i++) {
        CHECK(patterns(y)[i] == rounded(x[i], i));
        const float back = auxgrad::bf16_to_f32(patterns(y)[i]);
        const bool exact = auxgrad::f32_to_bf16(x[i]) << 16 == int64_t(auxgrad::bits_of(x[i]));
        if (exact) CHECK(auxgrad::bits_of(back) == auxgrad::bits_of(x[i]));
        if (std::isnan(x[i])) CHECK(std::isnan(back));
      }
    }
  });
}

// Of n draws the mean is off by more than 5 standard deviations one time in a million; the draws are always the same.
TEST(round_bf16_keeps_the_mean) {
  test::each_isa([] {
    const int64_t n = 1 << 18;
    test::Array x = test::Array::f32({n}), y(auxgrad::DType::bf16, {n}), key = key_of_rounding();
    for (double share : {1 / 65536.0, 0.01, 0.25, 0.5, 0.75, 1 - 1 / 65536.0})
      for (double unit :
           {std::ldexp(1, -7), -std::ldexp(1, -7), std::ldexp(1, -133)}) {  // the last one: of what is denormal
        const double low = 128 * unit;
        for (int64_t i = 0; i < n; i++) x[i] = float(low + unit * share);
        test::call("round_bf16", {x.view(), key.view()}, {y.view()}, {kStream});
        int64_t up = 0;
        for (int64_t i = 0; i < n; i++) {
          const double steps = (double(auxgrad::bf16_to_f32(patterns(y)[i])) - low) / unit;
          CHECK(steps == 0 || steps == 1);
          up += steps == 1;
        }
        const double exact = (double(x[0]) - low) / unit;
        CHECK_NEAR(double(up) / double(n), exact, 5 * std::sqrt(exact * (1 - exact) / double(n)) + 1e-12);
      }
  });
}

// The parameter of every update in bf16: what f32 would have become, rounded stochastically; state as with f32.
TEST(updates_of_bf16_are_those_of_f32_rounded) {
  test::each_isa([] {
    using auxgrad::DType;
    using Specs = std::vector<std::pair<DType, std::vector<int64_t>>>;
    struct Update {
      const char* name;
      bool counts;  // reads the step
      std::vector<double> numbers;
      Specs (*state)(int64_t rows, int64_t columns);
      bool on_device;
    };
    static const auto of = [](DType dtype, int64_t n) { return Specs::value_type(dtype, {n}); };
    const auto factors = [](int64_t r, int64_t c) {
      return r > 1 ? Specs{of(DType::f32, r), of(DType::f32, c)} : Specs{of(DType::f32, c)};
    };
    const Update updates[] = {
        {"sgd_update",
         false,
         {0.9, 1, 0.01},
         [](int64_t r, int64_t c) { return Specs(1, of(DType::f32, r * c)); },
         true},
        {"adam_update",
         true,
         {0.9, 0.999, 1e-8, 0.1, 1},
         [](int64_t r, int64_t c) { return Specs(2, of(DType::f32, r * c)); },
         true},
        {"rms_update",
         false,
         {0.9, 0.1, 0, 1e-3, 0.1, 0.8},
         [](int64_t r, int64_t c) { return Specs(3, of(DType::f32, r * c)); },
         true},
        {"adam8_update",
         true,
         {0.9, 0.999, 1e-8, 0.1, 1},
         [](int64_t r, int64_t c) {
           return Specs{of(DType::u8, r * c), of(DType::u8, r * c), of(DType::f32, 2 * ((r * c + 255) / 256))};
         },
         false},
        {"lion_update",
         false,
         {0.9, 0.99, 0.1},
         [](int64_t r, int64_t c) { return Specs(1, of(DType::bf16, r * c)); },
         false},
        {"adafactor_update", true, {1e-30, 0, 1, 0.1, 0.8}, factors, false},
        {"adafactor_update", true, {1e-30, 1e-3, 1, 0.1, 0.8}, factors, false},
        {"sm3_update", false, {0, 0.1}, factors, false},
    };
    for (const Update& u : updates) {
      if (test::device() && !u.on_device) continue;
      for (auto [rows, columns] : {std::pair<int64_t, int64_t>{1, 1}, {1, 40001}, {5, 17}, {33, 2100}}) {
        const int64_t n = rows * columns;
        const std::vector<int64_t> shape = rows > 1 ? std::vector<int64_t>{rows, columns} : std::vector<int64_t>{n};
        test::Array whole = test::Array::normal(shape, 1), half(DType::bf16, shape), lr = scalar(1e-2f);
        test::Array scale = scalar(0.5f), key = key_of_rounding();
        for (int64_t i = 0; i < n; i++) patterns(half)[i] = auxgrad::f32_to_bf16(whole[i]);
        const auto bytes = [](test::Array& a) {
          return size_t(a.count()) * size_t(auxgrad::dtype_size(a.view().dtype));
        };
        std::vector<test::Array> states[2];
        for (auto& arrays : states)
          for (const auto& [dtype, size] : u.state(rows, columns)) {
            arrays.emplace_back(dtype, size);
            std::memset(arrays.back().data(), 0, bytes(arrays.back()));
          }
        // A sum over the parameter depends on the pieces that it is read in.
        const bool sums = u.numbers[1] == 1e-3;
        for (int step = 1; step <= 3; step++) {
          test::Array g = test::Array::normal(shape, uint32_t(1 + step)), count = scalar(float(step));
          for (int64_t i = 0; i < n; i++) whole[i] = auxgrad::bf16_to_f32(patterns(half)[i]);
          for (int k = 0; k < 2; k++) {
            std::vector<auxgrad::View> in = {g.view(), lr.view()}, out = {(k ? half : whole).view()};
            if (u.counts) in.push_back(count.view());
            in.push_back(scale.view());
            for (auto& a : states[k]) out.push_back(a.view());
            while (out.size() < 4 && std::strncmp(u.name, "adafactor", 9) != 0) out.push_back(test::absent());
            if (out.size() < 3) out.push_back(test::absent());
            std::vector<double> numbers = u.numbers;
            if (k) in.push_back(key.view()), numbers.push_back(kStream);
            test::call(u.name, in, out, numbers);
          }
          for (size_t k = 0; k < states[0].size(); k++)
            CHECK(std::memcmp(states[0][k].data(), states[1][k].data(), bytes(states[0][k])) == 0);
          for (int64_t i = 0; i < n; i++) {
            const uint16_t got = patterns(half)[i];
            if (sums)
              CHECK_NEAR(auxgrad::bf16_to_f32(got), double(whole[i]), std::fabs(double(whole[i])) / 128 + 1e-30);
            else CHECK(got == rounded(whole[i], i));
          }
        }
      }
    }
  });
}
