// A few bits an element (Chen et al. 2021, ActNN): groups of 256 elements in row-major order, each with its minimum m
// and range r, both in bfloat16; code q of b bits stands for m + q r / (2^b - 1).
// Layout: of each group 8 b words; bits [b k, b k + b) of word j are the code of element j + 8 b k. ranges u32 [groups]:
// m in the upper half, r in the lower.
#include "../conv/vec.h"
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
inline uint32_t range_word(const float* x) {
  Vec low = load(x), high = low, odd = low - low;  // NaN from NaN and infinities on
  for (int64_t i = kLanes; i < kElements; i += kLanes) {
    const Vec v = load(x + i);
    low = v < low ? v : low;
    high = v > high ? v : high;
    odd += v - v;
  }
  float least = low[0], most = high[0], bad = odd[0];
  for (int k = 1; k < kLanes; k++) {
    least = low[k] < least ? low[k] : least;
    most = high[k] > most ? high[k] : most;
    bad += odd[k];
  }
  if (bad != 0) return 0x7fc07fc0u;
  const uint32_t minimum = round_down(least);
  // A range that exceeds a bfloat16 by rounding alone stays at it: values that have a code keep it.
  const float range = (most - upper_half(minimum)) * (1.0f - 1.0f / (1 << 20));
  return minimum | (range > 0 ? (bits_of(range) + 0xffffu) >> 16 : 0u);
}

template <int kBits>
struct Codec {
  static constexpr int64_t kWords = 8 * kBits;  // of a group
  static constexpr uint32_t kTop = (1u << kBits) - 1;

  // threshold[i] in (0, 1): what is added to element i's place between the levels before it is cut.
  static void encode(const float* x, uint32_t range, const float* threshold, uint32_t* words) {
    const float width = upper_half(range << 16), ratio = static_cast<float>(kTop) / width;
    const Vec scale = broadcast(width > 0 && ratio < __builtin_inff() ? ratio : 0.0f);
    const Vec low = broadcast(upper_half(range)), top = broadcast(static_cast<float>(kTop));
    for (int64_t j = 0; j < kWords; j += kLanes) {
      IntVec word = {};
      for (int k = 0; k < 32 / kBits; k++) {
        const int64_t i = j + kWords * k;
        Vec q = (load(x + i) - low) * scale + load(threshold + i);
        q = q > Vec{} ? q : Vec{};  // NaN too
        q = q < top ? q : top;
        word |= __builtin_convertvector(q, IntVec) << (kBits * k);
      }
      memcpy(words + j, &word, sizeof(word));
    }
  }

  static void decode(const uint32_t* words, uint32_t range, float* x) {
    const Vec low = broadcast(upper_half(range));
    const Vec step = broadcast(upper_half(range << 16) * (1.0f / static_cast<float>(kTop)));
    for (int64_t j = 0; j < kWords; j += kLanes) {
      IntVec word;
      memcpy(&word, words + j, sizeof(word));
      for (int k = 0; k < 32 / kBits; k++) {
        const IntVec code = word >> (kBits * k) & static_cast<int32_t>(kTop);
        store(x + j + kWords * k, __builtin_convertvector(code, Vec) * step + low);
      }
    }
  }
};

// Thresholds of a group: 16 random bits each. Values within 2^-13 of a level always take it.
inline void draw(const Stream& stream, int64_t group, float* threshold) {
  constexpr float kUnit = (1.0f - 1.0f / 4096) / 65536, kFirst = 1.0f / 8192 + 0.5f * kUnit;
  uint32_t words[kGroup];
  for (int64_t i = 0; i < kElements / 2; i += kGroup) {
    stream.words(group * (kElements / 2) + i, words);
    for (int64_t w = 0; w < kGroup; w += kLanes) {
      IntVec both;
      memcpy(&both, words + w, sizeof(both));
      const IntVec first = both & 0xffff, second = both >> 16 & 0xffff;
      store(threshold + i + w, __builtin_convertvector(first, Vec) * kUnit + kFirst);
      store(threshold + i + w + kElements / 2, __builtin_convertvector(second, Vec) * kUnit + kFirst);
    }
  }
}

template <int kBits>
bool quantize_bits(const Call& call) {
  const int64_t n = call.in[0].count();
  const bool random = static_cast<bool>(call.in[1]);
  const Stream stream = random ? stream_of(call.in[1], call.number[1]) : Stream{};
  parallel_ranges(call, ceil_div(n, kElements), 64, [&](int64_t begin, int64_t end) {
    float padded[kElements], threshold[kElements];
    for (float& t : threshold) t = 0.5f;
    for (int64_t g = begin; g < end; g++) {
      const int64_t count = min64(kElements, n - g * kElements);
      const float* x = call.in[0].f32() + g * kElements;
      if (count < kElements) {  // the rest repeats the first element
        for (int64_t i = 0; i < kElements; i++) padded[i] = x[i < count ? i : 0];
        x = padded;
      }
      if (random) draw(stream, g, threshold);
      const uint32_t range = call.out[1].u32()[g] = range_word(x);
      Codec<kBits>::encode(x, range, threshold, call.out[0].u32() + g * Codec<kBits>::kWords);
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
