// Cuts a weight gradient from codes into tasks: for each step of tokens, first the codes of all columns are brought
// into place (once, for all outputs), then each task sums a block of outputs. The cut depends on shapes only.
#pragma once
#include "../isa.h"
#include "codes.h"
#include "lookup.h"

#if defined(__AVX512F__) && defined(__linux__) && defined(__has_include)
#if __has_include(<amxint8intrin.h>)
#define AUXGRAD_HAS_AMX 1
#include "amx.h"
#endif
#endif

namespace auxgrad {
namespace {

constexpr int64_t kChunk = 128;  // blocks of columns whose codes are in place at a time

typedef uint64_t Valid[kStep / 64];

struct Layout {
  int64_t blocks, chunk, block_bytes, valid_bytes, thread_bytes;

  Layout(const CodeGradient& g, bool amx) {
    blocks = g.groups * g.group_blocks();
    chunk = ceil_div(blocks, max64(1, ceil_div(blocks, kChunk)));
    block_bytes = kStep / 32 * g.bits * static_cast<int64_t>(sizeof(Words));
    thread_bytes = static_cast<int64_t>(sizeof(Tables) + sizeof(float) * kPart * kLookupOutputs);
    if (amx) {  // the largest of both: which of them runs may be switched after planning
      block_bytes = kStep * kColumns;
      thread_bytes = max64(thread_bytes, kStep * kColumns * 4);
    }
    valid_bytes = g.taps_a_block() * static_cast<int64_t>(sizeof(Valid));
  }
  int64_t bytes(int threads) const {
    return chunk * (block_bytes + ceil_div(valid_bytes, 64) * 64) + threads * ceil_div(thread_bytes, 64) * 64;
  }
};

struct Places {
  Layout layout;
  uint8_t* codes;
  uint8_t* valid;
  uint8_t* threads;

  Places(const CodeGradient& g, bool amx, void* scratch) : layout(g, amx) {
    codes = static_cast<uint8_t*>(scratch);
    threads = codes + layout.chunk * layout.block_bytes;
    valid = threads;
    threads += layout.chunk * (ceil_div(layout.valid_bytes, 64) * 64);
  }
  uint8_t* block(int64_t i) const { return codes + i * layout.block_bytes; }
  Valid* valid_of(int64_t i) const { return reinterpret_cast<Valid*>(valid + i * (ceil_div(layout.valid_bytes, 64) * 64)); }
  uint8_t* thread(int i) const { return threads + i * (ceil_div(layout.thread_bytes, 64) * 64); }
};

inline bool all_valid(const uint64_t* valid, int64_t count) {
  for (int64_t t = 0; t < count; t += 64) {
    const uint64_t want = count - t >= 64 ? ~0ull : (1ull << (count - t)) - 1;
    if ((valid[t / 64] & want) != want) return false;
  }
  return true;
}

// The part of dW that all columns of a tap share, for `outputs` channels from o0 on and step tokens [from, to):
// the middles of two-bit ranges for tokens in the image, and what look-up must take back for tokens in the padding
// (their code is 0, whose value is `padded` factors).
struct Shift {
  const CodeGradient& g;
  int64_t t0, from, to, o0, outputs;
  float padded;
  bool known = false;
  float whole[kColumns] = {};

  bool needed(const uint64_t* valid) const { return g.bits == 2 || (padded != 0 && !all_valid(valid, to)); }

  void sum(const uint64_t* valid, float* out) {
    const bool all = all_valid(valid, to);
    if (!(all && known)) {
      for (int64_t o = 0; o < kColumns; o++) out[o] = 0;
      for (int64_t t = from; t < to; t++) {
        const bool inside = valid[t / 64] >> (t % 64) & 1;
        float factor = 0;
        if (inside && g.bits == 2) factor = token_middle(g, t0 + t);
        if (!inside && padded != 0) factor = padded * token_factor(g, t0 + t);
        if (factor == 0) continue;
        const float* row = g.delta + (t0 + t) * g.outputs + o0;
        if (outputs == kColumns)
          for (int o = 0; o < kColumns; o++) out[o] += factor * row[o];
        else
          for (int64_t o = 0; o < outputs; o++) out[o] += factor * row[o];
      }
      if (!all) return;
      memcpy(whole, out, sizeof(whole));
      known = true;
    }
    memcpy(out, whole, sizeof(whole));
  }

  // out[o][column] for all columns of a block; `last` remembers for which block of taps it was computed.
  void spread(const ColumnBlock& b, const Valid* valid, int64_t* last, float (*out)[kColumns]) {
    if (*last == b.tap) return;
    *last = b.tap;
    for (int64_t i = 0; i < b.taps; i++) {
      float sums[kColumns];
      sum(valid[i], sums);
      for (int64_t o = 0; o < kColumns; o++)
        for (int64_t c = 0; c < (b.taps == 1 ? kColumns : b.channels); c++) out[o][i * b.channels + c] = sums[o];
    }
  }
};

// Runs f(block index, first output, last output) for the blocks of [begin, end) that outputs [o0, o1) have a part in.
template <class F>
inline void each_block(const CodeGradient& g, int64_t begin, int64_t end, int64_t o0, int64_t o1, const F& f) {
  const int64_t blocks = g.group_blocks(), per_group = g.per_group();
  const int64_t first = max64(begin, o0 / per_group * blocks), last = min64(end, ((o1 - 1) / per_group + 1) * blocks);
  for (int64_t i = first; i < last; i++) {
    const int64_t group = i / blocks;
    f(i, max64(o0, group * per_group), min64(o1, (group + 1) * per_group));
  }
}

#if defined(AUXGRAD_HAS_AMX)
AUXGRAD_AMX inline void amx_task(const CodeGradient& g, const Places& places, int64_t chunk, int64_t begin, int64_t end,
                                 int64_t t0, int64_t count, int64_t o0, int thread) {
  const int64_t o1 = min64(o0 + kAmxOutputs, g.outputs);
  const int tiles = static_cast<int>(ceil_div(count, kTileTokens));
  uint8_t* delta = places.thread(thread);
  __m512 unit = pack_delta(g, t0, count, o0, o1 - o0, delta);
  if (g.bits == 1) unit = _mm512_mul_ps(unit, _mm512_set1_ps(g.scale));
  Shift shift = {g, t0, 0, count, o0, o1 - o0, 0.0f};
  int64_t last_tap = -1;
  float shifts[kColumns][kColumns];
  alignas(64) int32_t sums[kLimbs][16][16];
  const int64_t row = g.taps() * g.depth;
  start_tiles();
  each_block(g, begin, end, o0, o1, [&](int64_t i, int64_t first, int64_t last) AUXGRAD_AMX {
    const ColumnBlock b = column_block(g, i);
    sum_tiles(reinterpret_cast<const int8_t*>(places.block(i - chunk)), delta, tiles, sums);
    if (g.bits == 2) shift.spread(b, places.valid_of(i - chunk), &last_tap, shifts);
    add_sums(sums, unit, g.bits == 2 ? shifts : nullptr, g.dw + o0 * row + b.column(), row,
             static_cast<int>(first - o0), static_cast<int>(last - o0), b.count(), t0 > 0);
  });
  _tile_release();
}
#endif

inline void lookup_task(const CodeGradient& g, const Places& places, int64_t chunk, int64_t begin, int64_t end, int64_t t0,
                        int64_t count, int64_t o0, int thread) {
  const int64_t o1 = min64(o0 + kLookupOutputs, g.outputs), row = g.taps() * g.depth;
  Tables& tables = *reinterpret_cast<Tables*>(places.thread(thread));
  float (*delta)[kLookupOutputs] = reinterpret_cast<float (*)[kLookupOutputs]>(places.thread(thread) + sizeof(Tables));
  for (int64_t from = 0; from < count; from += kPart) {
    const int64_t to = min64(from + kPart, count);
    for (int t = 0; t < kPart; t++) {
      const float factor = from + t < to ? token_factor(g, t0 + from + t) : 0.0f;
      const float* source = g.delta + (t0 + from + t) * g.outputs + o0;
      for (int o = 0; o < kLookupOutputs; o++) delta[t][o] = from + t < to && o < o1 - o0 ? factor * source[o] : 0.0f;
    }
    build_tables(delta, g.zero_one ? 0.0f : -1.0f, tables);
    Shift shift = {g, t0, from, to, o0, o1 - o0, g.zero_one ? 0.0f : g.bits == 2 ? 3.0f : 1.0f};
    int64_t last_tap = -1;
    float shifts[kColumns][kColumns];
    Floats sums[kLookupOutputs][2];
    const bool add = t0 + from > 0;
    // Sums of vector v of block i, with `twice` times those of vector 1.
    const auto finish = [&](int64_t i, int v, bool twice) {
      const ColumnBlock b = column_block(g, i);
      const Valid* valid = places.valid_of(i - chunk);
      bool shifted = false;
      for (int64_t k = 0; k < b.taps; k++) shifted = shifted || shift.needed(valid[k]);
      if (shifted) shift.spread(b, valid, &last_tap, shifts);
      const int64_t first = max64(o0, b.group * g.per_group()), last = min64(o1, (b.group + 1) * g.per_group());
      for (int64_t o = first; o < last; o++) {
        Floats sum = sums[o - o0][v];
        if (twice) sum = sum + sums[o - o0][1] + sums[o - o0][1];
        if (shifted) {
          Floats s;
          memcpy(&s, shifts[o - o0], sizeof(s));
          sum += s;
        }
        float* p = g.dw + o * row + b.column();
        const size_t bytes = static_cast<size_t>(b.count()) * 4;
        if (b.count() == kColumns) {
          Floats old = {};
          if (add) memcpy(&old, p, sizeof(old));
          sum += old;
          memcpy(p, &sum, sizeof(sum));
        } else {
          Floats old = {};
          if (add) memcpy(&old, p, bytes);
          sum += old;
          memcpy(p, &sum, bytes);
        }
      }
    };
    const auto words = [&](int64_t i) { return reinterpret_cast<const Words*>(places.block(i - chunk)) + from / 32; };
    int64_t waiting = -1;  // a block of signs that waits for a second
    each_block(g, begin, end, o0, o1, [&](int64_t i, int64_t, int64_t) {
      if (g.bits == 2) {
        look_up(tables, {{words(i), words(i) + kStep / 32}}, sums);
        finish(i, 0, true);
      } else if (waiting < 0) {
        waiting = i;
      } else {
        look_up(tables, {{words(waiting), words(i)}}, sums);
        finish(waiting, 0, false);
        finish(i, 1, false);
        waiting = -1;
      }
    });
    if (waiting >= 0) {
      look_up(tables, {{words(waiting), words(waiting)}}, sums);
      finish(waiting, 0, false);
    }
  }
}

inline void place_codes(const CodeGradient& g, const Places& places, bool amx, int64_t chunk, int64_t begin, int64_t end,
                        int64_t t0, int64_t count) {
  Run runs[kStep];
  int made = 0;
  int64_t tap = -1;
  for (int64_t i = begin; i < end; i++) {
    const ColumnBlock b = column_block(g, i);
    Words words[kStep / 16];
    Valid* valid = places.valid_of(i - chunk);
    gather_block(g, b, t0, count, runs, &made, &tap, words, valid);
    uint8_t* out = places.block(i - chunk);
#if defined(AUXGRAD_HAS_AMX)
    if (amx) {
      const int tiles = static_cast<int>(ceil_div(count, kTileTokens));
      if (g.bits == 1) expand_signs(g, b, words, valid, tiles, reinterpret_cast<int8_t*>(out));
      else expand_codes(b, words, valid, tiles, reinterpret_cast<int8_t*>(out));
      continue;
    }
#endif
    (void)amx;
    Words* to = reinterpret_cast<Words*>(out);
    if (g.bits == 1) memcpy(to, words, kStep / 32 * sizeof(Words));
    else split_codes(words, to, to + kStep / 32);
  }
}

inline void run_gradient(const Call& call, const CodeGradient& g) {
#if defined(AUXGRAD_HAS_AMX)
  const bool has_amx = machine_has_amx(), amx = has_amx && current_isa() == Isa::amx;
  const int64_t task_outputs = amx ? kAmxOutputs : kLookupOutputs;
#else
  const bool has_amx = false, amx = false;
  const int64_t task_outputs = kLookupOutputs;
#endif
  if (g.tokens == 0 || g.outputs == 0) {
    memset(g.dw, 0, static_cast<size_t>(g.outputs * g.taps() * g.depth) * sizeof(float));
    return;
  }
  const Places places(g, has_amx, call.scratch);
  const int64_t blocks = places.layout.blocks, chunk = places.layout.chunk;
  const int64_t o_tasks = ceil_div(g.outputs, task_outputs);
  for (int64_t from = 0; from < blocks; from += chunk) {
    const int64_t to = min64(from + chunk, blocks);
    // Few outputs: columns are cut too.
    const int64_t parts = max64(1, min64((to - from) / 8, 8 / o_tasks)), part = ceil_div(to - from, parts);
    for (int64_t t0 = 0; t0 < g.tokens; t0 += kStep) {
      const int64_t count = min64(kStep, g.tokens - t0);
      parallel_ranges(call, to - from, 4, [&](int64_t begin, int64_t end) {
        place_codes(g, places, amx, from, from + begin, from + end, t0, count);
      });
      parallel_tasks(call, o_tasks * parts, [&](int64_t task, int thread) {
        const int64_t o0 = task % o_tasks * task_outputs, begin = from + task / o_tasks * part;
        const int64_t end = min64(begin + part, to);
#if defined(AUXGRAD_HAS_AMX)
        if (amx) return amx_task(g, places, from, begin, end, t0, count, o0, thread);
#endif
        lookup_task(g, places, from, begin, end, t0, count, o0, thread);
      });
    }
  }
}

inline int64_t gradient_scratch(const CodeGradient& g, int threads) {
#if defined(AUXGRAD_HAS_AMX)
  return Layout(g, machine_has_amx()).bytes(threads);
#else
  return Layout(g, false).bytes(threads);
#endif
}

}  // namespace
}  // namespace auxgrad
