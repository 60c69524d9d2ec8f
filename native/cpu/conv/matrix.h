// Windowed products (window.h) on the AMX matrix unit, from bfloat16 parts (amx/split.h).
//
// The left operand is the stripe of a block, packed as parts: for every 32 channels and each part, lines of positions,
// 64 bytes each. Sixteen positions side by side are a tile, and a tap is an offset: nothing is unfolded. Strides are
// taken apart while packing: each phase of the rows and columns that taps read lies by itself, so that outputs side by
// side always read positions side by side. Lines follow one another, so that tiles run on over their ends; what they sum
// there is thrown away. Images of one block take turns at every position: small ones fill tiles together.
#pragma once
#include "../amx/split.h"
#include "unfold.h"

#if defined(AUXGRAD_HAS_AMX)
namespace auxgrad {
namespace {

constexpr int64_t kLine = 64;                   // bytes of a position: one part of 32 channels
constexpr int64_t kPosition = kPlanes * kLine;  // and all parts
constexpr int64_t kMatrixTokens = 512;          // outputs of a block, at most
constexpr int64_t kMatrixBlocks = 16;           // wanted
constexpr int64_t kMatrixStripe = 384 * 1024;   // bytes of a stripe
constexpr int64_t kMatrixPacked = 1200 * 1024;  // bytes of packed weights, unless one slice of one panel is more
constexpr int64_t kMatrixStrip = 80 * 1024;     // bytes of a stripe that two tiles read: they stay in the first cache
constexpr int64_t kMatrixTasks = 48;            // wanted
constexpr int64_t kMatrixPanel = 32;            // output channels
constexpr int64_t kAhead = 8;                   // positions to prefetch before they are packed
constexpr int64_t kTogether = 8;                // positions to pack in one go
constexpr int64_t kMatrixSteps = 512;           // of a slice

// Lines (rows or columns) of a stripe, by phase: tap a of output i reads line i + a * tap_step / in_step of phase
// a % count.
struct Phases {
  int64_t count, extra;  // of lines beyond those of the outputs
};
inline Phases phases_of(const Axis& a) {
  if (a.taps <= 1) return {1, 0};
  int64_t x = a.in_step, y = a.tap_step;
  while (y) {
    const int64_t rest = x % y;
    x = y, y = rest;
  }
  return {min64(a.taps, a.in_step / x), (a.taps - 1) * a.tap_step / a.in_step};
}
// The input that line 0 of a phase holds, for output 0.
inline int64_t phase_start(const Axis& a, int64_t phase) { return a.tap_start + phase * a.tap_step % a.in_step; }
inline int64_t phase_line(const Axis& a, int64_t tap) { return tap * a.tap_step / a.in_step; }

struct MatrixPlan {
  Blocks blocks;                 // depth: channels of a slice
  int64_t bundles, slice, pass;  // of 32 channels each: all, of a slice, of a pass (some slices)
  int64_t taps, wave, part;      // output channels whose weights are packed at a time, and of a task
  int64_t together;              // blocks of a task
  int64_t packed, stripe;        // bytes of packed weights and of a stripe
  int64_t step_bytes(int64_t columns) const { return ceil_div(columns, 16) * kPlanes * kTileBytes; }
  int64_t runs() const { return ceil_div(blocks.count(), together); }  // of blocks, one for a task
};

// All positions in a row, without neighbours.
inline bool is_row(const Product& p) { return p.vertical.count == 1 && p.images == 1 && p.horizontal.taps == 1; }

inline Blocks cut_matrix_blocks(const Product& p, int64_t slice) {
  const Axis &v = p.vertical, &h = p.horizontal;
  const Phases rows = phases_of(v), columns = phases_of(h);
  const auto bytes = [&](int64_t r, int64_t c) {
    return rows.count * (r + rows.extra) * columns.count * (c + columns.extra) * slice * kPosition;
  };
  Blocks b = {};
  const int64_t all = p.images * v.count * h.count, share = taps_of(p) == 1 ? 2 : 1;
  const int64_t most = kMatrixTokens / share, budget = kMatrixStripe / share;
  // Where nothing is shared by neighbours the stripe stays in the first cache.
  const int64_t tokens = is_row(p) ? 32
                         : p.window.rows && taps_of(p) == 1
                             ? 64
                             : max64(128, min64(most, ceil_div(all, kMatrixBlocks * 32) * 32));
  b.images = b.rows = 1;
  // Whole words of the mask.
  b.columns = even_size(h.count, tokens);
  if (b.columns < h.count) b.columns = ceil_div(b.columns, 32) * 32;
  while (bytes(1, b.columns) > budget && b.columns > 64) b.columns = ceil_div(b.columns / 2, 32) * 32;
  while (b.rows < v.count && (b.rows + 1) * b.columns <= tokens && bytes(b.rows + 1, b.columns) <= budget) b.rows++;
  b.rows = even_size(v.count, b.rows);
  for (int64_t r = b.rows; r < v.count && r < 2 * b.rows; r++)
    if (r * b.columns % 32 == 0 && r * b.columns <= most && bytes(r, b.columns) <= budget) {
      b.rows = r;
      break;
    }
  if (b.rows >= v.count && b.columns >= h.count) {
    const int64_t image = max64(1, bytes(b.rows, b.columns)), outputs = max64(1, b.rows * b.columns);
    b.images = even_size(p.images, max64(1, min64(p.images, min64(tokens / outputs, budget / image))));
  }
  b.image_blocks = ceil_div(p.images, b.images);
  b.row_blocks = ceil_div(v.count, b.rows);
  b.column_blocks = ceil_div(h.count, b.columns);
  b.depth = slice * 32;
  b.stripe = (b.images * bytes(b.rows, b.columns) + 2 * kTileBytes + 63) / 64 * 64;
  return b;
}

__attribute__((noinline)) inline MatrixPlan plan_matrix(const Product& p) {
  MatrixPlan plan;
  const Axis &v = p.vertical, &h = p.horizontal;
  plan.taps = max64(1, taps_of(p));
  plan.bundles = ceil_div(p.depth, 32);
  // What two tiles read of one bundle.
  const int64_t strip = min64(v.taps, phases_of(v).extra + phases_of(v).count) *
                        (32 * phases_of(h).count + phases_of(h).extra) * kPosition;
  const int64_t slice =
      max64(1, min64((taps_of(p) == 1 && !is_row(p) ? kMatrixStrip / 2 : kMatrixStrip) / max64(1, strip),
                     min64(8, kMatrixSteps / plan.taps)));
  plan.slice = even_size(plan.bundles, min64(plan.bundles, slice));
  plan.blocks = cut_matrix_blocks(p, plan.slice);
  const int64_t panels = ceil_div(p.width, kMatrixPanel);
  const int64_t panel_slice = p.groups * plan.taps * plan.slice * plan.step_bytes(min64(p.width, kMatrixPanel));
  const int64_t wave = max64(1, min64(panels, kMatrixPacked / panel_slice));
  plan.wave = even_size(panels, wave) * kMatrixPanel;
  const int64_t slices = ceil_div(plan.bundles, plan.slice);
  const int64_t wave_slice = panel_slice * plan.wave / kMatrixPanel;
  const int64_t together = even_size(slices, max64(1, min64(slices, kMatrixPacked / wave_slice)));
  plan.pass = together * plan.slice;
  plan.packed = wave_slice * together;
  const int64_t blocks = max64(1, plan.blocks.count() * p.groups);
  const int64_t wanted = max64(1, min64(ceil_div(kTasks, blocks), plan.wave / kPart));
  plan.part = even_size(plan.wave / kMatrixPanel, ceil_div(plan.wave / kMatrixPanel, wanted)) * kMatrixPanel;
  plan.together = even_size(plan.blocks.count(), ceil_div(plan.blocks.count(), kMatrixTasks));
  plan.stripe = plan.blocks.stripe;
  return plan;
}

// Two stripes of a thread, and behind them its sums for statistics.
inline int64_t stripes_apart(const MatrixPlan& plan) { return 2 * plan.stripe + plan.part * 20 + kThreadGap; }
inline int64_t matrix_scratch(const MatrixPlan& plan, int threads) {
  return plan.packed + kThreadGap + stripes_apart(plan) * threads;
}

// Whether it pays, against multiply-adds: what is added in padding to tiles, and packing, in cycles.
inline bool suits_matrix(const Product& p) {
  if (p.depth < 16 || p.width < 16) return false;
  const MatrixPlan plan = plan_matrix(p);
  const int64_t tokens = p.images * p.vertical.count * p.horizontal.count;
  if (tokens < 64) return false;
  const int64_t steps = plan.taps * plan.bundles, columns = ceil_div(p.width, 16);
  const int64_t direct = tokens * p.width * p.depth * taps_of(p) / 26;
  const int64_t products = ceil_div(tokens, 16) * 18 * steps * columns * kPlanes * 2;
  const int64_t packing = tokens * plan.bundles * 15 + steps * 32 * columns * 16;
  return products + packing < direct;
}

// Weights of bundles [first, last) and output channels [from, from + columns) of every group, as right tiles:
// [group][panel][slice, tap: see left_steps()][16 columns][part]. Of a step's 32 channels numbers j and j + 16 are a pair.
inline void pack_right(const Call& call, const Product& p, const MatrixPlan& plan, char* target, int64_t first,
                       int64_t last, int64_t from, int64_t columns) {
  const int64_t panels = ceil_div(columns, kMatrixPanel), group_bytes = plan.packed / p.groups;
  const int64_t runs = ceil_div(last - first, plan.slice);
  parallel_tasks(call, p.groups * panels * runs, [&](int64_t task, int) {
    const int64_t g = task / runs / panels, c = task / runs % panels * kMatrixPanel;
    const int64_t begin = first + task % runs * plan.slice, end = min64(last, begin + plan.slice);
    const int64_t n = min64(kMatrixPanel, columns - c), size = plan.step_bytes(n);
    char* to = target + g * group_bytes +
               c / kMatrixPanel * plan.step_bytes(kMatrixPanel) * plan.taps * (last - first) +
               (begin - first) * plan.taps * size;
    const float* source = p.weight + g * p.weight_group + (from + c) * p.c_step;
    const auto weights_of = [&](int64_t step) {
      const int64_t tap = step % plan.taps, i = tap / p.horizontal.taps, j = tap % p.horizontal.taps;
      const int64_t place = (p.vertical.kernel_start + i * p.vertical.kernel_step) * p.kernel_columns +
                            p.horizontal.kernel_start + j * p.horizontal.kernel_step;
      return source + place * p.tap_step + step / plan.taps * 32 * p.k_step;
    };
    for (int64_t step = begin * plan.taps; step < end * plan.taps; step++) {
      const float* at = weights_of(step);
      const int64_t rows = min64(32, p.depth - step / plan.taps * 32);
      // Rows lie far apart.
      const float* ahead = weights_of(step + 2);
      const int64_t count = p.c_step == 1 ? rows : n, apart = p.c_step == 1 ? p.k_step : p.c_step;
      for (int64_t r = 0; r < count; r++) {
        _mm_prefetch(reinterpret_cast<const char*>(ahead + r * apart), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(ahead + r * apart + 16), _MM_HINT_T0);
      }
      for (int64_t o = 0; o < n; o += 16, to += kPlanes * kTileBytes) {
        const int64_t lanes = min64(16, n - o);
        __m512 even[16], odd[16];
        const __mmask16 mask = static_cast<__mmask16>((1u << lanes) - 1);
        if (p.c_step == 1) {
#pragma GCC unroll 16
          for (int k = 0; k < 16; k++) {
            even[k] = k < rows ? _mm512_maskz_loadu_ps(mask, at + k * p.k_step + o) : _mm512_setzero_ps();
            odd[k] = k + 16 < rows ? _mm512_maskz_loadu_ps(mask, at + (k + 16) * p.k_step + o) : _mm512_setzero_ps();
          }
        } else {
          const __mmask16 low = static_cast<__mmask16>((1u << min64(rows, 16)) - 1);
          const __mmask16 high = static_cast<__mmask16>((1u << max64(0, rows - 16)) - 1);
#pragma GCC unroll 16
          for (int m = 0; m < 16; m++) {
            const float* row = at + (o + m) * p.c_step;
            even[m] = m < lanes ? _mm512_maskz_loadu_ps(low, row) : _mm512_setzero_ps();
            odd[m] = m < lanes ? _mm512_maskz_loadu_ps(high, row + 16) : _mm512_setzero_ps();
          }
          transpose16(even);
          transpose16(odd);
        }
#pragma GCC unroll 16
        for (int k = 0; k < 16; k++) store_pair(to + k * 64, kTileBytes, split(even[k]), split(odd[k]));
      }
    }
  });
}

// The stripe of a block.
struct Stripe {
  int64_t rows, columns, pitch, images;  // lines of a phase, positions of a line, positions between lines, images
  int64_t phase, plane, bundle;          // bytes of a phase, between parts, between bundles
};

inline Stripe stripe_of(const Product& p, const Block& k) {
  const Phases rows = phases_of(p.vertical), columns = phases_of(p.horizontal);
  Stripe s;
  s.rows = k.rows + rows.extra;
  s.columns = k.columns + columns.extra;
  s.images = k.images;
  // Zeros at the end of a line are those at the start of the next one too.
  int64_t shared = s.columns;
  for (int64_t f = 0; f < columns.count; f++) {
    const int64_t at = k.j0 * p.horizontal.in_step + phase_start(p.horizontal, f), step = p.horizontal.in_step;
    const int64_t left = at < 0 ? ceil_div(-at, step) : 0;
    const int64_t right = at + s.columns * step - p.image.columns;
    shared = min64(shared, min64(left, right > 0 ? right / step : 0));
  }
  s.pitch = s.columns - (s.rows > 1 ? min64(shared, columns.extra) : 0);
  s.phase = ((s.rows - 1) * s.pitch + s.columns) * s.images * kLine;
  s.plane = s.phase * rows.count * columns.count;
  s.bundle = s.plane * kPlanes;
  return s;
}

// Offsets of the steps of a slice in its stripe.
inline int64_t left_steps(const Product& p, const Stripe& s, int64_t bundles, int32_t* at) {
  const Axis &v = p.vertical, &h = p.horizontal;
  const int64_t rows = phases_of(v).count, columns = phases_of(h).count;
  int64_t n = 0;
  for (int64_t c = 0; c < bundles; c++)
    for (int64_t i = 0; i < v.taps; i++)
      for (int64_t j = 0; j < h.taps; j++) {
        const int64_t line = phase_line(v, i) * s.pitch + phase_line(h, j);
        at[n++] =
            static_cast<int32_t>(c * s.bundle + (i % rows * columns + j % columns) * s.phase + line * s.images * kLine);
      }
  return n;
}

// Cuts 32 numbers into parts and stores them, j and j + 16 in pairs. The parts are the upper 8, the middle 8 and the
// last bits of each number: two operations less than the nearest ones, and right together with weights' nearest ones:
// the products left out are at most 2^-24 of |a b|.
inline __attribute__((always_inline)) void store_position(char* to, int64_t plane, __m512 first, __m512 second) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  const auto top = [&](__m512 x) { return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), upper)); };
#pragma GCC unroll 3
  for (int p = 0; p < kPlanes; p++) {
    _mm512_storeu_si512(to + p * plane,
                        _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(_mm512_castps_si512(first), 16),
                                                _mm512_castps_si512(second)));
    if (p + 1 < kPlanes) {
      first = _mm512_sub_ps(first, top(first));
      second = _mm512_sub_ps(second, top(second));
    }
  }
}

// Bits of x > 0 to pack along with an image: those of tokens [begin, end), whole words that belong to one block.
struct Signs {
  uint32_t* words;
  int64_t begin, end;
};

// Whether stripes hold whole rows of the image and leave none out.
inline bool signs_with_stripes(const Product& p, const MatrixPlan& plan) {
  const Axis &v = p.vertical, &h = p.horizontal;
  if (phases_of(v).count != v.in_step || phases_of(h).count != h.in_step) return false;
  if (p.image.rows == 1 && p.images == 1 && h.taps == 1 && v.taps == 1) return true;
  const int64_t columns = (h.count + phases_of(h).extra) * h.in_step + h.tap_start;
  return plan.blocks.columns >= h.count && columns >= p.image.columns;
}

// Tokens of the words that are a block's: those that begin in rows no block before it has, and end in its rows.
inline Signs signs_of(const Product& p, const MatrixPlan& plan, const Block& k) {
  const Image& image = p.image;
  const Axis& v = p.vertical;
  const int64_t all = p.images * image.rows * image.columns;
  Span own, rows;
  if (plan.blocks.columns < p.horizontal.count) {
    own = rows = {k.j0, k.j0 + k.columns};
  } else {
    const auto inside = [&](int64_t row) { return max64(0, min64(image.rows, row)); };
    const int64_t start = k.i0 * v.in_step + v.tap_start, first = k.n0 * image.rows;
    const int64_t lines = (k.rows + phases_of(v).extra) * v.in_step, whole = (k.images - 1) * image.rows;
    const bool last = k.i0 + k.rows >= v.count;
    own.begin = (first + (k.i0 ? inside(start) : 0)) * image.columns;
    own.end = (first + whole + (last ? image.rows : inside(start + k.rows * v.in_step))) * image.columns;
    rows.end = (first + whole + inside(start + lines)) * image.columns;
    // Several images lie in a row only if all of their rows are read.
    if (k.images > 1 && inside(start + lines) < image.rows) own.end = own.begin;
  }
  const int64_t first = ceil_div(own.begin, 32);
  const int64_t last = min64(ceil_div(own.end, 32), rows.end == all ? ceil_div(all, 32) : rows.end / 32);
  return {p.signs, first * 32, max64(first * 32, min64(all, last * 32))};
}

// Words of signs that no block holds alone.
inline void finish_signs(const Product& p, const MatrixPlan& plan) {
  const int64_t all = p.images * p.image.rows * p.image.columns, words = ceil_div(all, 32);
  int64_t next = 0;
  for (int64_t i = 0; i <= plan.blocks.count(); i++) {
    Signs s = {p.signs, words * 32, words * 32};
    if (i < plan.blocks.count()) s = signs_of(p, plan, block_at(plan.blocks, p.images, p.vertical, p.horizontal, i));
    if (s.begin == s.end && i < plan.blocks.count()) continue;
    pack_positive(p.image.data, all, p.image.channels, p.signs, next, s.begin / 32, 0, p.image.channels);
    next = ceil_div(s.end, 32);
  }
}

// How the lines of a stripe are packed.
struct Line {
  int64_t source_step;  // floats
  int64_t to_step, plane, bundle, bundles, depth;
  float positive, negative;
  int64_t channels, token_step;
};
// Positions to pack: `count` of them, the first from `source`. Never copied whole: to read what was just written in parts
// waits for all stores before it.
struct Positions {
  const float* source;
  int64_t count;
  char* to;
  uint32_t* words;  // of the line's first channel
  int64_t token;
};

// Vectors of 16 channels of a position, with the auxiliary; `bits` of those above zero go into `word`.
template <bool Auxiliary, bool Signed>
struct Reader {
  __m512 positive, negative;

  __attribute__((always_inline)) __m512 operator()(const float* from, __mmask16 lanes, __m512i bit,
                                                   __m512i& word) const {
    const __m512 x = _mm512_maskz_loadu_ps(lanes, from);
    if (!Auxiliary && !Signed) return x;
    const __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ);
    if (Signed) word = _mm512_mask_or_epi32(word, above, word, bit);
    return Auxiliary ? _mm512_maskz_add_ps(lanes, x, _mm512_mask_blend_ps(above, negative, positive)) : x;
  }
};

template <bool Auxiliary, bool Signed>
__attribute__((noinline)) void pack_line(const Line& l, const Positions& at, int64_t n) {
  const Reader<Auxiliary, Signed> read = {_mm512_set1_ps(l.positive), _mm512_set1_ps(l.negative)};
  // Some positions at a time, whose signs are in the same words: bundle after bundle.
  for (int64_t first = 0; first < n;) {
    const int64_t token = at.token + first * l.token_step, place = token % 32;
    int64_t count = min64(Signed ? 8 : 1, n - first);
    if (Signed) count = min64(count, (31 - place) / l.token_step + 1);
    const float* source = at.source + first * l.source_step;
    char* to = at.to + first * l.to_step;
    uint32_t* words = at.words + (Signed ? token / 32 * l.channels : 0);
    for (int64_t b = 0; b < l.bundles; b++, source += 32, to += l.bundle, words += 32) {
      const int64_t rest = l.depth - b * 32;
      const __mmask16 low = rest >= 16 ? 0xffff : static_cast<__mmask16>((1u << rest) - 1);
      const __mmask16 high = rest >= 32 ? 0xffff : rest <= 16 ? 0 : static_cast<__mmask16>((1u << (rest - 16)) - 1);
      __m512i word[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
      if (Signed) {
        word[0] = _mm512_maskz_loadu_epi32(low, words);
        word[1] = _mm512_maskz_loadu_epi32(high, words + 16);
      }
      const float* from = source;
      for (int64_t j = 0; j < count; j++, from += l.source_step) {
        _mm_prefetch(reinterpret_cast<const char*>(from + kAhead * l.source_step), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(from + kAhead * l.source_step + 16), _MM_HINT_T0);
        const __m512i bit = _mm512_set1_epi32(static_cast<int>(1u << (Signed ? place + j * l.token_step : 0)));
        const __m512 x = read(from, low, bit, word[0]), y = read(from + 16, high, bit, word[1]);
        store_position(to + j * l.to_step, l.plane, x, y);
      }
      if (Signed) {
        _mm512_mask_storeu_epi32(words, low, word[0]);
        _mm512_mask_storeu_epi32(words + 16, high, word[1]);
      }
    }
    first += count;
  }
}

// Unfolded windows, the first of column `column`; `rows`: the lanes whose rows are in the image.
__attribute__((noinline)) void pack_windows(const Line& l, const Positions& at, int64_t n, const Product& p,
                                            const WindowPieces& pieces, int64_t column, uint32_t rows) {
  const __m512 positive = _mm512_set1_ps(l.positive), negative = _mm512_set1_ps(l.negative);
  const bool auxiliary = l.positive != 0 || l.negative != 0;
  const WindowPiece piece[2][2] = {{pieces[0][0], pieces[0][1]}, {pieces[1][0], pieces[1][1]}};
  const int64_t source_step = l.source_step, step = l.token_step, last = p.image.columns - p.window.columns;
  const int64_t to_step = l.to_step, plane = l.plane;
  const float* from = at.source;
  char* to = at.to;
  for (int64_t j = 0; j < n; j++, from += source_step, to += to_step, column += step) {
    uint32_t inside = rows;
    if (column < 0 || column > last) inside &= columns_inside(p.window, p.image, column);
    __m512 x[2];
#pragma GCC unroll 2
    for (int v = 0; v < 2; v++) {
      const uint32_t own = inside >> (16 * v);
      const WindowPiece &a = piece[v][0], &b = piece[v][1];
      x[v] = _mm512_maskz_loadu_ps(static_cast<__mmask16>(a.lanes & own), from + a.at);
      x[v] = _mm512_mask_loadu_ps(x[v], static_cast<__mmask16>(b.lanes & own), from + b.at);
      if (!auxiliary) continue;
      const __mmask16 above = _mm512_cmp_ps_mask(x[v], _mm512_setzero_ps(), _CMP_GT_OQ);
      x[v] = _mm512_maskz_add_ps(static_cast<__mmask16>(own), x[v], _mm512_mask_blend_ps(above, negative, positive));
    }
    store_position(to, plane, x[0], x[1]);
  }
}

inline void pack_zeros(const Line& l, char* line, int64_t from, int64_t to) {
  for (int64_t b = 0; b < l.bundles; b++)
    for (int p = 0; p < kPlanes; p++) {
      char* at = line + b * l.bundle + p * l.plane;
      for (int64_t j = from; j < to; j++) _mm512_storeu_si512(at + j * l.to_step, _mm512_setzero_si512());
    }
}

inline void pack_positions(const Line& l, const Positions& at, int64_t n, bool auxiliary, bool is_signed) {
  if (auxiliary) is_signed ? pack_line<true, true>(l, at, n) : pack_line<true, false>(l, at, n);
  else is_signed ? pack_line<false, true>(l, at, n) : pack_line<false, false>(l, at, n);
}

// Packs the stripe of a block, some positions at a time: in the shadow of the products of the stripe before.
struct Packer {
  const Product* product;
  const Signs* signs;  // of the block, or null
  const Block* k;
  const Stripe* s;
  int64_t channel, n, r, f, e;  // the next line
  int64_t row_phases, column_phases;
  bool more = false;  // lines to come
  Line common;
  Positions part[3];  // of the line at hand: without signs, with, without
  int next = 3;
  WindowPieces pieces;  // of unfolded windows
  int64_t line;         // token of column 0
  uint32_t rows;        // lanes whose rows are in the image
  char* target;

  // Bundles [bundle, bundle + bundles) of group g.
  void start(const Block& block, const Stripe& stripe, const Signs* with, int64_t g, int64_t bundle, int64_t bundles,
             char* to) {
    const Product& p = *product;
    signs = with && with->begin < with->end ? with : nullptr;
    k = &block;
    s = &stripe;
    target = to;
    channel = g * p.depth + bundle * 32;
    row_phases = phases_of(p.vertical).count;
    column_phases = phases_of(p.horizontal).count;
    n = r = f = e = 0;
    more = true;
    next = 3;
    Line& l = common;
    l.to_step = s->images * kLine;
    l.plane = s->plane;
    l.bundle = s->bundle;
    l.bundles = bundles;
    l.depth = min64(bundles * 32, p.depth - bundle * 32);
    l.positive = p.image.positive;
    l.negative = p.image.negative;
    l.source_step = p.horizontal.in_step * p.image.channels;
    l.channels = p.image.channels;
    l.token_step = p.horizontal.in_step;
    if (p.window.rows) cut_window(p.window, p.image, pieces);
    if (signs)
      for (int64_t w = signs->begin / 32; w < ceil_div(signs->end, 32); w++)
        memset(signs->words + w * l.channels + channel, 0, static_cast<size_t>(l.depth) * 4);
  }

  int64_t positions() const { return k->images * s->rows * s->columns * row_phases * column_phases; }

  __attribute__((noinline)) void open_line() {
    const Product& p = *product;
    const Axis &v = p.vertical, &h = p.horizontal;
    const Line& l = common;
    char* to = target + (f * column_phases + e) * s->phase + (r * s->pitch * s->images + n) * kLine;
    part[0].count = part[1].count = part[2].count = 0;
    next = 0;
    const int64_t row = (k->i0 + r) * v.in_step + phase_start(v, f);
    const int64_t column = k->j0 * h.in_step + phase_start(h, e);
    int64_t left = 0, right = 0;
    if (p.window.rows) {
      rows = rows_inside(p.window, p.image, row);
      right = rows ? s->columns : 0;
    } else if (row >= 0 && row < p.image.rows) {
      left = min64(s->columns, column < 0 ? ceil_div(-column, h.in_step) : 0);
      right = column < p.image.columns ? min64(s->columns, ceil_div(p.image.columns - column, h.in_step)) : 0;
      right = max64(left, right);
    }
    pack_zeros(l, to, 0, left);
    pack_zeros(l, to, right, s->columns);
    line = ((k->n0 + n) * p.image.rows + row) * p.image.columns;
    const int64_t token = line + column;
    int64_t begin = right, end = right;
    if (signs) {
      begin = max64(left, min64(right, ceil_div(max64(0, signs->begin - token), h.in_step)));
      end = max64(begin, min64(right, ceil_div(max64(0, signs->end - token), h.in_step)));
    }
    const int64_t cut[4] = {left, begin, end, right};
    for (int i = 0; i < 3; i++) {
      if (cut[i] == cut[i + 1]) continue;
      part[i].to = to + cut[i] * l.to_step;
      part[i].token = token + cut[i] * h.in_step;
      part[i].source = p.image.data + part[i].token * p.image.channels + channel;
      part[i].count = cut[i + 1] - cut[i];
      part[i].words = signs ? signs->words + channel : nullptr;
    }
    if (++e < column_phases) return;
    e = 0;
    if (++f < row_phases) return;
    f = 0;
    if (++r < s->rows) return;
    r = 0;
    more = ++n < k->images;
  }

  __attribute__((noinline)) void operator()(int64_t count) {
    const Line& l = common;
    const bool auxiliary = l.positive != 0 || l.negative != 0;
    while (count > 0) {
      if (next == 3) {
        if (!more) return;
        open_line();
      }
      for (; next < 3 && count > 0;) {
        Positions& at = part[next];
        if (at.count == 0) {
          next++;
          continue;
        }
        const int64_t now = min64(at.count, count);
        if (product->window.rows) pack_windows(l, at, now, *product, pieces, at.token - line, rows);
        else pack_positions(l, at, now, auxiliary, next == 1);
        count -= now;
        at.count -= now;
        at.source += now * l.source_step;
        at.to += now * l.to_step;
        at.token += now * l.token_step;
      }
      count--;  // a line of zeros costs something too
    }
  }
  void all() { (*this)(INT64_MAX); }
};

// A row of sums that is an output.
struct OutRow {
  int64_t out, word;  // in floats from the first output of the block, and in words of the mask; of channel 0
  int32_t sum;        // floats
  uint32_t bit;       // 0 if another task finishes the word
};

// Outputs of two tiles.
struct OutTiles {
  int64_t left[2];  // bytes in the stripe
  int64_t first, last;
  int tiles;
};

// What is left to do with the sums of a block: they are settled, then written, a few rows at a time.
struct Finish {
  const SplitBlock* block;
  int m = 0, n = 0;  // none if 0
  float* sums;
  const OutRow *row = nullptr, *end = nullptr;
  int64_t rows;  // at a time
  float* out;
  const float* bias;
  uint32_t* mask;
  double* sum;  // of the statistics, or null; those of squares are `squares` behind it
  int64_t squares;
  float* shift;
  __mmask16 lanes[2];
  bool accumulate, relu, settled, first;  // first: the statistics begin with this block

  // Sums that were made in several tiles are put together. A NaN among those of outputs may be an infinity that met
  // zeros: then all are made again. Counted: the statistics of rows that are outputs as they are, on the way.
  template <int M, int N, bool Counted>
  __attribute__((noinline)) void settle_rows() {
    // Of half of the rows each.
    __m512 all[2][2], squares[2][2], middle[2];
#pragma GCC unroll 2
    for (int v = 0; v < N; v++) {
      all[0][v] = all[1][v] = squares[0][v] = squares[1][v] = _mm512_setzero_ps();
      middle[v] = Counted ? _mm512_maskz_loadu_ps(lanes[v], shift + 16 * v) : _mm512_setzero_ps();
    }
    const __mmask16 own[2] = {lanes[0], lanes[1]};
    const auto one = [&](float* at, int half) __attribute__((always_inline)) {
#pragma GCC unroll 2
      for (int v = 0; v < N; v++) {
        __m512 x = _mm512_load_ps(at + 16 * v);
        if (M == 1) x = _mm512_add_ps(x, _mm512_load_ps(at + 16 * kSumStep + 16 * v));
        if (N == 1) x = _mm512_add_ps(x, _mm512_load_ps(at + 16));
        if (M == 1 && N == 1) x = _mm512_add_ps(x, _mm512_load_ps(at + 16 * kSumStep + 16));
        if (M == 1 || N == 1) _mm512_store_ps(at + 16 * v, x);
        if (Counted) x = _mm512_sub_ps(x, middle[v]);
        if (Counted) squares[half][v] = _mm512_fmadd_ps(x, x, squares[half][v]);
        all[half][v] = _mm512_mask_add_ps(all[half][v], own[v], all[half][v], x);
      }
    };
    const OutRow* r = row;
    if (end - r == 16 * M) {
      float* at = sums;
      for (int k = 0; k < 8 * M; k++, at += 2 * kSumStep) one(at, 0), one(at + kSumStep, 1);
    } else {
      for (; r + 1 < end; r += 2) one(sums + r[0].sum, 0), one(sums + r[1].sum, 1);
      if (r < end) one(sums + r->sum, 0);
    }
    __m512 sum_of[2];
    for (int v = 0; v < N; v++) sum_of[v] = _mm512_add_ps(all[0][v], all[1][v]);
    const __m512 total = N > 1 ? _mm512_add_ps(sum_of[0], sum_of[N - 1]) : sum_of[0];
    if (_mm512_cmp_ps_mask(total, total, _CMP_UNORD_Q)) {
      sum_exceptional<M, N>(*block, sums);
      if (Counted) add_statistics();
    } else if (Counted) {
      for (int v = 0; v < N; v++) add(v, sum_of[v], _mm512_add_ps(squares[0][v], squares[1][v]));
    }
  }
  // With the statistics. The first block of a task takes its mean as the shift.
  __attribute__((noinline)) void settle() {
    const bool bare = !accumulate && !bias && !relu;
    if (sum && bare && m > 1 && n > 1) {
      if (first) start_statistics();
      return settle_rows<2, 2, true>();
    }
    if (m > 1) n > 1 ? settle_rows<2, 2, false>() : settle_rows<2, 1, false>();
    else n > 1 ? settle_rows<1, 2, false>() : settle_rows<1, 1, false>();
    if (sum && first) start_statistics();
    if (sum) add_statistics();
  }

  // What is written: columns [16 * v, 16 * v + 16). Members are copied: to the compiler a store of vectors may change any.
  struct Columns {
    const float* from;
    float* to;
    __mmask16 own;
    bool adds, biased, rectified;
    __m512 start;

    __attribute__((always_inline)) __m512 operator()(const OutRow* r) const {
      __m512 y = _mm512_load_ps(from + r->sum);
      if (adds) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(own, to + r->out));
      if (biased) y = _mm512_add_ps(y, start);
      if (rectified) y = _mm512_max_ps(_mm512_setzero_ps(), y);  // the second where one is NaN
      return y;
    }
  };
  __attribute__((always_inline)) Columns columns(int v) const {
    const __m512 start = bias ? _mm512_maskz_loadu_ps(lanes[v], bias + 16 * v) : _mm512_setzero_ps();
    return {sums + 16 * v, out + 16 * v, lanes[v], accumulate, bias != nullptr, relu, start};
  }

  void add(int v, __m512 a, __m512 b) const {
    const __mmask8 low = static_cast<__mmask8>(lanes[v]), high = static_cast<__mmask8>(lanes[v] >> 8);
    const auto to = [&](double* at, __m512 x) __attribute__((always_inline)) {
      const __m512d first_half = _mm512_cvtps_pd(_mm512_castps512_ps256(x));
      const __m512d second_half = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
      _mm512_mask_storeu_pd(at, low, _mm512_add_pd(_mm512_maskz_loadu_pd(low, at), first_half));
      _mm512_mask_storeu_pd(at + 8, high, _mm512_add_pd(_mm512_maskz_loadu_pd(high, at + 8), second_half));
    };
    to(sum + 16 * v, a);
    to(sum + squares + 16 * v, b);
  }
  __attribute__((noinline)) void start_statistics() const {
    const __m512 share = _mm512_set1_ps(1.0f / static_cast<float>(end - row));
    for (int v = 0; v < n; v++) {
      const Columns y = columns(v);
      __m512 mean = _mm512_setzero_ps();
      for (const OutRow* r = row; r < end; r++) mean = _mm512_fmadd_ps(y(r), share, mean);
      const __m512 rest = _mm512_sub_ps(mean, mean);  // NaN where the mean is not finite
      mean = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(rest, rest, _CMP_ORD_Q), mean);
      _mm512_mask_storeu_ps(shift + 16 * v, y.own, mean);
      const size_t bytes = static_cast<size_t>(__builtin_popcount(y.own)) * sizeof(double);
      memset(sum + 16 * v, 0, bytes);
      memset(sum + squares + 16 * v, 0, bytes);
    }
  }
  __attribute__((noinline)) void add_statistics() const {
    for (int v = 0; v < n; v++) {
      const Columns y = columns(v);
      const __m512 middle = _mm512_maskz_loadu_ps(y.own, shift + 16 * v);
      __m512 a[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, b[2] = {a[0], a[0]};
      const auto one = [&](const OutRow* r, int half) {
        const __m512 d = _mm512_sub_ps(y(r), middle);
        a[half] = _mm512_add_ps(a[half], d);
        b[half] = _mm512_fmadd_ps(d, d, b[half]);
      };
      const OutRow* r = row;
      for (; r + 1 < end; r += 2) one(r, 0), one(r + 1, 1);
      if (r < end) one(r, 0);
      add(v, _mm512_add_ps(a[0], a[1]), _mm512_add_ps(b[0], b[1]));
    }
  }

  // Some rows; Marked: and the bits of what is above zero.
  template <bool Marked, int N>
  __attribute__((noinline)) void write(const OutRow* stop) const {
    const Columns of[2] = {columns(0), columns(N - 1)};
    uint32_t* const words = mask;
    const __m512 zero = _mm512_setzero_ps();
    __m512i bits[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    int64_t at = -1;
    const auto store_bits = [&] {
      for (int v = 0; v < N; v++) _mm512_mask_storeu_epi32(words + at + 16 * v, of[v].own, bits[v]);
    };
    for (const OutRow* r = row; r < stop; r++) {
      __m512 y[2];
#pragma GCC unroll 2
      for (int v = 0; v < N; v++) {
        y[v] = of[v](r);
        _mm512_mask_storeu_ps(of[v].to + r->out, of[v].own, y[v]);
      }
      if (!Marked || r->bit == 0) continue;
      if (r->word != at) {
        if (at >= 0) store_bits();
        at = r->word;
        for (int v = 0; v < N; v++) bits[v] = _mm512_maskz_loadu_epi32(of[v].own, words + at + 16 * v);
      }
      const __m512i bit = _mm512_set1_epi32(static_cast<int>(r->bit));
#pragma GCC unroll 2
      for (int v = 0; v < N; v++)
        bits[v] = _mm512_mask_or_epi32(bits[v], _mm512_cmp_ps_mask(y[v], zero, _CMP_GT_OQ), bits[v], bit);
    }
    if (Marked && at >= 0) store_bits();
  }
  __attribute__((always_inline)) void operator()() {
    if (n == 0) return;
    if (!settled) {
      settled = true;
      settle();
    }
    if (row == end) return;
    const OutRow* stop = end - row > rows ? row + rows : end;
    if (n > 1) mask ? write<true, 2>(stop) : write<false, 2>(stop);
    else mask ? write<true, 1>(stop) : write<false, 1>(stop);
    row = stop;
  }
  void all() {
    if (n == 0) return;
    rows = end - row;
    (*this)();
    n = 0;
  }
};

// The first output of a block.
inline int64_t first_token(const Product& p, const Block& k) {
  const int64_t row = p.vertical.out_start + k.i0 * p.vertical.out_step;
  return (k.n0 * p.out_rows + row) * p.out_columns + p.horizontal.out_start + k.j0 * p.horizontal.out_step;
}

// Tiles that cover the outputs of a block, in pairs, and the rows of theirs that are outputs. Words of the mask inside
// of tokens [begin, end) are the block's own.
inline int64_t find_tiles(const Product& p, const Block& k, const Stripe& s, int64_t begin, int64_t end, OutRow* rows,
                          OutTiles* tiles) {
  const int64_t pitch = s.pitch * s.images, image = p.out_rows * p.out_columns;
  int64_t count = 0, pairs = 0, start = -1, tile = 0;
  const int64_t first = ceil_div(begin, 32) * 32;
  const int64_t last = end == p.images * p.out_rows * p.out_columns ? end : end / 32 * 32;
  const int64_t origin = first_token(p, k);
  for (int64_t i = 0; i < k.rows; i++) {
    int64_t n = 0, here = origin + i * p.vertical.out_step * p.out_columns, token = here;
    for (int64_t at = i * pitch; at < i * pitch + k.columns * k.images; at++) {
      if (start < 0 || at >= start + 16) {
        start = at;
        if (tile % 2 == 0) {
          if (tile) pairs++;
          tiles[pairs].first = count;
        }
        tiles[pairs].left[tile % 2] = start * kLine;
        tiles[pairs].tiles = static_cast<int>(tile % 2 + 1);
        tile++;
      }
      OutRow& r = rows[count++];
      r.out = (token - origin) * p.out_channels;
      r.sum = static_cast<int32_t>(((tile - 1) % 2 * 16 + at - start) * kSumStep);
      r.word = token / 32 * p.out_channels;
      r.bit = token >= first && token < last ? 1u << (token % 32) : 0;
      tiles[pairs].last = count;
      token += image;
      if (++n == k.images) n = 0, token = here += p.horizontal.out_step;
    }
  }
  return tile ? pairs + 1 : 0;
}

// Tokens of a block if they lie in a row, else none.
inline Span block_span(const Product& p, const Blocks& b, const Block& k) {
  if (!rows_are_whole(p, b)) return {0, 0};
  const int64_t first = ((k.n0 * p.vertical.count) + k.i0) * p.horizontal.count + k.j0;
  return {first, first + k.tokens()};
}

// A block at work: its stripe's shape, its outputs.
struct Unit {
  Block k = {};
  Stripe s;
  Span own;     // tokens that lie in a row
  int64_t out;  // floats before its outputs
  Signs signs;
  int64_t pairs;
  OutRow rows[kMatrixTokens];
  OutTiles tiles[kMatrixTokens / 2 + 1];
};

// Brings near the outputs of the block at hand, some rows at a time: they are written with the next one.
struct Fetch {
  const OutRow *row = nullptr, *end = nullptr;  // to come
  int64_t rows = 0;                             // at a time
  const float* out;
  bool both;  // vectors
  __attribute__((always_inline)) void operator()() {
    for (const OutRow* stop = end - row > rows ? row + rows : end; row < stop; row++) {
      __builtin_prefetch(out + row->out, 1);
      if (both) __builtin_prefetch(out + row->out + 16, 1);
    }
  }
};

// What runs in the shadow of products: the sums before are finished, the stripe after is packed.
struct Shadow {
  Finish finish;
  Fetch fetch;
  Packer packer;
  int64_t positions, due;  // to be packed at a time, and by now: some together, for each call costs something
  __attribute__((always_inline)) void operator()() {
    finish();
    fetch();
    due += positions;
    if (due < kTogether) return;
    packer(due);
    due = 0;
  }
};

// One wave and pass of some blocks, for a part of the output channels of a group.
struct MatrixTask {
  const Product* product;
  const MatrixPlan* plan;
  const char* packed;
  char* stripes;
  int64_t first, last, from, columns;  // bundles and output channels of the pass
  int64_t g, part, begin, end;         // group, first output channel, blocks
  bool signs;                          // to be packed with stripes

  // Whole words of the mask, all of whose tokens are the block's: they start at nothing.
  void clear_mask(const Unit& u) const {
    const Product& p = *product;
    const int64_t all = p.images * p.out_rows * p.out_columns, stop = min64(columns, part + plan->part);
    for (int64_t w = ceil_div(u.own.begin, 32); w < (u.own.end == all ? ceil_div(u.own.end, 32) : u.own.end / 32); w++)
      memset(p.mask + w * p.out_channels + g * p.width + from + part, 0, static_cast<size_t>(stop - part) * 4);
  }

  void open(Unit& u, int64_t index) const {
    const Product& p = *product;
    const Block k = block_at(plan->blocks, p.images, p.vertical, p.horizontal, index);
    const Stripe s = stripe_of(p, k);
    const Span own = p.mask && last == plan->bundles ? block_span(p, plan->blocks, k) : Span{0, 0};
    // Without a mask the tiles of blocks of one shape are the same.
    const bool known = u.k.images == k.images && u.k.rows == k.rows && u.k.columns == k.columns &&
                       u.s.pitch == s.pitch && own.begin == own.end && u.own.begin == u.own.end;
    u.k = k;
    u.s = s;
    u.own = own;
    u.out = first_token(p, k) * p.out_channels;
    if (!known) u.pairs = find_tiles(p, k, s, own.begin, own.end, u.rows, u.tiles);
    if (u.own.begin < u.own.end) clear_mask(u);
    u.signs = signs ? signs_of(p, *plan, u.k) : Signs{nullptr, 0, 0};
  }

  AUXGRAD_AMX __attribute__((noinline)) void run() {
    const Product& p = *product;
    alignas(64) Sums sums;
    Unit units[3];         // one is finished, one multiplied, one packed
    SplitBlock blocks[2];  // one is finished, one multiplied
    int32_t at[kMatrixSteps];
    const int64_t stop = min64(columns, part + plan->part), channels = g * p.width + from;
    const char* right = packed + g * (plan->packed / p.groups);
    const Statistics& statistics = p.statistics;
    // Of channels [part, stop): other threads work on the chunks beside this one.
    double* const sum = reinterpret_cast<double*>(stripes + 2 * plan->stripe);
    float* const shift = reinterpret_cast<float*>(sum + 2 * plan->part);
    double rows = 0;
    Shadow shadow;
    Finish& finish = shadow.finish;
    Packer& packer = shadow.packer;
    packer.product = product;
    int stripe = 0, turn = 0;
    open(units[begin % 3], begin);
    packer.start(units[begin % 3].k, units[begin % 3].s, &units[begin % 3].signs, g, first,
                 min64(plan->slice, last - first), stripes);
    packer.all();
    start_tiles();
    for (int64_t index = begin; index < end; index++) {
      const Unit& u = units[index % 3];
      rows += static_cast<double>(u.k.tokens());
      for (int64_t bundle = first; bundle < last; bundle += plan->slice, stripe ^= 1) {
        const int64_t bundles = min64(plan->slice, last - bundle), after = bundle + bundles;
        const char* left = stripes + stripe * plan->stripe;
        char* other = stripes + (stripe ^ 1) * plan->stripe;
        const int64_t steps = left_steps(p, u.s, bundles, at);
        shadow.positions = shadow.due = 0;
        if (after < last) packer.start(u.k, u.s, &u.signs, g, after, min64(plan->slice, last - after), other);
        else if (index + 1 < end) {
          Unit& next = units[(index + 1) % 3];
          open(next, index + 1);
          packer.start(next.k, next.s, &next.signs, g, first, min64(plan->slice, last - first), other);
        }
        const int64_t all_steps = u.pairs * ceil_div(stop - part, kMatrixPanel) * steps;
        if (packer.more) shadow.positions = packer.positions() / max64(1, 3 * all_steps - 1) + 1;
        const auto panel_at = [&](int64_t c) {
          return right + c / kMatrixPanel * plan->step_bytes(kMatrixPanel) * plan->taps * (last - first) +
                 (bundle - first) * plan->taps * plan->step_bytes(min64(kMatrixPanel, columns - c));
        };
        for (int64_t i = 0; i < u.pairs; i++)
          for (int64_t c = part; c < stop; c += kMatrixPanel) {
            const OutTiles& t = u.tiles[i];
            const int64_t width = min64(kMatrixPanel, columns - c);
            SplitBlock& block = blocks[turn ^= 1];
            block.left[0] = left + t.left[0];
            block.left[1] = left + t.left[t.tiles - 1];
            block.left_row = kLine;
            block.left_plane = u.s.plane;
            block.length = steps;
            block.places = at;
            block.right = panel_at(c);
            block.fetch = index == begin && i == 0;  // another core may have packed them
            const int m = t.tiles, n = width > 16 ? 2 : 1;
            finish.rows = ceil_div(finish.end - finish.row, 3 * steps - (steps > 1));
            if (p.window.rows)
              shadow.fetch = {u.rows + t.first, u.rows + t.last, ceil_div(t.last - t.first, 3 * steps),
                              p.out + u.out + channels + c, n > 1};
            multiply_split(m, n, block, sums, [&] { shadow(); });
            finish.all();
            finish.block = &block;
            finish.m = m;
            finish.n = n;
            finish.sums = sums;
            finish.row = u.rows + t.first;
            finish.end = u.rows + t.last;
            finish.out = p.out + u.out + channels + c;
            finish.accumulate = bundle > 0;
            const bool done = after == plan->bundles;
            finish.bias = done && p.bias ? p.bias + channels + c : nullptr;
            finish.relu = done && p.relu;
            finish.mask = done && u.own.begin < u.own.end ? p.mask + channels + c : nullptr;
            finish.sum = done && p.statistics ? sum + c - part : nullptr;
            finish.squares = plan->part;
            finish.shift = shift + c - part;
            finish.first = index == begin && i == 0;
            finish.lanes[0] = static_cast<__mmask16>((1u << min64(16, width)) - 1);
            finish.lanes[1] = static_cast<__mmask16>((1u << max64(0, width - 16)) - 1);
            finish.settled = false;
          }
        packer.all();
      }
    }
    store_sums(sums);
    finish.all();
    stop_tiles();
    if (!statistics || last < plan->bundles) return;
    const int64_t chunk = begin / plan->together, to = channels + part;
    const size_t n = static_cast<size_t>(stop - part);
    if (to == 0) statistics.rows[chunk] = rows;
    memcpy(statistics.sums + chunk * 2 * p.out_channels + to, sum, n * sizeof(double));
    memcpy(statistics.sums + (chunk * 2 + 1) * p.out_channels + to, sum + plan->part, n * sizeof(double));
    memcpy(statistics.shift + chunk * p.out_channels + to, shift, n * sizeof(float));
  }
};

inline void run_matrix(const Call& call, const Product& p) {
  const MatrixPlan plan = plan_matrix(p);
  const Blocks& b = plan.blocks;
  if (p.images * p.vertical.count * p.horizontal.count * p.width * p.groups == 0) return;
  char* packed = static_cast<char*>(call.scratch);
  char* stripes = packed + plan.packed + kThreadGap;
  const bool signs = p.signs && !p.window.rows && signs_with_stripes(p, plan);
  if (p.signs && !signs) pack_image(call, p);
  for (int64_t from = 0; from < p.width; from += plan.wave)
    for (int64_t first = 0; first < plan.bundles; first += plan.pass) {
      const int64_t last = min64(plan.bundles, first + plan.pass), columns = min64(plan.wave, p.width - from);
      pack_right(call, p, plan, packed, first, last, from, columns);
      const int64_t parts = ceil_div(columns, plan.part), count = b.count(), runs = plan.runs();
      parallel_tasks(call, p.groups * parts * runs, [&](int64_t task, int thread) {
        const int64_t begin = task % runs * plan.together;
        MatrixTask t = {&p,
                        &plan,
                        packed,
                        stripes + thread * stripes_apart(plan),
                        first,
                        last,
                        from,
                        columns,
                        task / runs / parts,
                        task / runs % parts * plan.part,
                        begin,
                        min64(count, begin + plan.together),
                        signs && from == 0 && task / runs % parts == 0};
        t.run();
      });
    }
  if (signs) finish_signs(p, plan);
  if (p.mask) finish_mask(call, p, b);
}

}  // namespace
}  // namespace auxgrad
#endif
