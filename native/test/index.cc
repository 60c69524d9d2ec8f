#include <algorithm>

#include "harness.h"

using auxgrad::DType;
using test::Array;

namespace {

Array indices(std::vector<int64_t> shape, int32_t size, uint32_t seed) {
  Array a(DType::i32, std::move(shape));
  std::mt19937 random(seed);
  for (int64_t i = 0; i < a.count(); i++) a.i32()[i] = static_cast<int32_t>(random() % static_cast<uint32_t>(size));
  return a;
}

}  // namespace

TEST(place_writes_the_window_and_the_rest) {
  test::each_isa([] {
    Array x = Array::normal({3, 2, 5}, 1), y = Array::f32({4, 7, 16});
    test::call("place", {test::permuted(x.view(), {1, 0, 2})}, {y.view()}, {-1, 1, 0, 2, 2, 3, 3});
    for (int64_t i = 0; i < 4; i++)
      for (int64_t j = 0; j < 7; j++)
        for (int64_t k = 0; k < 16; k++) {
          const bool inside = i % 2 == 1 && j % 3 == 0 && k >= 2 && (k - 2) % 3 == 0 && (k - 2) / 3 < 5;
          CHECK(y[(i * 7 + j) * 16 + k] == (inside ? x[(j / 3 * 2 + i / 2) * 5 + (k - 2) / 3] : -1.0f));
        }
  });
}

TEST(concat_takes_every_element_size) {
  test::each_isa([] {
    for (DType t : {DType::u8, DType::bf16, DType::f32}) {
      const int64_t size = auxgrad::dtype_size(t);
      Array a(t, {3, 4}), b(t, {3, 5}), y(t, {3, 9});
      for (int64_t i = 0; i < 12 * size; i++) a.data()[i] = static_cast<uint8_t>(i);
      for (int64_t i = 0; i < 15 * size; i++) b.data()[i] = static_cast<uint8_t>(100 + i);
      test::call("concat", {a.view(), b.view()}, {y.view()}, {1});
      for (int64_t r = 0; r < 3; r++) {
        CHECK(std::memcmp(y.data() + r * 9 * size, a.data() + r * 4 * size, static_cast<size_t>(4 * size)) == 0);
        CHECK(std::memcmp(y.data() + (r * 9 + 4) * size, b.data() + r * 5 * size, static_cast<size_t>(5 * size)) == 0);
      }
    }
  });
}

TEST(take_copies_rows_of_any_length) {
  test::each_isa([] {
    const int64_t before = auxgrad::cache_bytes();
    for (const int64_t cache : {int64_t{0}, before})
      for (const int64_t tokens : {0, 1, 2, 5, 67})
        for (const int64_t features : {1, 15, 16, 96, 256, 300, 1040}) {
          auxgrad::set_cache_bytes(cache);  // of no cache: results are stored past it
          Array x = Array::normal({11, features}, 1), index = indices({tokens}, 11, 2),
                y = Array::f32({tokens, features});
          test::call("take", {x.view(), index.view()}, {y.view()}, {0, 1});
          for (int64_t i = 0; i < y.count(); i++) CHECK(y[i] == x[index.i32()[i / features] * features + i % features]);
        }
    auxgrad::set_cache_bytes(before);
  });
}

TEST(take_grad_adds_in_order_and_leaves_the_padding) {
  test::each_isa([] {
    const int64_t rows = 13, features = 37, tokens = 500;
    Array index = indices({tokens}, rows, 2), dy = Array::integers({tokens, features}, 3),
          dx = Array::f32({rows, features});
    test::call("take_grad", {dy.view(), index.view()}, {dx.view()}, {0, 1, 4});
    for (int64_t r = 0; r < rows; r++)
      for (int64_t f = 0; f < features; f++) {
        float sum = 0;
        for (int64_t t = 0; t < tokens; t++) sum += index.i32()[t] == r ? dy[t * features + f] : 0.0f;
        CHECK(dx[r * features + f] == (r == 4 ? 0.0f : sum));
      }
  });
}

TEST(rows_are_met_once_and_put_back) {
  test::each_isa([] {
    for (const int64_t n : {0, 1, 2, 40, 700})
      for (const int32_t size : {1, 9, 1000000})
        for (const int64_t first : {int64_t{-1}, int64_t{0}, int64_t{size - 1}}) {
          const int64_t m = std::min<int64_t>(size, n + (first >= 0));
          Array index = indices({n}, size, 2), rows(DType::i32, {m}), places(DType::i32, {n});
          test::call("distinct", {index.view()}, {rows.view(), places.view()},
                     {static_cast<double>(size), 1, static_cast<double>(first)});
          std::vector<int32_t> met;
          const auto meet = [&](int32_t row) {
            if (std::find(met.begin(), met.end(), row) == met.end()) met.push_back(row);
          };
          if (first >= 0) meet(static_cast<int32_t>(first));
          for (int64_t i = 0; i < n; i++) {
            meet(index.i32()[i]);
            CHECK(rows.i32()[places.i32()[i]] == index.i32()[i]);
          }
          for (int64_t i = 0; i < m; i++)
            CHECK(rows.i32()[i] == (i < static_cast<int64_t>(met.size()) ? met[static_cast<size_t>(i)] : met[0]));
          if (size > 1000) continue;
          Array table = Array::normal({size, 5}, 3), before = Array::normal({size, 5}, 3), x = Array::normal({m, 5}, 4);
          test::call("put_rows", {rows.view(), x.view()}, {table.view()}, {1});
          for (int64_t i = 0; i < table.count(); i++) {
            const auto at = std::find(met.begin(), met.end(), static_cast<int32_t>(i / 5));
            CHECK(table[i] == (at == met.end() ? before[i] : x[(at - met.begin()) * 5 + i % 5]));
          }
        }
  });
}

TEST(scatter_add_is_the_transpose_of_gather) {
  test::each_isa([] {
    // <gather(x), v> = <x, scatter(v)> exactly, on small integers.
    Array x = Array::integers({6, 9, 5}, 1), index = indices({6, 4, 5}, 9, 2), v = Array::integers({6, 4, 5}, 3);
    Array gathered = Array::f32({6, 4, 5}), scattered = Array::f32({6, 9, 5});
    test::call("gather", {x.view(), index.view()}, {gathered.view()}, {1, 2});
    test::call("scatter_add", {test::absent(), index.view(), v.view()}, {scattered.view()}, {1, 3});
    double left = 0, right = 0;
    for (int64_t i = 0; i < v.count(); i++) left += gathered[i] * v[i];
    for (int64_t i = 0; i < x.count(); i++) right += x[i] * scattered[i];
    CHECK(left == right);
  });
}

TEST(an_index_out_of_range_is_named_and_nothing_is_written) {
  Array x = Array::normal({5, 3}, 1), index = indices({4}, 5, 2), y = Array::f32({4, 3});
  index.i32()[2] = 5;
  const uint32_t before = y.u32()[0];
  auxgrad::Failure failure;
  CHECK(!test::call("take", {x.view(), index.view()}, {y.view()}, {0, 1}, &failure));
  CHECK(failure.code == auxgrad::ErrorCode::index_out_of_range);
  CHECK(std::string(failure.message) == "embedding: index 5 at position 2 is not in [0, 5)");
  CHECK(y.u32()[0] == before);
}

TEST(sort_is_stable_and_puts_nan_last) {
  test::each_isa([] {
    for (int64_t n : {1, 2, 15, 16, 17, 33, 257, 3000}) {
      Array x = Array::integers({2, n}, static_cast<uint32_t>(n)), y = Array::f32({2, n}), at(DType::i32, {2, n});
      if (n > 20) {
        x[3] = NAN;
        x[5] = -INFINITY;
        x[7] = -0.0f;
        x[9] = 0.0f;
      }
      for (double descending : {0.0, 1.0}) {
        test::call("sort", {x.view()}, {y.view(), at.view()}, {descending});
        const auto less = [](float a, float b) { return std::isnan(b) ? !std::isnan(a) : a < b; };
        for (int64_t r = 0; r < 2; r++)
          for (int64_t i = 0; i < n; i++) {
            const int64_t k = r * n + i;
            CHECK(at.i32()[k] >= 0 && at.i32()[k] < n);
            CHECK(std::memcmp(&y[k], &x[r * n + at.i32()[k]], 4) == 0);
            if (i == 0) continue;
            const float a = y[k - 1], b = y[k];
            CHECK(descending != 0 ? !less(a, b) : !less(b, a));
            if (!less(a, b) && !less(b, a)) CHECK(at.i32()[k - 1] < at.i32()[k]);
          }
        for (int64_t few : {0, 1, 5, 16, 17}) {
          if (few > n) break;
          Array first = Array::f32({2, few}), place(DType::i32, {2, few});
          test::call("sort", {x.view()}, {first.view(), place.view()}, {descending});
          for (int64_t i = 0; i < 2 * few; i++) {
            const int64_t k = i / few * n + i % few;
            CHECK(place.i32()[i] == at.i32()[k] && std::memcmp(&first[i], &y[k], 4) == 0);
          }
        }
      }
    }
  });
}
