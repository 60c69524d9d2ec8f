#include "core/quantize.h"

#include <limits>

#include "core/philox.h"
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
  return p;
}

std::vector<float> unpacked(Packed& p, int bits, int64_t n) {
  test::Array y = test::Array::f32({n});
  test::call("dequantize", {p.codes.view(), p.ranges.view()}, {y.view()}, {static_cast<double>(bits)});
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

// Ranges and codes are those of core/quantize.h, one element at a time: groups of both signs, of one, far from 0, of zeros of
// both signs, too large for a range, and not finite.
template <int kBits>
void check_codes(test::Array& x, Packed& p, const uint32_t* key) {
  using auxgrad::Codes;
  const std::vector<float> y = unpacked(p, kBits, x.count());
  for (int64_t g = 0; g * kGroup < x.count(); g++) {
    const int64_t first = g * kGroup, end = std::min(x.count(), first + kGroup);
    float low = x[first], high = low;
    bool odd = false;
    for (int64_t i = first; i < end; i++) {
      odd = odd || !std::isfinite(x[i]);
      low = std::min(low, x[i]);
      high = std::max(high, x[i]);
    }
    const auto unsigned_zero = [](float f) { return auxgrad::bits_of(f + 0.0f); };
    const uint32_t range =
        odd ? auxgrad::kNoRange : auxgrad::range_of<float, uint32_t>(unsigned_zero(low), unsigned_zero(high));
    CHECK(p.ranges.u32()[g] == range);
    const float minimum = auxgrad::minimum_of(range), scale = Codes<kBits>::scale(auxgrad::width_of(range));
    const bool far = Codes<kBits>::far(minimum, scale);
    const float origin = Codes<kBits>::origin(far ? 0.0f : minimum, scale, key != nullptr);
    for (int64_t e = 0; e < kGroup; e++) {
      uint32_t words[4] = {};
      const uint32_t counter[4] = {static_cast<uint32_t>((g * 64 + e % 64) / 4), 3, key ? key[2] : 0, key ? key[3] : 0};
      if (key) auxgrad::Philox{{key[0], key[1]}, auxgrad::kNoiseRounds}(counter, words);
      const float v = x[first + e < end ? first + e : first];
      const uint32_t draw = auxgrad::draw_of(words[e % 4], static_cast<int>(e / 64));
      const uint32_t place = auxgrad::place_of(far ? v - minimum : v, scale, origin);
      const uint32_t code = odd ? 0 : auxgrad::code_at(place, draw) & Codes<kBits>::kTop;
      const uint32_t word = p.codes.u32()[g * 8 * kBits + e % (8 * kBits)];
      CHECK((word >> (kBits * (e / (8 * kBits))) & Codes<kBits>::kTop) == code);
      if (first + e >= end) continue;
      const float step = Codes<kBits>::step(auxgrad::width_of(range)), back = y[static_cast<size_t>(first + e)];
      const float value = static_cast<float>(code) * step + minimum;
      CHECK(back == value || (std::isnan(back) && std::isnan(value)));
    }
  }
}

TEST(quantize_codes_are_those_of_one_element_at_a_time) {
  test::each_isa([] {
    for (int64_t n : {1, 255, 1024, 8 * 256 + 77}) {
      test::Array x = test::Array::normal({n}, 4), key(auxgrad::DType::i32, {4});
      for (int64_t i = 0; i < n; i++) {
        float& v = x[i];
        switch (i / kGroup) {
          case 0: break;
          case 1: v = v > 0 ? v : -0.0f; break;
          case 2: v = v > 0 ? -v : v * 1e-30f; break;
          case 3: v = 1000 + v; break;
          case 4: v = -3 + 0.01f * v; break;
          case 5: v *= 1e38f; break;
          case 6: v = i % 3 ? 0.0f : -0.0f; break;
          case 7: v = i % kGroup == 200 ? -std::numeric_limits<float>::quiet_NaN() : v; break;
          default: v *= 1e-42f;
        }
      }
      for (int i = 0; i < 4; i++) key.i32()[i] = 9 - 5 * i;
      for (test::Array* k : {static_cast<test::Array*>(nullptr), &key}) {
        Packed two = packed(x, 2, k), four = packed(x, 4, k), eight = packed(x, 8, k);
        check_codes<2>(x, two, k ? key.u32() : nullptr);
        check_codes<4>(x, four, k ? key.u32() : nullptr);
        check_codes<8>(x, eight, k ? key.u32() : nullptr);
      }
    }
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
