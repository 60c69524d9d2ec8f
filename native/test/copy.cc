#include <algorithm>
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

// Every order of axes, for elements of every size, within the caches and past them: short rows, runs of whole lines, and
// one run too long for a tile.
TEST(contiguous_takes_axes_in_any_order) {
  test::each_isa([] {
    using auxgrad::DType;
    const int64_t cache = auxgrad::cache_bytes();
    for (int64_t bytes : {cache, int64_t{1}}) {
      auxgrad::set_cache_bytes(bytes);
      for (DType type : {DType::u8, DType::bf16, DType::f32})
        for (std::vector<int64_t> shape :
             {std::vector<int64_t>{2, 3, 40, 3}, {5, 2, 4, 64}, {3, 1, 7, 33}, {2, 0, 3, 4}, {1, 2, 1, 70001}}) {
          std::vector<int> order = {0, 1, 2, 3};
          do {
            std::vector<int64_t> turned;
            for (int axis : order) turned.push_back(shape[size_t(axis)]);
            test::Array x(type, shape), y(type, turned);
            const int64_t size = auxgrad::dtype_size(type);
            for (int64_t i = 0; i < x.count() * size; i++) x.u8()[i] = static_cast<uint8_t>(i * 7919 % 251);
            const auxgrad::View from = test::permuted(x.view(), order);
            test::call("contiguous", {from}, {y.view()});
            bool same = true;
            for (int64_t i = 0; i < y.count(); i++) {
              int64_t at = 0, rest = i;
              for (int axis = 3; axis >= 0; axis--) {
                at += rest % from.shape[axis] * from.stride[axis];
                rest /= from.shape[axis];
              }
              same = same && memcmp(y.u8() + i * size, x.u8() + at * size, static_cast<size_t>(size)) == 0;
            }
            CHECK(same);
          } while (std::next_permutation(order.begin(), order.end()));
        }
    }
    auxgrad::set_cache_bytes(cache);
  });
}

TEST(fill_writes_every_element) {
  test::each_isa([] {
    test::Array y = test::Array::f32({70001});
    test::call("fill", {}, {y.view()}, {2.5});
    for (int64_t i = 0; i < y.count(); i++) CHECK(y[i] == 2.5f);
  });
}
