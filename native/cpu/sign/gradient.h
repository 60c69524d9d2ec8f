// Cuts a weight gradient from codes into tasks: for each step of tokens, first the codes of all columns are brought
// into place (once, for all outputs), then each task sums a block of outputs. The cut depends on shapes only.
#pragma once
#include "amx.h"
#include "codes.h"
#include "depthwise.h"
#include "lookup.h"
#include "multiply.h"

namespace auxgrad {
namespace {

constexpr int64_t kChunk = 64;  // blocks of columns, and steps, whose codes are in place at a time
constexpr int64_t kSteps = 6;
// Small gradients of few blocks of columns are cut along the tokens into runs, each of which sums all of dW. A thread has
// codes of its own, and some steps at a time: their deltas stay in the second-level cache while 64 outputs after the other
// take their part of each row.
constexpr int64_t kRuns = 8, kRunBlocks = 32, kRunCodes = 48, kRunTotal = 64 * 1024, kRunDeltas = 256 * 1024;
// So few threads bring the codes into places of their own, each all that it needs: that takes less time than to fetch from
// one another what all write and all read, and none waits.
constexpr int64_t kOwnThreads = 4;
// AMX, a thread: packed deltas of 64 outputs of a step, and sums of 64 outputs for each block of columns.
constexpr int64_t kBundleBytes = 4 * kStep * 64, kBundleTotals = 4 * 64 * kColumns;

typedef uint64_t Valid[kStep / 64];

// What a thread needs without a matrix unit: scaled deltas of a part, tables, and sums [block][output][column], behind them
// those of bits that are all clear.
template <int Bits>
struct VectorSpace {
  static constexpr bool kLookup = Bits == 1 || kCodesAreSigns;
  static constexpr int kOutputs = kLookup ? auxgrad::kOutputs : kCodeOutputs;
  static constexpr int kRows = kLookup ? Bits : 1, kTokens = kPart / kRows;  // rows of deltas for a token
  alignas(64) Tables tables;
  alignas(64) float delta[kPart][kOutputs];
  alignas(64) float sums[1][kSumRows][kColumns];
};

template <int Bits>
inline int64_t vector_bytes(int64_t blocks, int64_t taps_a_block) {
  using Space = VectorSpace<Bits>;
  const int64_t shifts = taps_a_block * static_cast<int64_t>(sizeof(Floats));
  return static_cast<int64_t>(sizeof(Space)) + blocks * (static_cast<int64_t>(sizeof(Space::sums)) + shifts);
}

inline int64_t aligned(int64_t bytes) { return ceil_div(bytes, 64) * 64; }

// What lies in the scratch: codes [block][step], the valid tokens of their taps, and a share for each thread.
struct Places {
  uint8_t* base;
  int64_t blocks, chunk, steps, code_bytes, valid_bytes, thread_bytes;
  int64_t runs, total;  // of the tokens; floats of dW
  int64_t own_threads;  // up to so many have codes of their own

  __attribute__((noinline)) Places(const CodeGradient& g, bool amx, void* scratch)
      : base(static_cast<uint8_t*>(scratch)) {
    blocks = g.groups * g.group_blocks();
    chunk = ceil_div(blocks, max64(1, ceil_div(blocks, kChunk)));
    const int64_t all = max64(1, ceil_div(g.tokens, kStep));
    steps = ceil_div(all, ceil_div(all, kSteps));
    total = g.outputs * g.taps() * g.depth;
    // Tasks of few outputs are many, and need runs only where these are long.
    const bool cut = blocks < kRunBlocks && total > 0 && total <= kRunTotal && (amx || all >= 2 * kRuns);
    runs = cut ? min64(kRuns, all) : 1;
    if (runs > 1) steps = max64(2, min64(min64(steps, kRunCodes / blocks), kRunDeltas / (kStep * g.outputs)));
    code_bytes = kStep / kPart * g.bits * kPartWords * static_cast<int64_t>(sizeof(Words));
    thread_bytes = g.bits == 1 ? vector_bytes<1>(chunk, g.taps_a_block()) : vector_bytes<2>(chunk, g.taps_a_block());
    if (amx) {  // the largest of both: which of them runs may be switched after planning
      code_bytes = kStep * kColumns;
      thread_bytes = max64(thread_bytes, kBundleBytes + kBundleTotals * chunk);
    }
    thread_bytes =
        aligned(max64(thread_bytes, g.taps_a_block() * static_cast<int64_t>(sizeof(TapTokens)))) + kThreadGap;
    valid_bytes = aligned(g.taps_a_block() * static_cast<int64_t>(sizeof(Valid)));
    own_threads = amx ? 0 : kOwnThreads;
  }
  int64_t shared() const { return chunk * steps * (code_bytes + valid_bytes) + kThreadGap; }
  int64_t own() const { return shared() + thread_bytes; }  // of a thread with codes of its own
  // Never less for more threads: a call may have fewer than were planned.
  int64_t bytes(int threads) const {
    if (runs > 1) return threads * own() + (runs - 1) * total * 4;
    return max64(shared() + threads * thread_bytes, min64(threads, own_threads) * own());
  }
  Places of_thread(int thread) const {
    Places p = *this;
    p.base += thread * own();
    return p;
  }
  float* sums(int threads) const { return reinterpret_cast<float*>(base + threads * own()); }
  // Codes lie behind the valid tokens, before a gap: what look-up loads may begin or end some bytes beside them.
  Valid* valid(int64_t block, int64_t step) const {
    return reinterpret_cast<Valid*>(base + (block * steps + step) * valid_bytes);
  }
  uint8_t* code(int64_t block, int64_t step) const {
    return base + chunk * steps * valid_bytes + (block * steps + step) * code_bytes;
  }
  uint8_t* thread(int i) const { return base + shared() + i * thread_bytes; }
};

// What a task sums: outputs from o0 on, blocks [begin, end) of the chunk that starts at `chunk`, tokens [t0, t1).
struct Task {
  int64_t chunk, begin, end, t0, t1, o0;
  int thread;
  bool add;  // to dW
};

// The part of dW that all columns of a tap share, for `outputs` channels from o0 on and step tokens [from, to): the middles
// of two-bit ranges for tokens in the image, and what look-up must take back for tokens in the padding (their code is 0,
// whose value is -`padded` factors). The first as the sum over all tokens less those in the padding, mostly few.
struct Shift {
  const CodeGradient& g;
  const Scales& scales;
  int64_t t0, from, to, o0, outputs;
  float padded;
  Floats whole;  // two bits: deltas times middles of all tokens

  uint64_t missing(const uint64_t* valid, int64_t t) const {  // of tokens t ... t + 63, t a multiple of 64
    const uint64_t wanted = to - t >= 64 ? ~0ull : (1ull << (to - t)) - 1;
    return wanted & ~valid[t / 64];
  }
  bool needed(const uint64_t* valid) const {
    if (g.bits == 2) return true;
    uint64_t any = 0;
    if (padded != 0)
      for (int64_t t = from; t < to; t += 64) any |= missing(valid, t);
    return any != 0;
  }
  Floats row(int64_t t) const { return load_lanes<Floats>(g.delta + (t0 + t) * g.outputs + o0, outputs); }
  Floats sum(const uint64_t* valid) const {
    Floats total = whole;
    int64_t left = to - from;
    for (int64_t t = from; t < to; t += 64)
      for (uint64_t m = missing(valid, t); m; m &= m - 1, left--) {
        const int64_t i = t + __builtin_ctzll(m);
        total += row(i) * (g.bits == 2 ? padded * scales.factor[i] - scales.middle[i] : padded * scales.factor[i]);
      }
    return left == 0 && padded == 0 ? Floats{} : total;
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
                        int64_t step, int64_t bundle, const float* middles, float (*total)[kBundle][16][16]) {
  const int64_t o0 = task.o0 + 16 * bundle, o1 = min64(o0 + 16, g.outputs);
  Shift shift = {g, scales, t0, 0, min64(kStep, task.t1 - t0), o0, o1 - o0, 0.0f, {}};
  memcpy(&shift.whole, middles, sizeof(shift.whole));
  int64_t tap = -1;
  Floats s = {};
  each_block(g, task.begin, task.end, o0, o1, [&](int64_t i, int64_t, int64_t) {
    const ColumnBlock b = column_block(g, i);
    for (int64_t k = 0; k < b.taps; k++) {
      if (tap != b.tap + k) s = shift.sum(places.valid(i - task.chunk, step)[k]);
      tap = b.tap + k;
      const __m512 sum = (__m512)s;
      for (int64_t c = k * b.channels; c < (k + 1) * b.channels; c++) {
        float* to = total[i - task.begin][bundle][c];
        _mm512_store_ps(to, _mm512_add_ps(_mm512_load_ps(to), sum));
      }
    }
  });
}

// Sums blocks `range` and 16 outputs of a step, whose deltas are packed.
template <int limbs>
AUXGRAD_AMX __attribute__((noinline)) void sum_bundle(const Places& places, const Task& task, BlockRange range,
                                                      int64_t step, int tiles, const uint8_t* delta, __m512 unit,
                                                      const float* start, int64_t bundle,
                                                      float (*total)[kBundle][16][16], Ahead& ahead) {
  alignas(64) int32_t sums[2][limbs][16][16];
  const __m512 high_unit = _mm512_mul_ps(unit, _mm512_set1_ps(65536.0f));
  const auto codes = [&](int64_t i) { return reinterpret_cast<const int8_t*>(places.code(i - task.chunk, step)); };
  int at = 0;
  float(*before)[16] = nullptr;
  AUXGRAD_TILE_LOAD(4, codes(range.first), 64);
  for (int64_t i = range.first; i < range.last; i++) {
    const int32_t(*old)[16][16] = sums[1 - at];
    int done = before ? 0 : 16;
    const auto meanwhile = [&] {
      if (done < 16) add_limbs<limbs>(old, done, done + 2, unit, high_unit, start, before);
      done += 2;
      ahead(3);
    };
    sum_tiles<limbs>(codes(i), codes(i + 1 < range.last ? i + 1 : i), delta, tiles, sums[at], meanwhile);
    while (done < 16) meanwhile();
    before = total[i - task.begin][bundle];
    at = 1 - at;
  }
  add_limbs<limbs>(sums[1 - at], 0, 16, unit, high_unit, start, before);
}

AUXGRAD_AMX __attribute__((noinline)) void amx_task(const CodeGradient& g, const Places& places, const Task& task) {
  const int64_t o0 = task.o0, o1 = min64(o0 + kAmxOutputs, g.outputs), row = g.taps() * g.depth;
  uint8_t* delta = places.thread(task.thread);
  float(*total)[kBundle][16][16] = reinterpret_cast<float(*)[kBundle][16][16]>(delta + kBundleBytes);
  alignas(64) float zero[16] = {};
  Packed packed[kBundle];
  Scales scales;
  start_tiles();
  for (int64_t t0 = task.t0, step = 0; t0 < task.t1; t0 += kStep, step++) {
    const int64_t count = min64(kStep, task.t1 - t0);
    const int tiles = static_cast<int>(ceil_div(count, kTileTokens));
    if (g.bits == 2) scales.set(g, t0, count);
    // Of the next step, or of the outputs after these.
    const bool more = t0 + kStep < task.t1;
    const int64_t later = more ? t0 + kStep : task.t0, later_o0 = more ? o0 : o1;
    Ahead ahead = {reinterpret_cast<const char*>(g.delta + later * g.outputs + later_o0), g.outputs * 4,
                   later_o0 < g.outputs ? min64(kStep, task.t1 - later) : 0,
                   static_cast<int>(min64(kBundle, ceil_div(g.outputs - later_o0, 16)))};
    pack_delta(g, t0, count, o0, o1 - o0, scales, delta, packed, ahead);
    for (int64_t bundle = 0; o0 + 16 * bundle < o1; bundle++) {
      const Packed& of = packed[bundle];
      __m512 unit = _mm512_load_ps(of.unit);
      if (g.bits == 1) unit = _mm512_mul_ps(unit, _mm512_set1_ps(g.scale));
      const int64_t from = o0 + 16 * bundle;
      const BlockRange range = block_range(g, task.begin, task.end, from, min64(o1, from + 16));
      if (range.first >= range.last) continue;
      (of.limbs == 3 ? sum_bundle<3> : sum_bundle<4>)(places, task, range, step, tiles, delta + bundle * kPackedBytes,
                                                      unit, step == 0 ? zero : nullptr, bundle, total, ahead);
      if (g.bits == 2) add_middles(g, places, task, scales, t0, step, bundle, of.middle, total);
    }
  }
  stop_tiles();
  for (int64_t bundle = 0; o0 + 16 * bundle < o1; bundle++) {
    const int64_t from = o0 + 16 * bundle;
    each_block(g, task.begin, task.end, from, min64(o1, from + 16), [&](int64_t i, int64_t first, int64_t last) {
      const ColumnBlock b = column_block(g, i);
      add_total(total[i - task.begin][bundle], g.dw + from * row + b.column, row, static_cast<int>(first - from),
                static_cast<int>(last - from), b.count(), task.add);
    });
  }
}
#endif

// Deltas of n tokens of a step, from token t of its part on, times their factors; adds them times their middles.
template <int n, int Bits>
inline void scale_rows(const CodeGradient& g, const Scales& scales, int64_t t0, int64_t from, int64_t t, int64_t o0,
                       int64_t outputs, VectorSpace<Bits>& space, float* middles) {
  constexpr int kRows = VectorSpace<Bits>::kRows;
  for (int lane = 0; lane < VectorSpace<Bits>::kOutputs; lane += kLanes) {
    Vec values[n], middle = load(middles + lane);
    const float* source = g.delta + (t0 + t) * g.outputs + o0 + lane;
    AUXGRAD_UNROLL
    for (int i = 0; i < n; i++, source += g.outputs) values[i] = load_first(source, outputs - lane);
    loads_end();
    AUXGRAD_UNROLL
    for (int i = 0; i < n; i++) {
      const int64_t token = t + i;
      Vec scaled = values[i] * broadcast(scales.factor[from + token]);
      for (int r = 0; r < kRows; r++, scaled += scaled) store(space.delta[token * kRows + r] + lane, scaled);
      if (Bits == 2) middle += values[i] * broadcast(scales.middle[from + token]);
    }
    if (Bits == 2) store(middles + lane, middle);
  }
}

template <int Bits>
__attribute__((noinline)) void vector_task(const CodeGradient& g, const Places& places, const Task& task) {
  using Space = VectorSpace<Bits>;
  constexpr int64_t kTokens = Space::kTokens, kRows = Space::kRows;
  const int64_t o0 = task.o0, o1 = min64(o0 + Space::kOutputs, g.outputs), row = g.taps() * g.depth;
  Space& space = *reinterpret_cast<Space*>(places.thread(task.thread));
  const BlockRange range = block_range(g, task.begin, task.end, o0, o1);
  const int64_t blocks = range.last - range.first;
  if (blocks <= 0) return;
  Floats* shifts = reinterpret_cast<Floats*>(space.sums + blocks + 1);  // of each block's taps
  memset(space.sums, 0, static_cast<size_t>(blocks + 1) * sizeof(space.sums));
  memset(shifts, 0, static_cast<size_t>(blocks * g.taps_a_block()) * sizeof(Floats));
  const float padded = g.zero_one ? 0.0f : Bits == 2 ? 3.0f : 1.0f;
  const int64_t tap_blocks = g.tap_blocks();
  Scales scales;
  for (int64_t t0 = task.t0; t0 < task.t1; t0 += kTokens) {
    const int64_t step = (t0 - task.t0) / kStep, from = (t0 - task.t0) % kStep, count = min64(kTokens, task.t1 - t0);
    if (from == 0) scales.set(g, t0, min64(kStep, task.t1 - t0));
    if (count < kTokens)
      memset(space.delta + count * kRows, 0, static_cast<size_t>(kPart - count * kRows) * sizeof(space.delta[0]));
    float middles[kColumns] = {};
    int64_t t = 0;
    for (; t + 8 <= count; t += 8) scale_rows<8, Bits>(g, scales, t0, from, t, o0, o1 - o0, space, middles);
    for (; t < count; t++) scale_rows<1, Bits>(g, scales, t0, from, t, o0, o1 - o0, space, middles);
    const Words* codes =
        reinterpret_cast<const Words*>(places.code(range.first - task.chunk, step)) + from * Bits / kPart * kPartWords;
    const int64_t stride = places.steps * places.code_bytes / static_cast<int64_t>(sizeof(Words));
    const bool more = t0 + kTokens < task.t1;  // of these outputs; else of those after them
    const int64_t later = more ? t0 + kTokens : task.t0, later_o0 = more ? o0 : o1;
    NextRows next = {reinterpret_cast<const char*>(g.delta + later * g.outputs + later_o0), g.outputs * 4,
                     later_o0 < g.outputs ? min64(kTokens, task.t1 - later) : 0};
    if constexpr (Space::kLookup) {
      sum_part<Bits>(space.delta, g.zero_one ? 0.0f : -1.0f, static_cast<int>(ceil_div(count * Bits, 32)),
                     {codes, stride, space.sums, blocks}, space.tables, next);
    } else {
      next.prefetch();
      for (int64_t i = 0; i < blocks; i++) add_codes(space.delta, codes + i * stride, space.sums[i]);
    }
    if (Bits == 1 && (g.pointwise() || padded == 0)) continue;
    Shift shift = {g, scales, t0 - from, from, from + count, o0, o1 - o0, padded, {}};
    memcpy(&shift.whole, middles, sizeof(middles));
    for (int64_t i = 0, end; i < blocks; i = end) {
      const ColumnBlock b = column_block(g, range.first + i);
      end = min64(blocks, i + tap_blocks - (range.first + i) % tap_blocks);
      for (int64_t k = 0; k < b.taps; k++) {
        const uint64_t* valid = places.valid(range.first + i - task.chunk, step)[k];
        if (!shift.needed(valid)) continue;
        const Floats s = shift.sum(valid);
        for (int64_t j = i; j < end; j++) shifts[j * g.taps_a_block() + k] += s;
      }
    }
  }
  if (kSignedOnly && g.zero_one) {
    const float* clear = reinterpret_cast<const float*>(space.sums + blocks);
    for (int64_t i = 0; i < blocks * g.taps_a_block(); i++)
      for (int o = 0; o < Space::kOutputs; o++) reinterpret_cast<float*>(shifts + i)[o] = -clear[o * kColumns];
  }
  each_block(g, range.first, range.last, o0, o1, [&](int64_t i, int64_t first, int64_t last) {
    const ColumnBlock b = column_block(g, i);
    const Floats* shift = shifts + (i - range.first) * g.taps_a_block();
    for (int64_t o = first; o < last; o++) {
      const float* sum = space.sums[i - range.first][o - o0];
      float* p = g.dw + o * row + b.column;
      if (b.channels == kColumns) {
        for (int lane = 0; lane < kColumns; lane += kLanes) {
          const Vec total = load(sum + lane) + broadcast((*shift)[o - o0]);
          store(p + lane, task.add ? load(p + lane) + total : total);
        }
        continue;
      }
      for (int64_t k = 0; k < b.taps; k++)
        for (int64_t c = 0; c < b.channels; c++, p++, sum++) *p = (task.add ? *p : 0.0f) + (*sum + shift[k][o - o0]);
    }
  });
}

// Brings the codes of blocks [begin, end) and tokens [t0, t1) into place. Blocks at the same taps take turns, so that what
// these read is found out once.
__attribute__((noinline)) void place_codes(const CodeGradient& g, const Places& places, bool amx, int64_t chunk,
                                           int64_t begin, int64_t end, int64_t t0, int64_t t1, TapTokens* tokens) {
  Words words[kStep / 16];
  const int64_t blocks = g.group_blocks(), tap_blocks = g.tap_blocks();
  for (int64_t step = 0; t0 < t1; t0 += kStep, step++) {
    const int64_t count = min64(kStep, t1 - t0);
    for (int64_t k = 0; k < g.taps_a_block(); k++) tokens[k].tap = -1;
    for (int64_t place = 0; place < blocks; place += tap_blocks)
      for (int64_t group = begin / blocks * blocks; group < end; group += blocks)
        for (int64_t i = max64(begin, group + place); i < min64(end, group + place + tap_blocks); i++) {
          const ColumnBlock b = column_block(g, i);
          Valid* valid = places.valid(i - chunk, step);
          for (int64_t k = 0; k < b.taps; k++) {
            tokens[k].set(g, b.tap + k, t0, count);
            memcpy(valid[k], tokens[k].valid, sizeof(Valid));
          }
          gather_block(g, b, tokens, words);
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
          place_words(words, kStep / 32 * g.bits, reinterpret_cast<Words*>(out));
        }
  }
}

inline void sum_task(const CodeGradient& g, const Places& places, bool amx, const Task& task) {
#if defined(AUXGRAD_HAS_AMX)
  if (amx) return amx_task(g, places, task);
#endif
  (void)amx;
  if (g.bits == 1) vector_task<1>(g, places, task);
  else vector_task<2>(g, places, task);
}

// A run of tokens after the other, or several at a time: each places its own codes and sums all outputs.
inline void sum_runs(const Call& call, const CodeGradient& g, const Places& places, bool amx, int64_t task_outputs) {
  const int64_t unit = amx ? kStep : kPart, units = ceil_div(g.tokens, unit);
  float* sums = places.sums(call.pool->threads());
  parallel_tasks(call, places.runs, [&](int64_t run, int thread) {
    const Places own = places.of_thread(thread);
    CodeGradient part = g;
    if (run > 0) part.dw = sums + (run - 1) * places.total;
    const int64_t first = units * run / places.runs * unit;
    const int64_t end = min64(g.tokens, units * (run + 1) / places.runs * unit);
    for (int64_t t0 = first; t0 < end; t0 += places.steps * kStep) {
      const int64_t t1 = min64(end, t0 + places.steps * kStep);
      place_codes(part, own, amx, 0, 0, places.blocks, t0, t1, reinterpret_cast<TapTokens*>(own.thread(0)));
      for (int64_t o = 0; o < g.outputs; o += task_outputs)
        sum_task(part, own, amx, {0, 0, places.blocks, t0, t1, o, 0, t0 > first});
    }
  });
  parallel_ranges(call, places.total, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t run = 1; run < places.runs; run++)
      for (int64_t i = begin; i < end; i++) g.dw[i] += sums[(run - 1) * places.total + i];
  });
}

__attribute__((noinline)) void run_gradient(const Call& call, CodeGradient g) {
  const bool amx = amx_in_force();
  int64_t task_outputs = g.bits == 1 ? VectorSpace<1>::kOutputs : VectorSpace<2>::kOutputs;
#if defined(AUXGRAD_HAS_AMX)
  if (amx) task_outputs = kAmxOutputs;
#endif
  if (g.tokens == 0 || g.outputs == 0 || g.depth == 0) {
    memset(g.dw, 0, static_cast<size_t>(g.outputs * g.taps() * g.depth) * sizeof(float));
    return;
  }
  if (is_depthwise(g)) return run_depthwise(call, g);
  if (kSignedOnly && g.zero_one) g.scale *= 0.5f;
  const Places places(g, amx_possible(), call.scratch);
  if (places.runs > 1) return sum_runs(call, g, places, amx, task_outputs);
  const int64_t blocks = places.blocks, chunk = places.chunk, tokens = places.steps * kStep;
  const int64_t o_tasks = ceil_div(g.outputs, task_outputs);
  const bool own = call.pool->threads() <= places.own_threads;
  for (int64_t from = 0; from < blocks; from += chunk) {
    const int64_t to = min64(from + chunk, blocks);
    // Few outputs: columns are cut too, though each part packs the deltas anew.
    const int64_t parts = max64(1, min64((to - from) / 16, 4 / o_tasks)), part = ceil_div(to - from, parts);
    for (int64_t t0 = 0; t0 < g.tokens; t0 += tokens) {
      const int64_t t1 = min64(t0 + tokens, g.tokens);
      const auto place = [&](const Places& to, int64_t begin, int64_t end, int thread) {
        place_codes(g, to, amx, from, begin, end, t0, t1, reinterpret_cast<TapTokens*>(to.thread(thread)));
      };
      const int64_t grain = 4;
      if (!own)
        parallel_tasks(call, ceil_div(to - from, grain), [&](int64_t i, int thread) {
          const int64_t begin = from + i * grain;
          place(places, begin, min64(begin + grain, to), thread);
        });
      int64_t placed[kOwnThreads] = {-1, -1, -1, -1};  // from which block on, by each thread
      parallel_tasks(call, o_tasks * parts, [&](int64_t i, int thread) {
        const int64_t begin = from + i / o_tasks * part, end = min64(begin + part, to);
        const Places& mine = own ? places.of_thread(thread) : places;
        if (own && placed[thread] != begin) place(mine, begin, end, 0), placed[thread] = begin;
        sum_task(g, mine, amx, {from, begin, end, t0, t1, i % o_tasks * task_outputs, own ? 0 : thread, t0 > 0});
      });
    }
  }
}

inline int64_t gradient_scratch(const CodeGradient& g, int threads) {
  if (is_depthwise(g)) return threads * static_cast<int64_t>(sizeof(DepthwiseSpace));
  return Places(g, amx_possible(), nullptr).bytes(threads);
}

}  // namespace
}  // namespace auxgrad
