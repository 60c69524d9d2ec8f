// Depthwise convolutions: one channel a group, so a vector holds 16 channels of delta, and each tap adds it where the
// channel's bit is set. With S the sums over set bits and D those over all tokens in the image, signs give 2 S - D and
// two-bit codes 4 S1 + 2 S0 - 3 D, taken 32 tokens at a time so that little cancels.
#pragma once
#include "lookup.h"

namespace auxgrad {
namespace {

constexpr int kDepthwiseTaps = 9, kDepthwiseVectors = 4;  // of a task

inline bool is_depthwise(const CodeGradient& g) { return g.depth == 1 && g.groups > 1 && g.outputs == g.groups; }

// The bits of two-bit codes apart: low[w] and high[w] are bits 0 and 1 of the codes of tokens 32 w ... 32 w + 31.
inline void split_codes(const Words* codes, Words* low, Words* high) {
  for (int w = 0; w < kStep / 32; w++) {
    low[w] = even_codes(codes[2 * w], 1) | even_codes(codes[2 * w + 1], 1) << 16;
    high[w] = even_codes(codes[2 * w] >> 1, 1) | even_codes(codes[2 * w + 1] >> 1, 1) << 16;
  }
}

// A thread's.
struct DepthwiseSpace {
  alignas(64) Floats delta[kStep];  // times their factors
  Floats middle[kStep];             // times their middles
  Words words[kDepthwiseVectors][kDepthwiseTaps][kStep / 16];
  Floats total[kDepthwiseVectors][kDepthwiseTaps];
  TapTokens tokens[kDepthwiseTaps];
  char gap[kThreadGap];
};

// sum + (bit t of word set ? v : 0)
inline Vec add_where(Vec sum, IntVec word, int t, Vec v) {
#if defined(__AVX512F__)
  const __mmask16 set = _mm512_test_epi32_mask((__m512i)word, _mm512_set1_epi32(static_cast<int>(1u << t)));
  return (Vec)_mm512_mask_add_ps((__m512)sum, set, (__m512)sum, (__m512)v);
#else
  return sum + (Vec)((word << (31 - t) >> 31) & (IntVec)v);
#endif
}

// sums[tap] over 32 tokens, for n taps whose words lie `stride` apart; all: the sum of all deltas.
template <int n>
inline void sum_set(const Floats* delta, const Words* words, int64_t stride, Floats* sums, Floats* all) {
  for (int lane = 0; lane < kColumns; lane += kLanes) {
    Vec s[n], every = {};
    IntVec w[n];
    for (int i = 0; i < n; i++) {
      s[i] = Vec{};
      memcpy(&w[i], reinterpret_cast<const uint32_t*>(words + i * stride) + lane, sizeof(w[i]));
    }
    for (int t = 0; t < 32; t++) {
      const Vec v = load(reinterpret_cast<const float*>(delta + t) + lane);
#pragma GCC unroll 9
      for (int i = 0; i < n; i++) s[i] = add_where(s[i], w[i], t, v);
      every += v;
    }
    for (int i = 0; i < n; i++) store(reinterpret_cast<float*>(sums + i) + lane, s[i]);
    store(reinterpret_cast<float*>(all) + lane, every);
  }
}

inline void depthwise_task(const CodeGradient& g, DepthwiseSpace& space, int64_t channel, int64_t first_tap,
                           int64_t taps) {
  const int64_t vectors = min64(kDepthwiseVectors, ceil_div(g.channels - channel, kColumns));
  memset(space.total, 0, sizeof(space.total));
  Scales scales;
  for (int64_t t0 = 0; t0 < g.tokens; t0 += kStep) {
    const int64_t count = min64(kStep, g.tokens - t0), planes = g.bits;
    scales.set(g, t0, count);
    for (int64_t i = 0; i < taps; i++) {
      space.tokens[i].tap = -1;
      space.tokens[i].set(g, first_tap + i, t0, count);
      for (int64_t v = 0; v < vectors; v++) {
        Words codes[kStep / 16], *to = space.words[v][i];
        const int64_t at = channel + v * kColumns;
        gather_codes(g, space.tokens[i], g.words + at, min64(kColumns, g.channels - at), planes == 1 ? to : codes);
        if (planes == 2) split_codes(codes, to, to + kStep / 32);
      }
    }
    for (int64_t v = 0; v < vectors; v++) {
      const int64_t at = channel + v * kColumns;
      const int64_t lanes = min64(kColumns, g.channels - at);
      for (int64_t t = 0; t < kStep; t++) {
        const Floats row = t < count ? load_lanes<Floats>(g.delta + (t0 + t) * g.outputs + at, lanes) : Floats{};
        space.delta[t] = t < count ? row * scales.factor[t] : row;
        if (planes == 2) space.middle[t] = t < count ? row * scales.middle[t] : row;
      }
      for (int64_t w = 0; w * 32 < count; w++) {
        const Floats* delta = space.delta + w * 32;
        Floats set[2][kDepthwiseTaps], all = {}, middles = {};
        for (int p = 0; p < planes; p++) {
          const Words* words = space.words[v][0] + p * (kStep / 32) + w;
          if (taps == 9) sum_set<9>(delta, words, kStep / 16, set[p], &all);
          else
            for (int64_t i = 0; i < taps; i++) sum_set<1>(delta, words + i * (kStep / 16), 0, set[p] + i, &all);
        }
        if (planes == 2)
          for (int t = 0; t < 32; t++) middles += space.middle[w * 32 + t];
        for (int64_t i = 0; i < taps; i++) {
          Floats inside = all, middle = middles;
          if (!g.zero_one)
            for (uint32_t m = ~static_cast<uint32_t>(space.tokens[i].valid[w / 2] >> (w % 2 * 32)); m; m &= m - 1) {
              const int t = __builtin_ctz(m);
              inside -= delta[t];
              if (planes == 2) middle -= space.middle[w * 32 + t];
            }
          const Floats sum = planes == 2  ? set[1][i] * 4.0f + set[0][i] * 2.0f - inside * 3.0f + middle
                             : g.zero_one ? set[0][i]
                                          : set[0][i] * 2.0f - inside;
          space.total[v][i] += sum;
        }
      }
    }
  }
  for (int64_t v = 0; v < vectors; v++)
    for (int64_t c = channel + v * kColumns, lane = 0; lane < kColumns && c + lane < g.channels; lane++)
      for (int64_t i = 0; i < taps; i++) g.dw[(c + lane) * g.taps() + first_tap + i] = space.total[v][i][lane];
}

inline void run_depthwise(const Call& call, const CodeGradient& g) {
  const int64_t channel_tasks = ceil_div(g.channels, kColumns * kDepthwiseVectors);
  parallel_tasks(call, channel_tasks * ceil_div(g.taps(), kDepthwiseTaps), [&](int64_t task, int thread) {
    const int64_t first = task / channel_tasks * kDepthwiseTaps;
    depthwise_task(g, static_cast<DepthwiseSpace*>(call.scratch)[thread],
                   task % channel_tasks * kColumns * kDepthwiseVectors, first, min64(kDepthwiseTaps, g.taps() - first));
  });
}

}  // namespace
}  // namespace auxgrad
