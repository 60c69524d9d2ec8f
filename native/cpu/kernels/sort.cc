// Sorting along the last axis, and running sums.
#include "../../core/sort_key.h"
#include "../unit.h"

namespace auxgrad {
namespace {

// Puts an item in its place among those of a that come before place j, in order.
inline void insert(uint64_t* a, int64_t j, uint64_t item) {
  for (; j > 0 && a[j - 1] > item; j--) a[j] = a[j - 1];
  a[j] = item;
}

// Bottom-up merge sort; returns which of the two arrays holds the result. Items are distinct (they end in a position).
uint64_t* merge_sort(uint64_t* a, uint64_t* b, int64_t n) {
  constexpr int64_t kRun = 16;
  for (int64_t start = 0; start < n; start += kRun)
    for (int64_t i = start + 1; i < min64(n, start + kRun); i++) insert(a + start, i - start, a[i]);
  for (int64_t width = kRun; width < n; width *= 2) {
    for (int64_t start = 0; start < n; start += 2 * width) {
      const int64_t middle = min64(n, start + width), end = min64(n, start + 2 * width);
      int64_t i = start, j = middle;
      for (int64_t k = start; k < end; k++) b[k] = j >= end || (i < middle && a[i] < a[j]) ? a[i++] : a[j++];
    }
    uint64_t* t = a;
    a = b;
    b = t;
  }
  return a;
}

// sort: x [..., n] f32 or i32 -> the first k values, their positions i32; stable; NaN counts as the largest
// numbers: 1 for descending order. k is the outputs' last size.
int64_t sort_scratch(const Call& call, int threads) {
  const View& x = call.in[0];
  return 2 * threads * x.shape[x.rank - 1] * static_cast<int64_t>(sizeof(uint64_t));
}

template <class T>
void sort_rows(const Call& call) {
  const View& x = call.in[0];
  const int64_t n = x.shape[x.rank - 1], k = call.out[1].shape[x.rank - 1];
  const uint32_t turn = call.integer(0) ? 0xffffffffu : 0;
  constexpr int64_t kFew = 16;  // first ones that are found without sorting the others
  if (k == 0) return;
  parallel_tasks(call, x.count(0, x.rank - 1), [&](int64_t row, int thread) {
    uint64_t* a = static_cast<uint64_t*>(call.scratch) + 2 * thread * n;
    const T* from = static_cast<const T*>(x.data) + row * n;
    const bool few = k <= kFew;
    for (int64_t i = 0; i < n; i++) {
      const uint64_t item = static_cast<uint64_t>(sort_key(from[i]) ^ turn) << 32 | static_cast<uint32_t>(i);
      if (!few) a[i] = item;
      else if (i < k || item < a[k - 1]) insert(a, min64(i, k - 1), item);
    }
    const uint64_t* sorted = few ? a : merge_sort(a, a + n, n);
    for (int64_t i = 0; i < k; i++) {
      const uint32_t at = static_cast<uint32_t>(sorted[i]);
      static_cast<T*>(call.out[0].data)[row * k + i] = from[at];
      call.out[1].i32()[row * k + i] = static_cast<int32_t>(at);
    }
  });
}

bool sort(const Call& call) {
  if (call.in[0].dtype == DType::i32) sort_rows<int32_t>(call);
  else sort_rows<float>(call);
  return true;
}

// cumsum: x f32 -> running sums along an axis, in double; numbers: axis, 1 to run from the end
bool cumsum(const Call& call) {
  constexpr int64_t kColumns = 1024;  // side by side: rows are read as they lie
  const View& x = call.in[0];
  const int axis = static_cast<int>(call.integer(0));
  const bool reverse = call.integer(1) != 0;
  const int64_t n = x.shape[axis], inner = x.count(axis + 1, x.rank), blocks = ceil_div(inner, kColumns);
  if (x.count() == 0) return true;
  const int64_t step = reverse ? -inner : inner, work = n * min64(inner, kColumns);
  parallel_ranges(call, x.count(0, axis) * blocks, max64(1, 8192 / work), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++) {
      const int64_t first = task % blocks * kColumns, columns = min64(kColumns, inner - first);
      int64_t at = (task / blocks * n + (reverse ? n - 1 : 0)) * inner + first;
      if (inner == 1) {
        double sum = 0;
        for (int64_t i = 0; i < n; i++, at += step) {
          sum += x.f32()[at];
          call.out[0].f32()[at] = static_cast<float>(sum);
        }
        continue;
      }
      double sum[kColumns];
      for (int64_t c = 0; c < columns; c++) sum[c] = 0;
      for (int64_t i = 0; i < n; i++, at += step) {
        const float* in = x.f32() + at;
        float* y = call.out[0].f32() + at;
        for (int64_t c = 0; c < columns; c++) {
          sum[c] += in[c];
          y[c] = static_cast<float>(sum[c]);
        }
      }
    }
  });
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"sort", sort, sort_scratch}, {"cumsum", cumsum})
