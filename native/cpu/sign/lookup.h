// Sums of signs by table look-up, for machines without a matrix unit.
//
// The bits of five consecutive tokens of a channel are a number; for an output channel, the 32 signed sums of its five
// deltas are two registers. An in-register permute by sixteen channels' numbers, and one add, do the work of five
// multiply-adds for sixteen channels. The permute reads only the low bits of each number, so loads are all the
// decoding. Tables are built once per part of a step and shared by all input channels; where these are few, they are
// made in registers on the way. With 8 lanes it is four tokens: a register has the sums of three and the fourth added, and
// where the fourth is to be taken away, the opposite of an entry is added.
//
// A code of two bits is two signs, of the delta and of its double: 2 q - 3 = (2 q0 - 1) + 2 (2 q1 - 1).
#pragma once
#include "codes.h"

namespace auxgrad {
namespace {

constexpr int kOutputs = 16;            // of a task: a cache line of deltas
constexpr int kSumRows = kOutputs + 1;  // of sums of a block: those of four blocks further on are not 4 KiB away
constexpr int kPart = 128;              // bits of a channel whose tables stay in the first-level cache

typedef float PartDelta[kPart][kOutputs];  // what a set bit of a part adds; less this, or 0, what a clear one adds

// Blocks of columns that are summed together: their words of a part, and their sums.
struct Blocks {
  const Words* bits;
  int64_t stride;  // words from a block to the next
  float (*sums)[kSumRows][kColumns];
  int64_t count;

  Blocks from(int64_t i) const { return {bits + i * stride, stride, sums + i, count - i}; }
};

// Keeps loads before stores: a load waits for those before it whose addresses have the same low twelve bits, so loads
// and stores go in batches.
inline void loads_end() { asm volatile("" : : : "memory"); }

// Rows of deltas that are wanted after those at hand: they are brought into the second-level cache meanwhile.
struct NextRows {
  const char* row;
  int64_t stride, count;

  // Of those that are left, or the same one again.
  NextRows take(int64_t n) {
    const NextRows taken = {row, count > 0 ? stride : 0, n};
    row += n * stride;
    count -= n;
    return taken;
  }
  // The i-th of them. Locality 2 is the second-level cache, 3 the first.
  template <int locality = 2>
  void prefetch(int64_t i) const {
    __builtin_prefetch(row + i * stride, 0, locality);
  }
  void prefetch() const {
    for (int64_t i = 0; i < count; i++) prefetch(i);
  }
};

#if defined(__AVX512F__)
constexpr bool kCodesAreSigns = true;  // two-bit codes are summed as two signs each
constexpr bool kSignedOnly = false;    // bits 1 and 0 need sums of bits that are all clear, to be taken from the others
constexpr int kLookupOutputs = 4;      // whose sums, of four blocks, are in registers

// Thirteen numbers of 64 bits, a byte each: the low five bits of the eight bytes, where they are; of the three bits that
// each leaves, the first word's and two of the second's; the four last bits of the second. These lie behind the others
// of the part.
constexpr int kPartWords = 7, kHalfNumbers = 13;

inline void place_words(const Words* words, int count, Words* out) {
  for (int w = 0; w < count; w += 4, words += 4, out += kPartWords) {
    Words last[2];
    for (int half = 0; half < 2; half++) {
      const Words a = words[2 * half], b = words[2 * half + 1];
      out[3 * half] = a;
      out[3 * half + 1] = b;
      out[3 * half + 2] = (a >> 5 & 0x07070707u) | (b >> 2 & 0x18181818u);
      Words top = b >> 7 & 0x01010101u;
      top |= top >> 7;
      last[half] = (top | top >> 14) & 15;
    }
    out[6] = last[0] | last[1] << 8;
  }
}

struct Tables {
  alignas(64) float five[2 * kHalfNumbers][kLookupOutputs][32];
};

// Where the deltas of the k-th five bits of a half lie.
struct Five {
  const float *three, *two;
  Five(const float* delta, int k)
      : three(delta + (k < 8 ? 8 * k : 8 * k - 59) * kOutputs), two(three + (k < 8 ? 3 : 32) * kOutputs) {}
};

struct TableMaker {
  __mmask16 minus;  // a clear bit is -1, not 0
  __m512 bit[4], code[2];

  explicit TableMaker(float clear) : minus(clear == 0 ? 0 : 0xffff) {
    const __m512 low = _mm512_set1_ps(clear), one = _mm512_set1_ps(1.0f);
    constexpr __mmask16 set[4] = {0xaaaa, 0xcccc, 0xf0f0, 0xff00};
    for (int i = 0; i < 4; i++) bit[i] = _mm512_mask_mov_ps(low, set[i], one);
    for (int i = 0; i < 2; i++) code[i] = _mm512_add_ps(bit[2 * i], _mm512_add_ps(bit[2 * i + 1], bit[2 * i + 1]));
  }
  __m512 four(const float* d0, const float* d1, const float* d2, const float* d3) const {
    __m512 t = _mm512_mul_ps(bit[0], _mm512_set1_ps(*d0));
    t = _mm512_fmadd_ps(bit[1], _mm512_set1_ps(*d1), t);
    t = _mm512_fmadd_ps(bit[2], _mm512_set1_ps(*d2), t);
    return _mm512_fmadd_ps(bit[3], _mm512_set1_ps(*d3), t);
  }
  // Of two codes, whose deltas are not doubled.
  __m512 two_codes(const float* d0, const float* d1) const {
    return _mm512_fmadd_ps(code[1], _mm512_set1_ps(*d1), _mm512_mul_ps(code[0], _mm512_set1_ps(*d0)));
  }
  // Entries with the fifth bit clear, and set.
  void five(const Five& at, int o, __m512& clear, __m512& set) const {
    const float *d = at.three + o, *e = at.two + o;
    const __m512 t = four(d, d + kOutputs, d + 2 * kOutputs, e), last = _mm512_set1_ps(e[kOutputs]);
    clear = _mm512_mask_sub_ps(t, minus, t, last);
    set = _mm512_add_ps(t, last);
  }
  // Of the last bits of four bytes.
  __m512 rest(const float* d) const {
    return four(d + 39 * kOutputs, d + 47 * kOutputs, d + 55 * kOutputs, d + 63 * kOutputs);
  }
};

inline void build_tables(const TableMaker& maker, const float* delta, int halves, Tables& tables) {
  float* table = tables.five[0][0];
  for (int half = 0; half < halves; half++, delta += 64 * kOutputs) {
#pragma GCC unroll 1
    for (int k = 0; k < kHalfNumbers - 1; k++, table += 32 * kLookupOutputs) {
      const Five five(delta, k);
      __m512 clear[kLookupOutputs], set[kLookupOutputs];
#pragma GCC unroll 4
      for (int o = 0; o < kLookupOutputs; o++) maker.five(five, o, clear[o], set[o]);
      loads_end();
#pragma GCC unroll 4
      for (int o = 0; o < kLookupOutputs; o++) {
        _mm512_store_ps(table + 32 * o, clear[o]);
        _mm512_store_ps(table + 32 * o + 16, set[o]);
      }
    }
    for (int o = 0; o < kLookupOutputs; o++)
      _mm512_store_ps(tables.five[(kHalfNumbers - 1) * halves + half][o], maker.rest(delta + o));
  }
}

// Sums of n blocks and kLookupOutputs outputs, in registers.
template <int n>
struct Sums {
  float (*memory)[kColumns];
  __m512 of[kLookupOutputs][n];

  Sums(Blocks blocks, int output) : memory(blocks.sums[0] + output) {
#pragma GCC unroll 4
    for (int o = 0; o < kLookupOutputs; o++)
#pragma GCC unroll 4
      for (int i = 0; i < n; i++) of[o][i] = _mm512_load_ps(memory[i * kSumRows + o]);
  }
  void store() const {
#pragma GCC unroll 4
    for (int o = 0; o < kLookupOutputs; o++)
#pragma GCC unroll 4
      for (int i = 0; i < n; i++) _mm512_store_ps(memory[i * kSumRows + o], of[o][i]);
  }
};

// The words of n blocks from a byte on.
template <int n>
inline void load_numbers(Blocks blocks, int64_t at, __m512i* number) {
#pragma GCC unroll 4
  for (int i = 0; i < n; i++)
    number[i] = _mm512_loadu_si512(reinterpret_cast<const uint8_t*>(blocks.bits + i * blocks.stride) + at);
}

// Adds to the sums of n blocks.
template <int n>
__attribute__((noinline)) void look_up(const Tables& tables, int halves, Blocks blocks, int output, NextRows& next) {
  Sums<n> sum(blocks, output);
  const float* table = tables.five[0][0];
  const int numbers = halves * kHalfNumbers, last = halves * (kHalfNumbers - 1);
  const NextRows rows = next.take(numbers);
#pragma GCC unroll 1
  for (int k = 0; k < numbers; k++, table += 32 * kLookupOutputs) {
    __m512i number[n];
    rows.prefetch(k);
    const int at = k < last ? k : k - last + 2 * (kHalfNumbers - 1);
    load_numbers<n>(blocks, at / 4 * 64 + at % 4, number);
#pragma GCC unroll 4
    for (int o = 0; o < kLookupOutputs; o++) {
      __m512 clear = _mm512_load_ps(table + 32 * o), set = _mm512_load_ps(table + 32 * o + 16);
      asm("" : "+v"(clear), "+v"(set));  // one load for all blocks
#pragma GCC unroll 4
      for (int i = 0; i < n; i++)
        sum.of[o][i] = _mm512_add_ps(sum.of[o][i], _mm512_permutex2var_ps(clear, number[i], set));
    }
  }
  sum.store();
}

// The same where blocks are too few to share tables: those of four bits are made in registers.
template <int n, int Bits>
__attribute__((noinline)) void look_up_made(const TableMaker& maker, const float* delta, int halves, Blocks blocks,
                                            int output, NextRows& next) {
  Sums<n> sum(blocks, output);
  const __m512i down = _mm512_set1_epi16(1 << 12);
  const NextRows rows = next.take(16 * halves);
  for (int i = 0; i < 4 * halves; i++) {
    __m512i number[n];
    load_numbers<n>(blocks, i / 4 * 192 + i % 4 / 2 * 64 + i % 2 * 2, number);
#pragma GCC unroll 1
    for (int k = 0; k < 4; k++, delta += 4 * kOutputs) {
      rows.prefetch<3>(4 * i + k);
#pragma GCC unroll 4
      for (int o = 0; o < kLookupOutputs; o++) {
        const float* d = delta + o;
        const __m512 four = Bits == 2 ? maker.two_codes(d, d + 2 * kOutputs)
                                      : maker.four(d, d + kOutputs, d + 2 * kOutputs, d + 3 * kOutputs);
#pragma GCC unroll 4
        for (int j = 0; j < n; j++) sum.of[o][j] = _mm512_add_ps(sum.of[o][j], _mm512_permutexvar_ps(number[j], four));
      }
#pragma GCC unroll 4
      for (int j = 0; j < n; j++)
        number[j] = Bits == 2 ? _mm512_mulhi_epu16(number[j], down) : _mm512_srli_epi32(number[j], 4);
    }
  }
  sum.store();
}

// Runs f.at<n>(i) for blocks i ... i + n - 1.
template <class F>
inline void each_few(int64_t blocks, const F& f) {
  int64_t i = 0;
  for (; i + 4 <= blocks; i += 4) f.template at<4>(i);
  if (i + 2 <= blocks) f.template at<2>(i), i += 2;
  if (i < blocks) f.template at<1>(i);
}

template <int Bits>
struct PartSums {
  const TableMaker& maker;
  const Tables* tables;  // or null
  const float* delta;
  int halves, output;
  const Blocks& blocks;
  NextRows& next;

  template <int n>
  void at(int64_t i) const {
    if (tables) look_up<n>(*tables, halves, blocks.from(i), output, next);
    else look_up_made<n, Bits>(maker, delta, halves, blocks.from(i), output, next);
  }
};

// Adds a part of `words` words, `clear` times the delta where a bit is clear.
template <int Bits>
inline void sum_part(const PartDelta& delta, float clear, int words, Blocks blocks, Tables& tables, NextRows& next) {
  const TableMaker maker(clear);
  const bool few = blocks.count <= 4 * Bits;
  const int halves = (words + 1) / 2;
  for (int o = 0; o < kOutputs; o += kLookupOutputs) {
    if (!few) build_tables(maker, delta[0] + o, halves, tables);
    each_few(blocks.count, PartSums<Bits>{maker, few ? nullptr : &tables, delta[0] + o, halves, o, blocks, next});
  }
}
#elif defined(__AVX2__)
constexpr bool kCodesAreSigns = true, kSignedOnly = true;
constexpr int kLookupOutputs = 8;
constexpr uint32_t kClearWord = ~0u;  // bits that are all clear, in place

// Of a byte's two times four bits, the last is the sign of the sum; where it is clear, the others count the other way
// round. In place, the byte has the two numbers of three bits from the low end up, and from the high end down whether
// their entries are taken from the sum.
struct Tables {
  alignas(32) float three[kPart / 4][kLookupOutputs][8];
};

inline void place_words(const Words* words, int count, Words* out) {
  for (int i = 0; i < count; i++) {
    const Words minus = ~words[i] & 0x88888888u, number = words[i] ^ (minus >> 3) * 7;
    out[i] =
        (number & 0x07070707u) | (number >> 1 & 0x38383838u) | (minus << 4 & 0x80808080u) | (minus >> 1 & 0x40404040u);
  }
}

template <int Bits>
inline void build_tables(const float* delta, float, int words, Tables& tables) {
  __m256 p0 = _mm256_setr_ps(-1, 1, -1, 1, -1, 1, -1, 1), p1 = _mm256_setr_ps(-1, -1, 1, 1, -1, -1, 1, 1),
         p2 = _mm256_setr_ps(-1, -1, -1, -1, 1, 1, 1, 1);
  if (Bits == 2) {  // of a code, and of one with its last bit set, whose deltas are not doubled
    p0 = _mm256_add_ps(p0, _mm256_add_ps(p1, p1));
    p2 = _mm256_add_ps(p2, _mm256_set1_ps(2.0f));
  }
  asm("" : "+x"(p0), "+x"(p1), "+x"(p2));  // in registers, not loaded for every product
  for (int i = 0; i < words * 8; i++, delta += 4 * kOutputs) {
    __m256 sum[kLookupOutputs];
#pragma GCC unroll 8
    for (int o = 0; o < kLookupOutputs; o++) {
      const float* d = delta + o;
      if (Bits == 2) {
        sum[o] = _mm256_mul_ps(p0, _mm256_set1_ps(d[0]));
      } else {
        sum[o] = _mm256_fmadd_ps(p0, _mm256_set1_ps(d[0]), _mm256_set1_ps(d[3 * kOutputs]));
        sum[o] = _mm256_fmadd_ps(p1, _mm256_set1_ps(d[kOutputs]), sum[o]);
      }
      sum[o] = _mm256_fmadd_ps(p2, _mm256_set1_ps(d[2 * kOutputs]), sum[o]);
    }
    loads_end();
#pragma GCC unroll 8
    for (int o = 0; o < kLookupOutputs; o++) _mm256_store_ps(tables.three[i][o], sum[o]);
  }
}

__attribute__((noinline)) void look_up(const Tables& tables, int words, const Words* bits, float (*sums)[kColumns],
                                       NextRows rows, int columns = kColumns) {
  __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f);
  asm("" : "+x"(one), "+x"(sign));
  for (int lane = 0; lane < columns; lane += 8) {
    __m256 sum[kLookupOutputs];
#pragma GCC unroll 8
    for (int o = 0; o < kLookupOutputs; o++) sum[o] = _mm256_load_ps(sums[o] + lane);
    const float(*table)[kLookupOutputs][8] = tables.three;
    for (int i = 0; i < words * 4; i++) {
      // The byte of a channel at the low end of its lane, for the numbers, and at the high end, for the signs.
      rows.prefetch(lane / 8 * words * 4 + i);
      const uint8_t* byte = reinterpret_cast<const uint8_t*>(bits + i / 4) + 4 * lane + i % 4;
      __m256i number = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(byte));
      __m256i minus = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(byte - 3));
#pragma GCC unroll 1
      for (int k = 0; k < 2; k++, table++) {
        const __m256 by = _mm256_or_ps(_mm256_and_ps(_mm256_castsi256_ps(minus), sign), one);
#pragma GCC unroll 8
        for (int o = 0; o < kLookupOutputs; o++)
          sum[o] = _mm256_fmadd_ps(_mm256_permutevar8x32_ps(_mm256_load_ps((*table)[o]), number), by, sum[o]);
        number = _mm256_srli_epi32(number, 3);
        minus = _mm256_add_epi32(minus, minus);
      }
    }
#pragma GCC unroll 8
    for (int o = 0; o < kLookupOutputs; o++) _mm256_store_ps(sums[o] + lane, sum[o]);
  }
}
#else
constexpr bool kCodesAreSigns = false, kSignedOnly = false;
constexpr int kLookupOutputs = 8;
constexpr uint32_t kClearWord = 0;

inline void place_words(const Words* words, int count, Words* out) {
  memcpy(out, words, static_cast<size_t>(count) * sizeof(Words));
}

struct Tables {
  float on[kPart][kLookupOutputs], off[kPart][kLookupOutputs];
};

template <int Bits>
inline void build_tables(const float* delta, float low, int words, Tables& tables) {
  for (int t = 0; t < words * 32; t++, delta += kOutputs)
    for (int o = 0; o < kLookupOutputs; o++) tables.on[t][o] = delta[o], tables.off[t][o] = low * delta[o];
}

inline void look_up(const Tables& tables, int words, const Words* bits, float (*sums)[kColumns], NextRows rows,
                    int columns = kColumns) {
  rows.prefetch();
  for (int c = 0; c < columns; c++) {
    float sum[kLookupOutputs] = {};
    for (int w = 0; w < words; w++) {
      const uint32_t word = bits[w][c];
      for (int t = 0; t < 32; t++) {
        const float* value = word >> t & 1 ? tables.on[w * 32 + t] : tables.off[w * 32 + t];
        for (int o = 0; o < kLookupOutputs; o++) sum[o] += value[o];
      }
    }
    for (int o = 0; o < kLookupOutputs; o++) sums[o][c] += sum[o];
  }
}
#endif

#if !defined(__AVX512F__)
constexpr int kPartWords = 4;

template <int Bits>
inline void sum_part(const PartDelta& delta, float clear, int words, Blocks blocks, Tables& tables, NextRows& next) {
  for (int o = 0; o < kOutputs; o += kLookupOutputs) {
    build_tables<Bits>(delta[0] + o, clear, words, tables);
    for (int64_t i = 0; i < blocks.count; i++)
      look_up(tables, words, blocks.bits + i * blocks.stride, blocks.sums[i] + o, next.take(8 * words));
    if (!kSignedOnly || clear != 0) continue;
    Words all_clear[1 + kPart / 32];
    for (Words& word : all_clear) word = Words{} + kClearWord;
    look_up(tables, words, all_clear + 1, blocks.sums[blocks.count] + o, next.take(0), 1);
  }
}
#endif

}  // namespace
}  // namespace auxgrad
