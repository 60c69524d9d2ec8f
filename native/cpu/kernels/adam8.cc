// Adam with moments of 8 bits (Dettmers et al. 2022, "8-bit optimizers via block-wise quantization"): blocks of 256
// elements in row-major order, each scaled by its largest magnitude, in a code whose steps grow with the number.
//
// The dynamic code: magnitudes in seven decades, [10^(d - 7), 10^(d - 6)) for d = 0 to 6; decade d is cut into 2^d equal
// parts (2^(d + 1) where there is no sign), a code for the middle of each. One code is 0 and one is 1. Part j of n has
// the number n + j, so that its exponent as a float tells the decade; a sign is bit 7. Numbers go to the nearest code, but
// no square other than 0 to the code of 0: updates divide by its root.
#include "../adam.h"
#include "../vector.h"

namespace auxgrad {
namespace {

constexpr int64_t kBlock = 256;
constexpr int64_t kTogether = 64;  // blocks of a task

// Bytes as numbers of 32 bits, and back.
inline IntVec load_bytes(const uint8_t* p) {
#if defined(__AVX512F__)
  return (IntVec)_mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__AVX2__)
  return (IntVec)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#else
  return IntVec{p[0], p[1], p[2], p[3]};
#endif
}
inline void store_bytes(uint8_t* p, IntVec v) {
#if defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)v));
#elif defined(__AVX2__)
  const __m256i words = _mm256_packus_epi32((__m256i)v, (__m256i)v), bytes = _mm256_packus_epi16(words, words);
  const int low = _mm256_extract_epi32(bytes, 0), high = _mm256_extract_epi32(bytes, 4);
  memcpy(p, &low, 4);
  memcpy(p + 4, &high, 4);
#else
  for (int k = 0; k < kLanes; k++) p[k] = static_cast<uint8_t>(v[k]);
#endif
}

// table[i & 7].
inline Vec look_up(const float (&table)[8], IntVec i) {
#if defined(__AVX512F__)
  const __m512 all = (__m512)_mm512_broadcast_f64x4((__m256d)_mm256_loadu_ps(table));
  return (Vec)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)i, all);
#elif defined(__AVX2__)
  return (Vec)_mm256_permutevar8x32_ps(_mm256_loadu_ps(table), (__m256i)i);
#else
  return Vec{table[i[0] & 7], table[i[1] & 7], table[i[2] & 7], table[i[3] & 7]};
#endif
}

template <bool kSigned>
struct Dynamic {
  static constexpr int32_t kFirst = kSigned ? 1 : 2;   // parts of the first decade, and its first code
  static constexpr int32_t kOne = kSigned ? 0x80 : 1;  // code of 1; that of 0 is 0
  // From here on 1 is nearest: the last middle is 0.45 / (64 kFirst) below.
  static constexpr float kTop = 1.0f - 0.225f / (64 * kFirst);
  static constexpr float kLeast = kSigned ? 0.5e-6f * (0.1f + 0.45f / kFirst) : 1e-45f;  // what is less is 0

  static constexpr float kWithin = 1.1e-7f;  // in the first part

  // Of each decade: x lies in part `steps x + first` of all, but in none behind `last`; the middle of part k is at
  // `step k + middle`, and numbers from `least` on are nearer to its first middle than to those of the decade before.
  struct Decades {
    float steps[8], first[8], last[8], step[8], middle[8], least[8];

    constexpr Decades() : steps(), first(), last(), step(), middle(), least() {
      double power = 1e-7;  // where the decade begins
      for (int d = 0; d < 7; d++, power *= 10) {
        const double parts = kFirst << d;
        steps[d] = static_cast<float>(parts / (9 * power));
        first[d] = static_cast<float>(parts * 8 / 9);
        last[d] = static_cast<float>(2 * parts - 0.5);
        step[d] = static_cast<float>(9 * power / parts);
        middle[d] = static_cast<float>(4.5 * power / parts - 8 * power);
        least[d] = static_cast<float>(power * (1 + 1.8 / parts));
      }
    }
  };
  static constexpr Decades kDecades = {};

#if defined(__AVX512F__)
  // The decade of the least number of an octave, and where in it (or behind it) the next one begins; 32 octaves to 2, by
  // the lower bits of exponents.
  struct Octaves {
    alignas(64) int32_t decade[32];
    alignas(64) float next[32];

    constexpr Octaves() : decade(), next() {
      double power = 1.0 / (1u << 31);
      for (int i = 0; i < 32; i++, power *= 2) {
        while (decade[i] < 6 && kDecades.least[decade[i] + 1] <= power) decade[i]++;
        next[i] = decade[i] < 6 ? kDecades.least[decade[i] + 1] : 4.0f;
      }
    }
  };
  static constexpr Octaves kOctaves = {};

  template <class T>
  static __m512 look_up_octave(const T (&table)[32], IntVec i) {
    return _mm512_maskz_permutex2var_ps(0xffff, _mm512_load_ps(table), (__m512i)i, _mm512_load_ps(table + 16));
  }
#endif

  static IntVec decade_of(Vec magnitude) {
#if defined(__AVX512F__)
    const IntVec exponent = (IntVec)magnitude >> 23;
    const Vec next = (Vec)look_up_octave(kOctaves.next, exponent);
    return (IntVec)look_up_octave(kOctaves.decade, exponent) - (magnitude >= next);
#else
    IntVec decade = {};
    AUXGRAD_UNROLL
    for (int d = 1; d < 7; d++) decade -= magnitude >= kDecades.least[d];
    return decade;
#endif
  }

  static Vec decode(IntVec code) {
    const IntVec k = kSigned ? code & 127 : code;
    const Vec number = __builtin_convertvector(k, Vec);
    // The number of parts is a power of two, and k what it is times less than two.
    const IntVec decade = ((IntVec)number >> 23) - (127 + (kSigned ? 0 : 1));
    const Vec x = fma(look_up(kDecades.step, decade), number, look_up(kDecades.middle, decade));
    const Vec magnitude = code == kOne ? broadcast(1.0f) : k < kFirst ? Vec{} : x;
    const IntVec sign = code > 0x80 ? IntVec{} + INT32_MIN : IntVec{};
    return kSigned ? (Vec)((IntVec)magnitude | sign) : magnitude;
  }

  // |x| <= 1 to within rounding; of any other x some code.
  static IntVec encode(Vec x) {
    const Vec magnitude = (Vec)((IntVec)x & INT32_MAX);
    Vec within = magnitude;
    if (!kSigned) within = magnitude > kWithin ? magnitude : broadcast(kWithin);
    const IntVec decade = decade_of(within);
    const Vec place = fma(within, look_up(kDecades.steps, decade), look_up(kDecades.first, decade));
    const Vec last = look_up(kDecades.last, decade);
    IntVec code = __builtin_convertvector(place < last ? place : last, IntVec);
    if (kSigned) code |= ((IntVec)x >> 24) & 0x80;
    code = (kSigned ? x : magnitude) >= kTop ? IntVec{} + kOne : code;
    return magnitude < kLeast ? IntVec{} : code;
  }
};
using Mean = Dynamic<true>;
using Square = Dynamic<false>;

template <class Code>
void decode_block(const uint8_t* codes, float largest, float* x) {
  for (int64_t i = 0; i < kBlock; i += kLanes) store(x + i, Code::decode(load_bytes(codes + i)) * largest);
}

// The largest magnitude, NaN if a number is not finite.
float largest_of(const float* x) {
  constexpr int kChains = 4;  // side by side
  Vec top[kChains] = {}, odd[kChains] = {};
  for (int64_t i = 0; i < kBlock; i += kChains * kLanes) {
    AUXGRAD_UNROLL
    for (int c = 0; c < kChains; c++) {
      const Vec v = load(x + i + c * kLanes), magnitude = (Vec)((IntVec)v & INT32_MAX);
      top[c] = magnitude > top[c] ? magnitude : top[c];
      odd[c] = fma(v, Vec{}, odd[c]);  // NaN from NaN and infinities on
    }
  }
  const Vec bad = (odd[0] + odd[1]) + (odd[2] + odd[3]);
  if (any_lane(bad != bad)) return __builtin_nanf("");
  return fold(top, [](Vec a, Vec b) { return b > a ? b : a; });
}

// Returns the largest magnitude, by which the codes are scaled.
template <class Code>
float encode_block(const float* x, uint8_t* codes) {
  const float largest = largest_of(x);
  // What is less than the smallest normal number is nothing.
  if (!(largest >= 1.17549435e-38f)) {
    memset(codes, 0, kBlock);
    return largest != largest ? largest : 0.0f;
  }
  const Vec scale = broadcast(1.0f / largest);
  for (int64_t i = 0; i < kBlock; i += kLanes) store_bytes(codes + i, Code::encode(load(x + i) * scale));
  return largest;
}

// adam8_update: grad, lr [], step [] (f32, counts from 1), grad scale [] or absent -> param, codes of m and of v (u8, of
// its shape), largest f32 [2, blocks] (all in place)
// numbers: beta1, beta2, eps, weight decay, decoupled, as adam_update has them
bool adam8_update(const Call& call) {
  const AdamRun a(call);
  const float* grad = call.in[0].f32();
  float *w = call.out[0].f32(), *largest = call.out[3].f32();
  uint8_t *means = static_cast<uint8_t*>(call.out[1].data), *squares = static_cast<uint8_t*>(call.out[2].data);
  const int64_t n = call.out[0].count(), blocks = ceil_div(n, kBlock);
  const auto block = [&](int64_t b, uint8_t* mean, uint8_t* square, int64_t count) {
    float m[kBlock], v[kBlock];
    decode_block<Mean>(mean, largest[b], m);
    decode_block<Square>(square, largest[blocks + b], v);
    a.update(grad + b * kBlock, w + b * kBlock, m, v, count);
    largest[b] = encode_block<Mean>(m, mean);
    largest[blocks + b] = encode_block<Square>(v, square);
  };
  parallel_ranges(call, blocks, kTogether, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; b++) {
      uint8_t *mean = means + b * kBlock, *square = squares + b * kBlock;
      const int64_t count = n - b * kBlock;
      if (count >= kBlock) {
        block(b, mean, square, kBlock);
        continue;
      }
      uint8_t whole[2][kBlock] = {};
      memcpy(whole[0], mean, static_cast<size_t>(count));
      memcpy(whole[1], square, static_cast<size_t>(count));
      block(b, whole[0], whole[1], count);
      memcpy(mean, whole[0], static_cast<size_t>(count));
      memcpy(square, whole[1], static_cast<size_t>(count));
    }
  });
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"adam8_update", adam8_update})
