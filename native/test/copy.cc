#include <array>

#include "harness.h"

TEST(contiguous_copies_any_strides) {
  test::each_isa([] {
    for (auto shape : {std::vector<int64_t>{3, 5, 7},
                       {1, 1, 1},
                       {0, 4, 2},
                       {64, 33, 2},
                       {17, 3, 40},
                       {33, 2, 64},
                       {5, 16, 16},
                       {300, 1, 19}}) {
      test::Array x = test::Array::normal(shape, 1);
      test::Array y = test::Array::f32({shape[2], shape[0], shape[1]});
      test::call("contiguous", {test::permuted(x.view(), {2, 0, 1})}, {y.view()});
      for (int64_t k = 0; k < shape[2]; k++)
        for (int64_t i = 0; i < shape[0]; i++)
          for (int64_t j = 0; j < shape[1]; j++)
            CHECK(y[(k * shape[0] + i) * shape[1] + j] == x[(i * shape[1] + j) * shape[2] + k]);
    }
  });
}

// The dense axis in the middle or first, and others repeated.
TEST(contiguous_turns_planes) {
  test::each_isa([] {
    for (auto [n, h, w, c] : {std::array<int64_t, 4>{2, 5, 7, 33}, {1, 16, 1, 16}, {3, 9, 8, 20}, {2, 1, 70, 17}}) {
      test::Array x = test::Array::normal({n, c, h, w}, 1), y = test::Array::f32({n, h, w, c}),
                  z = test::Array::f32({w, n, c, h});
      test::call("contiguous", {test::permuted(x.view(), {0, 2, 3, 1})}, {y.view()});
      test::call("contiguous", {test::permuted(x.view(), {3, 0, 1, 2})}, {z.view()});
      for (int64_t i = 0; i < x.count(); i++) {
        const int64_t b = i % w, a = i / w % h, k = i / w / h % c, m = i / w / h / c;
        CHECK(y[((m * h + a) * w + b) * c + k] == x[i] && z[((b * n + m) * c + k) * h + a] == x[i]);
      }
    }
  });
}

// Outputs too large for the caches, with ragged edges and rows that begin anywhere.
TEST(contiguous_turns_large_matrices) {
  test::each_isa([] {
    for (auto [rows, columns] : {std::array<int64_t, 2>{1040, 1024}, {1031, 1040}, {1030, 1033}}) {
      test::Array x = test::Array::normal({rows, columns}, 1), y = test::Array::f32({columns, rows});
      test::call("contiguous", {test::permuted(x.view(), {1, 0})}, {y.view()});
      for (int64_t i = 0; i < x.count(); i++) CHECK(y[i % columns * rows + i / columns] == x[i]);
    }
  });
}

// Runs, and rows of steps, longer than what one task copies.
TEST(contiguous_cuts_long_runs) {
  test::each_isa([] {
    constexpr int64_t n = 70001;
    test::Array x = test::Array::normal({2, 3, n}, 1), y = test::Array::f32({2, 2, n}), z = test::Array::f32({3, n});
    auxgrad::View part = x.view();
    part.shape[1] = 2;
    test::call("contiguous", {part}, {y.view()});
    for (int64_t i = 0; i < y.count(); i++) CHECK(y[i] == x[i / (2 * n) * 3 * n + i % (2 * n)]);
    auxgrad::View every_second = z.view();
    every_second.data = x.data();
    every_second.stride[0] = 2 * n;
    every_second.stride[1] = 2;
    test::call("contiguous", {every_second}, {z.view()});
    for (int64_t i = 0; i < z.count(); i++) CHECK(z[i] == x[2 * i]);
  });
}

TEST(fill_writes_every_element) {
  test::each_isa([] {
    test::Array y = test::Array::f32({70001});
    test::call("fill", {}, {y.view()}, {2.5});
    for (int64_t i = 0; i < y.count(); i++) CHECK(y[i] == 2.5f);
  });
}
