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

constexpr int64_t kChunk = 64;  // blocks of columns, and steps, whose codes are in place at a time
constexpr int64_t kSteps = 5;
// AMX, a thread: packed deltas of 64 outputs of a step, and sums of 64 outputs for each block of columns.
constexpr int64_t kBundleBytes = 4 * kStep * 64, kBundleTotals = 4 * 64 * kColumns;

typedef uint64_t Valid[kStep / 64];

inline int64_t aligned(int64_t bytes) { return ceil_div(bytes, 64) * 64; }

// What lies in the scratch: codes [block][step], the valid tokens of their taps, and a share for each thread.
struct Places {
  int64_t blocks, chunk, steps, code_bytes, valid_bytes, thread_bytes;
  uint8_t *codes, *valids, *threads;

  Places(const CodeGradient& g, bool amx, void* scratch) {
    blocks = g.groups * g.group_blocks();
    chunk = ceil_div(blocks, max64(1, ceil_div(blocks, kChunk)));
    steps = max64(1, min64(kSteps, ceil_div(g.tokens, kStep)));
    code_bytes = kStep / 32 * g.bits * static_cast<int64_t>(sizeof(Words));
    thread_bytes = static_cast<int64_t>(sizeof(Tables) + sizeof(float) * kPart * kLookupOutputs);
    if (amx) {  // the largest of both: which of them runs may be switched after planning
      code_bytes = kStep * kColumns;
      thread_bytes = max64(thread_bytes, kBundleBytes + kBundleTotals * chunk);
    }
    thread_bytes = aligned(thread_bytes);
    valid_bytes = aligned(g.taps_a_block() * static_cast<int64_t>(sizeof(Valid)));
    codes = static_cast<uint8_t*>(scratch);
    valids = codes + chunk * steps * code_bytes;
    threads = valids + chunk * steps * valid_bytes;
  }
  int64_t bytes(int count) const { return chunk * steps * (code_bytes + valid_bytes) + count * thread_bytes; }
  uint8_t* code(int64_t block, int64_t step) const { return codes + (block * steps + step) * code_bytes; }
  Valid* valid(int64_t block, int64_t step) const {
    return reinterpret_cast<Valid*>(valids + (block * steps + step) * valid_bytes);
  }
  uint8_t* thread(int i) const { return threads + i * thread_bytes; }
};

// What a task sums: outputs from o0 on, blocks [begin, end) of the chunk that starts at `chunk`, tokens [t0, t1).
struct Task {
  int64_t chunk, begin, end, t0, t1, o0;
  int thread;
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
  const Scales& scales;
  int64_t t0, from, to, o0, outputs;
  float padded;
  bool known = false;
  float whole[kColumns] = {};

  bool needed(const uint64_t* valid) const { return g.bits == 2 || (padded != 0 && !all_valid(valid, to)); }

  void sum(const uint64_t* valid, float* out) {
    const bool all = all_valid(valid, to);
    if (!(all && known)) {
      Floats total = {};
      for (int64_t t = from; t < to; t++) {
        const bool inside = valid[t / 64] >> (t % 64) & 1;
        const float factor = !inside ? padded * scales.factor[t] : g.bits == 2 ? scales.middle[t] : 0.0f;
        if (factor == 0) continue;
        Floats row = {};
        memcpy(&row, g.delta + (t0 + t) * g.outputs + o0, outputs == kColumns ? sizeof(row) : static_cast<size_t>(outputs) * 4);
        total += row * factor;
      }
      memcpy(out, &total, sizeof(total));
      if (!all) return;
      memcpy(whole, out, sizeof(whole));
      known = true;
    }
    memcpy(out, whole, sizeof(whole));
  }

};

// Of blocks [begin, end), those that outputs [o0, o1) have a part in.
struct BlockRange {
  int64_t first, last;
};
inline BlockRange block_range(const CodeGradient& g, int64_t begin, int64_t end, int64_t o0, int64_t o1) {
  const int64_t blocks = g.group_blocks(), per_group = g.per_group();
  return {max64(begin, o0 / per_group * blocks), min64(end, ((o1 - 1) / per_group + 1) * blocks)};
}

// Runs f(block index, first output, last output) for them.
template <class F>
inline void each_block(const CodeGradient& g, int64_t begin, int64_t end, int64_t o0, int64_t o1, const F& f) {
  const int64_t blocks = g.group_blocks(), per_group = g.per_group();
  const BlockRange range = block_range(g, begin, end, o0, o1);
  for (int64_t i = range.first; i < range.last; i++) {
    const int64_t group = i / blocks;
    f(i, max64(o0, group * per_group), min64(o1, (group + 1) * per_group));
  }
}

#if defined(AUXGRAD_HAS_AMX)
// Adds the middles of the ranges of a step's tokens to the sums of 16 outputs.
inline void add_middles(const CodeGradient& g, const Places& places, const Task& task, const Scales& scales, int64_t t0,
                        int64_t step, int64_t bundle, float (*total)[kBundle][16][16]) {
  const int64_t o0 = task.o0 + 16 * bundle, o1 = min64(o0 + 16, g.outputs);
  Shift shift = {g, scales, t0, 0, min64(kStep, task.t1 - t0), o0, o1 - o0, 0.0f};
  int64_t tap = -1;
  alignas(64) float s[kColumns];
  each_block(g, task.begin, task.end, o0, o1, [&](int64_t i, int64_t, int64_t) {
    const ColumnBlock b = column_block(g, i);
    for (int64_t k = 0; k < b.taps; k++) {
      if (tap != b.tap + k) shift.sum(places.valid(i - task.chunk, step)[k], s);
      tap = b.tap + k;
      const __m512 sum = _mm512_load_ps(s);
      for (int64_t c = k * b.channels; c < (k + 1) * b.channels; c++) {
        float* to = total[i - task.begin][bundle][c];
        _mm512_store_ps(to, _mm512_add_ps(_mm512_load_ps(to), sum));
      }
    }
  });
}

AUXGRAD_AMX inline void amx_task(const CodeGradient& g, const Places& places, const Task& task) {
  const int64_t o0 = task.o0, o1 = min64(o0 + kAmxOutputs, g.outputs), row = g.taps() * g.depth;
  uint8_t* delta = places.thread(task.thread);
  float (*total)[kBundle][16][16] = reinterpret_cast<float (*)[kBundle][16][16]>(delta + kBundleBytes);
  alignas(64) int32_t sums[2][kLimbs][16][16];
  alignas(64) float units[kBundle][16], zero[16] = {};
  Scales scales;
  start_tiles();
  for (int64_t t0 = task.t0, step = 0; t0 < task.t1; t0 += kStep, step++) {
    const int64_t count = min64(kStep, task.t1 - t0);
    const int tiles = static_cast<int>(ceil_div(count, kTileTokens));
    if (g.bits == 2) scales.set(g, t0, count);
    pack_delta(g, t0, count, o0, o1 - o0, scales.factor, delta, units);
    const int64_t later = t0 + kStep;
    Ahead ahead = {reinterpret_cast<const char*>(g.delta + later * g.outputs + o0), g.outputs * 4,
                   min64(kStep, task.t1 - later), static_cast<int>(ceil_div(o1 - o0, 16))};
    const float* start = step == 0 ? zero : nullptr;
    int at = 0;
    float (*before)[16] = nullptr;
    for (int64_t bundle = 0; o0 + 16 * bundle < o1; bundle++) {
      const uint8_t* packed = delta + bundle * kStep * 64;
      __m512 unit = _mm512_load_ps(units[bundle]);
      if (g.bits == 1) unit = _mm512_mul_ps(unit, _mm512_set1_ps(g.scale));
      const __m512 high_unit = _mm512_mul_ps(unit, _mm512_set1_ps(65536.0f));
      const int64_t from = o0 + 16 * bundle;
      const auto [first, last] = block_range(g, task.begin, task.end, from, min64(o1, from + 16));
      const auto codes = [&](int64_t i) { return reinterpret_cast<const int8_t*>(places.code(i - task.chunk, step)); };
      if (first < last) _tile_loadd(4, codes(first), 64);
      for (int64_t i = first; i < last; i++) {
        const int32_t (*old)[16][16] = sums[1 - at];
        int done = before ? 0 : 16;
        const auto meanwhile = [&] {
          if (done < 16) add_limbs(old, done, done + 2, unit, high_unit, start, before);
          done += 2;
          ahead();
        };
        sum_tiles(codes(i), codes(i + 1 < last ? i + 1 : i), packed, tiles, sums[at], meanwhile);
        while (done < 16) meanwhile();
        before = total[i - task.begin][bundle];
        at = 1 - at;
      }
      if (before) add_limbs(sums[1 - at], 0, 16, unit, high_unit, start, before);
      before = nullptr;
      if (g.bits == 2) add_middles(g, places, task, scales, t0, step, bundle, total);
    }
  }
  _tile_release();
  for (int64_t bundle = 0; o0 + 16 * bundle < o1; bundle++) {
    const int64_t from = o0 + 16 * bundle;
    each_block(g, task.begin, task.end, from, min64(o1, from + 16), [&](int64_t i, int64_t first, int64_t last) {
      const ColumnBlock b = column_block(g, i);
      add_total(total[i - task.begin][bundle], g.dw + from * row + b.column(), row, static_cast<int>(first - from),
                static_cast<int>(last - from), b.count(), task.t0 > 0);
    });
  }
}
#endif

// shifts[o][column] of a block; `last` remembers for which taps it was computed.
inline void spread_shift(Shift& shift, const ColumnBlock& b, const Valid* valid, int64_t* last, float (*out)[kColumns]) {
  if (*last == b.tap) return;
  *last = b.tap;
  for (int64_t i = 0; i < b.taps; i++) {
    float sums[kColumns];
    shift.sum(valid[i], sums);
    for (int64_t o = 0; o < kColumns; o++)
      for (int64_t c = 0; c < (b.taps == 1 ? kColumns : b.channels); c++) out[o][i * b.channels + c] = sums[o];
  }
}

inline void lookup_task(const CodeGradient& g, const Places& places, const Task& task) {
  const int64_t o0 = task.o0, o1 = min64(o0 + kLookupOutputs, g.outputs), row = g.taps() * g.depth;
  Tables& tables = *reinterpret_cast<Tables*>(places.thread(task.thread));
  float (*delta)[kLookupOutputs] = reinterpret_cast<float (*)[kLookupOutputs]>(places.thread(task.thread) + sizeof(Tables));
  Scales scales;
  for (int64_t t0 = task.t0; t0 < task.t1; t0 += kPart) {
    const int64_t step = (t0 - task.t0) / kStep, from = (t0 - task.t0) % kStep, to = from + min64(kPart, task.t1 - t0);
    if (from == 0) scales.set(g, t0, min64(kStep, task.t1 - t0));
    for (int64_t t = 0; t < kPart; t++) {
      const bool there = from + t < to;
      const float factor = there ? scales.factor[from + t] : 0.0f;
      const float* source = g.delta + (t0 + t) * g.outputs + o0;
      if (there && o1 - o0 == kLookupOutputs)
        for (int o = 0; o < kLookupOutputs; o++) delta[t][o] = factor * source[o];
      else
        for (int o = 0; o < kLookupOutputs; o++) delta[t][o] = there && o < o1 - o0 ? factor * source[o] : 0.0f;
    }
    build_tables(delta, g.zero_one ? 0.0f : -1.0f, tables);
    Shift shift = {g, scales, t0 - from, from, to, o0, o1 - o0, g.zero_one ? 0.0f : g.bits == 2 ? 3.0f : 1.0f};
    int64_t last_tap = -1;
    float shifts[kColumns][kColumns];
    Floats sums[kLookupOutputs][2];
    const bool add = t0 > 0;
    // Adds the sums of vector v, with `twice` also two times those of vector 1, to block i.
    const auto finish = [&](int64_t i, int v, bool twice) {
      const ColumnBlock b = column_block(g, i);
      const Valid* valid = places.valid(i - task.chunk, step);
      bool shifted = false;
      for (int64_t k = 0; k < b.taps; k++) shifted = shifted || shift.needed(valid[k]);
      if (shifted) spread_shift(shift, b, valid, &last_tap, shifts);
      const int64_t first = max64(o0, b.group * g.per_group()), last = min64(o1, (b.group + 1) * g.per_group());
      const bool whole = b.count() == kColumns;
      const size_t bytes = static_cast<size_t>(b.count()) * 4;
      for (int64_t o = first; o < last; o++) {
        Floats sum = sums[o - o0][v], more = {};
        if (twice) sum += sums[o - o0][1] + sums[o - o0][1];
        if (shifted) {
          memcpy(&more, shifts[o - o0], sizeof(more));
          sum += more;
        }
        float* p = g.dw + o * row + b.column();
        if (whole) {
          if (add) {
            memcpy(&more, p, sizeof(more));
            sum += more;
          }
          memcpy(p, &sum, sizeof(sum));
        } else {
          more = Floats{};
          if (add) memcpy(&more, p, bytes);
          sum += more;
          memcpy(p, &sum, bytes);
        }
      }
    };
    const auto words = [&](int64_t i) {
      return reinterpret_cast<const Words*>(places.code(i - task.chunk, step)) + from / 32;
    };
    int64_t waiting = -1;  // a block of signs that waits for a second
    each_block(g, task.begin, task.end, o0, o1, [&](int64_t i, int64_t, int64_t) {
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

// Brings the codes of blocks [begin, end) and tokens [t0, t1) into place.
inline void place_codes(const CodeGradient& g, const Places& places, bool amx, int64_t chunk, int64_t begin, int64_t end,
                        int64_t t0, int64_t t1) {
  Run runs[kStep];
  Words words[kStep / 16];
  for (int64_t step = 0; t0 < t1; t0 += kStep, step++) {
    const int64_t count = min64(kStep, t1 - t0);
    int made = 0;
    int64_t tap = -1;
    for (int64_t i = begin; i < end; i++) {
      const ColumnBlock b = column_block(g, i);
      Valid* valid = places.valid(i - chunk, step);
      gather_block(g, b, t0, count, runs, &made, &tap, words, valid);
      uint8_t* out = places.code(i - chunk, step);
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
  const int64_t blocks = places.blocks, chunk = places.chunk, tokens = places.steps * kStep;
  const int64_t o_tasks = ceil_div(g.outputs, task_outputs);
  for (int64_t from = 0; from < blocks; from += chunk) {
    const int64_t to = min64(from + chunk, blocks);
    // Few outputs: columns are cut too.
    const int64_t parts = max64(1, min64((to - from) / 8, 8 / o_tasks)), part = ceil_div(to - from, parts);
    for (int64_t t0 = 0; t0 < g.tokens; t0 += tokens) {
      const int64_t t1 = min64(t0 + tokens, g.tokens);
      parallel_ranges(call, to - from, 4, [&](int64_t begin, int64_t end) {
        place_codes(g, places, amx, from, from + begin, from + end, t0, t1);
      });
      parallel_tasks(call, o_tasks * parts, [&](int64_t i, int thread) {
        const int64_t begin = from + i / o_tasks * part;
        const Task task = {from, begin, min64(begin + part, to), t0, t1, i % o_tasks * task_outputs, thread};
#if defined(AUXGRAD_HAS_AMX)
        if (amx) return amx_task(g, places, task);
#endif
        lookup_task(g, places, task);
      });
    }
  }
}

inline int64_t gradient_scratch(const CodeGradient& g, int threads) {
#if defined(AUXGRAD_HAS_AMX)
  return Places(g, machine_has_amx(), nullptr).bytes(threads);
#else
  return Places(g, false, nullptr).bytes(threads);
#endif
}

}  // namespace
}  // namespace auxgrad
