// Weight gradients from codes of one or two bits: dW[o, tap, c] = sum over output tokens t of delta[t, o] v[in(t, tap), c],
// v the value of the code, 0 in the padding. This header says what the problem is and brings the codes of one tap into
// the order of the output's tokens; amx.h, lookup.h and depthwise.h sum, gradient.h cuts the work.
//
// Codes are packed along tokens: word [t * bits / 32][c] holds the code of token t, channel c, from bit t * bits % 32.
#pragma once
#include "../../core/code_gradient.h"
#include "../vector.h"

namespace auxgrad {
namespace {

constexpr int kColumns = 16;  // columns (tap, c) of dW that are summed together
constexpr int kStep = 384;    // tokens that are summed at a time

// One word, and one float, of 16 channels: a vector, or as many as it takes. Compilers take wider ones through memory.
#if defined(__AVX512F__)
typedef uint32_t Words __attribute__((vector_size(64)));
typedef float Floats __attribute__((vector_size(64)));
#else
template <class V, class T>
struct Lanes {
  V part[kColumns / kLanes];

  T operator[](int64_t i) const { return part[i / kLanes][i % kLanes]; }
  Lanes operator~() const { return *this ^ ~T{}; }
#define AUXGRAD_LANES(op)                                                           \
  friend Lanes operator op(Lanes a, const Lanes& b) {                               \
    for (int i = 0; i < kColumns / kLanes; i++) a.part[i] = a.part[i] op b.part[i]; \
    return a;                                                                       \
  }                                                                                 \
  friend Lanes operator op(Lanes a, T b) {                                          \
    for (int i = 0; i < kColumns / kLanes; i++) a.part[i] = a.part[i] op b;         \
    return a;                                                                       \
  }                                                                                 \
  template <class B>                                                                \
  Lanes& operator op##=(const B& b) {                                               \
    return *this = *this op b;                                                      \
  }
  AUXGRAD_LANES(+)
  AUXGRAD_LANES(-)
  AUXGRAD_LANES(*)
  AUXGRAD_LANES(&)
  AUXGRAD_LANES(|)
  AUXGRAD_LANES(^)
  AUXGRAD_LANES(<<)
  AUXGRAD_LANES(>>)
#undef AUXGRAD_LANES
};
typedef Lanes<BitWords, uint32_t> Words;
typedef Lanes<Vec, float> Floats;
#endif

// The first n <= 16 lanes from memory, 0 in the others.
template <class L>
inline L load_lanes(const void* p, int64_t n) {
  L v = {};
#if defined(__AVX512F__)
  v = (L)_mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << n) - 1), p);
#else
  if (n == kColumns)
    for (int i = 0; i < kColumns / kLanes; i++)
      memcpy(&v.part[i], static_cast<const char*>(p) + i * sizeof(v.part[i]), sizeof(v.part[i]));
  else memcpy(&v, p, static_cast<size_t>(n) * 4);
#endif
  return v;
}

struct CodeGradient : CodeOperands {
  int64_t taps() const { return kernel[0] * kernel[1]; }
  int64_t per_group() const { return outputs / groups; }
  // Tokens of input and output are the same, one for one.
  bool pointwise() const {
    return taps() == 1 && stride[0] == 1 && stride[1] == 1 && pad[0] == 0 && pad[1] == 0 && H == P && W == Q;
  }
  // The same number of tokens, so that a tap reads tokens at a constant distance, where it does not read padding.
  bool same_grid() const { return stride[0] == 1 && stride[1] == 1 && H == P && W == Q; }
  // Columns come in blocks of up to 16 that are neighbours in dW: channels of one tap, or several taps of few channels.
  int64_t taps_a_block() const { return depth < kColumns ? min64(kColumns / max64(1, depth), taps()) : 1; }
  int64_t group_blocks() const {
    return depth < kColumns ? ceil_div(taps(), taps_a_block()) : taps() * ceil_div(depth, kColumns);
  }
};

struct ColumnBlock {
  int64_t group, tap, taps, channel, channels;  // taps [tap, tap + taps), channels of the group from `channel`
  int64_t column;                               // of the first in a row of dW
  int64_t count() const { return taps * channels; }
};

inline ColumnBlock column_block(const CodeGradient& g, int64_t index) {
  const int64_t blocks = g.group_blocks(), i = index % blocks;
  if (g.depth < kColumns) {
    const int64_t tap = i * g.taps_a_block();
    return {index / blocks, tap, min64(g.taps_a_block(), g.taps() - tap), 0, g.depth, tap * g.depth};
  }
  const int64_t a_tap = ceil_div(g.depth, kColumns), tap = i / a_tap, channel = i % a_tap * kColumns;
  return {index / blocks, tap, 1, channel, min64(kColumns, g.depth - channel), tap * g.depth + channel};
}

// `length` output tokens from the `to`-th of a step on read input tokens from, from + stride, ...
struct Run {
  int32_t to, length;
  int64_t from;
};

inline int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

// What output tokens [t0, t0 + count) read at one tap, count <= kStep; tokens not named read padding.
inline int tap_runs(const CodeGradient& g, int64_t tap, int64_t t0, int64_t count, Run* runs) {
  if (g.pointwise()) {
    runs[0] = {0, static_cast<int32_t>(count), t0};
    return 1;
  }
  const int64_t kh = tap / g.kernel[1] * g.dilation[0] - g.pad[0], kw = tap % g.kernel[1] * g.dilation[1] - g.pad[1];
  const int64_t low = max64(0, floor_div(-kw + g.stride[1] - 1, g.stride[1]));
  const int64_t high = min64(g.Q, floor_div(g.W - 1 - kw, g.stride[1]) + 1);
  int64_t n = t0 / (g.P * g.Q), p = t0 / g.Q % g.P, q = t0 % g.Q;
  int made = 0;
  for (int64_t done = 0; done < count;) {
    const int64_t end = min64(g.Q, q + count - done), h = p * g.stride[0] + kh;
    const int64_t from = max64(q, low), to = min64(end, high);
    if (h >= 0 && h < g.H && from < to) {
      const Run run = {static_cast<int32_t>(done + from - q), static_cast<int32_t>(to - from),
                       (n * g.H + h) * g.W + from * g.stride[1] + kw};
      Run* last = runs + made - 1;
      if (made && g.stride[1] == 1 && last->to + last->length == run.to && last->from + last->length == run.from)
        last->length += run.length;
      else runs[made++] = run;
    }
    done += end - q;
    q = 0;
    if (++p == g.P) p = 0, n++;
  }
  return made;
}

// Bit t set: token t of the step reads the image, not the padding.
inline void valid_tokens(const Run* runs, int count, uint64_t* valid) {
  memset(valid, 0, kStep / 8);
  for (int i = 0; i < count; i++)
    for (int t = runs[i].to, end = t + runs[i].length; t < end;) {
      const int take = 64 - t % 64 < end - t ? 64 - t % 64 : end - t;
      valid[t / 64] |= (take == 64 ? ~0ull : (1ull << take) - 1) << (t % 64);
      t += take;
    }
}

// The first n lanes of `own` in lanes at ... at + n of `words`.
inline Words place_lanes(Words words, Words own, int64_t at, int64_t n) {
#if defined(__AVX512F__)
  return (Words)_mm512_mask_expand_epi32((__m512i)words, static_cast<__mmask16>(((1u << n) - 1) << at), (__m512i)own);
#else
  memcpy(reinterpret_cast<uint32_t*>(&words) + at, &own, static_cast<size_t>(n) * 4);
  return words;
#endif
}

// Every other bit (pair of bits) of the low half of a doubled word, moved together.
inline Words even_codes(Words v, int bits) {
  if (bits == 1) {
    v &= 0x55555555u;
    v = (v | v >> 1) & 0x33333333u;
  } else {
    v &= 0x33333333u;
  }
  v = (v | v >> 2) & 0x0f0f0f0fu;
  v = (v | v >> 4) & 0x00ff00ffu;
  return (v | v >> 8) & 0xffffu;
}

// Bits 0 ... 15 moved apart and doubled: a mask of tokens as a mask of two-bit codes.
inline uint32_t double_bits(uint32_t v) {
  v = (v | v << 8) & 0x00ff00ffu;
  v = (v | v << 4) & 0x0f0f0f0fu;
  v = (v | v << 2) & 0x33333333u;
  v = (v | v << 1) & 0x55555555u;
  return v * 3;
}

// What the tokens of a step read at one tap.
struct TapTokens {
  int64_t tap = -1;
  int made;
  int64_t distance;            // same_grid: token i of the step reads input token i + distance
  uint64_t valid[kStep / 64];  // token reads the image, not the padding
  uint32_t mask[kStep / 16];   // the same for each code of a word
  Run runs[kStep];

  void set(const CodeGradient& g, int64_t which, int64_t t0, int64_t count) {
    if (tap == which) return;
    tap = which;
    made = tap_runs(g, tap, t0, count, runs);
    distance = made ? runs[0].from - runs[0].to : 0;
    valid_tokens(runs, made, valid);
    for (int w = 0; w < kStep / 32 * g.bits; w++)
      mask[w] = g.bits == 1 ? static_cast<uint32_t>(valid[w / 2] >> (w % 2 * 32))
                            : double_bits(static_cast<uint32_t>(valid[w / 4] >> (w % 4 * 16)) & 0xffffu);
  }
};

// Codes of n channels from `source` on in the order of the step's tokens; tokens in the padding get code 0.
inline void gather_codes(const CodeGradient& g, const TapTokens& tokens, const uint32_t* source, int64_t n,
                         Words* out) {
  const int bits = g.bits, words = kStep / 32 * bits;
  if (g.same_grid()) {
    const int64_t first = floor_div(tokens.distance * bits, 32);
    const int shift = static_cast<int>(tokens.distance * bits - first * 32);
    const auto word = [&](int64_t w) {
      return w >= 0 && w < g.rows ? load_lanes<Words>(source + w * g.channels, n) : Words{};
    };
    Words low = word(first);
    for (int w = 0; w < words; w++) {
      const Words high = word(first + w + 1);
      out[w] = (shift ? low >> shift | high << (32 - shift) : low) & tokens.mask[w];
      low = high;
    }
    return;
  }
  const int64_t stride = g.stride[1];
  for (int i = 0; i < words; i++) out[i] = Words{};
  for (int r = 0; r < tokens.made; r++) {
    const Run& run = tokens.runs[r];
    int to = run.to * bits, left = run.length * bits;
    int64_t from = run.from * bits;
    while (left > 0) {
      const int room = 32 - to % 32 < left ? 32 - to % 32 : left, shift = static_cast<int>(from % 32);
      const uint32_t* word = source + from / 32 * g.channels;
      Words v = load_lanes<Words>(word, n) >> shift;
      int take = bits;
      if (stride == 1) {
        take = room;
        if (shift + take > 32) v |= load_lanes<Words>(word + g.channels, n) << (32 - shift);
      } else if (stride == 2) {
        take = room < 16 ? room : 16;
        if (shift && shift + 2 * take - bits > 32) v |= load_lanes<Words>(word + g.channels, n) << (32 - shift);
        v = even_codes(v, bits);
      }
      v &= take == 32 ? ~0u : (1u << take) - 1;
      out[to / 32] |= v << (to % 32);
      to += take;
      left -= take;
      from += take * stride;
    }
  }
}

// The step's codes of a whole block; tokens[i] is what its i-th tap reads.
inline void gather_block(const CodeGradient& g, const ColumnBlock& b, const TapTokens* tokens, Words* out) {
  const uint32_t* source = g.words + b.group * g.depth + b.channel;
  if (b.taps == 1) return gather_codes(g, *tokens, source, b.channels, out);
  const int words = kStep / 32 * g.bits;
  for (int w = 0; w < words; w++) out[w] = Words{};
  for (int64_t i = 0; i < b.taps; i++) {
    Words own[kStep / 16];
    gather_codes(g, tokens[i], source, b.channels, own);
    for (int w = 0; w < words; w++) out[w] = place_lanes(out[w], own[w], i * b.channels, b.channels);
  }
}

// What the deltas of a step's tokens are multiplied by: `factor` before they are summed with code values -1, +1 (0, 1), or
// -3, -1, 1, 3; `middle` for the middle of the token's range, which all its codes share.
struct Scales {
  float factor[kStep], middle[kStep];

  void set(const CodeGradient& g, int64_t t0, int64_t count) {
    int64_t range = t0 / g.span, end = g.bits == 2 ? g.span - t0 % g.span : count;
    for (int64_t t = 0; t < count; range++, end += g.span) {
      const float r = g.bits == 2 ? g.ranges[2 * range + 1] : 6.0f, m = g.bits == 2 ? g.ranges[2 * range] : 0.0f;
      const float own_factor = g.scale * r / 6.0f, own_middle = g.scale * (m + 0.5f * r);
      for (const int64_t last = min64(end, count); t < last; t++) factor[t] = own_factor, middle[t] = own_middle;
    }
  }
};

}  // namespace
}  // namespace auxgrad
