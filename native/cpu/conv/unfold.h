// Windows of few channels for the matrix unit, which wants a depth of 32: what a row of a window reads lies side by side,
// columns x channels, and is taken for the channels of one position; so are several rows where 32 hold them. A window of
// 3x3x3 numbers is then one tap of 27 channels, one of 7x7x3 seven of 21.
#pragma once
#include "../amx/tiles.h"
#include "window.h"

#if defined(AUXGRAD_HAS_AMX)
namespace auxgrad {
namespace {

constexpr int64_t kUnfolded = 32, kUnfoldedRow = 8;  // channels at most, and of a row at least

// The product that reads unfolded windows, or `p` itself where windows are none or hold too much.
__attribute__((noinline)) Product unfolded(const Product& p) {
  const Axis &v = p.vertical, &h = p.horizontal;
  const int64_t reach = h.taps * p.depth;
  const bool in_order = p.k_step == 1 && p.tap_step == p.depth && p.c_step == v.taps * reach && h.tap_step == 1 &&
                        h.kernel_step == 1 && v.kernel_step == 1;
  if (!in_order || p.groups != 1 || h.taps < 2 || reach < kUnfoldedRow || reach > kUnfolded) return p;
  int64_t rows = min64(v.taps, kUnfolded / reach);
  while (v.taps % rows != 0) rows--;
  Product u = p;
  u.window = {rows, v.tap_step, h.taps};
  u.vertical.taps = v.taps / rows;
  u.vertical.tap_step = v.tap_step * rows;
  u.horizontal.taps = 1;
  u.kernel_columns = 1;
  u.depth = u.tap_step = rows * reach;
  return u;
}

// Bits of the channels of a window that some of its columns hold, the same in each row.
inline uint32_t window_lanes(const Window& w, int64_t channels, int64_t from, int64_t to) {
  const uint64_t row = (1ull << (to * channels)) - (1ull << (from * channels));
  uint64_t lanes = 0;
  for (int64_t r = 0; r < w.rows; r++) lanes |= row << (r * w.columns * channels);
  return static_cast<uint32_t>(lanes);
}
// Those whose columns are in the image, of the window that begins at `column`.
__attribute__((noinline)) uint32_t columns_inside(const Window& w, const Image& image, int64_t column) {
  const int64_t from = min64(w.columns, max64(0, -column));
  return window_lanes(w, image.channels, from, max64(from, min64(w.columns, image.columns - column)));
}
// Those whose rows are in the image, of the window that begins at `row`.
inline uint32_t rows_inside(const Window& w, const Image& image, int64_t row) {
  const int64_t reach = w.columns * image.channels;
  uint64_t lanes = 0;
  for (int64_t r = 0; r < w.rows; r++) {
    const int64_t at = row + r * w.row_step;
    if (at >= 0 && at < image.rows) lanes |= ((1ull << reach) - 1) << (r * reach);
  }
  return static_cast<uint32_t>(lanes);
}

// What rows of a window have in each of the two vectors of a position, two of them at most: lanes, and where lane 0 would
// lie.
struct WindowPiece {
  int64_t at;
  uint32_t lanes;
};
typedef WindowPiece WindowPieces[2][2];
inline void cut_window(const Window& w, const Image& image, WindowPieces& pieces) {
  const int64_t reach = w.columns * image.channels;
  for (int v = 0; v < 2; v++) {
    int count = 0;
    pieces[v][0] = pieces[v][1] = {0, 0};
    for (int64_t r = 0; r < w.rows; r++) {
      const uint64_t lanes = (((1ull << reach) - 1) << (r * reach)) >> (16 * v) & 0xffff;
      const int64_t at = r * (w.row_step * image.columns * image.channels - reach) + 16 * v;
      if (lanes) pieces[v][count++] = {at, static_cast<uint32_t>(lanes)};
    }
  }
}

}  // namespace
}  // namespace auxgrad
#endif
