// Moving elements to other places: copies of strided views, fills, windows, joins.
#include "../../core/moves.h"

#include "../bypass.h"
#include "../vector.h"

namespace auxgrad {
namespace {

// Copies x (any strides) to y with the given strides, both of x's shape, element type E.
template <class E>
void copy_to(const Call& call, const View& x, E* y, const int64_t* y_stride) {
  const E* source = static_cast<const E*>(x.data);
  // The longest run of last axes that lie contiguously on both sides is copied piece by piece.
  int outer = x.rank;
  int64_t run = 1;
  while (outer > 0 && (x.shape[outer - 1] == 1 || (x.stride[outer - 1] == run && y_stride[outer - 1] == run)))
    run *= x.shape[--outer];
  const bool runs = outer < x.rank || outer == 0;
  const int last = runs ? outer : outer - 1;  // axes walked row by row
  const int64_t inner = runs ? run : x.shape[last];
  const int64_t from_step = runs ? 1 : x.stride[last], to_step = runs ? 1 : y_stride[last];
  if (inner == 0) return;
  const int64_t piece = min64(inner, 65536), pieces = ceil_div(inner, piece);
  parallel_ranges(call, x.count(0, last) * pieces, max64(1, 16384 / piece), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t first = i % pieces * piece, n = min64(piece, inner - first);
      int64_t from = first * from_step, to = first * to_step, rest = i / pieces;
      for (int axis = last - 1; axis >= 0; axis--) {
        const int64_t at = rest % x.shape[axis];
        rest /= x.shape[axis];
        from += at * x.stride[axis];
        to += at * y_stride[axis];
      }
      if (runs) memcpy(y + to, source + from, static_cast<size_t>(n) * sizeof(E));
      else
        for (int64_t k = 0; k < n; k++) y[to + k * to_step] = source[from + k * from_step];
    }
  });
}

// The copy with elements moved as raw bits; `offset` elements into y.
void copy_bits(const Call& call, const View& x, const View& y, int64_t offset, const int64_t* y_stride) {
  switch (dtype_size(x.dtype)) {
    case 1: return copy_to<uint8_t>(call, x, y.u8() + offset, y_stride);
    case 2: return copy_to<uint16_t>(call, x, y.bf16() + offset, y_stride);
    default: return copy_to<uint32_t>(call, x, y.u32() + offset, y_stride);
  }
}

constexpr int64_t kLarge = 1 << 20;  // elements of an output that is not kept in the caches anyway
// A block: the source is read in runs of so many elements, as far as processors fetch ahead, the output written in runs of
// so many, more than a line to each page.
constexpr int64_t kHeight = 1024, kRun = 4 * kLineFloats;

// 4-byte elements whose dense axis is not the last one: squares of vectors are turned on the way. False if x is not so.
bool copy_transposed(const Call& call) {
  const View &x = call.in[0], &y = call.out[0];
  const int last = x.rank - 1;
  int dense = -1;
  for (int axis = 0; axis < last; axis++)
    if (x.stride[axis] == 1 && x.shape[axis] >= kLanes) dense = axis;
  if (dense < 0 || x.stride[last] <= 1 || x.shape[last] < kLanes) return false;
  const int64_t rows = x.shape[dense], columns = x.shape[last], pitch = x.count(dense + 1, x.rank),
                step = x.stride[last];
  const int64_t row_blocks = ceil_div(rows, kHeight), runs = ceil_div(columns, kRun),
                outer = y.count() / (rows * columns);
  parallel_ranges(
      call, outer * row_blocks * runs, max64(1, 32768 / (kRun * min64(rows, kHeight))),
      [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; task++) {
          const int64_t j0 = task % runs * kRun, i0 = task / runs % row_blocks * kHeight;
          int64_t from = i0 + j0 * step, to = i0 * pitch + j0, rest = task / row_blocks / runs, dense_step = columns;
          for (int axis = last - 1; axis >= 0; axis--) {
            if (axis != dense) {
              from += rest % x.shape[axis] * x.stride[axis];
              to += rest % x.shape[axis] * dense_step;
              rest /= x.shape[axis];
            }
            dense_step *= x.shape[axis];
          }
          const float* source = x.f32() + from;
          float* target = y.f32() + to;
          const bool past = kCanBypass && y.count() >= kLarge && lines_apart(target, pitch * 4);
          const int64_t height = min64(kHeight, rows - i0), stop = min64(columns - j0, kRun);
          // Lines are read, and stored past the caches, whole: those of several squares by way of a tile.
          const bool straight = past && kLanes == kLineFloats, aside = past && !straight && stop % kLineFloats == 0;
          // A square at (i, j), to rows `apart`; edges by elements.
          const auto turn = [&](int64_t i, int64_t j, float* out, int64_t apart) __attribute__((noinline)) {
            const int64_t m = min64(kLanes, height - i), n = min64(kLanes, stop - j);
            const float* corner = source + j * step + i;
            if (m == kLanes && n == kLanes) {
              Vec block[kLanes];
              AUXGRAD_UNROLL
              for (int k = 0; k < kLanes; k++) block[k] = load(corner + k * step);
              transpose(block);
              AUXGRAD_UNROLL
              for (int k = 0; k < kLanes; k++) put(straight, WholeLanes(), out + k * apart, block[k]);
            } else {
              for (int64_t r = 0; r < m; r++)
                for (int64_t k = 0; k < n; k++) memcpy(out + r * apart + k, corner + k * step + r, 4);
            }
          };
          for (int64_t top = 0; top < height; top += kLineFloats) {
            const int64_t bottom = min64(height, top + kLineFloats), apart = aside ? kRun : pitch;
            alignas(64) float tile[kLineFloats * kRun];
            float* out = aside ? tile : target + top * pitch;
            for (int64_t j = 0; j < stop; j += kLanes)
              for (int64_t i = top; i < bottom; i += kLanes) turn(i, j, out + (i - top) * apart + j, apart);
            for (int64_t i = top; aside && i < bottom; i++)
              bypass_copy(target + i * pitch, tile + (i - top) * kRun, stop * 4);
          }
        }
        end_bypass();
      });
  return true;
}

// contiguous: x (any strides, any dtype) -> y (contiguous, same dtype and shape)
bool contiguous(const Call& call) {
  const View &x = call.in[0], &y = call.out[0];
  if (dtype_size(x.dtype) != 4 || !copy_transposed(call)) copy_bits(call, x, y, 0, y.stride);
  return true;
}

template <class E>
void fill_with(const Call& call, E* y, E value) {
  parallel_ranges(call, call.out[0].count(), 65536, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) y[i] = value;
  });
}

// fill: -> y, every element number[0]
bool fill(const Call& call) {
  const View& y = call.out[0];
  const uint32_t bits = element_bits(y.dtype, call.number[0]);
  switch (dtype_size(y.dtype)) {
    case 1: fill_with(call, y.u8(), static_cast<uint8_t>(bits)); break;
    case 2: fill_with(call, y.bf16(), static_cast<uint16_t>(bits)); break;
    default: fill_with(call, y.u32(), bits);
  }
  return true;
}

// place
bool place(const Call& call) {
  const Window at(call);
  fill(call);
  copy_bits(call, call.in[0], call.out[0], at.offset, at.stride);
  return true;
}

// concat
bool concat(const Call& call) {
  return each_joined(call, [&](const View& x, int64_t offset) {
    copy_bits(call, x, call.out[0], offset, call.out[0].stride);
    return true;
  });
}

// flip
bool flip(const Call& call) {
  copy_bits(call, flipped(call), call.out[0], 0, call.out[0].stride);
  return true;
}

// triangle: x [..., M, N] f32 -> y, zero where column - row > diagonal (lower) or < diagonal (upper)
// numbers: diagonal, 1 for the upper triangle
bool triangle(const Call& call) {
  const View& x = call.in[0];
  const int64_t columns = x.shape[x.rank - 1], rows = x.shape[x.rank - 2];
  const int64_t diagonal = call.integer(0);
  const bool upper = call.integer(1) != 0;
  parallel_ranges(call, x.count(0, x.rank - 1), max64(1, 16384 / max64(columns, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const int64_t border = r % rows + diagonal;
      for (int64_t c = 0; c < columns; c++)
        call.out[0].f32()[r * columns + c] = (upper ? c >= border : c <= border) ? x.f32()[r * columns + c] : 0.0f;
    }
  });
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"contiguous", contiguous}, {"fill", fill}, {"place", place}, {"concat", concat}, {"flip", flip},
                {"triangle", triangle})
