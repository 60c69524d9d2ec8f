// Moving elements: contiguous copies of strided views, fills.
#include "../copy.h"
#include "../fill.h"
#include "../vector.h"

namespace auxgrad {
namespace {

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

// fill: -> y, every element number[0]
bool fill(const Call& call) {
  fill_view(call, call.out[0], call.number[0]);
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"contiguous", contiguous}, {"fill", fill})
