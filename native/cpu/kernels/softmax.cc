// Softmax and softmax cross entropy over the last axis.
#include "../elementwise.h"
#include "../piecewise.h"
#include "../rows.h"

namespace auxgrad {
namespace {

// Several short rows are worked on together, so that exp sees long runs; a long row in pieces.
constexpr int64_t kPiece = 4096;

inline int64_t rows_together(int64_t n) { return max64(1, kPiece / max64(1, n)); }

constexpr float kLn2 = 0.69314718f;

// Added to a sum it is not rounded before, where the machine can.
struct Product {
  Vec a, b;
  operator Vec() const { return a * b; }
};
inline void operator+=(Vec& sum, const Product& p) { sum = fma(p.a, p.b, sum); }

// exp(x) of lanes that are not positive, or NaN; 0 from -127 log(2) on. The relative error is below 2e-7 to -20 and grows to
// 4e-7: where products are not rounded, log(2) is taken as a float, which is 3e-9 of it away. Coefficients: least maximal
// relative error (9e-8), fitted in double.
inline Product exp_below(Vec x) {
  const Vec least = broadcast(-88.02969f);
#if defined(__AVX2__)
  x = greater(least, x);
  const Vec t = fma(x, broadcast(kInverseLn2), broadcast(kParts)), n = t - broadcast(kParts);
  return {power_of(t), near_one(fma(n, broadcast(-kLn2), x))};
#else
  typedef uint32_t Bits __attribute__((vector_size(sizeof(Vec))));
  // Adding it rounds to a whole number n and leaves n + 127, the exponent of 2^n, in the low bits.
  const Vec round = broadcast(kRound + 127.0f);
  x = least > x ? least : x;
  const Vec t = fma(x, broadcast(kInverseLn2), round), n = t - round;
#if defined(AUXGRAD_FMA)
  const Vec r = fma(n, broadcast(-kLn2), x);
#else
  const Vec r = fma(n, broadcast(kLn2Low), fma(n, broadcast(-kLn2High), x));
#endif
  Vec p = broadcast(8.290307e-3f);
  p = fma(p, r, broadcast(4.1897975e-2f));
  p = fma(p, r, broadcast(0.16667637f));
  p = fma(p, r, broadcast(0.4999915f));
  p = fma(p, r, broadcast(0.9999997f));
  p = fma(p, r, broadcast(1.0f));
  return {p, (Vec)((Bits)t << 23)};
#endif
}

inline void exp_all(float* e, int64_t n) {
  for (int64_t i = 0; i < n; i++) e[i] = exp_f32(e[i]);
}

// y = x - shift for a row.
inline void subtract(const float* x, float shift, float* y, int64_t n) {
  const Vec s = broadcast(shift);
  each_vector(0, n, [&](int64_t i, auto lanes) { lanes.store(y + i, lanes.load(x + i) - s); });
}

// y = exp(x - shift[r]) for short rows [0, rows), no shift less than what it is taken from; in one run.
inline void exp_rows(const float* x, const float* shift, float* y, int64_t rows, int64_t n) {
  for (int64_t r = 0; r < rows; r++) subtract(x + r * n, shift[r], y + r * n, n);
  exp_all(y, rows * n);
}

// Calls f(first row, rows) over all rows: as many at a time as rows_together says.
template <class F>
inline void each_rows(const Call& call, int64_t rows, int64_t n, const F& f) {
  const int64_t together = rows_together(n);
  parallel_ranges(call, rows, max64(together, 16384 / max64(n, 1) / together * together),
                  [&](int64_t begin, int64_t end) {
                    for (int64_t r = begin; r < end; r += together) f(r, min64(together, end - r));
                  });
}

// lse[r] = max + log(sum(exp(x - max))) of rows [0, rows). A row of some length is summed as it is read.
inline void log_sum_exp(const float* x, int64_t rows, int64_t n, float* lse) {
  float sums[kPiece];
  for (int64_t r = 0; r < rows; r++) {
    const float* row = x + r * n;
    lse[r] = row_max(row, n);
    if (n < kSide) continue;
    const Vec top = broadcast(lse[r]);
    sums[r] = static_cast<float>(sum_terms(n, [&](int64_t i, auto lanes) {
      fetch_next(row + i, n);
      return exp_below(lanes.load(row + i) - top);
    }));
  }
  if (n < kSide) {
    float e[kPiece];
    exp_rows(x, lse, e, rows, n);
    for (int64_t r = 0; r < rows; r++) sums[r] = static_cast<float>(row_sum(e + r * n, n));
  }
  for (int64_t r = 0; r < rows; r++) lse[r] += log_f32(sums[r]);
}

// softmax of rows of some length: while exponentials of a row are taken, the row before is scaled and stored, which would
// wait for memory alone.
inline void softmax_rows(const float* x, float* y, bool past, int64_t rows, int64_t n) {
  alignas(64) float aside[2 * kPiece];
  const float* before = nullptr;  // exponentials of the row before
  Vec scale = {};
  const auto scaled = [&](int64_t i, auto lanes, float* to) {
    put(past, lanes, to + i, lanes.load(before + i) * scale);
  };
  for (int64_t r = 0; r < rows; r++, x += n, y += n) {
    float* e = past ? aside + r % 2 * kPiece : y;
    const Vec top = broadcast(row_max(x, n));
    const double sum = sum_terms(n, [&](int64_t i, auto lanes) {
      fetch_next(x + i, n);
      const Vec v = exp_below(lanes.load(x + i) - top);
      lanes.store(e + i, v);
      if (before) scaled(i, lanes, y - n);
      return v;
    });
    before = e;
    scale = broadcast(static_cast<float>(1 / sum));
  }
  if (before) each_vector(0, n, [&](int64_t i, auto lanes) { scaled(i, lanes, y - n); });
}

// softmax: x [..., C] -> y
bool softmax(const Call& call) {
  const View& x = call.in[0];
  const int64_t n = x.shape[x.rank - 1];
  const bool past = n <= kPiece && too_large(call.out[0], n);
  if (n >= kSide) {
    parallel_ranges(call, x.count(0, x.rank - 1), max64(1, 16384 / n), [&](int64_t begin, int64_t end) {
      softmax_rows(x.f32() + begin * n, call.out[0].f32() + begin * n, past, end - begin, n);
      if (past) end_bypass();
    });
    return true;
  }
  each_rows(call, x.count(0, x.rank - 1), n, [&](int64_t first, int64_t rows) {
    const float* in = x.f32() + first * n;
    float *y = call.out[0].f32() + first * n, top[kPiece];
    for (int64_t r = 0; r < rows; r++) top[r] = row_max(in + r * n, n);
    exp_rows(in, top, y, rows, n);
    for (int64_t r = 0; r < rows; r++) {
      float* row = y + r * n;
      const Vec scale = broadcast(static_cast<float>(1 / row_sum(row, n)));
      each_vector(0, n, [&](int64_t i, auto lanes) { lanes.store(row + i, lanes.load(row + i) * scale); });
    }
  });
  return true;
}

// Calls f(dy, y, dx, n, past) for each row: `past` says how to put() results.
template <class F>
inline bool gradient_rows(const Call& call, const F& f) {
  const View& y = call.in[1];
  const int64_t n = y.shape[y.rank - 1];
  const bool past = too_large(call.out[0], n);
  parallel_ranges(call, y.count(0, y.rank - 1), max64(1, 16384 / max64(n, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t at = begin * n; at < end * n; at += n)
      f(call.in[0].f32() + at, y.f32() + at, call.out[0].f32() + at, n, past);
    if (past) end_bypass();
  });
  return true;
}

// softmax_grad: dy, y -> dx = y (dy - sum(dy y))
bool softmax_grad(const Call& call) {
  return gradient_rows(call, [](const float* g, const float* y, float* dx, int64_t n, bool past) {
    const auto product = [=](int64_t i, auto lanes) { return lanes.load(g + i) * lanes.load(y + i); };
    const Vec dot = broadcast(static_cast<float>(sum_terms(n, product)));
    each_vector(
        0, n, [&](int64_t i, auto lanes) { put(past, lanes, dx + i, lanes.load(y + i) * (lanes.load(g + i) - dot)); });
  });
}

// log_softmax: x [..., C] -> y
bool log_softmax(const Call& call) {
  const View& x = call.in[0];
  const int64_t n = x.shape[x.rank - 1];
  each_rows(call, x.count(0, x.rank - 1), n, [&](int64_t first, int64_t rows) {
    float lse[kPiece];
    log_sum_exp(x.f32() + first * n, rows, n, lse);
    for (int64_t r = 0; r < rows; r++)
      subtract(x.f32() + (first + r) * n, lse[r], call.out[0].f32() + (first + r) * n, n);
  });
  return true;
}

// log_softmax_grad: dy, y -> dx = dy - exp(y) sum(dy)
bool log_softmax_grad(const Call& call) {
  return gradient_rows(call, [](const float* g, const float* y, float* dx, int64_t n, bool past) {
    const Vec sum = broadcast(static_cast<float>(row_sum(g, n)));
    each_vector(0, n, [&](int64_t i, auto lanes) {
      fetch_next(y + i, n);
      const Vec e = exp_below(lanes.load(y + i));
      put(past, lanes, dx + i, lanes.load(g + i) - e * sum);
    });
  });
}

// cross_entropy: logits [rows, C], labels i32 [rows] -> loss [rows], lse [rows]
// numbers: label smoothing, ignore index (its rows have loss 0)
bool cross_entropy(const Call& call) {
  const View& x = call.in[0];
  const int64_t rows = x.shape[0], n = x.shape[1], ignore = call.integer(1);
  const float smooth = call.real(0);
  for (int64_t r = 0; r < rows; r++) {
    const int64_t label = call.in[1].i32()[r];
    if (label != ignore && (label < 0 || label >= n)) return call.failure->set(Fault{1, kFaultLabel, label, r, n});
  }
  each_rows(call, rows, n, [&](int64_t first, int64_t count) {
    float* lse = call.out[1].f32();
    log_sum_exp(x.f32() + first * n, count, n, lse + first);
    for (int64_t r = first; r < first + count; r++) {
      const float* row = x.f32() + r * n;
      const int64_t label = call.in[1].i32()[r];
      float loss = 0;
      if (label != ignore) {
        loss = (1 - smooth) * (lse[r] - row[label]);
        if (smooth != 0) loss += smooth * static_cast<float>(lse[r] - row_sum(row, n) / static_cast<double>(n));
      }
      call.out[0].f32()[r] = loss;
    }
  });
  return true;
}

// cross_entropy_grad: upstream [rows], logits, labels, lse -> dlogits; numbers as above
bool cross_entropy_grad(const Call& call) {
  const View& x = call.in[1];
  const int64_t rows = x.shape[0], n = x.shape[1], ignore = call.integer(1);
  const float smooth = call.real(0), rest = smooth / static_cast<float>(n);
  const bool past = n >= kSide && too_large(call.out[0], n);
  each_rows(call, rows, n, [&](int64_t first, int64_t count) {
    const float *in = x.f32() + first * n, *lse = call.in[3].f32() + first;
    float* dx = call.out[0].f32() + first * n;
    if (n < kSide) exp_rows(in, lse, dx, count, n);
    for (int64_t r = 0; r < count; r++) {
      float* row = dx + r * n;
      const int64_t label = call.in[2].i32()[first + r];
      const float g = label == ignore ? 0.0f : call.in[0].f32()[first + r];
      if (g == 0) {
        set_zero(row, n);
        continue;
      }
      const float* from = n < kSide ? row : in + r * n;
      const Vec scale = broadcast(g), less = broadcast(rest), shift = broadcast(lse[r]);
      const int64_t at = label / kLanes * kLanes;
      each_vector(0, n, [&](int64_t i, auto lanes) {
        Vec v = lanes.load(from + i);
        if (n >= kSide) {
          fetch_next(from + i, n);
          v = exp_below(v - shift);
        }
        v = scale * (v - less);
        if (i == at) {
          float own[kLanes];
          store(own, v);
          own[label - at] -= g * (1 - smooth);
          v = load(own);
        }
        put(past, lanes, row + i, v);
      });
    }
    if (past) end_bypass();
  });
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"softmax", softmax}, {"softmax_grad", softmax_grad}, {"log_softmax", log_softmax},
                {"log_softmax_grad", log_softmax_grad}, {"cross_entropy", cross_entropy},
                {"cross_entropy_grad", cross_entropy_grad})
