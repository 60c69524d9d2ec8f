// A few bits an element, in groups; core/quantize.h says which.
#include "../../core/quantize.h"
#include "../elementwise.h"
#include "../stream.h"
#include "../vector.h"

namespace auxgrad {
namespace {

constexpr int64_t kTogether = 8;                 // groups: these and the next ones stay in the first cache
constexpr int64_t kDrawn = kGroup / kDrawWords;  // groups that random words are made for at a time

typedef uint32_t WordVec __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Draw __attribute__((may_alias));

inline uint32_t range_word(const float* x) {
  constexpr int kChains = 4;  // side by side
  Vec low[kChains], high[kChains], odd[kChains] = {};
  for (int c = 0; c < kChains; c++) low[c] = high[c] = load(x + c * kLanes);
  for (int64_t i = 0; i < kElements; i += kChains * kLanes) {
    AUXGRAD_UNROLL
    for (int c = 0; c < kChains; c++) {
      const Vec v = load(x + i + c * kLanes);
      low[c] = v < low[c] ? v : low[c];
      high[c] = v > high[c] ? v : high[c];
      odd[c] = fma(v, Vec{}, odd[c]);  // NaN from NaN and infinities on
    }
  }
  const float least = fold(low, [](Vec a, Vec b) { return b < a ? b : a; });
  const float most = fold(high, [](Vec a, Vec b) { return b > a ? b : a; });
  const Vec bad = (odd[0] + odd[1]) + (odd[2] + odd[3]);
  return any_lane(bad != bad) ? kNoRange : range_of(least, most);
}

template <int kBits>
struct Codec : Codes<kBits> {
  using Codes<kBits>::kTop;
  static constexpr int64_t kWords = Codes<kBits>::kWords;

  // draws: 16 bits an element, which are added to its place between the levels before that is cut. Word j has those of
  // elements j and j + 128.
  static void encode(const float* x, uint32_t range, const uint32_t* draws, uint32_t* words) {
    const float width = width_of(range);
    if (!(width < infinity())) return set_zero(reinterpret_cast<float*>(words), kWords);
    const Vec low = broadcast(minimum_of(range));
    const Vec scale = broadcast(Codes<kBits>::scale(width));
    // In [0, 2^16 kTop (1 + 2^-19)]: with any draw no more than the last level.
    const auto level = [&](int64_t i, WordVec draw) {
      return (WordVec) __builtin_convertvector((load(x + i) - low) * scale, IntVec) + draw;
    };
    for (int64_t j = 0; j < kWords; j += kLanes) {
      WordVec word = {};
      AUXGRAD_UNROLL
      for (int k = 0; k < 16 / kBits; k++) {
        const int64_t i = j + kWords * k;
        WordVec draw;
        memcpy(&draw, draws + i, sizeof(draw));
        word |= level(i, draw & 0xffffu) >> (16 - kBits * k) & kTop << kBits * k;
        word |= level(i + kElements / 2, draw >> 16) << (kBits * k) & kTop << (kBits * k + 16);
      }
      memcpy(words + j, &word, sizeof(word));
    }
  }

  static void decode(const uint32_t* words, uint32_t range, bool past, float* x) {
    const Vec low = broadcast(minimum_of(range));
    const Vec step = broadcast(Codes<kBits>::step(width_of(range)));
    for (int64_t j = 0; j < kWords; j += kLineFloats)  // what is stored past the caches fills a line at once
      for (int k = 0; k < 32 / kBits; k++)
        for (int64_t i = j; i < j + kLineFloats; i += kLanes) {
          IntVec word;
          memcpy(&word, words + i, sizeof(word));
          const IntVec code = word >> (kBits * k) & static_cast<int32_t>(kTop);
          put(past, WholeLanes(), x + i + kWords * k, __builtin_convertvector(code, Vec) * step + low);
        }
  }
};

// The draws of a group. None is so near to the ends that values within 2^-11 of a level could miss it.
__attribute__((noinline)) inline void draw(const uint32_t* words, uint32_t* draws) {
  for (int i = 0; i < kDrawWords; i++) {
    draws[i] = words[i];
    draws[i + kDrawWords] = turned(words[i]);
  }
  Draw* d = reinterpret_cast<Draw*>(draws);
  for (int64_t i = 0; i < kElements; i++) {
    const Draw above = d[i] < 32 ? 32 : d[i];
    d[i] = above > 65504 ? 65504 : above;
  }
}

template <int kBits>
bool quantize_bits(const Call& call) {
  const int64_t n = call.in[0].count();
  const bool random = static_cast<bool>(call.in[1]);
  const Stream stream = random ? stream_of(call.in[1], call.number[1]) : Stream{};
  parallel_ranges(call, ceil_div(n, kElements), 64, [&](int64_t begin, int64_t end) {
    float padded[kElements];
    uint32_t draws[kElements / 2], random_words[kGroup];
    for (uint32_t& d : draws) d = 0x80008000u;
    const auto group = [&](int64_t g) {
      const float* x = call.in[0].f32() + g * kElements;
      const int64_t count = n - g * kElements;
      if (count >= kElements) return x;
      for (int64_t i = 0; i < kElements; i++) padded[i] = x[i < count ? i : 0];  // the rest repeats the first element
      return static_cast<const float*>(padded);
    };
    uint32_t* const ranges = call.out[1].u32();
    for (int64_t first = begin; first < end; first += kTogether) {
      const int64_t last = min64(first + kTogether, end);
      for (int64_t g = first; g < last; g++) ranges[g] = range_word(group(g));
      for (int64_t g = first; g < last; g++) {
        uint32_t* words = call.out[0].u32() + g * Codec<kBits>::kWords;
        fetch(call.in[0].f32() + (g + kTogether) * kElements, kElements * static_cast<int64_t>(sizeof(float)));
        fetch(words + kTogether * Codec<kBits>::kWords, Codec<kBits>::kWords * static_cast<int64_t>(sizeof(uint32_t)));
        if (random) {
          if (g % kDrawn == 0) stream.words(g * kDrawWords, random_words);
          draw(random_words + g % kDrawn * kDrawWords, draws);
        }
        Codec<kBits>::encode(group(g), ranges[g], draws, words);
      }
    }
  });
  return true;
}

template <int kBits>
bool dequantize_bits(const Call& call) {
  const int64_t n = call.out[0].count();
  const bool past = too_large(call.out[0], kElements);
  parallel_ranges(call, ceil_div(n, kElements), 64, [&](int64_t begin, int64_t end) {
    float last[kElements];
    for (int64_t g = begin; g < end; g++) {
      const int64_t count = min64(kElements, n - g * kElements);
      float* x = call.out[0].f32() + g * kElements;
      Codec<kBits>::decode(call.in[0].u32() + g * Codec<kBits>::kWords, call.in[1].u32()[g], past && count >= kElements,
                           count < kElements ? last : x);
      if (count < kElements) memcpy(x, last, static_cast<size_t>(count) * sizeof(float));
    }
    if (past) end_bypass();
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
