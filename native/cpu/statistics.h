// Mean and variance of the channels of rows: sums over chunks of the rows, so that a kernel can make those of what it
// has just written, while that is in a cache.
#pragma once
#include "channels.h"
#include "vector.h"

namespace auxgrad {
namespace {

// Of each chunk its rows and the sums over them of d and d^2, d = x - shift: a shift near the mean, so that sums lose no
// digits to a mean far from zero. Chunks are cut by shape alone.
struct Statistics {
  int64_t channels = 0, chunks = 0;
  double *rows = nullptr, *sums = nullptr;  // [chunks], [chunks][2][channels]
  float* shift = nullptr;                   // [chunks][channels]

  explicit operator bool() const { return rows != nullptr; }
};

inline int64_t statistics_bytes(int64_t channels, int64_t chunks) {
  return (chunks * (8 + channels * (2 * 8 + 4)) + 63) / 64 * 64;
}
inline Statistics statistics_at(void* scratch, int64_t channels, int64_t chunks) {
  Statistics s;
  s.channels = channels;
  s.chunks = chunks;
  s.rows = static_cast<double*>(scratch);
  s.sums = s.rows + chunks;
  s.shift = reinterpret_cast<float*>(s.sums + chunks * 2 * channels);
  return s;
}

constexpr int64_t kSampleRows = 16;

// The mean of some rows, at most kSampleRows, in channels [from, to); 0 where that is not finite.
__attribute__((noinline)) inline void sample_rows(const float* const* rows, int64_t n, int64_t from, int64_t to,
                                                  float* mean) {
  const Vec share = broadcast(1.0f / static_cast<float>(n));
  set_zero(mean + from, to - from);
  for (int64_t i = 0; i < n; i++)
    each_vector(from, to, [&](int64_t c, auto lanes) {
      lanes.store(mean + c, lanes.load(mean + c) + lanes.load(rows[i] + c) * share);
    });
  each_vector(from, to, [&](int64_t c, auto lanes) {
    const Vec sum = lanes.load(mean + c);
    lanes.store(mean + c, sum - sum == Vec{} ? sum : Vec{});
  });
}

// That of the first of some rows, which are `step` apart: in the order memory likes, and no others are needed. The further
// their mean is from that of all, the larger is the variance beside which digits are lost.
inline void sample_first_rows(const float* x, int64_t rows, int64_t step, int64_t channels, float* mean) {
  const float* at[kSampleRows];
  const int64_t taken = min64(rows, rows < 128 ? kSampleRows : max64(4, min64(kSampleRows, rows / 64)));
  for (int64_t i = 0; i < taken; i++) at[i] = x + i * step;
  sample_rows(at, taken, 0, channels, mean);
}

// Sums a chunk of rows, one after the other at x.
__attribute__((noinline)) inline void sum_chunk(const Statistics& s, int64_t chunk, const float* x, int64_t rows) {
  const int64_t channels = s.channels;
  double* sum = s.sums + chunk * 2 * channels;
  float* shift = s.shift + chunk * channels;
  s.rows[chunk] = static_cast<double>(rows);
  memset(sum, 0, static_cast<size_t>(channels) * 16);
  sample_first_rows(x, rows, channels, channels, shift);
  sum_columns(
      rows, channels,
      [=](int64_t r, int64_t c, auto lanes, Vec& u, Vec& v) {
        u = lanes.load(x + r * channels + c) - lanes.load(shift + c);
        v = u * u;  // not fused: the same bits on every instruction set
      },
      sum, sum + channels);
}

// The same of rows that are in a near cache, row[r] the first channel of one: a vector of channels at a time, whose sums
// stay in registers; those of d are added in double every `kNearRows` rows.
constexpr int64_t kNearRows = 64;
__attribute__((noinline)) inline void sum_near_chunk(const Statistics& s, int64_t chunk, const float* const* row,
                                                     int64_t rows, int64_t from, int64_t to) {
  double *sum = s.sums + chunk * 2 * s.channels, *squares = sum + s.channels;
  float* shift = s.shift + chunk * s.channels;
  if (from == 0) s.rows[chunk] = static_cast<double>(rows);
  const float* at[kSampleRows];
  const int64_t taken = min64(kSampleRows, rows);
  for (int64_t i = 0; i < taken; i++) at[i] = row[rows * i / taken];
  sample_rows(at, taken, from, to, shift);
  each_vector(from, to, [&](int64_t c, auto lanes) {
    const Vec middle = lanes.load(shift + c);
    double total[kLanes] = {};
    Vec b[2] = {};
    float out[kLanes];
    for (int64_t r = 0; r < rows; r += kNearRows) {
      Vec a[2] = {};
      const int64_t stop = min64(rows, r + kNearRows);
      const auto add = [&](int64_t i, int half) {
        const Vec d = lanes.load(row[i] + c) - middle;
        a[half] += d;
        b[half] += d * d;
      };
      int64_t i = r;
      for (; i + 2 <= stop; i += 2) add(i, 0), add(i + 1, 1);
      if (i < stop) add(i, 0);
      store(out, a[0] + a[1]);
      for (int l = 0; l < kLanes; l++) total[l] += static_cast<double>(out[l]);
    }
    store(out, b[0] + b[1]);
    for (int64_t l = 0; l < lanes.count(); l++) sum[c + l] = total[l];
    for (int64_t l = 0; l < lanes.count(); l++) squares[c + l] = static_cast<double>(out[l]);
  });
}

__attribute__((noinline)) inline void round_all(const double* __restrict x, int64_t n, float* __restrict y) {
  for (int64_t i = 0; i < n; i++) y[i] = static_cast<float>(x[i]);
}

// Channels [begin, end) of finish_statistics().
__attribute__((noinline)) inline void finish_channels(const Statistics& s, int64_t begin, int64_t end, double eps,
                                                      float* mean, float* var, float* rstd) {
  double* __restrict sum = s.sums, * __restrict squares = sum + s.channels, rows = s.chunks ? s.rows[0] : 0;
  // The sums of the others go to those of the first chunk, as if its shift were theirs.
  for (int64_t k = 1; k < s.chunks; k++) {
    const double* __restrict a = s.sums + k * 2 * s.channels, * __restrict b = a + s.channels, own = s.rows[k];
    const float* shift = s.shift + k * s.channels;
    rows += own;
    for (int64_t c = begin; c < end; c++) {
      const double more = static_cast<double>(shift[c]) - s.shift[c];
      sum[c] += a[c] + own * more;
      squares[c] += b[c] + more * (2 * a[c] + own * more);
    }
  }
  for (int64_t c = begin; c < end; c++) {
    const double m = rows > 0 ? sum[c] / rows : 0, v = rows > 0 ? squares[c] / rows - m * m : 0;
    sum[c] = rows > 0 ? s.shift[c] + m : 0;
    squares[c] = v > 0 || v != v ? v : 0;
  }
  if (mean) round_all(sum + begin, end - begin, mean + begin);
  if (var) round_all(squares + begin, end - begin, var + begin);
  if (!rstd) return;
  for (int64_t c = begin; c < end; c++) squares[c] = 1 / __builtin_sqrt(squares[c] + eps);
  round_all(squares + begin, end - begin, rstd + begin);
}

// mean, var (biased), rstd = 1 / sqrt(var + eps) of all rows, each [channels] or null. Of no rows they are 0, 0 and
// 1 / sqrt(eps).
inline void finish_statistics(const Call& call, const Statistics& s, double eps, float* mean, float* var, float* rstd) {
  parallel_ranges(call, s.channels, 16 * max64(1, 512 / max64(1, s.chunks)),
                  [&](int64_t begin, int64_t end) { finish_channels(s, begin, end, eps, mean, var, rstd); });
}

}  // namespace
}  // namespace auxgrad
