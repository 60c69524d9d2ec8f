// Copies between strided views, of elements as raw bits.
#pragma once
#include "bypass.h"

namespace auxgrad {
namespace {

template <class E>
__attribute__((noinline)) void copy_apart(char* to, int64_t to_step, const char* from, int64_t from_step, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    reinterpret_cast<E*>(to)[i * to_step] = reinterpret_cast<const E*>(from)[i * from_step];
}

// A run of bytes, mostly short.
inline void copy_run(char* to, const char* from, int64_t bytes, bool past) {
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
__attribute__((noinline)) inline void copy_elements(const Call& call, const View& x, void* y, const int64_t* y_stride) {
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

}  // namespace
}  // namespace auxgrad
