// Softmax and softmax cross entropy over the last axis.
#include "../elementwise.h"
#include "../piecewise.h"
#include "../rows.h"

namespace auxgrad {
namespace {

// Rows are taken some at a time: of short ones as many as a buffer in the first cache holds, in whole lines.
constexpr int64_t kPiece = 4096, kManyRows = 16;

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

// Calls f(first row, rows) over all rows.
template <class F>
inline void each_rows(const Call& call, int64_t rows, int64_t n, const F& f) {
  const int64_t task = 16384 / max64(n, 1);
  const int64_t together = n * kManyRows > kPiece ? max64(1, task) : kPiece / max64(n, 1) / kManyRows * kManyRows;
  parallel_ranges(call, rows, max64(together, task / together * together), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r += together) f(r, min64(together, end - r));
  });
}

// Makes rows of an output from those of its operands, which have its shape: f writes rows [first, first + rows) to y, past the
// caches if `past`. Of short rows, which may begin anywhere in a line, that is a buffer whose lines go past them.
typedef void Writer(const Call& call, const ShortRows& s, int64_t first, int64_t rows, float* y, bool past);

__attribute__((noinline)) bool write_rows(const Call& call, Writer* f) {
  const View& out = call.out[0];
  const int64_t n = out.shape[out.rank - 1];
  const ShortRows s(n);
  const bool large = too_large(out, kLineFloats), past = n > kPiece / kManyRows && too_large(out, n);
  each_rows(call, out.count(0, out.rank - 1), n, [&](int64_t first, int64_t some) {
    alignas(64) float buffer[kPiece];
    float* y = out.f32() + first * n;
    const int64_t count = some * n;
    const bool aside = large && !past && count <= kPiece && count % kLineFloats == 0;
    f(call, s, first, some, aside ? buffer : y, past);
    if (aside) bypass_copy(y, buffer, 4 * count);
    if (large) end_bypass();
  });
  return true;
}

// The largest number of each of the rows [0, rows), and log(sum(exp(x - top))). Their sum is the logarithm of the sum of
// exp(x), but of large logits it would be rounded to few digits of the logarithm.
inline void log_sum_exp(const ShortRows& s, const float* x, int64_t rows, float* tops, float* logs) {
  const int64_t n = s.n;
  if (s) {
    for (int64_t r = 0; r < rows; r += s.together) {
      const int64_t some = min64(rows - r, s.together);
      const Vec v = s.load(x + r * n, some, broadcast(-__builtin_inff())), top = s.largest(v);
      s.store_first(tops + r, some, top);
      s.store_first(logs + r, some, s.sum(exp_below(v - top)));
    }
  } else {
    for (int64_t r = 0; r < rows; r++, x += n) {
      tops[r] = row_max(x, n);
      const Vec top = broadcast(tops[r]);
      logs[r] = static_cast<float>(sum_terms(n, [&](int64_t i, auto lanes) {
        fetch_next(x + i, n);
        return exp_below(lanes.load(x + i) - top);
      }));
    }
  }
  for (int64_t r = 0; r < rows; r++) logs[r] = log_f32(logs[r]);
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

// The same of rows that stay in registers: what is stored in part could not be loaded again until it is in the cache.
inline void softmax_near(const float* x, float* y, int64_t rows, int64_t n) {
  for (int64_t r = 0; r < rows; r++, x += n, y += n) {
    Vec v[kSideVecs], e[kSideVecs] = {};
    AUXGRAD_UNROLL
    for (int k = 0; k < kSideVecs; k++) v[k] = broadcast(-__builtin_inff());
    each_rest<kSideVecs>(
        0, n, [&](int k, int64_t i, auto lanes) { v[k] = first_lanes(lanes.count()) ? lanes.load(x + i) : v[k]; });
    const Vec top = broadcast(fold(v, [](Vec a, Vec b) { return greater(b, a); }));
    each_rest<kSideVecs>(0, n, [&](int k, int64_t, auto) { e[k] = exp_below(v[k] - top); });
    const double sum = fold(e, [](Vec a, Vec b) { return a + b; });
    const Vec scale = broadcast(static_cast<float>(1 / sum));
    each_rest<kSideVecs>(0, n, [&](int k, int64_t i, auto lanes) { lanes.store(y + i, e[k] * scale); });
  }
}

#if defined(__AVX512F__)
// The same of kLanes rows that are no longer than a vector: turned, so that one operation serves all of them.
inline void softmax_turned(const float* x, float* y, int64_t n) {
  Vec v[kLanes];
  AUXGRAD_UNROLL
  for (int k = 0; k < kLanes; k++) v[k] = load_part(x + k * n, n);
  transpose(v);
  Vec top = v[0], sum[kLanes] = {};
  for (int64_t c = 1; c < n; c++) top = greater(top, v[c]);
  for (int64_t c = 0; c < n; c++) sum[c] = v[c] = exp_below(v[c] - top);
  AUXGRAD_UNROLL
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int c = 0; c < half; c++) sum[c] = sum[c] + sum[c + half];
  const Vec scale = inverse(sum[0]);
  for (int64_t c = 0; c < n; c++) v[c] *= scale;
  transpose(v);
  AUXGRAD_UNROLL
  for (int k = 0; k < kLanes; k++) store_part(y + k * n, v[k], n);
}
#endif

// y = f(vectors of some short rows, one of each input), a vector.
template <int N, class F>
inline void map_short(const ShortRows& s, const float* const (&in)[N], float none, int64_t rows, float* y, const F& f) {
  for (int64_t r = 0; r < rows; r += s.together) {
    const int64_t some = min64(rows - r, s.together);
    Vec v[N];
    for (int i = 0; i < N; i++) v[i] = s.load(in[i] + r * s.n, some, broadcast(none));
    s.store(y + r * s.n, some, f(v));
  }
}

// softmax: x [..., C] -> y
void softmax_of(const Call& call, const ShortRows& s, int64_t first, int64_t rows, float* y, bool past) {
  const float* x = call.in[0].f32() + first * s.n;
  if (!s && s.n <= kSide && kLanes >= 8) return softmax_near(x, y, rows, s.n);
  if (!s) return softmax_rows(x, y, past && s.n <= kPiece, rows, s.n);
#if defined(__AVX512F__)
  for (; s.n > kLanes / 2 && rows >= kLanes; rows -= kLanes, x += kLanes * s.n, y += kLanes * s.n)
    softmax_turned(x, y, s.n);
#endif
  map_short<1>(s, {x}, -__builtin_inff(), rows, y, [&](const Vec(&v)[1]) {
    const Vec e = exp_below(v[0] - s.largest(v[0]));
    return e * inverse(s.sum(e));
  });
}

// softmax_grad: dy, y -> dx = y (dy - sum(dy y))
void softmax_gradient(const Call& call, const ShortRows& s, int64_t first, int64_t rows, float* dx, bool past) {
  const int64_t n = s.n;
  const float *g = call.in[0].f32() + first * n, *y = call.in[1].f32() + first * n;
  if (s)
    return map_short<2>(s, {g, y}, 0, rows, dx, [&](const Vec(&v)[2]) { return v[1] * (v[0] - s.sum(v[0] * v[1])); });
  for (int64_t r = 0; r < rows; r++, g += n, y += n, dx += n) {
    const auto product = [=](int64_t i, auto lanes) { return lanes.load(g + i) * lanes.load(y + i); };
    const Vec dot = broadcast(static_cast<float>(sum_terms(n, product)));
    each_vector(
        0, n, [=](int64_t i, auto lanes) { put(past, lanes, dx + i, lanes.load(y + i) * (lanes.load(g + i) - dot)); });
  }
}

// log_softmax: x [..., C] -> y
void log_softmax_of(const Call& call, const ShortRows& s, int64_t first, int64_t rows, float* y, bool past) {
  const float* x = call.in[0].f32() + first * s.n;
  float tops[kPiece], logs[kPiece];
  log_sum_exp(s, x, rows, tops, logs);
  for (int64_t r = 0; r < rows; r++, x += s.n, y += s.n) {
    const Vec top = broadcast(tops[r]), log = broadcast(logs[r]);
    each_vector(0, s.n, [=](int64_t i, auto lanes) { put(past, lanes, y + i, lanes.load(x + i) - top - log); });
  }
}

// log_softmax_grad: dy, y -> dx = dy - exp(y) sum(dy)
void log_softmax_gradient(const Call& call, const ShortRows& s, int64_t first, int64_t rows, float* dx, bool past) {
  const int64_t n = s.n;
  const float *g = call.in[0].f32() + first * n, *y = call.in[1].f32() + first * n;
  if (s)
    return map_short<2>(s, {g, y}, 0, rows, dx, [&](const Vec(&v)[2]) {
      const Vec e = exp_below(v[1]);
      return v[0] - e * s.sum(v[0]);
    });
  for (int64_t r = 0; r < rows; r++, g += n, y += n, dx += n) {
    const Vec sum = broadcast(static_cast<float>(row_sum(g, n)));
    each_vector(0, n, [=](int64_t i, auto lanes) {
      fetch_next(y + i, n);
      const Vec e = exp_below(lanes.load(y + i));
      put(past, lanes, dx + i, lanes.load(g + i) - e * sum);
    });
  }
}

// cross_entropy: logits [rows, C], labels i32 [rows] -> loss [rows], log(sum(exp(x - max(x)))) [rows]
// numbers: label smoothing, ignore index (its rows have loss 0)
bool cross_entropy(const Call& call) {
  const View& x = call.in[0];
  const int64_t rows = x.shape[0], n = x.shape[1], ignore = call.integer(1);
  const float smooth = call.real(0);
  for (int64_t r = 0; r < rows; r++) {
    const int64_t label = call.in[1].i32()[r];
    if (label != ignore && (label < 0 || label >= n)) return call.failure->set(Fault{1, kFaultLabel, label, r, n});
  }
  const ShortRows s(n);
  each_rows(call, rows, n, [&](int64_t first, int64_t count) {
    float tops[kPiece], *logs = call.out[1].f32();
    log_sum_exp(s, x.f32() + first * n, count, tops, logs + first);
    for (int64_t r = first; r < first + count; r++) {
      const float* row = x.f32() + r * n;
      const int64_t label = call.in[1].i32()[r];
      float loss = 0;
      if (label != ignore) {
        const float top = tops[r - first];
        loss = (1 - smooth) * (top - row[label] + logs[r]);
        if (smooth != 0) {
          const auto below = [row, top = broadcast(top)](int64_t i, auto lanes) { return top - lanes.load(row + i); };
          loss += smooth * static_cast<float>(sum_terms(n, below) / static_cast<double>(n) + logs[r]);
        }
      }
      call.out[0].f32()[r] = loss;
    }
  });
  return true;
}

// cross_entropy_grad: upstream [rows], logits, labels, the second result -> dlogits; numbers as above
void cross_entropy_gradient(const Call& call, const ShortRows& s, int64_t first, int64_t rows, float* dx, bool past) {
  const int64_t n = s.n, ignore = call.integer(1);
  const float smooth = call.real(0);
  const Vec less = broadcast(smooth / static_cast<float>(n));
  for (int64_t r = first; r < first + rows; r++, dx += n) {
    const float* row = call.in[1].f32() + r * n;
    const int64_t label = call.in[2].i32()[r];
    const float g = label == ignore ? 0.0f : call.in[0].f32()[r];
    if (g == 0) {
      set_zero(dx, n);
      continue;
    }
    const Vec top = broadcast(row_max(row, n)), log = broadcast(call.in[3].f32()[r]);
    const Vec scale = broadcast(g), own = broadcast(g * (1 - smooth));
    each_vector(0, n, [=](int64_t i, auto lanes) {
      fetch_next(row + i, n);
      const Vec e = exp_below(lanes.load(row + i) - top - log), v = scale * (e - less);
      put(past, lanes, dx + i, lane_numbers() == static_cast<int32_t>(label - i) ? v - own : v);
    });
  }
}

bool softmax(const Call& call) { return write_rows(call, softmax_of); }
bool softmax_grad(const Call& call) { return write_rows(call, softmax_gradient); }
bool log_softmax(const Call& call) { return write_rows(call, log_softmax_of); }
bool log_softmax_grad(const Call& call) { return write_rows(call, log_softmax_gradient); }
bool cross_entropy_grad(const Call& call) { return write_rows(call, cross_entropy_gradient); }

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"softmax", softmax}, {"softmax_grad", softmax_grad}, {"log_softmax", log_softmax},
                {"log_softmax_grad", log_softmax_grad}, {"cross_entropy", cross_entropy},
                {"cross_entropy_grad", cross_entropy_grad})
