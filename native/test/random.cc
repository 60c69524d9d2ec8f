#include "core/philox.h"
#include "harness.h"

using auxgrad::DType;
using test::Array;

namespace {

Array key_of(int32_t a, int32_t b, int32_t c, int32_t d) {
  Array key(DType::i32, {4});
  const int32_t words[4] = {a, b, c, d};
  std::memcpy(key.data(), words, sizeof words);
  return key;
}

}  // namespace

// Known answers of Random123 (Salmon et al. 2011), for 10 and 7 rounds.
TEST(philox_gives_the_known_answers) {
  const struct {
    uint32_t counter[4], key[2], ten[4], seven[4];
  } known[] = {
      {{0, 0, 0, 0},
       {0, 0},
       {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
       {0x5f6fb709, 0x0d893f64, 0x4f121f81, 0x4f730a48}},
      {{~0u, ~0u, ~0u, ~0u},
       {~0u, ~0u},
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
       {0x5207ddc2, 0x45165e59, 0x4d8ee751, 0x8c52f662}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
       {0x4dfccaba, 0x190a87f0, 0xc47362ba, 0xb6b5242a}},
  };
  for (const auto& k : known) {
    uint32_t out[4];
    auxgrad::Philox{{k.key[0], k.key[1]}}(k.counter, out);
    for (int i = 0; i < 4; i++) CHECK(out[i] == k.ten[i]);
    auxgrad::Philox{{k.key[0], k.key[1]}, auxgrad::kNoiseRounds}(k.counter, out);
    for (int i = 0; i < 4; i++) CHECK(out[i] == k.seven[i]);
  }
}

TEST(random_words_are_philox_of_block_stream_and_step) {
  test::each_isa([] {
    const int64_t n = 70003;
    Array key = key_of(5, -6, 7, 8), y(DType::i32, {n});
    test::call("random_bits", {key.view()}, {y.view()}, {9});
    for (int64_t i = 0; i < n; i += i < 200 ? 1 : 997) {
      const uint32_t counter[4] = {static_cast<uint32_t>(i / 4), 9, 7, 8};
      uint32_t out[4];
      auxgrad::Philox{{5, static_cast<uint32_t>(-6)}}(counter, out);
      CHECK(y.u32()[i] == out[i % 4]);
    }
  });
}

TEST(random_numbers_have_their_moments) {
  test::each_isa([] {
    const int64_t n = 1 << 18;
    Array key = key_of(1, 2, 3, 4), y = Array::f32({n});
    const auto moments = [&](double* mean, double* variance, double* fourth, float* low, float* high) {
      double sum = 0, squares = 0, fours = 0;
      *low = *high = y[0];
      for (int64_t i = 0; i < n; i++) sum += y[i];
      *mean = sum / static_cast<double>(n);
      for (int64_t i = 0; i < n; i++) {
        const double d = y[i] - *mean;
        squares += d * d;
        fours += d * d * d * d;
        if (y[i] < *low) *low = y[i];
        if (y[i] > *high) *high = y[i];
      }
      *variance = squares / static_cast<double>(n);
      *fourth = fours / static_cast<double>(n) / (*variance * *variance);
    };
    double mean, variance, fourth;
    float low, high;
    test::call("random_uniform", {key.view()}, {y.view()}, {0, -1, 3});
    moments(&mean, &variance, &fourth, &low, &high);
    CHECK_NEAR(mean, 1, 0.012);  // five standard errors
    CHECK_NEAR(variance, 16.0 / 12, 0.013);
    CHECK_NEAR(fourth, 1.8, 0.02);
    CHECK(low >= -1 && high < 3);
    test::call("random_normal", {key.view()}, {y.view()}, {1, 0.5, 2});
    moments(&mean, &variance, &fourth, &low, &high);
    CHECK_NEAR(mean, 0.5, 0.02);
    CHECK_NEAR(variance, 4, 0.056);
    CHECK_NEAR(fourth, 3, 0.05);
    CHECK(low > -12 && high < 13);
    const double edge = std::erf(2 / std::sqrt(2.0));
    test::call("random_truncated_normal", {key.view()}, {y.view()}, {2, 0, 1, -2, 2, -edge, edge});
    moments(&mean, &variance, &fourth, &low, &high);
    CHECK_NEAR(mean, 0, 0.009);
    CHECK_NEAR(variance, 0.7737, 0.008);  // 1 - 4 phi(2) / (2 Phi(2) - 1)
    CHECK(low >= -2 && high <= 2 && low < -1.99 && high > 1.99);
  });
}

TEST(dropout_repeats_its_mask) {
  test::each_isa([] {
    const int64_t n = 40001;
    Array key = key_of(1, 0, 2, 0), x = Array::f32({n}), y = Array::f32({n}), again = Array::f32({n});
    for (int64_t i = 0; i < n; i++) x[i] = 1;
    test::call("dropout", {x.view(), key.view()}, {y.view()}, {3, 0.25});
    test::call("dropout", {x.view(), key.view()}, {again.view()}, {3, 0.25});
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
      CHECK(y[i] == 0 || y[i] == static_cast<float>(1 / 0.75));
      CHECK(y[i] == again[i]);
      kept += y[i] != 0;
    }
    CHECK_NEAR(static_cast<double>(kept) / n, 0.75, 0.011);
  });
}

// The mask is that of draws of 32 bits, whose lower halves are looked at where the upper ones are equal: p is chosen so that
// they are for one element at least, just not kept or just kept, or for none.
TEST(dropout_keeps_what_draws_of_32_bits_say) {
  test::each_isa([] {
    for (int64_t n : {0, 1, 7, 255, 256, 257, 2001, 70003}) {
      Array key = key_of(11, -3, 5, 2), x = Array::normal({n}, 1), y = Array::f32({n});
      const auto word = [&](int i) { return static_cast<uint32_t>(key.i32()[i]); };
      const auto half = [&](int64_t block, int64_t k) {
        const uint32_t counter[4] = {static_cast<uint32_t>(block), 3, word(2), word(3)};
        uint32_t out[4];
        auxgrad::Philox{{word(0), word(1)}, auxgrad::kNoiseRounds}(counter, out);
        return out[k / 2] >> (16 * (k % 2)) & 0xffffu;
      };
      std::vector<double> draws;
      for (int64_t i = 0; i < n; i++)
        draws.push_back(half(i / 8, i % 8) * 65536.0 + half(i / 8 + (int64_t{1} << 31), i % 8));
      const double one = n > 0 ? draws[static_cast<size_t>(n * 2 / 3)] / 4294967296.0 : 0.4;
      for (double p : {0.0, 0.25, one, one + 1 / 4294967296.0, 1 - 1e-6, 1.0}) {
        test::call("dropout", {x.view(), key.view()}, {y.view()}, {3, p});
        for (int64_t i = 0; i < n; i++) {
          const bool kept = p < 1 && draws[static_cast<size_t>(i)] >= p * 4294967296.0;
          CHECK(y[i] == (kept ? x[i] * static_cast<float>(1 / (1 - p)) : 0));
        }
        Array same = Array::f32({n});  // in place
        if (n > 0) std::memcpy(same.f32(), x.f32(), static_cast<size_t>(n) * 4);
        test::call("dropout", {same.view(), key.view()}, {same.view()}, {3, p});
        for (int64_t i = 0; i < n; i++) CHECK(same[i] == y[i]);
      }
    }
  });
}
