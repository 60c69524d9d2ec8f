#include "core/parallel.h"
#include "harness.h"

namespace {

struct Shape {
  int64_t n, h, w, c, kh, kw, sh, sw, top, left, dh, dw;

  int64_t p() const { return (h + 2 * top - dh * (kh - 1) - 1) / sh + 1; }
  int64_t q() const { return (w + 2 * left - dw * (kw - 1) - 1) / sw + 1; }
};

const Shape kShapes[] = {
    {2, 8, 8, 16, 2, 2, 2, 2, 0, 0, 1, 1}, {1, 15, 13, 37, 3, 3, 2, 2, 1, 1, 1, 1},
    {3, 5, 7, 1, 3, 2, 1, 1, 1, 1, 1, 1},  {1, 12, 11, 70, 2, 3, 3, 2, 0, 1, 2, 3},
    {1, 1, 1, 5, 1, 1, 1, 1, 0, 0, 1, 1},  {1, 20, 9, 3, 5, 5, 3, 1, 2, 2, 1, 1},
    {0, 4, 4, 3, 2, 2, 2, 2, 0, 0, 1, 1},  {2, 4, 4, 0, 2, 2, 2, 2, 0, 0, 1, 1},
    {1, 9, 9, 33, 2, 2, 3, 3, 0, 0, 1, 1},
};

// Window [begin, end) of adaptive output p.
int64_t bin_begin(int64_t p, int64_t in, int64_t out) { return p * in / out; }
int64_t bin_end(int64_t p, int64_t in, int64_t out) { return ((p + 1) * in + out - 1) / out; }

}  // namespace

TEST(max_pool2d_and_gradient) {
  test::each_isa([] {
    uint32_t seed = 1;
    for (const Shape& s : kShapes) {
      // Few distinct values: ties test which maximum is first.
      test::Array x = test::Array::integers({s.n, s.h, s.w, s.c}, seed++);
      test::Array dy = test::Array::integers({s.n, s.p(), s.q(), s.c}, seed++);
      test::Array y = test::Array::f32({s.n, s.p(), s.q(), s.c}), dx = test::Array::f32({s.n, s.h, s.w, s.c});
      test::Array index(auxgrad::DType::u8, {s.n, s.p(), s.q(), s.c});
      if (x.count() > 20) x[7] = NAN, x[11] = -INFINITY, x[20] = INFINITY;
      const std::vector<double> numbers = {double(s.kh),  double(s.kw),   double(s.sh), double(s.sw),
                                           double(s.top), double(s.left), double(s.dh), double(s.dw)};
      test::call("max_pool2d", {x.view()}, {y.view(), index.view()}, numbers);
      test::call("max_pool2d_grad", {dy.view(), index.view()}, {dx.view()}, numbers);
      std::vector<double> expected(size_t(dx.count()));
      for (int64_t o = 0; o < y.count(); o++) {
        const int64_t c = o % s.c, q = o / s.c % s.q(), p = o / s.c / s.q() % s.p(), n = o / s.c / s.q() / s.p();
        int64_t at = -1, from = -1;
        for (int64_t a = 0; a < s.kh; a++)
          for (int64_t b = 0; b < s.kw; b++) {
            const int64_t i = p * s.sh - s.top + a * s.dh, j = q * s.sw - s.left + b * s.dw;
            if (i < 0 || i >= s.h || j < 0 || j >= s.w) continue;
            const int64_t k = ((n * s.h + i) * s.w + j) * s.c + c;
            if (at >= 0 && !(x[k] > x[from]) && !(std::isnan(x[k]) && !std::isnan(x[from]))) continue;
            at = a * s.kw + b;
            from = k;
          }
        CHECK(y[o] == x[from] || (std::isnan(y[o]) && std::isnan(x[from])));
        CHECK(index.u8()[o] == at);
        expected[size_t(from)] += dy[o];
      }
      for (int64_t i = 0; i < dx.count(); i++) CHECK(dx[i] == expected[size_t(i)]);
    }
  });
}

TEST(avg_pool2d_and_gradient) {
  test::each_isa([] {
    uint32_t seed = 100;
    for (const Shape& s : kShapes)
      for (int padding_counts : {0, 1}) {
        if (s.dh != 1) continue;
        test::Array x = test::Array::normal({s.n, s.h, s.w, s.c}, seed++);
        test::Array dy = test::Array::normal({s.n, s.p(), s.q(), s.c}, seed++);
        test::Array y = test::Array::f32({s.n, s.p(), s.q(), s.c}), dx = test::Array::f32({s.n, s.h, s.w, s.c});
        const std::vector<double> numbers = {double(s.kh),  double(s.kw),   double(s.sh),          double(s.sw),
                                             double(s.top), double(s.left), double(padding_counts)};
        test::call("avg_pool2d", {x.view()}, {y.view()}, numbers);
        test::call("avg_pool2d_grad", {dy.view()}, {dx.view()}, numbers);
        std::vector<double> y_(size_t(y.count())), dx_(size_t(dx.count()));
        for (int64_t o = 0; o < y.count(); o++) {
          const int64_t c = o % s.c, q = o / s.c % s.q(), p = o / s.c / s.q() % s.p(), n = o / s.c / s.q() / s.p();
          std::vector<int64_t> inside;
          for (int64_t i = p * s.sh - s.top; i < p * s.sh - s.top + s.kh; i++)
            for (int64_t j = q * s.sw - s.left; j < q * s.sw - s.left + s.kw; j++)
              if (i >= 0 && i < s.h && j >= 0 && j < s.w) inside.push_back(((n * s.h + i) * s.w + j) * s.c + c);
          const double divisor = padding_counts ? double(s.kh * s.kw) : double(inside.size());
          for (int64_t k : inside) {
            y_[size_t(o)] += x[k] / divisor;
            dx_[size_t(k)] += dy[o] / divisor;
          }
        }
        CHECK(y.count() == 0 || test::relative_error(y.f32(), y_.data(), y.count()) < 3e-7);
        CHECK(dx.count() == 0 || test::relative_error(dx.f32(), dx_.data(), dx.count()) < 3e-7);
      }
  });
}

TEST(adaptive_avg_pool2d_and_gradient) {
  test::each_isa([] {
    uint32_t seed = 200;
    const int64_t shapes[][6] = {{2, 7, 7, 300, 1, 1}, {1, 5, 13, 3, 1, 2}, {1, 8, 6, 33, 4, 3}, {1, 7, 5, 17, 3, 2},
                                 {1, 3, 4, 9, 5, 7},   {2, 1, 1, 4, 1, 1},  {0, 3, 3, 4, 2, 2}};
    for (const auto& [n, h, w, c, p, q] : shapes) {
      test::Array x = test::Array::normal({n, h, w, c}, seed++), dy = test::Array::normal({n, p, q, c}, seed++);
      test::Array y = test::Array::f32({n, p, q, c}), dx = test::Array::f32({n, h, w, c});
      test::call("adaptive_avg_pool2d", {x.view()}, {y.view()});
      test::call("adaptive_avg_pool2d_grad", {dy.view()}, {dx.view()});
      std::vector<double> y_(size_t(y.count())), dx_(size_t(dx.count()));
      for (int64_t o = 0; o < y.count(); o++) {
        const int64_t k = o % c, b = o / c % q, a = o / c / q % p, image = o / c / q / p;
        const int64_t i0 = bin_begin(a, h, p), i1 = bin_end(a, h, p), j0 = bin_begin(b, w, q), j1 = bin_end(b, w, q);
        for (int64_t i = i0; i < i1; i++)
          for (int64_t j = j0; j < j1; j++) {
            const int64_t from = ((image * h + i) * w + j) * c + k;
            y_[size_t(o)] += x[from] / double((i1 - i0) * (j1 - j0));
            dx_[size_t(from)] += dy[o] / double((i1 - i0) * (j1 - j0));
          }
      }
      CHECK(y.count() == 0 || test::relative_error(y.f32(), y_.data(), y.count()) < 1e-6);
      CHECK(dx.count() == 0 || test::relative_error(dx.f32(), dx_.data(), dx.count()) < 1e-6);
    }
  });
}

TEST(pooling_same_bits_for_any_threads) {
  test::each_isa([] {
    test::Array x = test::Array::normal({3, 31, 29, 50}, 1);
    std::vector<uint8_t> first;
    for (int threads : {1, 2, 5}) {
      auxgrad::set_threads(threads);
      test::Array y = test::Array::f32({3, 5, 5, 50}), dx = test::Array::f32({3, 31, 29, 50});
      test::call("adaptive_avg_pool2d", {x.view()}, {y.view()});
      test::call("adaptive_avg_pool2d_grad", {y.view()}, {dx.view()});
      const std::vector<uint8_t> now(dx.data(), dx.data() + dx.count() * 4);
      if (threads == 1) first = now;
      CHECK(first == now);
    }
    auxgrad::set_threads(auxgrad::default_threads());
  });
}

TEST(max_pool2d_refuses_large_windows) {
  test::Array x = test::Array::f32({1, 40, 40, 1}), y = test::Array::f32({1, 1, 1, 1});
  test::Array index(auxgrad::DType::u8, {1, 1, 1, 1});
  auxgrad::Failure failure;
  CHECK(!test::call("max_pool2d", {x.view()}, {y.view(), index.view()}, {40, 40, 1, 1, 0, 0, 1, 1}, &failure));
  CHECK(std::string(failure.message).find("40 x 40") != std::string::npos);
}
