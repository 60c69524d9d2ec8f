// Adam with moments of 8 bits (Dettmers et al. 2022, "8-bit optimizers via block-wise quantization"): blocks of 256
// elements in row-major order, each scaled by its largest magnitude, in a code whose steps grow with the number.
//
// The dynamic code: magnitudes in seven decades, [10^(d - 7), 10^(d - 6)) for d = 0 to 6; decade d is cut into 2^d equal
// parts (2^(d + 1) where there is no sign), a code for the middle of each. One code is 0 and one is 1. Part j of n has
// the number n + j, so that its exponent as a float tells the decade; a sign is bit 7. Numbers go to the nearest code, but
// no square other than 0 to the code of 0: updates divide by its root.
#include "../adam.h"
#include "../weights.h"

namespace auxgrad {
namespace {

constexpr int64_t kBlock = 256;
constexpr int64_t kTogether = 64;  // blocks of a task

// Vectors at a time, in steps of all of them: a processor looks only so far ahead for what it can do.
constexpr int kVecs = kLanes >= 8 ? 4 : 1;
constexpr int64_t kStep = kVecs * kLanes;
constexpr int64_t kPass = 64;  // elements, of which one pass is made after the other

template <class F>
inline __attribute__((always_inline)) void each(const F& f) {
  AUXGRAD_UNROLL
  for (int k = 0; k < kVecs; k++) f(k);
}

#if defined(__AVX512F__)
// Where each byte of four lanes goes: to byte kPlace of 32 bits, zeros beside it.
template <int kPlace>
struct Spread {
  uint8_t from[kVecs][64];

  constexpr Spread() : from() {
    for (int k = 0; k < kVecs; k++)
      for (int i = 0; i < 64; i++) from[k][i] = i % 4 == kPlace ? static_cast<uint8_t>(4 * k + i / 4 % 4) : 0x80;
  }
};

// From groups of four lanes to vectors, and back.
inline __m512i reorder(__m512i bytes) {
  const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  return _mm512_maskz_permutexvar_epi32(0xffff, order, bytes);
}

// By the octave that a number lies in: what is looked up fits into one register or two.
template <bool kSigned>
struct Dynamic {
  static constexpr int32_t kFirst = kSigned ? 1 : 2;  // parts of the first decade, and its first code
  // Nearest to 1: the last middle is 0.45 / (64 kFirst) below.
  static constexpr double kTop = 1.0 - 0.225 / (64 * kFirst);
  // Nearest to the first code, or what has no other code but 0.
  static constexpr double kLeast = kSigned ? 0.5e-6 * (0.1 + 0.45) : 1e-7;
  // Numbers are encoded as y = x / kUnit + kShift, so that kTop comes to 1 and kLeast to a power of two as well.
  static constexpr double kStart = kSigned ? 0x1p-21 : 0x1p-22;
  static constexpr double kShift = (kStart - kLeast / kTop) / (1 - kLeast / kTop);
  static constexpr double kUnit = kTop / (1 - kShift);

  // Where a code has its lowest bit when it is converted, so that the exponent of code kFirst is 8 modulo 16.
  static constexpr double kCodeUnit = kSigned ? 0x1p25 : 0x1p8;

  static constexpr int32_t kBelowOne = 0x3f7fffff;  // the bits of the float before 1

  struct Tables {
    // Of y in an octave, by the lower bits of its exponent: the code is `base` plus `steps y + first` rounded down, which
    // is negative in the decade of the least number; from 1 on a number is nearer to a code of the next decade, whose
    // steps are five times as long.
    alignas(64) float steps[32], first[32];
    alignas(64) int32_t base[32];
    // Of the numbers that codes are when converted, by the lower bits of their exponents: x = step number + middle.
    alignas(64) float step[16], middle[16];

    constexpr Tables() : steps(), first(), base(), step(), middle() {
      double y = 0x1p-31;
      for (int i = 0; i < 32; i++, y *= 2) {
        first[i] = -0.5f;
        base[i] = i == 31 ? (kSigned ? 129 : 2) : kSigned ? -1000 : 3;
        if (y < kStart || i == 31) continue;
        int32_t parts = kFirst;
        double power = 1e-7, x = (y - kShift) * kUnit;
        while (parts < 64 * kFirst && x * (1 + 1e-6) >= 10 * power * (1 + 0.9 / parts)) power *= 10, parts *= 2;
        steps[i] = static_cast<float>(parts / (9 * power) * kUnit);
        first[i] = static_cast<float>(-parts / (9 * power) * kUnit * kShift - parts * 10 / 9.0);
        base[i] = 2 * parts;
      }
      double power = 1e-7;
      for (int d = 0; d < 7; d++, power *= 10) {
        const double parts = kFirst << d;
        step[8 + d] = static_cast<float>(9 * power / parts / kCodeUnit);
        middle[8 + d] = static_cast<float>(4.5 * power / parts - 8 * power);
      }
      if (kSigned) middle[15] = -1.0f;
      else middle[7] = 1.0f;
    }
  };
  static constexpr Tables kTables = {};

  static Vec look_up(const float (&table)[16], __m512i i) {
    return (Vec)_mm512_maskz_permutexvar_ps(0xffff, i, _mm512_load_ps(table));
  }
  template <class T>
  static Vec look_up(const T (&table)[32], __m512i i) {
    return (Vec)_mm512_maskz_permutex2var_ps(0xffff, _mm512_load_ps(table), i, _mm512_load_ps(table + 16));
  }

  static void decode(const uint8_t* codes, Vec (&x)[kVecs]) {
    alignas(64) static constexpr Spread<kSigned ? 3 : 1> kSpread = {};
    const __m512i all = reorder(_mm512_loadu_si512(codes));
    __m512i spread[kVecs], number[kVecs], decade[kVecs];
    each([&](int k) { spread[k] = _mm512_shuffle_epi8(all, _mm512_load_si512(kSpread.from[k])); });
    // The sign goes to the lowest bit, where it is rounded off unless there is no other.
    each([&](int k) { number[k] = kSigned ? _mm512_maskz_rol_epi32(0xffff, spread[k], 1) : spread[k]; });
    each([&](int k) { number[k] = (__m512i)_mm512_maskz_cvtepu32_ps(0xffff, number[k]); });
    each([&](int k) { decade[k] = _mm512_maskz_srli_epi32(0xffff, number[k], 23); });
    each([&](int k) { x[k] = look_up(kTables.step, decade[k]); });
    each([&](int k) { x[k] = fma(x[k], (Vec)number[k], look_up(kTables.middle, decade[k])); });
    if (kSigned) each([&](int k) { x[k] = (Vec)((IntVec)x[k] ^ ((IntVec)spread[k] & INT32_MIN)); });
  }

  static void encode(const float* x, float scale, uint8_t* codes) {
    const Vec unit = broadcast(scale * static_cast<float>(1 / kUnit));
    Vec y[kVecs], steps[kVecs], first[kVecs];
    __m512i octave[kVecs], code[kVecs];
    __mmask16 mask[kVecs];
    each([&](int k) { y[k] = load(x + k * kLanes); });
    if (kSigned) each([&](int k) { y[k] = (Vec)((IntVec)y[k] & INT32_MAX); });
    each([&](int k) { y[k] = fma(y[k], unit, broadcast(static_cast<float>(kShift))); });
    each([&](int k) { octave[k] = _mm512_maskz_srli_epi32(0xffff, (__m512i)y[k], 23); });
    each([&](int k) { steps[k] = look_up(kTables.steps, octave[k]); });
    each([&](int k) { first[k] = look_up(kTables.first, octave[k]); });
    each([&](int k) { code[k] = (__m512i)look_up(kTables.base, octave[k]); });
    each([&](int k) { y[k] = fma(y[k], steps[k], first[k]); });
    each([&](int k) { mask[k] = _mm512_cmpgt_epi32_mask((__m512i)y[k], _mm512_set1_epi32(kBelowOne)); });
    each([&](int k) { first[k] = (Vec)_mm512_maskz_min_ps(0xffff, (__m512)y[k], _mm512_set1_ps(-0.5f)); });
    each([&](int k) { y[k] = (Vec)_mm512_mask_mul_ps((__m512)first[k], mask[k], (__m512)y[k], _mm512_set1_ps(0.2f)); });
    constexpr int kDown = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
    each([&](int k) { octave[k] = _mm512_maskz_cvt_roundps_epi32(0xffff, (__m512)y[k], kDown); });
    each([&](int k) {
      const __m512i bits = _mm512_loadu_si512(x + k * kLanes);
      mask[k] = kSigned ? _mm512_movepi32_mask(bits) : _mm512_test_epi32_mask(bits, bits);
    });
    each([&](int k) { code[k] = _mm512_maskz_add_epi32(kSigned ? 0xffff : mask[k], code[k], octave[k]); });
    // What is less than 0 stays so.
    if (kSigned)
      each([&](int k) { code[k] = _mm512_mask_add_epi32(code[k], mask[k], code[k], _mm512_set1_epi32(128)); });
    // To bytes, what is no byte to the nearest one; of each 128 bits, those of code[0] come first.
    const __m512i low = _mm512_maskz_packus_epi32(-1, code[0], code[1]);
    const __m512i high = _mm512_maskz_packus_epi32(-1, code[2], code[3]);
    _mm512_storeu_si512(codes, reorder(_mm512_maskz_packus_epi16(-1, low, high)));
  }
};

#else

// To bytes; 256 to 255.
inline void store_codes(uint8_t* codes, const IntVec (&code)[kVecs]) {
#if defined(__AVX2__)
  const __m256i low = _mm256_packs_epi32((__m256i)code[0], (__m256i)code[1]);
  const __m256i high = _mm256_packs_epi32((__m256i)code[2], (__m256i)code[3]);
  const __m256i order = _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes),
                      _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order));
#else
  store_bytes(codes, code[0] < 255 ? code[0] : IntVec{} + 255);
#endif
}

// table[i & 7].
inline Vec look_up(const float (&table)[8], IntVec i) {
#if defined(__AVX2__)
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
  static constexpr double kLeast = 0.5e-6 * (0.1 + 0.45);  // with a sign: what is less is 0
  static constexpr float kWithin = 1.1e-7f;                // without: in the first part
  static constexpr int kCodeShift = kSigned ? 2 : 1;       // so that codes as floats have exponents from 1 modulo 8

  struct Decades {
    // Of the numbers of a decade, and last of those that 1 is nearest to: x has the code `steps x + first`, at most `last`,
    // rounded down; from `next` on it is one of the next decade.
    float steps[8], first[8], last[8], next[8];
    // Of codes, by their exponents: those of a decade come behind the one below them. x = step code + middle.
    float step[8], middle[8];

    constexpr Decades() : steps(), first(), last(), next(), step(), middle() {
      double power = 1e-7;  // where the decade begins
      for (int d = 0; d < 7; d++, power *= 10) {
        const double parts = kFirst << d;
        steps[d] = static_cast<float>(parts / (9 * power));
        first[d] = static_cast<float>(parts * 8 / 9);
        last[d] = static_cast<float>(2 * parts - 0.5);
        next[d] = static_cast<float>(10 * power * (1 + 0.9 / parts));
        step[d + 1] = static_cast<float>(9 * power / parts / (1 << kCodeShift));
        middle[d + 1] = static_cast<float>(4.5 * power / parts - 8 * power);
      }
      next[6] = kTop;
      first[7] = last[7] = next[7] = kOne;
      step[0] = 1.0f / (1 << kCodeShift);
      if (kSigned) steps[0] = static_cast<float>(1 / kLeast), first[0] = 0;
    }
  };
  static constexpr Decades kDecades = {};

  static IntVec decade_of(Vec x) {
    IntVec decade = {};
#if defined(__AVX2__)
    // A decade for every three octaves from 2^-21 on: too few by one at most.
    const __m256i octaves = _mm256_subs_epu16((__m256i)x, _mm256_set1_epi32((127 - 21) << 23));
    decade = (IntVec)_mm256_srli_epi32(_mm256_mulhi_epu16(octaves, _mm256_set1_epi32(170 << 16)), 16);
    decade -= x >= look_up(kDecades.next, decade);
#else
    AUXGRAD_UNROLL
    for (int d = 0; d < 7; d++) decade -= x >= kDecades.next[d];
#endif
    return decade;
  }

  static void decode(const uint8_t* codes, Vec (&numbers)[kVecs]) {
    each([&](int k) {
      const IntVec code = load_bytes(codes + k * kLanes), sign = code << 24 & INT32_MIN;
      const Vec number = __builtin_convertvector((kSigned ? code & 127 : code) << kCodeShift, Vec);
      const IntVec decade = (IntVec)number >> 23;
      const Vec x = fma(look_up(kDecades.step, decade), number, look_up(kDecades.middle, decade));
      // x of the code of 1 is 0, its sign set: the bits of -1 make 1 of that.
      numbers[k] = kSigned ? (Vec)((IntVec)x ^ sign ^ ((code == kOne) & (IntVec)broadcast(-1.0f))) : x;
    });
  }

  // |x scale| <= 1 to within rounding; of any other x some code.
  static void encode(const float* from, float scale, uint8_t* codes) {
    IntVec code[kVecs];
    each([&](int k) {
      const Vec x = load(from + k * kLanes) * scale;
      const Vec magnitude = kSigned ? (Vec)((IntVec)x & INT32_MAX) : greater(x, broadcast(kWithin));
      const IntVec decade = decade_of(magnitude);
      const Vec place = fma(magnitude, look_up(kDecades.steps, decade), look_up(kDecades.first, decade));
      code[k] = __builtin_convertvector(lesser(place, look_up(kDecades.last, decade)), IntVec);
      if (kSigned) code[k] += ((IntVec)x >> 31) & (code[k] > 0) & 128;  // of -1 256: stored as 255
      else code[k] &= x > 0;
    });
    store_codes(codes, code);
  }
};
#endif
using Mean = Dynamic<true>;
using Square = Dynamic<false>;

// A block of the operands.
struct Block {
  const float* grad;
  float* w;
  uint8_t *means, *squares;
  float *largest_mean, *largest_square;
};

// In place of a block that is not whole: behind its elements are zeros.
struct Padded {
  float grad[kBlock] = {}, w[kBlock] = {};
  uint8_t means[kBlock] = {}, squares[kBlock] = {};
  Block of = {};
  size_t count = 0;

  Block take(const Block& block, size_t n) {
    of = block;
    count = n;
    memcpy(grad, of.grad, 4 * n);
    memcpy(w, of.w, 4 * n);
    memcpy(means, of.means, n);
    memcpy(squares, of.squares, n);
    return {grad, w, means, squares, of.largest_mean, of.largest_square};
  }
  void give() const {
    if (count == 0) return;
    memcpy(of.w, w, 4 * count);
    memcpy(of.means, means, count);
    memcpy(of.squares, squares, count);
  }
};

// The new moments of a block.
struct Moments {
  alignas(64) float mean[kBlock], square[kBlock];
};

// m / (root of v + eps), to within two units of the last place.
inline __attribute__((always_inline)) void quotients(const float* m, const float* v, Vec eps, Vec (&y)[kVecs]) {
  Vec divisor[kVecs];
  each([&](int k) { divisor[k] = root(load(v + k * kLanes)) + eps; });
#if defined(__AVX512F__)
  // An estimate and a step of Newton's: roots alone keep the divider busy.
  Vec inverse[kVecs];
  each([&](int k) { inverse[k] = (Vec)_mm512_maskz_rcp14_ps(0xffff, (__m512)divisor[k]); });
  each([&](int k) {
    const Vec x = load(m + k * kLanes), quotient = x * inverse[k];
    y[k] = fma(fma(-divisor[k], quotient, x), inverse[k], quotient);
  });
#else
  each([&](int k) { y[k] = load(m + k * kLanes) / divisor[k]; });
#endif
}

// The largest of all lanes in bits, by which codes are scaled: NaN if a number is not finite, and what is less than the
// smallest normal number is nothing.
inline float largest_of(BitWords top) {
  uint32_t bits = 0;
  for (int k = 0; k < kLanes; k++) bits = top[k] > bits ? top[k] : bits;
  return bits < 0x00800000 ? 0.0f : bits >= 0x7f800000 ? not_a_number() : float_of(bits);
}
inline BitWords larger(BitWords a, BitWords b) { return a > b ? a : b; }

// Steps a block, and encodes the moments of the one before it, if they are there: what a code waits for, the largest of
// its block, is there then.
__attribute__((noinline)) void step(const AdamStep& a, const Block* block, Moments& moments, const Block* before,
                                    const Moments& old) {
  const Block now = block ? *block : *before, last = before ? *before : now;
  // g is fresh1 times the gradient; what the root is multiplied by goes to the number above it.
  const Vec scale = broadcast(a.fresh1 * a.scale), l2 = broadcast(a.fresh1 * a.l2);
  const Vec beta1 = broadcast(a.beta1 * *now.largest_mean), beta2 = broadcast(a.beta2 * *now.largest_square);
  const Vec fresh2 = broadcast(a.fresh2 / (a.fresh1 * a.fresh1)), shrink = broadcast(a.shrink);
  const float unit = __builtin_sqrtf(a.correction);
  const Vec rate = broadcast(-a.rate / unit), eps = broadcast(a.eps / unit);
  const float mean_scale = 1.0f / *last.largest_mean, square_scale = 1.0f / *last.largest_square;
  BitWords top_mean = {}, top_square = {};
  for (int64_t group = 0; group < kBlock; group += kPass) {
    const auto each_step = [group](const auto& f) {
      for (int64_t i = group; i < group + kPass; i += kStep) f(i);
    };
    // Of itself a processor reads ahead to the end of a page, and there is too much to do to look further.
    fetch(now.grad + kAhead + group, 4 * kGroup);
    fetch(now.w + kAhead + group, 4 * kGroup);
    fetch(now.means + kAhead + group, kGroup);
    fetch(now.squares + kAhead + group, kGroup);
    if (block)
      each_step([&](int64_t i) {
        Vec m[kVecs], v[kVecs], g[kVecs];
        Mean::decode(now.means + i, m);
        Square::decode(now.squares + i, v);
        each([&](int k) { g[k] = load(now.grad + i + k * kLanes) * scale; });
        each([&](int k) { g[k] = fma(l2, load(now.w + i + k * kLanes), g[k]); });
        each([&](int k) { m[k] = fma(beta1, m[k], g[k]); });
        each([&](int k) { g[k] = fresh2 * g[k] * g[k]; });
        each([&](int k) { v[k] = fma(beta2, v[k], g[k]); });
        each([&](int k) { store(moments.mean + i + k * kLanes, m[k]); });
        each([&](int k) { store(moments.square + i + k * kLanes, v[k]); });
        each([&](int k) { top_mean = larger(top_mean, (BitWords)m[k] & 0x7fffffffu); });
        each([&](int k) { top_square = larger(top_square, (BitWords)v[k]); });
      });
    if (before) each_step([&](int64_t i) { Mean::encode(old.mean + i, mean_scale, last.means + i); });
    if (block)
      each_step([&](int64_t i) {
        Vec y[kVecs];
        quotients(moments.mean + i, moments.square + i, eps, y);
        each([&](int k) {
          float* w = now.w + i + k * kLanes;
          store(w, fma(rate, y[k], load(w) * shrink));
        });
      });
    if (before) each_step([&](int64_t i) { Square::encode(old.square + i, square_scale, last.squares + i); });
  }
  if (before && !(*last.largest_mean > 0)) memset(last.means, 0, kBlock);
  if (before && !(*last.largest_square > 0)) memset(last.squares, 0, kBlock);
  if (!block) return;
  *now.largest_mean = largest_of(top_mean);
  *now.largest_square = largest_of(top_square);
}

// adam8_update: grad, lr [], step [] (f32, counts from 1), grad scale [] or absent -> param, codes of m and of v (u8, of
// its shape), largest f32 [2, blocks] (all in place)
// numbers: beta1, beta2, eps, weight decay, decoupled, as adam_update has them
bool adam8_update(const Call& call) {
  const AdamRun a(call);
  const float* grad = call.in[0].f32();
  float* largest = call.out[3].f32();
  const Weights weights(call);
  uint8_t *means = static_cast<uint8_t*>(call.out[1].data), *squares = static_cast<uint8_t*>(call.out[2].data);
  const int64_t n = call.out[0].count(), blocks = ceil_div(n, kBlock);
  parallel_ranges(call, blocks, kTogether, [&](int64_t begin, int64_t end) {
    Block block[2] = {};
    Moments moments[2];
    Padded padded;
    alignas(64) float piece[kBlock];
    for (int64_t b = begin; b <= end; b++) {
      const int64_t at = b * kBlock, count = b < end ? min64(kBlock, n - at) : 0;
      Block& now = block[b % 2];
      now = {grad + at, weights.read(at, count, piece), means + at, squares + at, largest + b, largest + blocks + b};
      if (b < end && count < kBlock) now = padded.take(now, static_cast<size_t>(count));
      step(a, b < end ? &now : nullptr, moments[b % 2], b > begin ? &block[(b + 1) % 2] : nullptr,
           moments[(b + 1) % 2]);
      weights.write(at, count, now.w);
    }
    padded.give();
  });
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"adam8_update", adam8_update})
