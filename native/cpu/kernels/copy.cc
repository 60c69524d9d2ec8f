// Moving elements: contiguous copies of strided views, fills.
#include "../bypass.h"
#include "../fill.h"
#include "../vector.h"

namespace auxgrad {
namespace {

// Copies an n-d strided view into a contiguous output, element size E bytes, rows of the last axis in parallel.
template <class E>
void copy_strided(const Call& call) {
  const View &x = call.in[0], &y = call.out[0];
  const E* source = static_cast<const E*>(x.data);
  E* target = static_cast<E*>(y.data);
  const int rank = x.rank;
  const int64_t inner = rank ? x.shape[rank - 1] : 1;
  const int64_t inner_stride = rank ? x.stride[rank - 1] : 1;
  const int64_t rows = rank ? x.count(0, rank - 1) : 1;
  if (inner == 0) return;
  const int64_t grain = max64(1, 16384 / inner);
  parallel_ranges(call, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      int64_t offset = 0, rest = row;
      for (int axis = rank - 2; axis >= 0; axis--) {
        offset += rest % x.shape[axis] * x.stride[axis];
        rest /= x.shape[axis];
      }
      const E* from = source + offset;
      E* to = target + row * inner;
      if (inner_stride == 1) memcpy(to, from, static_cast<size_t>(inner) * sizeof(E));
      else
        for (int64_t i = 0; i < inner; i++) to[i] = from[i * inner_stride];
    }
  });
}

constexpr int64_t kLarge = 1 << 20;        // elements of an output that is not kept in the caches anyway
constexpr int64_t kSquares = 64 / kLanes;  // side by side: the source is read in runs of so many vectors

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
  const int64_t row_blocks = ceil_div(rows, kSquares * kLanes), outer = y.count() / (rows * columns);
  const int64_t run = max64(kLanes, min64(columns, 4096 / kLanes)), runs = ceil_div(columns, run);
  parallel_ranges(
      call, outer * row_blocks * runs,
      max64(1, 32768 / (run * kSquares * kLanes)), [&](int64_t begin, int64_t end) __attribute__((noinline)) {
        for (int64_t task = begin; task < end; task++) {
          const int64_t i0 = task % row_blocks * kSquares * kLanes, j0 = task / row_blocks % runs * run;
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
          const int64_t height = min64(kSquares * kLanes, rows - i0), stop = min64(columns, j0 + run) - j0;
          // A square at (i, j), to rows `apart`; edges by elements.
          const auto turn = [&](int64_t i, int64_t j, float* out, int64_t apart, bool aside) __attribute__((noinline)) {
            const int64_t m = min64(kLanes, height - i), n = min64(kLanes, stop - j);
            const float* corner = source + j * step + i;
            if (m == kLanes && n == kLanes) {
              Vec block[kLanes];
              AUXGRAD_UNROLL
              for (int k = 0; k < kLanes; k++) block[k] = load(corner + k * step);
              transpose(block);
              AUXGRAD_UNROLL
              for (int k = 0; k < kLanes; k++) put(past && !aside, WholeLanes(), out + k * apart, block[k]);
            } else {
              for (int64_t r = 0; r < m; r++)
                for (int64_t k = 0; k < n; k++) memcpy(out + r * apart + k, corner + k * step + r, 4);
            }
          };
          // Lines are read, and stored past the caches, whole.
          for (int64_t line = 0; line < stop; line += kLineFloats)
            for (int64_t top = 0; top < height; top += kLineFloats) {
              const int64_t right = min64(stop, line + kLineFloats), bottom = min64(height, top + kLineFloats);
              alignas(64) float tile[kLineFloats * kLineFloats];
              const bool aside = kLanes < kLineFloats && past && right - line == kLineFloats;
              float* out = aside ? tile : target + top * pitch + line;
              const int64_t apart = aside ? kLineFloats : pitch;
              for (int64_t j = line; j < right; j += kLanes)
                for (int64_t i = top; i < bottom; i += kLanes)
                  turn(i, j, out + (i - top) * apart + j - line, apart, aside);
              for (int64_t i = top; aside && i < bottom; i++)
                bypass_copy(target + i * pitch + line, tile + (i - top) * kLineFloats, 64);
            }
        }
        end_bypass();
      });
  return true;
}

// contiguous: x (any strides, any dtype) -> y (contiguous, same dtype and shape)
bool contiguous(const Call& call) {
  switch (dtype_size(call.in[0].dtype)) {
    case 1: copy_strided<uint8_t>(call); break;
    case 2: copy_strided<uint16_t>(call); break;
    default:
      if (!copy_transposed(call)) copy_strided<uint32_t>(call);
  }
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
