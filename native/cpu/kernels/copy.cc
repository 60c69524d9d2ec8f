// Moving elements to other places: copies of strided views, fills, windows, joins.
#include "../../core/moves.h"

#include "../bypass.h"
#include "../vector.h"

namespace auxgrad {
namespace {

template <class E>
__attribute__((noinline)) void copy_apart(char* to, int64_t to_step, const char* from, int64_t from_step, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    reinterpret_cast<E*>(to)[i * to_step] = reinterpret_cast<const E*>(from)[i * from_step];
}

// A run of bytes, mostly short.
void copy_run(char* to, const char* from, int64_t bytes, bool past) {
  constexpr int64_t kBytes = sizeof(Vec);
  if (past) return bypass_copy(to, from, bytes);
  if (bytes > 1024 || bytes < kBytes) {
    memcpy(to, from, static_cast<size_t>(bytes));
    return;
  }
  for (int64_t i = 0;; i = min64(i + kBytes, bytes - kBytes)) {
    memcpy(to + i, from + i, kBytes);
    if (i == bytes - kBytes) return;
  }
}

// x (any strides) into the output, from y on and with the strides given. The last two axes are walked in blocks.
__attribute__((noinline)) void copy_elements(const Call& call, const View& x, void* y, const int64_t* y_stride) {
  if (x.count() == 0) return;
  // Neighbours made one where both sides allow; two at least.
  int rank = 2;
  int64_t shape[kMaxRank + 2] = {1, 1}, from[kMaxRank + 2] = {}, to[kMaxRank + 2] = {};
  for (int axis = 0; axis < x.rank; axis++) {
    int64_t n = x.shape[axis];
    if (n == 1) continue;
    if (shape[rank - 1] > 1 && from[rank - 1] == x.stride[axis] * n && to[rank - 1] == y_stride[axis] * n)
      n *= shape[--rank];
    shape[rank] = n, from[rank] = x.stride[axis], to[rank++] = y_stride[axis];
  }
  const int64_t size = dtype_size(x.dtype);
  const int rows = rank - 2, columns = rank - 1;
  const bool runs = from[columns] == 1 && to[columns] == 1;
  // Of short rows columns are walked instead.
  const bool down = !runs && shape[columns] < 16 && shape[rows] > shape[columns];
  bool past = runs && too_large(call.out[0]) && lines_apart(y, shape[columns] * size);
  for (int axis = 0; axis < columns; axis++) past = past && lines_apart(nullptr, to[axis] * size);
  const int64_t width = min64(shape[columns], 65536), height = min64(shape[rows], ceil_div(16384, width));
  const int64_t across = ceil_div(shape[columns], width), along = ceil_div(shape[rows], height);
  const auto copy = size == 1 ? copy_apart<uint8_t> : size == 2 ? copy_apart<uint16_t> : copy_apart<uint32_t>;
  int64_t tiles = across * along;
  for (int axis = 0; axis < rows; axis++) tiles *= shape[axis];
  parallel_ranges(call, tiles, max64(1, 32768 / (width * height)), [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; tile++) {
      const int64_t column = tile % across * width, row = tile / across % along * height;
      const int64_t n = min64(width, shape[columns] - column), m = min64(height, shape[rows] - row);
      int64_t source = row * from[rows] + column * from[columns], target = row * to[rows] + column * to[columns];
      int64_t rest = tile / across / along;
      for (int axis = rows - 1; axis >= 0 && rest > 0; axis--) {
        source += rest % shape[axis] * from[axis];
        target += rest % shape[axis] * to[axis];
        rest /= shape[axis];
      }
      const char* p = static_cast<const char*>(x.data) + source * size;
      char* q = static_cast<char*>(y) + target * size;
      const int64_t p_row = from[rows] * size, q_row = to[rows] * size;
      if (down)
        for (int64_t j = 0; j < n; j++)
          copy(q + j * to[columns] * size, to[rows], p + j * from[columns] * size, from[rows], m);
      else
        for (int64_t i = 0; i < m; i++) {
          if (runs) copy_run(q + i * q_row, p + i * p_row, n * size, past);
          else copy(q + i * q_row, to[columns], p + i * p_row, from[columns], n);
        }
    }
    if (past) end_bypass();
  });
}

// x to the output, `offset` elements into it.
void copy_at(const Call& call, const View& x, int64_t offset, const int64_t* stride) {
  copy_elements(call, x, call.out[0].u8() + offset * dtype_size(x.dtype), stride);
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
  if (dtype_size(x.dtype) != 4 || !copy_transposed(call)) copy_elements(call, x, y.data, y.stride);
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
  copy_at(call, call.in[0], at.offset, at.stride);
  return true;
}

// concat
bool concat(const Call& call) {
  return each_joined(call, [&](const View& x, int64_t offset) {
    copy_at(call, x, offset, call.out[0].stride);
    return true;
  });
}

// flip
bool flip(const Call& call) {
  copy_at(call, flipped(call), 0, call.out[0].stride);
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
