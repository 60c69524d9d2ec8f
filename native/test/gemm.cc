#include "core/parallel.h"
#include "harness.h"

namespace {

void check_matmul(int64_t batch, int64_t m, int64_t n, int64_t k, bool ta, bool tb, bool exact) {
  const auto make = exact ? [](std::vector<int64_t> s, uint32_t seed) { return test::Array::integers(s, seed); }
                          : [](std::vector<int64_t> s, uint32_t seed) { return test::Array::normal(s, seed); };
  test::Array a = ta ? make({batch, k, m}, 1) : make({batch, m, k}, 1);
  test::Array b = tb ? make({batch, n, k}, 2) : make({batch, k, n}, 2);
  test::Array c = test::Array::f32({batch, m, n});
  const auxgrad::View va = ta ? test::permuted(a.view(), {0, 2, 1}) : a.view();
  const auxgrad::View vb = tb ? test::permuted(b.view(), {0, 2, 1}) : b.view();
  test::call("matmul", {va, vb}, {c.view()}, {1.0});
  std::vector<double> expected(static_cast<size_t>(batch * m * n));
  for (int64_t p = 0; p < batch; p++)
    for (int64_t i = 0; i < m; i++)
      for (int64_t j = 0; j < n; j++) {
        double sum = 0;
        for (int64_t q = 0; q < k; q++)
          sum += static_cast<double>(va.f32()[p * m * k + i * va.stride[1] + q * va.stride[2]]) *
                 vb.f32()[p * k * n + q * vb.stride[1] + j * vb.stride[2]];
        expected[static_cast<size_t>((p * m + i) * n + j)] = sum;
      }
  const double error = test::relative_error(c.f32(), expected.data(), c.count());
  CHECK(error <= (exact ? 0.0 : 1e-6));
}

// Bits of value(t, c) > 0; those beyond the last token are 0.
template <class F>
void check_bits(test::Array& bits, int64_t tokens, int64_t channels, const F& value) {
  for (int64_t t = 0; t < (tokens + 31) / 32 * 32; t++)
    for (int64_t c = 0; c < channels; c++) {
      const bool bit = bits.u32()[t / 32 * channels + c] >> (t % 32) & 1;
      CHECK(bit == (t < tokens && value(t, c) > 0));
    }
}

struct Fused {
  int64_t tokens, in, out;
  bool transposed_x, transposed_w, bias, signs, mask;
  int alphabet, activation;
};

// On integers and an epsilon that is a power of two every order of summation gives the same bits.
void check_linear(const Fused& f) {
  const auto make = [](int64_t rows, int64_t columns, bool transposed, uint32_t seed) {
    return test::Array::integers(transposed ? std::vector<int64_t>{columns, rows} : std::vector<int64_t>{rows, columns},
                                 seed);
  };
  test::Array x = make(f.tokens, f.in, f.transposed_x, 1), w = make(f.out, f.in, f.transposed_w, 2);
  for (int64_t i = 0; i < x.count(); i++)
    if (x[i] == 1) x[i] = -0.0f;
  test::Array bias = test::Array::integers({f.out}, 3), y = test::Array::f32({f.tokens, f.out});
  test::Array signs(auxgrad::DType::u32, {(f.tokens + 31) / 32, f.in}),
      mask(auxgrad::DType::u32, {(f.tokens + 31) / 32, f.out});
  const auxgrad::View vx = f.transposed_x ? test::permuted(x.view(), {1, 0}) : x.view();
  const auxgrad::View vw = f.transposed_w ? test::permuted(w.view(), {1, 0}) : w.view();
  test::call("linear", {vx, vw, f.bias ? bias.view() : test::absent()},
             {y.view(), f.signs ? signs.view() : test::absent(), f.mask ? mask.view() : test::absent()},
             {0.25, double(f.alphabet), double(f.activation)});
  const auto at = [](const auxgrad::View& v, int64_t i, int64_t k) {
    return v.f32()[i * v.stride[0] + k * v.stride[1]];
  };
  for (int64_t t = 0; t < f.tokens; t++)
    for (int64_t o = 0; o < f.out; o++) {
      double sum = f.bias ? bias[o] : 0;
      for (int64_t k = 0; k < f.in; k++) {
        const double v = at(vx, t, k);
        sum += (v + (v > 0 ? 0.25 : f.alphabet ? 0 : -0.25)) * at(vw, o, k);
      }
      CHECK(y[t * f.out + o] == (f.activation && sum < 0 ? 0 : sum));
    }
  if (f.signs) check_bits(signs, f.tokens, f.in, [&](int64_t t, int64_t c) { return at(vx, t, c); });
  if (f.mask) check_bits(mask, f.tokens, f.out, [&](int64_t t, int64_t c) { return y[t * f.out + c]; });
}

}  // namespace

TEST(matmul_equals_the_reference) {
  test::each_isa([] {
    for (bool exact : {true, false})
      for (int t = 0; t < 4; t++) {
        check_matmul(1, 1, 1, 1, t & 1, t & 2, exact);
        check_matmul(1, 37, 61, 67, t & 1, t & 2, exact);
        check_matmul(3, 13, 33, 5, t & 1, t & 2, exact);
        check_matmul(1, 5, 7, 0, t & 1, t & 2, exact);
        check_matmul(1, 200, 40, 600, t & 1, t & 2, exact);
        check_matmul(1, 9, 17, 9001, t & 1, t & 2, exact);  // K in parts
      }
    check_matmul(1, 0, 3, 4, false, false, true);
  });
}

// Sizes one below, at and above every block of every instruction set: rows, columns and steps of a tile, vectors, words
// of a mask, groups of columns, blocks of K.
TEST(matmul_is_exact_around_its_blocks) {
  test::each_isa([] {
    for (int t = 0; t < 4; t++) {
      for (int64_t m : {1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 14, 15, 27, 28, 29, 31, 32, 33, 63, 64, 65})
        check_matmul(1, m, 33, 20, t & 1, t & 2, true);
      for (int64_t n : {1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 79, 80, 81, 127, 128, 129})
        for (int64_t m : {5, 17}) check_matmul(1, m, n, 21, t & 1, t & 2, true);
      for (int64_t n : {255, 256, 257, 383, 384, 385, 769}) check_matmul(1, 17, n, 130, t & 1, t & 2, true);
      for (int64_t k : {1, 2, 3, 4, 5, 15, 16, 17, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1024, 1025})
        for (int64_t m : {3, 31}) check_matmul(1, m, 48, k, t & 1, t & 2, true);
      for (int64_t m : {1, 5, 6, 7, 8, 12, 13, 14}) check_matmul(1, m, 301, 700, t & 1, t & 2, true);  // B read once
      check_matmul(2, 8, 256, 320, t & 1, t & 2, true);
      check_matmul(1, 150, 300, 512, t & 1, t & 2, true);  // rows of A that would share a set of the cache
      check_matmul(1, 171, 530, 259, t & 1, t & 2, true);  // rows of A in blocks of some tiles
      for (int64_t m : {18, 20, 22, 24, 26, 28}) check_matmul(1, m, 70, 400, t & 1, t & 2, true);  // B packed by tiles
      check_matmul(1, 90, 70, 500, t & 1, t & 2, true);   // B in place, in blocks of K
      check_matmul(1, 512, 70, 400, t & 1, t & 2, true);  // columns of A that would share a set of the cache
      check_matmul(1, 512, 70, 40, t & 1, t & 2, true);
      check_matmul(1, 90, 1061, 530, t & 1, t & 2, true);  // groups of columns, blocks of K, of tiles
      check_matmul(7, 64, 64, 64, t & 1, t & 2, true);
      check_matmul(2, 33, 9, 5000, t & 1, t & 2, true);  // K is not cut in a batch
    }
  });
}

// Products large enough for the matrix unit, where there is one: around its strips of 32 rows and columns, halves of
// them, groups of 16 strips and blocks of K of 256; K in parts, batches.
TEST(matmul_of_large_products) {
  test::each_isa([] {
    const int64_t shapes[][4] = {
        {1, 96, 111, 128}, {1, 97, 127, 129}, {1, 31, 159, 257},  {1, 511, 33, 65},   {1, 513, 49, 255},
        {1, 48, 545, 256}, {1, 24, 24, 2048}, {1, 25, 24, 9001},  {1, 1057, 47, 33},  {3, 100, 110, 100},
        {9, 65, 130, 127}, {2, 24, 1400, 32}, {1, 280, 100, 400}, {1, 300, 100, 400},
    };
    for (const auto& s : shapes)
      for (int t = 0; t < 4; t++)
        for (bool exact : {true, false}) check_matmul(s[0], s[1], s[2], s[3], t & 1, t & 2, exact);
  });
}

// Infinities, NaN, the largest and the least numbers give what IEEE sums give: the class of every result, and the value
// where it is finite.
TEST(matmul_of_exceptional_numbers) {
  test::each_isa([] {
    const int64_t m = 70, n = 90, k = 200;
    test::Array a = test::Array::normal({m, k}, 1), b = test::Array::normal({k, n}, 2), c = test::Array::f32({m, n});
    a[3 * k + 5] = INFINITY;
    a[40 * k + 199] = -INFINITY;
    a[41 * k + 7] = NAN;
    a[42 * k + 8] = 3.4e38f;
    a[43 * k + 9] = 1e-38f;
    b[5 * n + 20] = 0;  // meets the infinity
    b[100 * n + 50] = INFINITY;
    b[150 * n + 50] = -INFINITY;
    test::call("matmul", {a.view(), b.view()}, {c.view()}, {1});
    for (int64_t i = 0; i < m; i++)
      for (int64_t j = 0; j < n; j++) {
        double sum = 0, size = 0;
        for (int64_t q = 0; q < k; q++) {
          const double term = static_cast<double>(a[i * k + q]) * b[q * n + j];
          sum += term;
          size += std::fabs(term);
        }
        const float got = c[i * n + j], expected = static_cast<float>(sum);
        if (std::isnan(expected)) CHECK(std::isnan(got));
        else if (std::isinf(expected)) CHECK(got == expected);
        else if (size < 3e38) CHECK(std::fabs(got - sum) <= 1e-6 * size);  // else a part of the sum may overflow
      }
  });
}

TEST(matmul_takes_any_strides) {
  test::each_isa([] {
    const int64_t m = 37, n = 41, k = 50;
    test::Array a = test::Array::integers({m, 3, k, 2}, 1), b = test::Array::integers({k, 2, n, 3}, 2);
    test::Array c = test::Array::f32({3, m, n});
    auxgrad::View va = a.view(), vb = b.view();
    va.rank = vb.rank = 3;
    va.shape[0] = vb.shape[0] = 3;
    va.shape[1] = m, va.stride[1] = 6 * k, va.shape[2] = k, va.stride[2] = 2;
    va.stride[0] = 2 * k;
    vb.shape[1] = k, vb.stride[1] = 6 * n, vb.shape[2] = n, vb.stride[2] = 3;
    vb.stride[0] = 0;  // one right operand for all
    test::call("matmul", {va, vb}, {c.view()}, {0.5});
    for (int64_t p = 0; p < 3; p++)
      for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
          float sum = 0;
          for (int64_t q = 0; q < k; q++) sum += a[i * 6 * k + p * 2 * k + q * 2] * b[q * 6 * n + j * 3];
          CHECK(c[(p * m + i) * n + j] == 0.5f * sum);
        }
    // Rows that repeat: stride 0 inside a matrix.
    va.stride[1] = 0;
    test::call("matmul", {va, vb}, {c.view()}, {1});
    for (int64_t i = 1; i < m; i++)
      for (int64_t j = 0; j < n; j++) CHECK(c[i * n + j] == c[j]);
  });
}

TEST(matmul_does_not_depend_on_the_threads) {
  test::each_isa([] {
    const int64_t shapes[][3] = {{300, 500, 700}, {70, 1000, 200}, {1000, 40, 600}, {9, 2000, 300},
                                 {64, 80, 9000},  {1, 700, 300},   {7, 300, 5000}};
    for (const auto& s : shapes)
      for (int t = 0; t < 4; t++) {
        const int64_t m = s[0], n = s[1], k = s[2];
        test::Array a = test::Array::normal(t & 1 ? std::vector<int64_t>{k, m} : std::vector<int64_t>{m, k}, 1);
        test::Array b = test::Array::normal(t & 2 ? std::vector<int64_t>{n, k} : std::vector<int64_t>{k, n}, 2);
        const auxgrad::View va = t & 1 ? test::permuted(a.view(), {1, 0}) : a.view();
        const auxgrad::View vb = t & 2 ? test::permuted(b.view(), {1, 0}) : b.view();
        test::Array one = test::Array::f32({m, n}), more = test::Array::f32({m, n});
        auxgrad::set_threads(1);
        test::call("matmul", {va, vb}, {one.view()}, {1});
        for (int threads : {2, 3, 5}) {
          auxgrad::set_threads(threads);
          test::call("matmul", {va, vb}, {more.view()}, {1});
          CHECK(std::memcmp(one.f32(), more.f32(), static_cast<size_t>(m * n) * 4) == 0);
        }
      }
    auxgrad::set_threads(auxgrad::default_threads());
  });
}

// Few rows: along rows and along columns of a large B, around the numbers of rows and of columns that go together, vectors
// and blocks of K; operands of any strides.
TEST(matmul_of_few_rows) {
  test::each_isa([] {
    for (int t = 0; t < 4; t++) {
      for (int64_t m = 0; m < 16; m++)
        for (int64_t n : {1, 2, 7, 9, 24, 61})
          for (int64_t k : {31, 32, 33, 63, 100, 1025}) check_matmul(1, m, n, k, t & 1, t & 2, true);
      for (int64_t m : {0, 1, 3, 8, 14}) {
        check_matmul(1, m, 331, 1001, t & 1, t & 2, true);
        check_matmul(1, m, 331, 1001, t & 1, t & 2, false);
        check_matmul(1, m, 37, 4200, t & 1, t & 2, true);
        check_matmul(1, m, 8197, 35, t & 1, t & 2, true);
        check_matmul(3, m, 70, 130, t & 1, t & 2, true);
      }
    }
    const int64_t n = 19, k = 70;
    test::Array a = test::Array::integers({5, k, 2}, 1), b = test::Array::integers({n, 3, k}, 2);
    test::Array c = test::Array::f32({5, n});
    auxgrad::View va = a.view(), vb = b.view();
    va.rank = vb.rank = 2;
    va.shape[0] = 5, va.stride[0] = 2 * k, va.shape[1] = k, va.stride[1] = 2;
    vb.shape[0] = k, vb.stride[0] = 1, vb.shape[1] = n, vb.stride[1] = 3 * k;
    test::call("matmul", {va, vb}, {c.view()}, {-1});
    for (int64_t i = 0; i < 5; i++)
      for (int64_t j = 0; j < n; j++) {
        float sum = 0;
        for (int64_t q = 0; q < k; q++) sum += a[(i * k + q) * 2] * b[j * 3 * k + q];
        CHECK(c[i * n + j] == -sum);
      }
  });
}

TEST(linear_adds_its_bias_after_the_last_block) {
  test::each_isa([] {
    test::Array x = test::Array::integers({29, 700}, 1), w = test::Array::integers({35, 700}, 2);
    test::Array bias = test::Array::integers({35}, 3), y = test::Array::f32({29, 35});
    test::call("linear", {x.view(), w.view(), bias.view()}, {y.view()});
    for (int64_t i = 0; i < 29; i++)
      for (int64_t j = 0; j < 35; j++) {
        float sum = bias[j];
        for (int64_t k = 0; k < 700; k++) sum += x[i * 700 + k] * w[j * 700 + k];
        CHECK(y[i * 35 + j] == sum);
      }
  });
}

TEST(linear_fuses_signs_bias_activation_and_mask) {
  test::each_isa([] {
    for (int alphabet : {0, 1})
      for (int activation : {0, 1})
        for (int t = 0; t < 4; t++) {
          check_linear({70, 45, 53, bool(t & 1), bool(t & 2), true, true, true, alphabet, activation});
          check_linear({33, 600, 17, bool(t & 1), bool(t & 2), false, t == 0, t == 1, alphabet, activation});
          check_linear({11, 45, 117, bool(t & 1), bool(t & 2), true, true, true, alphabet, activation});  // wide panels
          check_linear({9, 9001, 17, bool(t & 1), bool(t & 2), true, true, true, alphabet, activation});  // K in parts
          check_linear({3, 700, 129, bool(t & 1), bool(t & 2), true, true, true, alphabet, activation});  // few rows
          check_linear({8, 4200, 33, bool(t & 1), bool(t & 2), true, true, true, alphabet, activation});
          check_linear({11, 700, 129, bool(t & 1), bool(t & 2), true, true, true, alphabet, activation});
        }
    for (int t = 0; t < 4; t++) {  // large enough for the matrix unit
      check_linear({133, 130, 97, bool(t & 1), bool(t & 2), true, true, true, t & 1, 1});
      check_linear({171, 259, 530, bool(t & 1), bool(t & 2), true, true, true, t & 1, 1});
      check_linear({70, 290, 61, bool(t & 1), bool(t & 2), false, true, false, 0, 0});
      check_linear({115, 530, 1061, bool(t & 1), bool(t & 2), true, true, true, t & 1, 1});
      check_linear({1025, 33, 45, bool(t & 1), bool(t & 2), true, false, true, 1, 1});
    }
    for (int t = 0; t < 4; t++)  // finished by tiles of whole vectors: all, and parts of it
      for (int part = 0; part < 8; part++)
        check_linear(
            {75 + part, 140, 96, bool(t & 1), bool(t & 2), bool(part & 1), t == 0, bool(part & 2), 1, part >> 2});
    check_linear({5, 0, 7, false, false, true, true, true, 0, 1});
    check_linear({400, 20, 31, false, false, true, true, true, 0, 1});
  });
}

TEST(linear_relu_keeps_nan) {
  test::each_isa([] {
    test::Array x = test::Array::integers({2, 3}, 1), w = test::Array::integers({4, 3}, 2),
                y = test::Array::f32({2, 4});
    test::Array mask(auxgrad::DType::u32, {1, 4});
    x[0] = std::nanf("");
    test::call("linear", {x.view(), w.view(), test::absent()}, {y.view(), test::absent(), mask.view()}, {0, 0, 1});
    for (int64_t j = 0; j < 4; j++) {
      CHECK(std::isnan(y[j]));
      CHECK(!(mask.u32()[j] & 1));
      CHECK(y[4 + j] >= 0);
    }
  });
}
