#include <limits>

#include "harness.h"

namespace {

constexpr int64_t kGroup = 256;

struct Packed {
  test::Array codes, ranges;
};

Packed packed(test::Array& x, int bits, test::Array* key) {
  const int64_t groups = (x.count() + kGroup - 1) / kGroup;
  Packed p = {test::Array(auxgrad::DType::u32, {groups, 8 * bits}), test::Array(auxgrad::DType::u32, {groups})};
  test::call("quantize", {x.view(), key ? key->view() : test::absent()}, {p.codes.view(), p.ranges.view()},
             {static_cast<double>(bits), 3});
  CHECK(p.codes.guards_intact() && p.ranges.guards_intact());
  return p;
}

std::vector<float> unpacked(Packed& p, int bits, int64_t n) {
  test::Array y = test::Array::f32({n});
  test::call("dequantize", {p.codes.view(), p.ranges.view()}, {y.view()}, {static_cast<double>(bits)});
  CHECK(y.guards_intact());
  return std::vector<float>(y.f32(), y.f32() + n);
}

float half_word(uint32_t word) {
  word &= 0xffff0000u;
  float f;
  std::memcpy(&f, &word, 4);
  return f;
}

void check_values(int bits, int64_t n, float offset, bool random) {
  test::Array x = test::Array::normal({n}, 1), key(auxgrad::DType::i32, {4});
  for (int64_t i = 0; i < n; i++) x[i] = x[i] * 3 + offset;
  for (int i = 0; i < 4; i++) key.i32()[i] = 7 * i + 1;
  Packed p = packed(x, bits, random ? &key : nullptr);
  const std::vector<float> y = unpacked(p, bits, n);
  const int top = (1 << bits) - 1;
  for (int64_t g = 0; g * kGroup < n; g++) {
    const int64_t end = std::min(n, (g + 1) * kGroup);
    float low = x[g * kGroup], high = low;
    for (int64_t i = g * kGroup; i < end; i++) low = std::fmin(low, x[i]), high = std::fmax(high, x[i]);
    const double m = static_cast<double>(half_word(p.ranges.u32()[g])),
                 r = static_cast<double>(half_word(p.ranges.u32()[g] << 16));
    // The range holds all values, and is no wider than bfloat16 makes it.
    CHECK(m <= static_cast<double>(low) && m + r >= static_cast<double>(high) - r * 2e-6);
    const double slack = (std::fabs(static_cast<double>(low)) + r) / 128;
    CHECK(static_cast<double>(low) - m <= slack && m + r - static_cast<double>(high) <= slack);
    for (int64_t i = g * kGroup; i < end; i++) {
      const double level = (static_cast<double>(y[static_cast<size_t>(i)]) - m) / r * top;
      CHECK(n == g * kGroup + 1 || std::fabs(level - std::round(level)) <= 1e-3 + 1e-6 * std::fabs(m) / r * top);
      const double error = std::fabs(static_cast<double>(y[static_cast<size_t>(i)]) - static_cast<double>(x[i]));
      CHECK(error <= (random ? 1.0 : 0.5) * r / top * (1 + 1e-3) + 1e-6 * (std::fabs(m) + r));
    }
  }
  // Values that have a code keep it, whatever is drawn.
  if (offset == 0) {
    test::Array again = test::Array::f32({n});
    std::memcpy(again.f32(), y.data(), static_cast<size_t>(n) * 4);
    for (int64_t g = 0; g * kGroup < n; g++) {  // with the ends of the range among them
      if ((g + 1) * kGroup > n) break;
      again[g * kGroup] = half_word(p.ranges.u32()[g]);
      const float step = half_word(p.ranges.u32()[g] << 16) * (1.0f / static_cast<float>(top));
      again[g * kGroup + 1] = static_cast<float>(top) * step + again[g * kGroup];
    }
    Packed twice = packed(again, bits, random ? &key : nullptr);
    const std::vector<float> z = unpacked(twice, bits, n);
    for (int64_t i = 0; i < n / kGroup * kGroup; i++) CHECK(z[static_cast<size_t>(i)] == again[i]);
  }
}

}  // namespace

TEST(quantize_errors_and_ranges) {
  test::each_isa([] {
    for (int bits : {2, 4, 8})
      for (int64_t n : {1, 2, 255, 256, 257, 1000, 40000})
        for (float offset : {0.0f, 100.0f, -100.0f})
          for (bool random : {false, true}) check_values(bits, n, offset, random);
  });
}

TEST(quantize_has_the_same_bits_everywhere) {
  static std::vector<uint32_t> first;
  first.clear();
  test::each_isa([] {
    std::vector<uint32_t> bits;
    for (int b : {2, 4, 8})
      for (bool random : {false, true}) {
        test::Array x = test::Array::normal({5000}, 4), key(auxgrad::DType::i32, {4});
        for (int i = 0; i < 4; i++) key.i32()[i] = i;
        Packed p = packed(x, b, random ? &key : nullptr);
        const std::vector<float> y = unpacked(p, b, x.count());
        bits.insert(bits.end(), p.codes.u32(), p.codes.u32() + p.codes.count());
        bits.insert(bits.end(), p.ranges.u32(), p.ranges.u32() + p.ranges.count());
        for (float v : y) {
          uint32_t word;
          std::memcpy(&word, &v, 4);
          bits.push_back(word);
        }
      }
    if (first.empty()) first = bits;
    CHECK(bits == first);
  });
}

TEST(quantize_mean_of_draws) {
  const int64_t n = 512;
  const int draws = 2000;
  for (int bits : {2, 4, 8}) {
    test::Array x = test::Array::normal({n}, 5), key(auxgrad::DType::i32, {4});
    std::vector<double> sum(n);
    double step[2] = {0, 0};
    for (int d = 0; d < draws; d++) {
      for (int i = 0; i < 4; i++) key.i32()[i] = i == 2 ? d : 11;
      Packed p = packed(x, bits, &key);
      const std::vector<float> y = unpacked(p, bits, n);
      for (int64_t i = 0; i < n; i++) sum[static_cast<size_t>(i)] += static_cast<double>(y[static_cast<size_t>(i)]);
      for (int g = 0; g < 2; g++) step[g] = static_cast<double>(half_word(p.ranges.u32()[g] << 16)) / ((1 << bits) - 1);
    }
    // The standard error of a mean is at most step / 2 / sqrt(draws); 5.5 of them are exceeded once in 10^7.
    double total = 0;
    for (int64_t i = 0; i < n; i++) {
      const double error = (sum[static_cast<size_t>(i)] / draws - static_cast<double>(x[i])) / step[i / kGroup];
      CHECK(std::fabs(error) <= 5.5 * 0.5 / std::sqrt(static_cast<double>(draws)) + 2e-4);
      total += error;
    }
    CHECK(std::fabs(total / n) <= 5.5 * 0.5 / std::sqrt(static_cast<double>(draws) * n) + 1e-4);
  }
}

// Draws of elements that share a random word.
TEST(quantize_draws_are_independent) {
  const int64_t n = kGroup;
  const int draws = 4000, bits = 2;
  test::Array x = test::Array::f32({n}), key(auxgrad::DType::i32, {4});
  for (int64_t i = 0; i < n; i++) x[i] = i == 128 + 63 ? 3.0f : i == 63 ? 0.0f : 1.37f;  // codes 0 to 3 are themselves
  std::vector<std::vector<int>> up(static_cast<size_t>(n));
  for (int d = 0; d < draws; d++) {
    for (int i = 0; i < 4; i++) key.i32()[i] = i == 2 ? d : 5;
    Packed p = packed(x, bits, &key);
    const std::vector<float> y = unpacked(p, bits, n);
    for (size_t i = 0; i < y.size(); i++) up[i].push_back(y[i] > 1.5f);
  }
  for (size_t i : {0, 1, 17, 62})
    for (size_t a = i; a < up.size(); a += 64)
      for (size_t b = a + 64; b < up.size(); b += 64) {
        double sum = 0;
        for (size_t d = 0; d < up[a].size(); d++) sum += (up[a][d] - 0.37) * (up[b][d] - 0.37);
        CHECK(std::fabs(sum / draws / (0.37 * 0.63)) <= 5.5 / std::sqrt(static_cast<double>(draws)));
      }
}

TEST(quantize_of_odd_values) {
  for (int bits : {2, 4, 8}) {
    test::Array x = test::Array::normal({3 * kGroup}, 2);
    for (int64_t i = 0; i < kGroup; i++) x[i] = -2.5f;  // one value alone: exact in bfloat16
    x[kGroup + 9] = bits == 4 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
    Packed p = packed(x, bits, nullptr);
    const std::vector<float> y = unpacked(p, bits, x.count());
    for (int64_t i = 0; i < x.count(); i++) {
      const float v = y[static_cast<size_t>(i)];
      if (i < kGroup) CHECK(v == -2.5f);
      else if (i < 2 * kGroup) CHECK(v != v);
      else CHECK(v == v);
    }
  }
}
