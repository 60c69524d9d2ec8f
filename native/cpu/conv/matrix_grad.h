// Weight gradient on the matrix unit: dw[o][tap][c] = sum over outputs t of dy[t][o] * x[t under tap][c].
//
// The left operand is dy, transposed, the right one x in pairs of rows (see amx/split.h). A pair joins the same place
// of two "pictures", images or strips of them; so the place of a tap is a number of whole pairs, whatever it is, and
// all taps read one packed copy of x. Pictures of a block lie interleaved: pair (row, column, two pictures). Rows are
// `pitch` columns apart, with zeros between them that serve the right border of one row and the left one of the next.
// With a stride, x is packed in phases, each the inputs that some taps read side by side. A single tap needs no such
// order: there pairs are neighbouring outputs.
//
// A task owns a part of dw (outputs x channels, all taps) and a chunk of the blocks. It packs dy of a block, then x of
// 32 channels at a time, and adds the products of some steps to dw; chunks after the first to sums of their own, added
// in a fixed order.
#pragma once
#include "../amx/split.h"
#include "weight_grad.h"
#include "winograd_grad.h"

#if defined(AUXGRAD_HAS_AMX)
namespace auxgrad {
namespace {

constexpr int64_t kPairStep = 16;                           // pairs of a step
constexpr int64_t kPairBytes = kPlanes * 64;                // of a pair of rows of 16 channels
constexpr int64_t kStripBytes = 2 * kPlanes * kTileBytes;   // of a step of 32 outputs
constexpr int64_t kStripSteps = 8;                          // of a product, at most unless one row has more
constexpr int64_t kMatrixDelta = 448 * 1024;                // bytes of dy of a block
constexpr int64_t kMatrixImage = 384 * 1024;                // bytes of x of a block
constexpr int64_t kMatrixPart = 192 * 1024;                 // floats of a part of dw
constexpr int64_t kMatrixWidth = 512, kMatrixDepth = 1024;  // of a part, at most

// An axis in phases: tap k reads, for output i, element i + shift(k) of phase(k), which begins at base(phase).
struct GradPhases {
  const Axis& axis;

  int64_t phase(int64_t tap) const { return tap * axis.tap_step % axis.in_step; }
  int64_t shift(int64_t tap) const { return tap * axis.tap_step / axis.in_step; }
  // Taps come in ascending order: the first and the last of a phase; -1 if there is none.
  int64_t first(int64_t phase_) const {
    for (int64_t k = 0; k < min64(axis.taps, axis.in_step); k++)
      if (phase(k) == phase_) return k;
    return -1;
  }
  int64_t base(int64_t phase_) const { return shift(first(phase_)); }
  int64_t extent(int64_t phase_) const {
    int64_t last = 0;
    for (int64_t k = 0; k < axis.taps; k++)
      if (phase(k) == phase_) last = k;
    return shift(last) - base(phase_);
  }
  // The input that element i of a phase is, counted from its base.
  int64_t input(int64_t phase_, int64_t i) const { return (i + base(phase_)) * axis.in_step + phase_ + axis.tap_start; }
};

struct MatrixGradient {
  bool single;                       // tap
  int64_t pictures, rows, strips;    // pairs of pictures of a block; rows of a picture; strips of an image
  int64_t pitch, lines, line_steps;  // columns of a row of x; what steps are counted in: rows, or whole blocks
  int64_t steps, pairs;              // of a block: of dy, and pairs of x
  int64_t blocks, part, depth, parts, slices, chunks;
  double cost;  // cycles, about
};

// Columns between rows of x.
inline int64_t picture_pitch(const WeightGradient& p) {
  const GradPhases h{p.horizontal};
  int64_t pitch = p.horizontal.count;
  for (int64_t phase = 0; phase < p.horizontal.in_step; phase++) {
    if (h.first(phase) < 0) continue;
    const int64_t all = p.horizontal.count + h.extent(phase);
    int64_t zeros = 0, inside = all;
    while (zeros < all && h.input(phase, zeros) < 0) zeros++;
    while (inside > 0 && h.input(phase, inside - 1) >= p.image.columns) inside--;
    pitch = max64(pitch, max64(all - zeros, inside));
  }
  return pitch;
}

// Calls f(row phase, column phase, rows beyond those of the output, columns beyond) for the phases that taps read.
template <class F>
inline void each_read_phase(const WeightGradient& p, const F& f) {
  const GradPhases v{p.vertical}, h{p.horizontal};
  for (int64_t i = 0; i < p.vertical.in_step; i++) {
    if (v.first(i) < 0) continue;
    for (int64_t j = 0; j < p.horizontal.in_step; j++)
      if (h.first(j) >= 0) f(i, j, v.extent(i), h.extent(j));
  }
}
// Pairs of x of one phase; the end is read beyond the last row.
inline int64_t phase_pairs(const WeightGradient& p, const MatrixGradient& m, int64_t more_rows, int64_t more_columns) {
  const int64_t over = max64(0, p.horizontal.count + more_columns - m.pitch);
  return ((m.rows + more_rows) * m.pitch + over) * m.pictures + kPairStep;
}

inline void count_parts(const WeightGradient& p, MatrixGradient& m) {
  const int64_t taps = p.vertical.taps * p.horizontal.taps;
  const int64_t width = round_up(p.width, 32), depth = round_up(p.depth, 32);
  m.part = min64(width, kMatrixWidth);
  m.depth = min64(depth, kMatrixDepth);
  while (m.part * m.depth * taps > kMatrixPart && (m.part > 64 || m.depth > 32)) {
    if (m.part >= m.depth) m.part = round_up(m.part / 2, 32);
    else m.depth = round_up(m.depth / 2, 32);
  }
  m.parts = ceil_div(width, m.part);
  m.slices = ceil_div(depth, m.depth);
  m.part = even_size(width / 32, m.part / 32) * 32;
  m.depth = even_size(depth / 32, m.depth / 32) * 32;
}

// Cycles of all: tile products, packing.
inline double matrix_cost(const WeightGradient& p, const MatrixGradient& m) {
  const double taps = static_cast<double>(p.vertical.taps * p.horizontal.taps);
  const double products = static_cast<double>(m.steps * ceil_div(p.width, 16) * ceil_div(p.depth, 16)) * taps * 6 * 16;
  const double packing = static_cast<double>(m.steps * kPairStep * p.width * m.slices) * 0.9 +
                         static_cast<double>(m.pairs * p.depth * m.parts) * 0.8;
  return static_cast<double>(p.groups * m.blocks) * (products * 1.3 + packing);
}

inline MatrixGradient plan_matrix_gradient(const WeightGradient& p) {
  MatrixGradient m = {};
  count_parts(p, m);
  const int64_t delta = max64(1, kMatrixDelta / (m.part * 2 * kPlanes * 2)), image = kMatrixImage / (2 * kPairBytes);
  const int64_t outputs = p.images * p.vertical.count * p.horizontal.count;
  m.single = p.vertical.taps * p.horizontal.taps == 1;
  if (m.single) {
    const int64_t steps = ceil_div(outputs, 2 * kPairStep);
    m.steps = even_size(steps, max64(1, min64(steps, min64(delta, image) / kPairStep)));
    m.pairs = m.steps * kPairStep;
    m.lines = 1;
    m.line_steps = m.steps;
    m.blocks = ceil_div(steps, m.steps);
    m.cost = matrix_cost(p, m);
  } else {
    MatrixGradient best = m;
    best.blocks = 0;
    m.pitch = picture_pitch(p);
    for (m.pictures = 1; m.pictures <= 8; m.pictures *= 2)
      for (int64_t strips = 1, cut = 1; cut <= p.vertical.count; cut += max64(1, cut / 2)) {
        m.rows = ceil_div(p.vertical.count, cut);
        strips = m.strips = ceil_div(p.vertical.count, m.rows);
        if (m.pictures > 1 && m.pictures * 2 > p.images * strips) continue;
        m.pairs = 0;
        each_read_phase(
            p, [&](int64_t, int64_t, int64_t rows, int64_t columns) { m.pairs += phase_pairs(p, m, rows, columns); });
        m.blocks = ceil_div(p.images * strips, 2 * m.pictures);
        for (int by_row = 0; by_row < 2; by_row++) {
          m.lines = by_row ? m.rows : 1;
          const int64_t columns = by_row ? p.horizontal.count : (m.rows - 1) * m.pitch + p.horizontal.count;
          m.line_steps = ceil_div(columns * m.pictures, kPairStep);
          m.steps = m.lines * m.line_steps;
          m.cost = matrix_cost(p, m);
          const bool fits = m.pairs <= image && m.steps * kPairStep <= delta;
          if (fits && (best.blocks == 0 || m.cost < best.cost)) best = m;
        }
      }
    m = best;
  }
  if (m.blocks == 0) return m;
  const int64_t parts = p.groups * m.parts * m.slices;
  const int64_t total = p.groups * p.width * p.vertical.taps * p.horizontal.taps * p.depth;
  m.chunks = max64(1, min64(min64(ceil_div(kGradTasks, parts), 1 + kGradPartials / max64(1, total)), m.blocks));
  return m;
}

inline bool has_gradient(const WeightGradient& p) {
  return p.groups * p.width * p.depth * p.vertical.taps * p.horizontal.taps > 0 &&
         p.images * p.vertical.count * p.horizontal.count > 0;
}

// Packing must be worth it, and the tiles be filled. Cycles of multiply-adds at the speed they reach.
inline bool suits_matrix(const WeightGradient& p, const MatrixGradient& m) {
  const int64_t outputs = p.images * p.vertical.count * p.horizontal.count;
  const double products = static_cast<double>(p.vertical.taps * p.horizontal.taps * p.groups * p.width * p.depth);
  return m.blocks > 0 && m.cost < static_cast<double>(outputs) * products / 35;
}

// Offsets of a tap among the packed pairs, and the rows of a picture for which it sees the image.
struct MatrixTap {
  int64_t pair, first, last;
};

struct MatrixSizes {
  int64_t delta, image, table, thread, taps, partial, flag;
};
inline MatrixSizes matrix_sizes(const WeightGradient& p, const MatrixGradient& m, int threads) {
  MatrixSizes s;
  s.delta = m.part / 32 * m.steps * kStripBytes;
  s.image = min64(2, ceil_div(p.depth, 16)) * m.pairs * kPairBytes;
  s.table = (m.steps * kPairStep + m.pairs) * 2 * static_cast<int64_t>(sizeof(const float*));
  s.thread = round_up(s.delta + s.image + s.table + max64(m.part, m.depth) * 4, 64);
  s.taps = round_up(p.vertical.taps * p.horizontal.taps * static_cast<int64_t>(sizeof(MatrixTap)), 64);
  s.partial = p.groups * p.width * p.vertical.taps * p.horizontal.taps * p.depth * 4;
  s.flag = s.taps + s.thread * threads + s.partial * (m.chunks - 1);
  return s;
}

// Adds a block of sums to where it belongs, some rows at a time.
struct GradFinish {
  const float* sums = nullptr;
  float* to = nullptr;
  int64_t stride = 0, rows = 0, row = 0, each = 0;
  __mmask16 first = 0, second = 0;
  bool add = false;
  uint32_t nan = 0;

  inline __attribute__((always_inline)) void some() {
    const int64_t end = row + each < rows ? row + each : rows;
    for (; row < end; row++) {
      float* p = to + row * stride;
      __m512 a = _mm512_load_ps(sums + row * kSumStep), b = _mm512_load_ps(sums + row * kSumStep + 16);
      if (add) {
        a = _mm512_add_ps(a, _mm512_maskz_loadu_ps(first, p));
        b = _mm512_add_ps(b, _mm512_maskz_loadu_ps(second, p + 16));
      }
      _mm512_mask_storeu_ps(p, first, a);
      _mm512_mask_storeu_ps(p + 16, second, b);
      nan |= _mm512_mask_cmp_ps_mask(first, a, a, _CMP_UNORD_Q) | _mm512_mask_cmp_ps_mask(second, b, b, _CMP_UNORD_Q);
    }
  }
};

struct MatrixCall {
  const char* left;           // [step][2 tiles of outputs][plane][tile]
  const char* right[2];       // pairs of the tiles of channels
  int64_t lines, line_bytes;  // of the right operand
  int64_t steps;              // of a line
};

#define AUXGRAD_TILE_PRODUCTS() \
  do {                          \
    _tile_dpbf16ps(0, 4, 6);    \
    if (N > 1) {                \
      AUXGRAD_APART;            \
      _tile_dpbf16ps(1, 4, 7);  \
    }                           \
    if (M > 1) {                \
      AUXGRAD_APART;            \
      _tile_dpbf16ps(2, 5, 6);  \
    }                           \
    if (M > 1 && N > 1) {       \
      AUXGRAD_APART;            \
      _tile_dpbf16ps(3, 5, 7);  \
    }                           \
    finish.some();              \
  } while (0)
#define AUXGRAD_LOAD_LEFT(plane)                                                  \
  do {                                                                            \
    AUXGRAD_TILE_LOAD(4, left + (plane)*kTileBytes, 64);                          \
    if (M > 1) AUXGRAD_TILE_LOAD(5, left + (kPlanes + (plane)) * kTileBytes, 64); \
  } while (0)
#define AUXGRAD_LOAD_RIGHT(plane)                                     \
  do {                                                                \
    AUXGRAD_TILE_LOAD(6, right0 + (plane)*64, kPairBytes);            \
    if (N > 1) AUXGRAD_TILE_LOAD(7, right1 + (plane)*64, kPairBytes); \
  } while (0)

// sums [16 * M outputs][16 * N channels]; the block before is finished in the shadow of the tile products.
template <int M, int N>
AUXGRAD_AMX __attribute__((noinline)) void sum_pairs(const MatrixCall& c, float* sums, GradFinish& before) {
  GradFinish finish = before;
  memory_barrier();
  _tile_zero(0);
  if (N > 1) _tile_zero(1);
  if (M > 1) _tile_zero(2);
  if (M > 1 && N > 1) _tile_zero(3);
  const char* left = c.left;
  for (int64_t line = 0; line < c.lines; line++) {
    const char *right0 = c.right[0] + line * c.line_bytes, *right1 = c.right[N - 1] + line * c.line_bytes;
    for (int64_t k = 0; k < c.steps; k++) {
      AUXGRAD_LOAD_LEFT(2);
      AUXGRAD_LOAD_RIGHT(0);
      AUXGRAD_TILE_PRODUCTS();
      AUXGRAD_LOAD_LEFT(1);
      AUXGRAD_TILE_PRODUCTS();
      AUXGRAD_LOAD_RIGHT(1);
      AUXGRAD_TILE_PRODUCTS();
      AUXGRAD_LOAD_LEFT(0);
      AUXGRAD_TILE_PRODUCTS();
      AUXGRAD_LOAD_RIGHT(2);
      AUXGRAD_TILE_PRODUCTS();
      AUXGRAD_LOAD_RIGHT(0);
      AUXGRAD_TILE_PRODUCTS();
      left += kStripBytes;
      right0 += kPairStep * kPairBytes;
      right1 += kPairStep * kPairBytes;
    }
  }
  _tile_stored(0, sums, kSumStep * 4);
  if (N > 1) _tile_stored(1, sums + 16, kSumStep * 4);
  if (M > 1) _tile_stored(2, sums + 16 * kSumStep, kSumStep * 4);
  if (M > 1 && N > 1) _tile_stored(3, sums + 16 * kSumStep + 16, kSumStep * 4);
  memory_barrier();
  finish.each = finish.rows;
  finish.some();
  before.nan = finish.nan;
}

#undef AUXGRAD_TILE_PRODUCTS
#undef AUXGRAD_LOAD_LEFT
#undef AUXGRAD_LOAD_RIGHT

// dy of a block as left tiles, [32 outputs][step][2 tiles][plane][16 outputs x 32 outputs in pairs].
__attribute__((noinline)) void pack_delta_tiles(char* to, const float* const* table, int64_t steps, int64_t outputs) {
  for (int64_t s = 0; s < steps; s++) {
    const float* const* at = table + s * 32;
    for (int64_t o = 0; o < outputs; o += 16) {
      const __mmask16 lanes = static_cast<__mmask16>((1u << min64(16, outputs - o)) - 1);
      char* tile = to + (o / 32 * steps + s) * kStripBytes + o % 32 / 16 * kPlanes * kTileBytes;
      __m512 v[2][16];
#pragma GCC unroll 2
      for (int half = 0; half < 2; half++) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) v[half][i] = _mm512_maskz_loadu_ps(lanes, at[half * 16 + i] + o);
        transpose16(v[half]);
      }
#pragma GCC unroll 4
      for (int r = 0; r < 16; r++) store_row(tile + r * 64, kTileBytes, split(v[0][r]), split(v[1][r]));
    }
  }
}

// x of a block, `channels` of it from `channel` on, as pairs: [16 channels][pair][plane][16 channels x 2].
__attribute__((noinline)) void pack_pairs(char* to, const float* const* table, int64_t pairs, int64_t channel,
                                          int64_t channels) {
  const int64_t tiles = ceil_div(channels, 16);
  const auto mask = [&](int64_t t) {
    return static_cast<__mmask16>((1u << max64(0, min64(16, channels - 16 * t))) - 1);
  };
  const __mmask16 lanes[2] = {mask(0), mask(1)};
  for (int64_t f = 0; f < pairs; f++)
    for (int64_t t = 0; t < tiles; t++) {
      const float *even = table[2 * f] + channel + 16 * t, *odd = table[2 * f + 1] + channel + 16 * t;
      store_pair(to + (t * pairs + f) * kPairBytes, 64, split(_mm512_maskz_loadu_ps(lanes[t], even)),
                 split(_mm512_maskz_loadu_ps(lanes[t], odd)));
    }
}

// Where the rows of dy and x of a block lie; zeros where there are none.
__attribute__((noinline)) void find_rows(const WeightGradient& p, const MatrixGradient& m, int64_t block,
                                         int64_t out_channel, int64_t channel, const float* zeros, const float** delta,
                                         const float** image) {
  const Axis &v = p.vertical, &h = p.horizontal;
  const int64_t in_row = p.image.columns * p.image.channels;
  const auto row_of = [&](int64_t n, int64_t i) {
    return i >= 0 && i < p.image.rows ? p.image.data + (n * p.image.rows + i) * in_row + channel : nullptr;
  };
  if (m.single) {
    const int64_t count = m.steps * 2 * kPairStep, outputs = p.images * v.count * h.count;
    int64_t t = block * count, j = t % h.count, i = t / h.count % v.count, n = t / h.count / v.count;
    const float* dy = p.dy + t * p.out_channels + out_channel;
    const float* row = n < p.images ? row_of(n, i * v.in_step + v.tap_start) : nullptr;
    for (int64_t e = 0; e < count; e++, t++, dy += p.out_channels) {
      const int64_t column = j * h.in_step + h.tap_start;
      const bool there = t < outputs;
      delta[e] = there ? dy : zeros;
      image[e] = there && row && column >= 0 && column < p.image.columns ? row + column * p.image.channels : zeros;
      if (++j < h.count) continue;
      j = 0;
      if (++i == v.count) i = 0, n++;
      row = n < p.images ? row_of(n, i * v.in_step + v.tap_start) : nullptr;
    }
    return;
  }
  // Picture k of the block: its image, or one beyond them, and its first row.
  const auto picture = [&](int64_t k, int64_t& n, int64_t& i0) {
    n = (block * 2 * m.pictures + k) / m.strips;
    i0 = (block * 2 * m.pictures + k) % m.strips * m.rows;
    return n < p.images;
  };
  const int64_t line = m.line_steps * kPairStep, both = 2 * m.pictures;
  for (int64_t e = 0; e < m.steps * 2 * kPairStep; e++) delta[e] = zeros;
  for (int64_t k = 0; k < both; k++) {
    int64_t n, i0;
    if (!picture(k, n, i0)) continue;
    for (int64_t r = 0; r < min64(m.rows, v.count - i0); r++) {
      const float* dy = p.dy + (n * p.out_rows + i0 + r) * p.out_columns * p.out_channels + out_channel;
      const float** to = delta + (m.lines > 1 ? r * line * 2 : r * m.pitch * both) + k;
      for (int64_t j = 0; j < h.count; j++) to[j * both] = dy + j * p.out_channels;
    }
  }
  each_read_phase(p, [&](int64_t row_phase, int64_t column_phase, int64_t more_rows, int64_t more_columns) {
    const int64_t pairs = phase_pairs(p, m, more_rows, more_columns), rows = m.rows + more_rows;
    const GradPhases vertical{v}, horizontal{h};
    const int64_t first = horizontal.input(column_phase, 0);
    const int64_t left = min64(m.pitch, first < 0 ? ceil_div(-first, h.in_step) : 0);
    const int64_t inside = first < p.image.columns ? ceil_div(p.image.columns - first, h.in_step) : 0;
    const int64_t right = max64(left, min64(inside, m.pitch)), step = h.in_step * p.image.channels;
    for (int64_t k = 0; k < both; k++) {
      int64_t n, i0;
      const bool there = picture(k, n, i0);
      const float** to = image + k;
      for (int64_t r = 0; r < rows; r++, to += m.pitch * both) {
        const float* row = there ? row_of(n, vertical.input(row_phase, i0 + r)) : nullptr;
        const int64_t from = row ? left : m.pitch, end = row ? right : m.pitch;
        for (int64_t j = 0; j < from; j++) to[j * both] = zeros;
        for (int64_t j = from; j < end; j++) to[j * both] = row + (first * p.image.channels + j * step);
        for (int64_t j = end; j < m.pitch; j++) to[j * both] = zeros;
      }
    }
    for (int64_t e = rows * m.pitch * both; e < pairs * 2; e++) image[e] = zeros;
    image += pairs * 2;
  });
}

// Offsets of all taps.
inline void find_taps(const WeightGradient& p, const MatrixGradient& m, MatrixTap* taps) {
  const Axis &v = p.vertical, &h = p.horizontal;
  if (m.single) {
    taps[0] = {0, 0, 1};
    return;
  }
  int64_t begin = 0;
  const GradPhases vertical{v}, horizontal{h};
  each_read_phase(p, [&](int64_t row_phase, int64_t column_phase, int64_t more_rows, int64_t more_columns) {
    for (int64_t a = 0; a < v.taps; a++) {
      if (vertical.phase(a) != row_phase) continue;
      // Output rows whose input is in the image, if pictures are images.
      int64_t first = 0, last = m.lines;
      if (m.lines > 1 && m.strips == 1) {
        const auto inside = [&](int64_t i) {
          const int64_t row = i * v.in_step + v.tap_start + a * v.tap_step;
          return row >= 0 && row < p.image.rows;
        };
        while (first < last && !inside(first)) first++;
        while (last > first && !inside(last - 1)) last--;
      }
      for (int64_t b = 0; b < h.taps; b++) {
        if (horizontal.phase(b) != column_phase) continue;
        const int64_t rows = vertical.shift(a) - vertical.base(row_phase);
        const int64_t columns = horizontal.shift(b) - horizontal.base(column_phase);
        taps[a * h.taps + b] = {begin + (rows * m.pitch + columns) * m.pictures, first, last};
      }
    }
    begin += phase_pairs(p, m, more_rows, more_columns);
  });
}

inline int64_t matrix_gradient_scratch(const WeightGradient& p, const MatrixGradient& m, int threads) {
  return matrix_sizes(p, m, threads).flag;
}

// False if there was a NaN among the sums: products of infinities are not to be had here.
AUXGRAD_AMX inline bool run_matrix_gradient(const Call& call, const WeightGradient& p, const MatrixGradient& m) {
  const int64_t taps = p.vertical.taps * p.horizontal.taps, stride = taps * p.depth;
  const int64_t total = p.groups * p.width * stride, tasks = p.groups * m.parts * m.slices;
  const MatrixSizes size = matrix_sizes(p, m, call.pool->threads());
  char* scratch = static_cast<char*>(call.scratch);
  MatrixTap* tap_table = reinterpret_cast<MatrixTap*>(scratch);
  float* partial = reinterpret_cast<float*>(scratch + size.taps + size.thread * call.pool->threads());
  find_taps(p, m, tap_table);
  bool nan = false;
  parallel_tasks(call, tasks * m.chunks, [&](int64_t task, int thread) AUXGRAD_AMX {
    const int64_t chunk = task / tasks, slice = task % m.slices, g = task / m.slices / m.parts % p.groups;
    const int64_t from = task / m.slices % m.parts * m.part, outputs = min64(m.part, p.width - from);
    const int64_t channel = slice * m.depth, depth = min64(m.depth, p.depth - channel);
    char* delta = scratch + size.taps + size.thread * thread;
    char* image = delta + size.delta;
    const float** delta_rows = reinterpret_cast<const float**>(image + size.image);
    const float** image_rows = delta_rows + m.steps * 2 * kPairStep;
    float* zeros = reinterpret_cast<float*>(image + size.image + size.table);
    set_zero(zeros, max64(m.part, m.depth));
    float* dw = (chunk == 0 ? p.dw : partial + (chunk - 1) * total) + (g * p.width + from) * stride + channel;
    alignas(64) Sums sums[2];
    GradFinish finish;
    int turn = 0;
    start_tiles();
    const int64_t begin = even_start(m.blocks, m.chunks, chunk), end = even_start(m.blocks, m.chunks, chunk + 1);
    // Pieces of a block: of its rows, or of its steps.
    const int64_t items = m.lines > 1 ? m.lines : m.steps, item_steps = m.lines > 1 ? m.line_steps : 1;
    const int64_t pieces = ceil_div(items, max64(1, kStripSteps / item_steps));
    for (int64_t block = begin; block < end; block++) {
      find_rows(p, m, block, g * p.width + from, g * p.depth + channel, zeros, delta_rows, image_rows);
      pack_delta_tiles(delta, delta_rows, m.steps, outputs);
      for (int64_t c = 0; c < depth; c += 32) {
        const int64_t columns = min64(32, depth - c);
        pack_pairs(image, image_rows, m.pairs, c, columns);
        for (int64_t piece = 0; piece < pieces; piece++) {
          const int64_t i0 = even_start(items, pieces, piece), i1 = even_start(items, pieces, piece + 1);
          const bool first = block == begin && piece == 0;
          for (int64_t o = 0; o < outputs; o += 32)
            for (int64_t tap = 0; tap < taps; tap++) {
              const MatrixTap& t = tap_table[tap];
              MatrixCall k;
              int64_t line = i0;
              k.lines = 1;
              k.steps = i1 - i0;
              k.line_bytes = 0;
              int64_t pair = t.pair + i0 * kPairStep;
              if (m.lines > 1) {
                line = max64(i0, t.first);
                k.lines = min64(i1, t.last) - line;
                if (k.lines <= 0) {
                  if (!first) continue;
                  line = i0, k.lines = 1;  // a row of padding: zeros
                }
                k.steps = m.line_steps;
                k.line_bytes = m.pitch * m.pictures * kPairBytes;
                pair = t.pair + line * m.pitch * m.pictures;
              }
              k.left = delta + (o / 32 * m.steps + line * item_steps) * kStripBytes;
              k.right[0] = image + pair * kPairBytes;
              k.right[1] = k.right[0] + m.pairs * kPairBytes;
              finish.each = ceil_div(finish.rows, 6 * k.lines * k.steps);
              float* to = sums[turn];
              if (outputs - o > 16) columns > 16 ? sum_pairs<2, 2>(k, to, finish) : sum_pairs<2, 1>(k, to, finish);
              else columns > 16 ? sum_pairs<1, 2>(k, to, finish) : sum_pairs<1, 1>(k, to, finish);
              finish.sums = to;
              finish.to = dw + (o * taps + tap) * p.depth + c;
              finish.stride = stride;
              finish.rows = min64(32, outputs - o);
              finish.row = 0;
              finish.first = static_cast<__mmask16>((1u << min64(16, columns)) - 1);
              finish.second = static_cast<__mmask16>((1u << max64(0, columns - 16)) - 1);
              finish.add = !first;
              turn ^= 1;
            }
        }
      }
    }
    stop_tiles();
    finish.each = finish.rows;
    finish.some();
    if (finish.nan) __atomic_store_n(&nan, true, __ATOMIC_RELAXED);
  });
  if (nan) return false;
  if (m.chunks > 1)
    parallel_ranges(call, total, 4096, [&](int64_t first, int64_t last) {
      for (int64_t s = 0; s < m.chunks - 1; s++) {
        const float* from = partial + s * total;
        for (int64_t i = first; i < last; i++) p.dw[i] += from[i];
      }
    });
  return true;
}

}  // namespace
}  // namespace auxgrad
#endif

namespace auxgrad {
namespace {

inline int64_t dense_gradient_scratch(const WeightGradient& p, int threads) {
  int64_t bytes = suits_patches(p) ? patch_gradient_scratch(p, threads) : weight_gradient_scratch(p, threads);
#if defined(AUXGRAD_HAS_AMX)
  if (amx_possible() && has_gradient(p)) {
    const MatrixGradient m = plan_matrix_gradient(p);
    if (suits_matrix(p, m))
      bytes = max64(bytes, max64(matrix_gradient_scratch(p, m, threads), weight_gradient_scratch(p, threads)));
  }
#endif
  return bytes;
}

// On the matrix unit, by minimal filtering or in multiply-adds, by shape; what the matrix unit gives up, as there are
// infinities or NaN among the operands, in multiply-adds.
inline void run_dense_gradient(const Call& call, const WeightGradient& p) {
#if defined(AUXGRAD_HAS_AMX)
  if (amx_in_force() && has_gradient(p)) {
    const MatrixGradient m = plan_matrix_gradient(p);
    if (suits_matrix(p, m)) {
      if (!run_matrix_gradient(call, p, m)) run_weight_gradient(call, p);
      return;
    }
  }
#endif
  if (suits_patches(p)) run_patch_gradient(call, p);
  else run_weight_gradient(call, p);
}

}  // namespace
}  // namespace auxgrad
