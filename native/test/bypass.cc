// Outputs too large for the caches are stored past them: the same bits, and none outside.
#include "harness.h"

using auxgrad::DType;
using test::Array;

namespace {

Array places(std::vector<int64_t> shape, int64_t below, uint32_t seed) {
  Array a(DType::i32, std::move(shape));
  std::mt19937 random(seed);
  for (int64_t i = 0; i < a.count(); i++) a.i32()[i] = static_cast<int32_t>(random() % static_cast<uint32_t>(below));
  return a;
}
Array words(std::vector<int64_t> shape, uint32_t seed) {
  Array a(DType::u32, std::move(shape));
  std::mt19937 random(seed);
  for (int64_t i = 0; i < a.count(); i++) a.u32()[i] = static_cast<uint32_t>(random());
  return a;
}

// Runs the kernel twice, with caches for all and for nothing; the results must be equal to the bit.
void same(const char* kernel, std::vector<auxgrad::View> in, std::vector<Array> (*outputs)(int64_t, int64_t),
          int64_t rows, int64_t columns, std::vector<double> numbers) {
  std::vector<Array> results[2];
  const int64_t before = auxgrad::cache_bytes();
  for (int run = 0; run < 2; run++) {
    auxgrad::set_cache_bytes(run ? 0 : int64_t{1} << 40);
    results[run] = outputs(rows, columns);
    std::vector<auxgrad::View> out;
    for (Array& a : results[run]) out.push_back(a.view());
    CHECK(test::call(kernel, in, out, numbers));
  }
  auxgrad::set_cache_bytes(before);
  for (size_t i = 0; i < results[0].size(); i++) {
    const int64_t bytes = results[0][i].count() * auxgrad::dtype_size(results[0][i].view().dtype);
    if (std::memcmp(results[0][i].data(), results[1][i].data(), static_cast<size_t>(bytes)) != 0)
      test::failed(__FILE__, __LINE__,
                   std::string(kernel) + " differs at " + std::to_string(rows) + " x " + std::to_string(columns));
  }
}

template <class... Outputs>
std::vector<Array> list(Outputs... outputs) {
  std::vector<Array> all;
  (all.push_back(std::move(outputs)), ...);
  return all;
}
std::vector<Array> matrix(int64_t r, int64_t c) { return list(Array::f32({r, c})); }
std::vector<Array> halves(int64_t r, int64_t c) { return list(Array(DType::bf16, {r, c})); }
std::vector<Array> flags(int64_t r, int64_t c) { return list(Array(DType::boolean, {r, c})); }
std::vector<Array> with_two_rows(int64_t r, int64_t c) {
  return list(Array::f32({r, c}), Array::f32({c}), Array::f32({c}));
}
std::vector<Array> with_row(int64_t r, int64_t c) { return list(Array::f32({r, c}), Array::f32({c})); }
std::vector<Array> with_two_columns(int64_t r, int64_t c) {
  return list(Array::f32({r, c}), Array::f32({r}), Array::f32({r}));
}
std::vector<Array> with_column(int64_t r, int64_t c) { return list(Array::f32({r, c}), Array::f32({r})); }

}  // namespace

TEST(results_stored_past_the_caches_are_the_same) {
  test::each_isa([] {
    for (const int64_t rows : {1, 7, 33, 64})
      for (const int64_t c : {1, 13, 16, 48, 256, 1000, 1040, 4112}) {
        Array x = Array::normal({rows, c}, 1), dy = Array::normal({rows, c}, 2), g = Array::normal({c}, 3),
              b = Array::normal({c}, 4), s = Array::normal({c}, 5), m = Array::normal({rows}, 6),
              v = Array::normal({rows}, 7), signs = words({(rows + 31) / 32, c}, 8),
              codes = words({(rows + 15) / 16, c}, 9), ranges = Array::normal({rows, 2}, 10),
              label = places({rows}, c, 11), index = places({rows}, rows, 12), key = places({4}, 1000, 13);
        const auto X = x.view(), D = dy.view(), G = g.view(), B = b.view(), S = s.view(), M = m.view(), V = v.view();
        auxgrad::View bias = G;  // repeated over the rows
        bias.rank = 2, bias.shape[0] = rows, bias.shape[1] = c, bias.stride[0] = 0, bias.stride[1] = 1;
        same("exp", {X}, matrix, rows, c, {});
        for (const char* function : {"gelu", "gelu_tanh", "sigmoid", "silu", "relu", "tanh"})
          same(function, {X}, matrix, rows, c, {});
        for (const char* function : {"gelu_grad", "gelu_tanh_grad", "silu_grad"})
          same(function, {D, X}, matrix, rows, c, {});
        same("add", {X, D}, matrix, rows, c, {});
        same("add", {X, bias}, matrix, rows, c, {});
        same("cast", {X}, halves, rows, c, {});
        same("lt", {X, D}, flags, rows, c, {});
        same("batch_norm_apply", {X, G, B, S, G}, matrix, rows, c, {1});
        same("batch_norm_grad", {D, X, G, B, S}, with_two_rows, rows, c, {1});
        same("layer_norm", {X, G, B}, with_two_columns, rows, c, {1e-5});
        same("layer_norm_grad", {D, X, M, V, G}, with_two_rows, rows, c, {});
        same("rms_norm", {X, G}, with_column, rows, c, {1e-5});
        same("rms_norm_grad", {D, X, V, G}, with_row, rows, c, {});
        same("softmax", {X}, matrix, rows, c, {});
        same("softmax_grad", {D, X}, matrix, rows, c, {});
        same("log_softmax", {X}, matrix, rows, c, {});
        same("log_softmax_grad", {D, X}, matrix, rows, c, {});
        same("cross_entropy_grad", {V, X, label.view(), M}, matrix, rows, c, {0.1, -100});
        same("dropout", {X, key.view()}, matrix, rows, c, {3, 0.5});
        same("sign_unpack", {signs.view()}, matrix, rows, c, {0, 0.5});
        same("add_sign", {X}, matrix, rows, c, {0.25, 1});
        same("mask_apply", {D, signs.view()}, matrix, rows, c, {});
        same("code2_unpack", {codes.view(), ranges.view()}, matrix, rows, c, {});
        same("take", {X, index.view()}, matrix, rows, c, {0, 1});
        same("take_grad", {D, index.view()}, matrix, rows, c, {0, 1, 2});
        for (const int64_t bits : {2, 4, 8}) {
          const int64_t groups = (rows * c + 255) / 256;
          Array packed = words({groups, 8 * bits}, 14), spans(DType::u32, {groups});
          for (int64_t i = 0; i < groups; i++) spans.u32()[i] = 0xbf803f80u;
          same("dequantize", {packed.view(), spans.view()}, matrix, rows, c, {static_cast<double>(bits)});
        }
      }
    for (const int64_t channels : {6, 32, 96}) {
      Array x = Array::normal({3, 4, 6, channels}, 1), dy = Array::normal({3, 4, 6, channels}, 2),
            g = Array::normal({channels}, 3), m = Array::normal({3, 2}, 4), v = Array::normal({3, 2}, 5),
            small = Array::normal({3, 2, 3, channels}, 6), taken(DType::u8, {3, 2, 3, channels}),
            every(DType::u8, {3, 4, 6, channels});
      for (int64_t i = 0; i < taken.count(); i++) taken.u8()[i] = static_cast<uint8_t>(i * 7 % 4);
      for (int64_t i = 0; i < every.count(); i++) every.u8()[i] = static_cast<uint8_t>(i * 7 % 25);
      const auto maps = [](int64_t, int64_t c) { return list(Array::f32({3, 4, 6, c})); };
      same("group_norm", {x.view(), g.view(), g.view()},
           [](int64_t, int64_t c) {
             return list(Array::f32({3, 4, 6, c}), Array::f32({3, 2}), Array::f32({3, 2}));
           },
           3, channels, {2, 1e-5});
      same("group_norm_grad", {dy.view(), x.view(), m.view(), v.view(), g.view()},
           [](int64_t, int64_t c) {
             return list(Array::f32({3, 4, 6, c}), Array::f32({c}), Array::f32({c}));
           },
           3, channels, {2});
      same("max_pool2d", {x.view()},
           [](int64_t, int64_t c) {
             return list(Array::f32({3, 2, 3, c}), Array(DType::u8, {3, 2, 3, c}));
           },
           3, channels, {2, 2, 2, 2, 0, 0, 1, 1});
      same("max_pool2d_grad", {small.view(), taken.view()}, maps, 3, channels, {2, 2, 2, 2, 0, 0, 1, 1});
      same("max_pool2d_grad", {small.view(), taken.view()}, maps, 3, channels, {3, 3, 2, 2, 1, 1, 1, 1});
      same("max_pool2d_grad", {dy.view(), every.view()}, maps, 3, channels, {5, 5, 1, 1, 2, 2, 1, 1});
    }
  });
}

// Runs of outputs, windows of several rows, and windows that overlap or have gaps.
TEST(max_pool2d_of_pairs_is_the_same_past_the_caches) {
  test::each_isa([] {
    for (const int64_t c : {16, 48, 512, 2064, 4112}) {
      Array x = Array::integers({2, 5, 27, c}, static_cast<uint32_t>(c));
      for (int64_t i = 0; i < x.count(); i += 37) x[i] = i % 2 ? NAN : -INFINITY;
      same("max_pool2d", {x.view()},
           [](int64_t n, int64_t channels) {
             return list(Array::f32({n, 3, 13, channels}), Array(DType::u8, {n, 3, 13, channels}));
           },
           2, c, {3, 2, 1, 2, 0, 0, 1, 1});
      same("max_pool2d", {x.view()},
           [](int64_t n, int64_t channels) {
             return list(Array::f32({n, 2, 24, channels}), Array(DType::u8, {n, 2, 24, channels}));
           },
           2, c, {2, 2, 2, 1, 0, 0, 2, 3});
    }
  });
}
