// A few bits an element (Chen et al. 2021, ActNN): groups of 256 elements in row-major order, each with its minimum m
// and range r, both in bfloat16; code q of b bits stands for m + q r / (2^b - 1).
// Layout: of each group 8 b words; bits [b k, b k + b) of word j are the code of element j + 8 b k. ranges u32 [groups]:
// m in the upper half, r in the lower.
#include "../stream.h"

namespace auxgrad {
namespace {

constexpr int64_t kElements = 256;  // of a group

inline float upper_half(uint32_t word) {
  word &= 0xffff0000u;
  float f;
  memcpy(&f, &word, 4);
  return f;
}
inline uint32_t bits_of(float f) {
  uint32_t word;
  memcpy(&word, &f, 4);
  return word;
}

// The bfloat16 next to f towards minus infinity, as the upper half of a word. NaN and infinities stay.
inline uint32_t round_down(float f) {
  const uint32_t bits = bits_of(f), high = bits & 0xffff0000u;
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return finite ? high + (bits != high && f < 0 ? 0x10000u : 0u) : (f != f ? 0x7fc00000u : high);
}

// m and r so that all of x lies in [m, m + r]; NaN and NaN where an element is not finite.
inline uint32_t range_word(const float* x, int64_t n) {
  constexpr int kSide = 16;
  float low[kSide], high[kSide], odd[kSide];
  for (int k = 0; k < kSide; k++) {
    low[k] = __builtin_inff();
    high[k] = -__builtin_inff();
    odd[k] = 0;
  }
  const auto take = [&](int k, float v) {
    low[k] = v < low[k] ? v : low[k];
    high[k] = v > high[k] ? v : high[k];
    odd[k] += v - v;  // NaN from NaN and infinities on
  };
  int64_t i = 0;
  for (; i + kSide <= n; i += kSide)
    for (int k = 0; k < kSide; k++) take(k, x[i + k]);
  for (int k = 0; i < n; i++, k++) take(k, x[i]);
  for (int half = kSide / 2; half; half /= 2)
    for (int k = 0; k < half; k++) {
      low[k] = low[k + half] < low[k] ? low[k + half] : low[k];
      high[k] = high[k + half] > high[k] ? high[k + half] : high[k];
      odd[k] += odd[k + half];
    }
  if (odd[0] != 0) return 0x7fc07fc0u;
  const uint32_t minimum = round_down(low[0]);
  // A range that exceeds a bfloat16 by rounding alone stays at it: values that have a code keep it.
  const float range = (high[0] - upper_half(minimum)) * (1.0f - 1.0f / (1 << 20));
  const uint32_t exact = bits_of(range);
  return minimum | (range > 0 ? (exact + 0xffffu) >> 16 : 0u);
}

template <int kBits>
struct Codec {
  static constexpr int64_t kWords = 8 * kBits;  // of a group
  static constexpr uint32_t kTop = (1u << kBits) - 1;

  // threshold(i) in (0, 1): what is added to element i's place between the levels before it is cut.
  template <class F>
  static void encode(const float* x, uint32_t range, const F& threshold, uint32_t* words) {
    const float low = upper_half(range), width = upper_half(range << 16);
    const float ratio = static_cast<float>(kTop) / width;
    const float scale = width > 0 && ratio < __builtin_inff() ? ratio : 0.0f;
    for (int64_t j = 0; j < kWords; j++) words[j] = 0;
    for (int k = 0; k < 32 / kBits; k++)
      for (int64_t j = 0; j < kWords; j++) {
        const int64_t i = j + kWords * k;
        float q = (x[i] - low) * scale + threshold(i);
        q = q > 0.0f ? q : 0.0f;  // NaN too
        q = q < static_cast<float>(kTop) ? q : static_cast<float>(kTop);
        words[j] |= static_cast<uint32_t>(static_cast<int32_t>(q)) << (kBits * k);
      }
  }

  static void decode(const uint32_t* words, uint32_t range, float* x) {
    const float low = upper_half(range), step = upper_half(range << 16) * (1.0f / static_cast<float>(kTop));
    for (int k = 0; k < 32 / kBits; k++)
      for (int64_t j = 0; j < kWords; j++)
        x[j + kWords * k] = static_cast<float>(static_cast<int32_t>(words[j] >> (kBits * k) & kTop)) * step + low;
  }
};

template <int kBits>
bool quantize_bits(const Call& call) {
  const int64_t n = call.in[0].count();
  const bool random = static_cast<bool>(call.in[1]);
  const Stream stream = random ? stream_of(call.in[1], call.number[1]) : Stream{};
  parallel_ranges(call, ceil_div(n, kElements), 64, [&](int64_t begin, int64_t end) {
    float padded[kElements];
    float threshold[kElements];
    uint32_t drawn[kGroup];
    for (int64_t i = 0; i < kElements; i++) threshold[i] = 0.5f;
    for (int64_t g = begin; g < end; g++) {
      const int64_t count = min64(kElements, n - g * kElements);
      const float* x = call.in[0].f32() + g * kElements;
      const uint32_t range = range_word(x, count);
      if (count < kElements) {
        for (int64_t i = 0; i < kElements; i++) padded[i] = i < count ? x[i] : upper_half(range);
        x = padded;
      }
      if (random)
        // A word for two elements. Values within 2^-13 of a level always take it.
        for (int64_t i = 0; i < kElements / 2; i += kGroup) {
          stream.words(g * (kElements / 2) + i, drawn);
          for (int64_t w = 0; w < kGroup; w++) {
            constexpr float kUnit = (1.0f - 1.0f / 4096) / 65536, kFirst = 1.0f / 8192 + 0.5f * kUnit;
            threshold[i + w] = static_cast<float>(static_cast<int32_t>(drawn[w] & 0xffffu)) * kUnit + kFirst;
            threshold[i + w + kElements / 2] =
                static_cast<float>(static_cast<int32_t>(drawn[w] >> 16)) * kUnit + kFirst;
          }
        }
      call.out[1].u32()[g] = range;
      Codec<kBits>::encode(
          x, range, [&](int64_t i) { return threshold[i]; }, call.out[0].u32() + g * Codec<kBits>::kWords);
    }
  });
  return true;
}

template <int kBits>
bool dequantize_bits(const Call& call) {
  const int64_t n = call.out[0].count();
  parallel_ranges(call, ceil_div(n, kElements), 64, [&](int64_t begin, int64_t end) {
    float last[kElements];
    for (int64_t g = begin; g < end; g++) {
      const int64_t count = min64(kElements, n - g * kElements);
      float* x = call.out[0].f32() + g * kElements;
      Codec<kBits>::decode(call.in[0].u32() + g * Codec<kBits>::kWords, call.in[1].u32()[g],
                           count < kElements ? last : x);
      if (count < kElements) memcpy(x, last, static_cast<size_t>(count) * sizeof(float));
    }
  });
  return true;
}

// quantize: x, key or absent -> codes u32 [ceil(n / 256), 8 bits], ranges u32 [ceil(n / 256)]. numbers: bits (2, 4 or 8),
// stream. With a key the level below or above is drawn, so that the mean is x; without one the nearest is taken.
bool quantize(const Call& call) {
  switch (call.integer(0)) {
    case 2: return quantize_bits<2>(call);
    case 4: return quantize_bits<4>(call);
    default: return quantize_bits<8>(call);
  }
}

// dequantize: codes, ranges -> x^. numbers: bits
bool dequantize(const Call& call) {
  switch (call.integer(0)) {
    case 2: return dequantize_bits<2>(call);
    case 4: return dequantize_bits<4>(call);
    default: return dequantize_bits<8>(call);
  }
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"quantize", quantize}, {"dequantize", dequantize})
