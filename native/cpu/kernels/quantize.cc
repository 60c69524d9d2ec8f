// A few bits an element, in groups; core/quantize.h says which.
#include "../../core/quantize.h"
#include "../elementwise.h"
#include "../extremes.h"
#include "../stream.h"
#include "../vector.h"

namespace auxgrad {
namespace {

constexpr int64_t kTogether = 4;                 // groups, a page
constexpr int64_t kDrawn = kGroup / kDrawWords;  // groups that random words are made for at a time

typedef uint16_t HalfVec __attribute__((vector_size(4 * kLanes)));

// m and r of four groups.
__attribute__((noinline)) Four ranges_of(const FourExtremes (&groups)[4]) {
  const FourExtremes e = each_to_one(groups);
  const Four finite = (Four)(e.least > -__builtin_inff()) & (Four)(e.largest < __builtin_inff());
  return (range_of<FourFloats>((Four)e.least, (Four)e.largest) & finite) | (kNoRange & ~finite);
}

// The lower half of each word of `low`, the upper one of `high`.
inline BitWords halves_of(BitWords low, BitWords high) {
#if defined(__AVX512F__)
  return (BitWords)_mm512_ternarylogic_epi32((__m512i)high, (__m512i)low, _mm512_set1_epi32(0xffff), 0xd8);
#elif defined(__AVX2__)
  return (BitWords)_mm256_blend_epi16((__m256i)low, (__m256i)high, 0xaa);
#else
  return (low & 0xffffu) | (high & 0xffff0000u);
#endif
}

template <int kBits>
struct Codec : Codes<kBits> {
  using Codes<kBits>::kTop;
  static constexpr int64_t kWords = Codes<kBits>::kWords;

  static BitWords place(const float* x, Vec scale, Vec origin) {
#if defined(AUXGRAD_FMA)
    return (BitWords)fma(load(x), scale, origin);
#else
    BitWords places;
    for (int i = 0; i < kLanes; i++) places[i] = place_of(x[i], scale[i], origin[i]);
    return places;
#endif
  }

  // Two elements at a time, halves of a word as their codes will be.
  static void encode(const float* x, float scale, float origin, const uint32_t* random, bool past, uint32_t* words) {
    constexpr int kPairs = 16 / kBits, kCut = kFraction - kDrawBits;
    const Vec factor = broadcast(scale), zero = broadcast(origin);
    for (int64_t j = 0; j < kWords; j += kLanes) {
      BitWords word = {};
      const auto add = [&](int k, BitWords draws) {
        const float* first = x + j + k * kWords;
        const BitWords low = place(first, factor, zero) >> kCut;
        const BitWords high = place(first + kElements / 2, factor, zero) << (16 - kCut);
        const HalfVec sum = (HalfVec)halves_of(low, high) + (HalfVec)((draws & 0xff00ffu) | 0x10001u);
        const int up = kBits * k - kDrawBits;
        word |= (up > 0 ? (BitWords)sum << up : (BitWords)sum >> -up) & (kTop | kTop << 16) << kBits * k;
      };
      AUXGRAD_UNROLL
      for (int k = 0; k < kPairs / 2; k++) {
        BitWords draws;
        memcpy(&draws, random + j + k * kWords, sizeof(draws));
        add(k, draws);
        add(k + kPairs / 2, draws >> kDrawBits);
      }
      put(past, WholeLanes(), reinterpret_cast<float*>(words + j), (Vec)word);
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

// A last group: the rest repeats the first element.
__attribute__((noinline)) inline const float* repeated(const float* x, int64_t count, float* to) {
  for (int64_t i = 0; i < kElements; i++) to[i] = x[i < count ? i : 0];
  return to;
}

template <int kBits>
bool quantize_bits(const Call& call) {
  typedef Codec<kBits> Coder;
  const int64_t n = call.in[0].count();
  const bool random = static_cast<bool>(call.in[1]);
  const Stream stream = random ? stream_of(call.in[1], call.number[1], kNoiseRounds) : Stream{};
  // Codes are kept for backward: if x does not stay in the caches, neither need they.
  const bool past = too_large(call.in[0]) && lines_apart(call.out[0].data, 0);
  parallel_ranges(call, ceil_div(n, kElements), 64, [&](int64_t begin, int64_t end) {
    float moved[kElements], minimum[kTogether], scale[kTogether], origin[kTogether];
    FourExtremes extremes[kTogether] = {};
    uint32_t random_words[kGroup] = {};
    const auto group = [&](int64_t g) {
      const float* x = call.in[0].f32() + g * kElements;
      return n - g * kElements >= kElements ? x : repeated(x, n - g * kElements, moved);
    };
    const auto look = [&](int64_t g) {
      if (g < end) extremes[g % kTogether] = extremes_of(group(g), kElements);
    };
    for (int64_t g = begin; g < begin + kTogether; g++) look(g);
    for (int64_t first = begin; first < end; first += kTogether) {
      const int64_t last = min64(first + kTogether, end);
      uint32_t* ranges = call.out[1].u32() + first;
      const Four made = ranges_of(extremes);
      if (last - first == kTogether) memcpy(ranges, &made, sizeof(made));
      else memcpy(ranges, &made, static_cast<size_t>(last - first) * sizeof(uint32_t));
      const Four least = made & 0xffff0000u;
      const FourFloats scales = Coder::scale((FourFloats)(made << 16));
      memcpy(minimum, &least, sizeof(least));
      memcpy(scale, &scales, sizeof(scales));
      for (int i = 0; i < kTogether; i++) origin[i] = Coder::origin(minimum[i], scale[i], random);
      for (int64_t g = first; g < last; g++) {
        uint32_t* words = call.out[0].u32() + g * Coder::kWords;
        const int64_t i = g - first;
        look(g + kTogether);  // from memory, while another group is encoded
        if (random && g % kDrawn == 0) stream.words(g * kDrawWords, random_words);
        if (made[i] == kNoRange) {
          set_zero(reinterpret_cast<float*>(words), Coder::kWords);
          continue;
        }
        const float* x = group(g);
        if (Coder::far(minimum[i], scale[i])) {
          for (int64_t e = 0; e < kElements; e++) moved[e] = x[e] - minimum[i];
          x = moved;
          origin[i] = Coder::origin(0, scale[i], random);
        }
        Coder::encode(x, scale[i], origin[i], random_words + g % kDrawn * kDrawWords, past, words);
      }
    }
    if (past) end_bypass();
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
