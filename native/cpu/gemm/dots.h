// Products of few rows with columns that lie contiguously, as weights do where a text is generated token by token: sums
// along K of some columns side by side, which are read once and where they are.
#pragma once
#include "vector.h"

namespace auxgrad {
namespace {

// out[m][n] (+)= the product of row m of `left` and column n of `right` over `depth` terms.
struct Dots {
  int rows;
  const float* left;
  int64_t left_step;
  const float* right;
  int64_t right_step;
  int64_t columns, depth;
  float* out;
  int64_t out_step;
  bool add;
  // Fetched into the second cache meanwhile, as much as is read: `depth` floats at each step.
  const float* ahead;
  int64_t ahead_step;  // 0: nothing is to come
};

constexpr int kDotRows = 8;
// Sums side by side, which the latency of multiply-adds wants, in registers that leave some for what is multiplied.
constexpr int kDotSums = kTileRows * kTileVecs > 16 ? 16 : 8;
// Rows of the kernel for so many. Of few registers 8 rows would leave but one column, and each row loaded for it alone.
constexpr int dot_rows(int rows) { return rows <= 2 ? rows : rows <= 4 || kDotSums == 8 ? 4 : kDotRows; }
constexpr int dot_columns(int rows) { return rows == 4 && kDotSums == 8 ? 3 : kDotSums / rows; }

// Lane i is the sum of the lanes of v[i].
inline __attribute__((always_inline)) Vec sums_of_lanes(const Vec* sum) {
  Vec v[kLanes];
  AUXGRAD_UNROLL
  for (int i = 0; i < kLanes; i++) v[i] = sum[i];
  AUXGRAD_UNROLL
  for (int half = kLanes / 2; half > 0; half /= 2) {
    AUXGRAD_UNROLL
    for (int i = 0; i < half; i++) {
      Vec low, high;
      interleave(v[i], v[i + half], low, high);
      v[i] = low + high;
    }
  }
  return v[0];
}

// The first column of pointer i, which has `shared` of them or what is left of `all`: of `count` that there are, earlier ones
// again rather than any beyond.
inline int64_t first_shared(int i, int all, int64_t count, int shared) {
  return min64(shared * i, count - min64(shared, all - shared * i));
}

// Puts the sums of `count` columns from c on where they belong, fewer than `all`.
__attribute__((noinline, cold)) void place_part(const Dots& d, const float* total, int all, int64_t c, int64_t count,
                                                int shared) {
  for (int m = 0; m < d.rows; m++, total += all)
    for (int i = 0, n = 0; n < count; n++) {
      if (n >= shared * (i + 1)) i++;
      const float x = total[n + shared * i - first_shared(i, all, count, shared)];
      float& to = d.out[m * d.out_step + c + n];
      to = d.add ? to + x : x;
    }
}

// Of M rows; those beyond the last one are it once more, and their sums are left.
template <int M>
__attribute__((noinline)) void dot_kernel(const Dots& d) {
  constexpr int N = dot_columns(M);
  // In the order of memory, where these lie together: the processor does not see far ahead along many columns at once.
  const bool together = d.ahead_step == d.depth;
  const int64_t line = together ? 16 : d.ahead_step, chunk = together ? N : 1;
  // Of many columns so many share a pointer, as rows of a tile do. Where there are fewer in all, each comes alone.
  constexpr int kShared = N > 4 ? 3 : 1, kPointers = (N + kShared - 1) / kShared;
  const bool alone = d.columns < kShared;
  const int64_t right_step = alone ? 0 : d.right_step;
  for (int64_t c = 0, count; c < d.columns; c += count) {
    count = alone ? 1 : min64(N, d.columns - c);
    const float *p[kPointers], *left[M], *next = d.ahead + c * d.ahead_step;
    AUXGRAD_UNROLL
    for (int i = 0; i < kPointers; i++)
      p[i] = d.right + c * d.right_step + first_shared(i, N, count, kShared) * right_step;
    AUXGRAD_UNROLL
    for (int m = 0; m < M; m++) left[m] = d.left + min64(m, d.rows - 1) * d.left_step;
    constexpr int kSums = (M * N + kLanes - 1) / kLanes * kLanes;
    Vec sum[kSums] = {};
    const auto step = [&](const auto& lanes, int64_t k) __attribute__((always_inline)) {
      if (d.ahead_step > 0 && (kLanes == 16 || k % 16 == 0)) {
        const float* ahead = next + k * chunk;
        AUXGRAD_UNROLL
        for (int n = 0; n < N; n++, ahead += line) {
          asm("" : "+r"(ahead));  // or all of them would be kept
          __builtin_prefetch(ahead, 0, 2);
        }
      }
      Vec x[N];
      if (kShared > 1) {
        AUXGRAD_UNROLL
        for (int i = 0; i < kPointers; i++) asm("" : "+r"(p[i]));
      }
      AUXGRAD_UNROLL
      for (int n = 0; n < N; n++) x[n] = lanes.load(p[n / kShared] + (kShared > 1 ? n % kShared * right_step : k));
      if (kShared > 1) {
        AUXGRAD_UNROLL
        for (int i = 0; i < kPointers; i++) p[i] += kLanes;
      }
      AUXGRAD_UNROLL
      for (int m = 0; m < M; m++) {
        Vec y = lanes.load(left[m] + k);
#if defined(__AVX2__) && !defined(__AVX512F__)
        asm("" : "+x"(y));  // once, not for every product
#endif
        AUXGRAD_UNROLL
        for (int n = 0; n < N; n++) sum[m * N + n] = fma(y, x[n], sum[m * N + n]);
      }
    };
    int64_t k = 0;
    for (; k + kLanes <= d.depth; k += kLanes) step(WholeLanes(), k);
    if (k < d.depth) step(PartLanes{d.depth - k}, k);
    alignas(64) float total[kSums];
    AUXGRAD_UNROLL
    for (int i = 0; i < kSums; i += kLanes) store(total + i, sums_of_lanes(sum + i));
    if (count < N) {
      place_part(d, total, N, c, count, kShared);
      continue;
    }
    for (int m = 0; m < d.rows; m++) {
      float* out = d.out + m * d.out_step + c;
      AUXGRAD_UNROLL
      for (int n = 0; n < N; n++) out[n] = d.add ? out[n] + total[m * N + n] : total[m * N + n];
    }
  }
}

inline void multiply_dots(const Dots& d) {
  const int rows = dot_rows(d.rows);
  const auto kernel = rows == 1   ? dot_kernel<1>
                      : rows == 2 ? dot_kernel<2>
                      : rows == 4 ? dot_kernel<4>
                                  : dot_kernel<dot_rows(kDotRows)>;
  if (dot_rows(kDotRows) == kDotRows || d.rows <= rows) return kernel(d);
  // The others come after them, to some columns that the first cache still has.
  constexpr int64_t kDepth = 1024;
  const int step = dot_columns(rows);
  for (int64_t c = 0; c < d.columns; c += step)
    for (int64_t k = 0; k < d.depth; k += kDepth)
      for (int m = 0; m < d.rows; m += rows) {
        Dots part = d;
        part.rows = d.rows - m < rows ? d.rows - m : rows;
        part.columns = min64(step, d.columns - c);
        part.depth = min64(kDepth, d.depth - k);
        part.left += m * d.left_step + k;
        part.right += c * d.right_step + k;
        part.out += m * d.out_step + c;
        part.ahead += c * d.ahead_step + k;
        part.add = d.add || k > 0;
        kernel(part);
      }
}

}  // namespace
}  // namespace auxgrad
