#include "harness.h"

TEST(contiguous_copies_any_strides) {
  test::each_isa([] {
    for (auto shape : {std::vector<int64_t>{3, 5, 7}, {1, 1, 1}, {0, 4, 2}, {64, 33, 2}}) {
      test::Array x = test::Array::normal(shape, 1);
      test::Array y = test::Array::f32({shape[2], shape[0], shape[1]});
      test::call("contiguous", {test::permuted(x.view(), {2, 0, 1})}, {y.view()});
      for (int64_t k = 0; k < shape[2]; k++)
        for (int64_t i = 0; i < shape[0]; i++)
          for (int64_t j = 0; j < shape[1]; j++)
            CHECK(y[(k * shape[0] + i) * shape[1] + j] == x[(i * shape[1] + j) * shape[2] + k]);
      CHECK(y.guards_intact());
    }
  });
}

TEST(fill_writes_every_element) {
  test::each_isa([] {
    test::Array y = test::Array::f32({70001});
    test::call("fill", {}, {y.view()}, {2.5});
    for (int64_t i = 0; i < y.count(); i++) CHECK(y[i] == 2.5f);
    CHECK(y.guards_intact());
  });
}
