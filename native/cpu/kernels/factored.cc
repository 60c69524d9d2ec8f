// Updates that remember squared gradients by row and by column: a parameter is a matrix of its first axis by all others.
// One of a single row or column, or with one axis, has a number for each element.
#include "../adam.h"
#include "../channels.h"
#include "../rows.h"
#include "../weights.h"

namespace auxgrad {
namespace {

// Rows x columns, cut into chunks of rows by shape alone; of elements, a row is a piece of them.
struct Matrix {
  int64_t rows, columns, chunks;

  explicit Matrix(const View& w) : rows(w.shape[0]), columns(w.count() / max64(1, w.shape[0])) {
    chunks = max64(1, min64(min64(rows, 16), w.count() / 16384));
  }
  int64_t begin(int64_t chunk) const { return rows * chunk / chunks; }
  // f(chunk, first row, end of rows)
  template <class F>
  void each_chunk(const Call& call, const F& f) const {
    parallel_tasks(call, chunks, [&](int64_t chunk, int) { f(chunk, begin(chunk), begin(chunk + 1)); });
  }
};

constexpr int64_t kPiece = 16384;  // elements of a task

// Sum of the squares of elements [begin, end).
__attribute__((noinline)) double squares(const Weights& weights, int64_t begin, int64_t end) {
  double sum = 0;
  weights.look(begin, end, [&](const float* x, int64_t, int64_t n) {
    sum += sum_terms(n, [x](int64_t i, auto lanes) { return lanes.load(x + i) * lanes.load(x + i); });
  });
  return sum;
}

struct Adafactor {
  explicit Adafactor(const Call& call)
      : lr(static_cast<double>(call.in[1].f32()[0])),
        fresh(exp_f32(-call.real(4) * log_f32(call.in[2].f32()[0]))),
        keep(1.0f - fresh),
        scale(gradient_scale(call, 3)),
        eps(call.real(0)),
        least(call.number[1]),
        limit(call.number[2]),
        decay(call.number[3]),
        count(static_cast<double>(call.out[0].count())) {}

  // The step for a parameter and an update of these sums of squares.
  float rate(double parameter, double update) {
    if (least > 0) {
      const double size = __builtin_sqrt(parameter / count);
      lr *= size < least ? least : size;
    }
    shrink = static_cast<float>(1 - lr * decay);
    const double excess = __builtin_sqrt(update / count) / limit;
    return static_cast<float>(excess > 1 ? lr / excess : lr);
  }

  double lr;
  float fresh, keep, scale, eps;
  double least, limit, decay, count;
  float shrink = 1;
};

// w = shrink w - rate u for elements [begin, end); of u they are counted from `begin` on.
template <class Update>
inline void step_down(const Weights& weights, int64_t begin, int64_t end, float shrink, float rate,
                      const Update& update) {
  weights.change(begin, end, [&](float* w, int64_t at, int64_t n) {
    each_vector(0, n, [&](int64_t i, auto lanes) {
      lanes.store(w + i, lanes.load(w + i) * shrink - update(at - begin + i, lanes) * rate);
    });
  });
}

void adafactor_elements(const Call& call, Adafactor a) {
  const float* grad = call.in[0].f32();
  float* v = call.out[1].f32();
  const Weights weights(call);
  double* sums = static_cast<double*>(call.scratch);  // of the parameter and of the update, a pair a piece
  const int64_t n = call.out[0].count();
  const auto update = [=](int64_t i, auto lanes) { return lanes.load(grad + i) * a.scale / root(lanes.load(v + i)); };
  parallel_ranges(call, n, kPiece, [&](int64_t begin, int64_t end) {
    each_vector(begin, end, [&](int64_t i, auto lanes) {
      const Vec g = lanes.load(grad + i) * a.scale;
      lanes.store(v + i, a.keep * lanes.load(v + i) + a.fresh * (g * g + a.eps));
    });
    sums[begin / kPiece * 2] = a.least > 0 ? squares(weights, begin, end) : 0;
    sums[begin / kPiece * 2 + 1] = sum_terms(end - begin, [&](int64_t i, auto lanes) {
      const Vec u = update(begin + i, lanes);
      return u * u;
    });
  });
  double parameter = 0, changed = 0;
  for (int64_t i = 0; i < ceil_div(n, kPiece); i++) {
    parameter += sums[2 * i];
    changed += sums[2 * i + 1];
  }
  const float rate = a.rate(parameter, changed), shrink = a.shrink;
  parallel_ranges(call, n, kPiece, [&](int64_t begin, int64_t end) {
    step_down(weights, begin, end, shrink, rate, [&](int64_t i, auto lanes) { return update(begin + i, lanes); });
  });
}

void adafactor_matrix(const Call& call, Adafactor a) {
  const Matrix x(call.out[0]);
  const float* grad = call.in[0].f32();
  float *row = call.out[1].f32(), *column = call.out[2].f32();
  const Weights weights(call);
  double* parameter = static_cast<double*>(call.scratch);  // [chunks]
  double *changed = parameter + x.chunks, *sums = changed + x.chunks;
  float *part = reinterpret_cast<float*>(sums + x.chunks * x.columns), *factor = part + x.chunks * x.columns;
  x.each_chunk(call, [&](int64_t chunk, int64_t begin, int64_t end) {
    double* sum = sums + chunk * x.columns;
    float* floats = part + chunk * x.columns;
    memset(sum, 0, static_cast<size_t>(x.columns) * 8);
    parameter[chunk] = a.least > 0 ? squares(weights, begin * x.columns, end * x.columns) : 0;
    for (int64_t first = begin; first < end; first += kFloatRows) {
      set_zero(floats, x.columns);
      for (int64_t i = first; i < min64(end, first + kFloatRows); i++) {
        const float* g = grad + i * x.columns;
        const double mean = sum_terms(x.columns, [&](int64_t j, auto lanes) {
          const Vec d = lanes.load(g + j) * a.scale, square = d * d;
          lanes.store(floats + j, lanes.load(floats + j) + square);
          return square;
        });
        row[i] = a.keep * row[i] + a.fresh * (static_cast<float>(mean / static_cast<double>(x.columns)) + a.eps);
      }
      for (int64_t j = 0; j < x.columns; j++) sum[j] += static_cast<double>(floats[j]);
    }
  });
  double rows = 0;
  for (int64_t i = 0; i < x.rows; i++) rows += static_cast<double>(row[i]);
  const float middle = static_cast<float>(rows / static_cast<double>(x.rows));
  for (int64_t j = 0; j < x.columns; j++) {
    double sum = 0;
    for (int64_t chunk = 0; chunk < x.chunks; chunk++) sum += sums[chunk * x.columns + j];
    column[j] = a.keep * column[j] + a.fresh * (static_cast<float>(sum / static_cast<double>(x.rows)) + a.eps);
    factor[j] = 1.0f / __builtin_sqrtf(column[j]);
  }
  // The square of element i, j is estimated as row[i] column[j] / middle.
  const auto update_of = [&](int64_t i) {
    // In double: beside a row of zeros, whose squares are eps alone, the quotient can be more than a float holds.
    const double share = __builtin_sqrt(static_cast<double>(middle) / static_cast<double>(row[i]));
    const Vec own = broadcast(a.scale * static_cast<float>(share));
    const float* g = grad + i * x.columns;
    return [=](int64_t j, auto lanes) { return lanes.load(g + j) * own * lanes.load(factor + j); };
  };
  x.each_chunk(call, [&](int64_t chunk, int64_t begin, int64_t end) {
    double sum = 0;
    for (int64_t i = begin; i < end; i++) {
      const auto update = update_of(i);
      sum += sum_terms(x.columns, [&](int64_t j, auto lanes) { return update(j, lanes) * update(j, lanes); });
    }
    changed[chunk] = sum;
  });
  double own = 0, all = 0;
  for (int64_t chunk = 0; chunk < x.chunks; chunk++) {
    own += parameter[chunk];
    all += changed[chunk];
  }
  const float rate = a.rate(own, all), shrink = a.shrink;
  x.each_chunk(call, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      step_down(weights, i * x.columns, (i + 1) * x.columns, shrink, rate, update_of(i));
  });
}

// adafactor_update: grad, lr [], step [] (f32, counts from 1), grad scale [] or absent -> param, mean squares of rows and
// of columns, or of elements and absent (in place)
// numbers: added to squares, least root mean square of the parameter that lr is relative to (0: lr is absolute), largest
// root mean square of the update, weight decay (decoupled), decay of the share step^-decay of new squares. Shazeer & Stern
// 2018, algorithms 4 and 5.
bool adafactor_update(const Call& call) {
  if (call.out[0].count() == 0) return true;
  if (call.out[2]) adafactor_matrix(call, Adafactor(call));
  else adafactor_elements(call, Adafactor(call));
  return true;
}
int64_t adafactor_scratch(const Call& call, int) {
  if (!call.out[2]) return ceil_div(call.out[0].count(), kPiece) * 16;
  const Matrix x(call.out[0]);
  return x.chunks * (16 + x.columns * 12) + x.columns * 4;
}

struct Sm3 {
  float lr, scale, momentum, fresh, shrink;

  // A vector of the parameter; returns its squares so far.
  template <class Lanes>
  Vec step(Lanes lanes, const float* grad, Vec before, float* w, float* m) const {
    const Vec g = lanes.load(grad) * scale, square = before + g * g;
    Vec u = square > 0 ? g / root(square) : g * 0.0f;  // 0 / 0 = 0, and NaN of NaN
    if (m) {
      u = momentum * lanes.load(m) + fresh * u;
      lanes.store(m, u);
    }
    lanes.store(w, lanes.load(w) * shrink - u * lr);
    return square;
  }
};

// sm3_update: grad, lr [], grad scale [] or absent -> param, largest squares of rows and of columns, or squares of
// elements and absent, momentum or absent (in place)
// numbers: momentum (of the update), weight decay (decoupled). Anil et al. 2019, SM3-II.
bool sm3_update(const Call& call) {
  const float *grad = call.in[0].f32(), *rates = call.in[1].f32();
  float* row = call.out[1].f32();
  const Weights weights(call);
  float *column = call.out[2] ? call.out[2].f32() : nullptr, *m = call.out[3] ? call.out[3].f32() : nullptr;
  const Sm3 a = {*rates, gradient_scale(call, 2), call.real(0), static_cast<float>(1 - call.number[0]),
                 static_cast<float>(1 - static_cast<double>(*rates) * call.number[1])};
  if (call.out[0].count() == 0) return true;
  if (!column) {
    parallel_ranges(call, call.out[0].count(), kPiece, [&](int64_t begin, int64_t end) {
      weights.change(begin, end, [&](float* w, int64_t at, int64_t n) {
        each_vector(0, n, [&](int64_t i, auto lanes) {
          const int64_t k = at + i;
          lanes.store(row + k, a.step(lanes, grad + k, lanes.load(row + k), w + i, m ? m + k : nullptr));
        });
      });
    });
    return true;
  }
  const Matrix x(call.out[0]);
  float* tops = static_cast<float*>(call.scratch);  // of the columns of each chunk
  x.each_chunk(call, [&](int64_t chunk, int64_t begin, int64_t end) {
    float* top = tops + chunk * x.columns;
    set_zero(top, x.columns);
    for (int64_t r = begin; r < end; r++) {
      const int64_t at = r * x.columns;
      const Vec own = broadcast(row[r]);
      Vec best = {};
      weights.change(at, at + x.columns, [&](float* w, int64_t first, int64_t n) {
        each_vector(0, n, [&](int64_t i, auto lanes) {
          const int64_t k = first + i, j = k - at;
          const Vec other = lanes.load(column + j), highest = lanes.load(top + j);
          const Vec square = lanes.keep(a.step(lanes, grad + k, other < own ? other : own, w + i, m ? m + k : nullptr));
          lanes.store(top + j, square > highest ? square : highest);
          best = square > best ? square : best;
        });
      });
      float largest = 0;
      for (int k = 0; k < kLanes; k++) largest = best[k] > largest ? best[k] : largest;
      row[r] = largest;
    }
  });
  for (int64_t j = 0; j < x.columns; j++) {
    float largest = 0;
    for (int64_t chunk = 0; chunk < x.chunks; chunk++) {
      const float top = tops[chunk * x.columns + j];
      largest = top > largest ? top : largest;
    }
    column[j] = largest;
  }
  return true;
}
int64_t sm3_scratch(const Call& call, int) {
  if (!call.out[2]) return 0;
  const Matrix x(call.out[0]);
  return x.chunks * x.columns * 4;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"adafactor_update", adafactor_update, adafactor_scratch}, {"sm3_update", sm3_update, sm3_scratch})
