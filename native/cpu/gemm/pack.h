// Operands on their way into a matrix product: copies, packed panels, bits of signs.
#pragma once
#include "vector.h"

namespace auxgrad {
namespace {

// rows x columns floats into rows `step` apart; `positive` is added to those above 0, `negative` to the others.
__attribute__((noinline)) void copy_rows(const float* from, int64_t row, int64_t column, int64_t rows, int64_t columns,
                                         float* to, int64_t step, float positive, float negative) {
  const bool signs = positive != 0 || negative != 0;
  const Vec p = broadcast(positive), q = broadcast(negative);
  for (int64_t r = 0; r < rows; r++, from += row, to += step) {
    int64_t i = 0;
    if (column == 1) {
      if (signs)
        for (; i + kLanes <= columns; i += kLanes) store(to + i, add_signs(load(from + i), p, q));
      else
        for (; i + kLanes <= columns; i += kLanes) store(to + i, load(from + i));
    }
    if (column == 1 && i < columns) {
      const Vec x = load_part(from + i, columns - i);
      store_part(to + i, signs ? add_signs(x, p, q) : x, columns - i);
      continue;
    }
    for (; i < columns; i++) {
      const float x = from[i * column];
      to[i] = signs ? x + (x > 0 ? positive : negative) : x;
    }
  }
}

// The same for the steps of a tile whose rows are neighbours: `rows` floats, of `readable`, each `step` floats, into
// steps kLeftStep apart.
constexpr int64_t kLeftStep = (kTileRows + kLanes - 1) / kLanes * kLanes;
inline void copy_columns(const float* from, int64_t step, int64_t rows, int64_t readable, int64_t depth, float* to,
                         float positive, float negative) {
  const bool signs = positive != 0 || negative != 0;
  const Vec p = broadcast(positive), q = broadcast(negative);
  for (int64_t i = 0; i < rows; i += kLanes) {
    const int64_t n = min64(kLanes, readable - i);
    const float* x = from + i;
    float* out = to + i;
    if (n == kLanes && !signs) {
      for (int64_t k = 0; k < depth; k++, x += step, out += kLeftStep) store(out, load(x));
    } else {
      for (int64_t k = 0; k < depth; k++, x += step, out += kLeftStep) {
        const Vec v = n == kLanes ? load(x) : load_part(x, n);
        store(out, signs ? add_signs(v, p, q) : v);
      }
    }
  }
}

// Columns [0, kLanes) of a panel whose columns lie contiguously `column` apart: to[k * width] = those at k.
template <class Column>
inline void pack_columns(const Column& column, int64_t depth, int width, float* to) {
  int64_t k = 0;
  for (; k + 4 <= depth; k += 4, to += 4 * width) {
    Vec v[4];
    AUXGRAD_UNROLL
    for (int q = 0; q < 4; q++) v[q] = load_groups([&](int l) { return column(4 * l + q) + k; });
    transpose_groups(v);
    AUXGRAD_UNROLL
    for (int q = 0; q < 4; q++) store(to + q * width, v[q]);
  }
  for (; k < depth; k++, to += width)
    for (int c = 0; c < kLanes; c++) to[c] = column(c)[k];
}

// A panel of `width` columns, of which `columns` exist, to[k * width + c]. What stands in the others is never used.
inline void pack_right(const float* b, int64_t b_k, int64_t b_column, int64_t depth, int64_t columns, int width,
                       float* to) {
  for (int64_t c = 0; c < columns; c += kLanes) {
    const float* from = b + c * b_column;
    const int64_t n = min64(kLanes, columns - c);
    if (b_k == 1 && n == kLanes) {
      pack_columns([=](int i) { return from + i * b_column; }, depth, width, to + c);
    } else if (b_k == 1) {
      pack_columns([=](int i) { return from + min64(i, n - 1) * b_column; }, depth, width, to + c);
    } else {
      for (int64_t k = 0; k < depth; k++) {
        for (int64_t i = 0; i < n; i++) to[k * width + c + i] = from[k * b_k + i * b_column];
        for (int64_t i = n; i < kLanes; i++) to[k * width + c + i] = 0;
      }
    }
  }
}

// A whole panel of a B that lies by rows.
inline void copy_panel(const float* b, int64_t b_k, int64_t depth, float* to) {
  for (int64_t k = 0; k < depth; k++, b += b_k, to += kTileColumns) {
    AUXGRAD_UNROLL
    for (int v = 0; v < kTileColumns; v += kLanes) store(to + v, load(b + v));
  }
}

// The steps of a tile, as copy_columns() leaves them, from rows `row` apart.
inline void turn_rows(const float* from, int64_t row, int64_t rows, int64_t depth, float* to, float positive,
                      float negative) {
  pack_right(from, 1, row, depth, rows, kLeftStep, to);
  if (positive == 0 && negative == 0) return;
  const Vec p = broadcast(positive), q = broadcast(negative);
  for (int64_t i = 0; i < depth * kLeftStep; i += kLanes) store(to + i, add_signs(load(to + i), p, q));
}

// Words of the bits of x > 0 for rows [r0, r1) and columns [k0, k1): bit r % 32 of words[r / 32 * columns + k]. Rows of a
// word come in order; bits beyond them are 0.
__attribute__((noinline)) void pack_signs(const float* x, int64_t row, int64_t column, int64_t r0, int64_t r1,
                                          int64_t k0, int64_t k1, uint32_t* words, int64_t columns) {
  for (int64_t r = r0, next; r < r1; r = next) {
    next = min64(r1, (r / 32 + 1) * 32);
    const int64_t n = next - r, shift = r % 32;
    uint32_t* out = words + r / 32 * columns;
    int64_t k = k0;
    constexpr int kTogether = 4;  // words of vectors side by side: rows may be pages apart
    if (column == 1)
      for (; k + kTogether * kLanes <= k1; k += kTogether * kLanes) {
        BitWords word[kTogether] = {}, bit = BitWords{} + 1;
        for (int64_t t = 0; t < n; t++, bit += bit) {
          AUXGRAD_UNROLL
          for (int v = 0; v < kTogether; v++)
            word[v] = mark_positive(word[v], load(x + (r + t) * row + k + v * kLanes), bit);
        }
        AUXGRAD_UNROLL
        for (int v = 0; v < kTogether; v++) place_bits(word[v], out + k + v * kLanes, columns, shift, n);
      }
    if (column == 1)
      for (; k + kLanes <= k1; k += kLanes) {
        BitWords word = {}, bit = BitWords{} + 1;
        for (int64_t t = 0; t < n; t++, bit += bit) word = mark_positive(word, load(x + (r + t) * row + k), bit);
        place_bits(word, out + k, columns, shift, n);
      }
    for (; k < k1; k++) {
      uint32_t word = 0;
      for (int64_t t = 0; t < n; t++) word |= static_cast<uint32_t>(x[(r + t) * row + k * column] > 0) << t;
      place_bits(word, out + k, columns, shift, n);
    }
  }
}

// copy_rows() of rows r... that lie contiguously and, in one pass, pack_signs() of them: words[r / 32 * columns + k].
inline void copy_signed_rows(const float* from, int64_t row, int64_t r, int64_t rows, int64_t depth, float* to,
                             int64_t step, float positive, float negative, uint32_t* words, int64_t columns) {
  const Vec p = broadcast(positive), q = broadcast(negative);
  uint32_t* out = words + r / 32 * columns;
  constexpr int kTogether = 4;  // as in pack_signs()
  int64_t k = 0;
  for (; k + kTogether * kLanes <= depth; k += kTogether * kLanes) {
    BitWords word[kTogether] = {}, bit = BitWords{} + 1;
    for (int64_t t = 0; t < rows; t++, bit += bit) {
      AUXGRAD_UNROLL
      for (int v = 0; v < kTogether; v++) {
        const Vec x = load(from + t * row + k + v * kLanes);
        word[v] = mark_positive(word[v], x, bit);
        store(to + t * step + k + v * kLanes, add_signs(x, p, q));
      }
    }
    AUXGRAD_UNROLL
    for (int v = 0; v < kTogether; v++) place_bits(word[v], out + k + v * kLanes, columns, r % 32, rows);
  }
  pack_signs(from - r * row, row, 1, r, r + rows, k, depth, words, columns);
  copy_rows(from + k, row, 1, rows, depth - k, to + k, step, positive, negative);
}

}  // namespace
}  // namespace auxgrad
