// Reductions over any axes. numbers: the reduced axes. Sums run in a fixed order, whatever the number of threads.
#include "../elementwise.h"
#include "../piecewise.h"
#include "../rows.h"

namespace auxgrad {
namespace {

// Some axes of an input, neighbours made one where strides allow.
struct AxisSet {
  int rank = 0;
  int64_t size[kMaxRank], stride[kMaxRank], count = 1;

  void add(int64_t n, int64_t step) {
    count *= n;
    if (n == 1) return;
    if (rank > 0 && stride[rank - 1] == step * n) n *= size[--rank];
    size[rank] = n;
    stride[rank++] = step;
  }
  // Of place i along the first `axes` of them.
  int64_t offset(int64_t i, int axes) const {
    int64_t sum = 0;
    for (int axis = axes - 1; axis >= 0; axis--) {
      sum += i % size[axis] * stride[axis];
      i /= size[axis];
    }
    return sum;
  }
  int64_t offset(int64_t i) const { return offset(i, rank); }
  bool dense() const { return rank > 0 && stride[rank - 1] == 1; }
};

struct Split {
  AxisSet kept, reduced;

  Split(const Call& call, const View& x) {
    bool gone[kMaxRank] = {};
    for (int i = 0; i < call.n_number; i++) gone[call.integer(i)] = true;
    for (int axis = 0; axis < x.rank; axis++) (gone[axis] ? reduced : kept).add(x.shape[axis], x.stride[axis]);
  }
};

// --- any axes: terms are put together in double, in columns side by side ---

constexpr int64_t kColumns = 1024;

// What a reduction does with its terms. All take columns: n sums side by side, and for each a shift.
struct Fold {
  // Puts rows of n terms, `step` apart, to the sums. Terms are floats, or doubles where they are converted first.
  void (*put)(const void* x, int64_t step, int64_t rows, const double* shift, double* sums, int64_t n);
  void (*join)(const void* x, int64_t step, int64_t rows, const double* shift, double* sums, int64_t n);  // of doubles
  double start, number;
  void (*end)(const double* sums, const double* shift, double number, void* y, int64_t n);  // results, of the last fold
};

// What a term is, and how two are joined.
struct Add {
  static constexpr bool kShifted = false;
  template <class V>
  static V term(V x, double) {
    return x;
  }
  template <class V>
  static V join(V a, V b) {
    return a + b;
  }
};
struct AddSquare : Add {
  static constexpr bool kShifted = true;
  static double term(double x, double shift) { return (x - shift) * (x - shift); }
};
struct Multiply : Add {
  static double term(double x, double) { return x; }
  static double join(double a, double b) { return a * b; }
};
// NaN beats all.
template <bool kMax>
struct Extreme : Add {
  template <class V>
  static V join(V a, V b) {
    const V best = (kMax ? b <= a : b >= a) ? a : b;
    return a != a ? a : best;
  }
};

// Four rows at a time, or one: most terms meet in registers, and a sum is read and written once for all of them.
template <class Op, int kRows, class T>
inline void put_rows(const T* x, int64_t step, const double* shift, double* sums, int64_t n) {
  constexpr int64_t kBlock = 16;
  const auto put = [=](int64_t c) {
    const auto term = [=](int64_t r) { return Op::term(x[r * step + c], Op::kShifted ? shift[c] : 0.0); };
    auto all = term(0);
    if constexpr (kRows == 4) all = Op::join(Op::join(all, term(1)), Op::join(term(2), term(3)));
    sums[c] = Op::join(sums[c], static_cast<double>(all));
  };
  int64_t c = 0;
  for (; c + kBlock <= n; c += kBlock) {
    AUXGRAD_INDEPENDENT
    for (int64_t k = c; k < c + kBlock; k++) put(k);
  }
#pragma GCC unroll 1
  for (; c < n; c++) {
    put(c);
    __asm__ volatile("");  // vectors of so few would be kilobytes of code
  }
}

template <class Op, class T>
__attribute__((noinline)) void put(const void* x, int64_t step, int64_t rows, const double* shift, double* sums,
                                   int64_t n) {
  const T* row = static_cast<const T*>(x);
  for (; rows >= 4; rows -= 4, row += 4 * step) put_rows<Op, 4>(row, step, shift, sums, n);
  for (; rows > 0; rows--, row += step) put_rows<Op, 1>(row, step, shift, sums, n);
}

// Exponentials of what terms are above the shifts.
void put_exp(const void* x, int64_t step, int64_t rows, const double* shift, double* sums, int64_t n) {
  float e[kColumns];
  for (int64_t r = 0; r < rows; r++) {
    const float* row = static_cast<const float*>(x) + r * step;
    for (int64_t c = 0; c < n; c++) e[c] = static_cast<float>(row[c] - shift[c]);
#if defined(__AVX2__)
    each_vector(0, n, [&](int64_t c, auto lanes) { lanes.store(e + c, exp_lanes(lanes.load(e + c))); });
#else
    for (int64_t c = 0; c < n; c++) e[c] = exp_f32(e[c]);
#endif
    put<Add, float>(e, 0, 1, shift, sums, n);
  }
}

// Of whole numbers the lower bits.
template <class T, class Exact = T>
void scaled(const double* sums, const double*, double number, void* y, int64_t n) {
  for (int64_t i = 0; i < n; i++) static_cast<T*>(y)[i] = static_cast<T>(static_cast<Exact>(sums[i] * number));
}

template <class T>
void convert(const void* x, int64_t step, double* y, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] = static_cast<double>(static_cast<const T*>(x)[i * step]);
}
// n elements `step` apart as what put() takes: floats remain.
void gather_terms(const View& x, int64_t from, int64_t step, double* buffer, int64_t n) {
  if (x.dtype == DType::i32) return convert<int32_t>(x.i32() + from, step, buffer, n);
  if (dtype_size(x.dtype) == 1) return convert<uint8_t>(x.u8() + from, step, buffer, n);
  gather(buffer, x.f32() + from, 4, step, n);
}

// How the terms of the outputs are walked: columns that lie side by side in blocks, down rows. Of few columns that follow
// each other several rows are taken as one; of a single one its terms, wherever they are.
struct Walk {
  const View x;
  const Split s;
  int64_t columns, rows, step, wide, blocks, units, chunks;
  int outer_kept, outer_reduced;

  explicit Walk(const Call& call) : x(call.in[0]), s(call, call.in[0]) {
    const bool side = s.kept.dense();
    outer_kept = s.kept.rank - side, outer_reduced = s.reduced.rank > 0 ? s.reduced.rank - 1 : 0;
    columns = side ? s.kept.size[outer_kept] : 1;
    rows = s.reduced.rank > 0 ? s.reduced.size[outer_reduced] : 1;
    step = s.reduced.rank > 0 ? s.reduced.stride[outer_reduced] : columns;
    const int64_t together = rows * columns >= 1024 ? 256 : 64;
    wide = columns == 1 || step == columns ? max64(1, together / max64(1, columns)) : 1;
    while (wide >= 2 * rows && wide % 2 == 0) wide /= 2;
    blocks = ceil_div(columns, kColumns);
    units = s.kept.count / max64(1, columns) * blocks;
    // By shape only; enough to share out, few enough to keep their sums small.
    chunks = min64(ceil_div(64, max64(1, units)), 32768 / max64(1, s.kept.count));
    chunks = max64(1, min64(chunks, s.reduced.count * min64(columns, kColumns) / 32768));
  }
  int64_t first(int64_t unit) const { return unit / blocks * columns + unit % blocks * kColumns; }
  int64_t width(int64_t unit) const { return min64(kColumns, columns - unit % blocks * kColumns); }

  // Those of the rows [begin, end) of a unit.
  __attribute__((noinline)) void sum(const Fold& f, int64_t unit, int64_t begin, int64_t end, const double* given,
                                     double* sums) const {
    const int64_t n = width(unit), lanes = wide * n, base = s.kept.offset(unit / blocks, outer_kept);
    alignas(64) double shift[kColumns], buffer[kColumns];
    for (int64_t i = 0; i < lanes; i++) sums[i] = f.start;
    for (int64_t i = 0; i < lanes; i++) shift[i] = !given ? 0 : n == 1 ? *given : i < n ? given[i] : shift[i - n];
    const bool direct = x.dtype == DType::f32 && (columns > 1 || step == 1);
    for (int64_t at = begin, count; at < end; at += count) {
      count = min64(rows - at % rows, end - at);
      int64_t from = base + unit % blocks * kColumns + s.reduced.offset(at / rows, outer_reduced) + at % rows * step;
      int64_t whole = count / wide, rest = count % wide * n;
      if (direct) {
        f.put(x.f32() + from, wide * step, whole, shift, sums, lanes);
        if (rest > 0) f.put(x.f32() + from + whole * wide * step, 0, 1, shift, sums, rest);
        continue;
      }
      for (; whole >= 0; whole--, from += wide * step) {
        const int64_t some = whole > 0 ? lanes : rest;
        gather_terms(x, from, columns > 1 ? 1 : step, buffer, some);
        f.put(buffer, 0, 1, shift, sums, some);
      }
    }
    for (int64_t k = wide; k > 1; k = ceil_div(k, 2)) f.join(sums + ceil_div(k, 2) * n, 0, 1, nullptr, sums, k / 2 * n);
  }
};

int64_t walk_scratch(const Call& call, int folds) {
  const Walk walk(call);
  return walk.chunks == 1 ? 0 : (walk.chunks + folds - 1) * walk.s.kept.count * static_cast<int64_t>(sizeof(double));
}

// The folds one after the other; the sums of one, times its number, are the shifts of the next.
void reduce(const Call& call, const Fold* folds, int count) {
  const Walk walk(call);
  const int64_t outputs = walk.s.kept.count, terms = walk.s.reduced.count, chunks = walk.chunks;
  const View& y = call.out[0];
  const Fold& last = folds[count - 1];
  const auto end = [&](int64_t first, int64_t n, const double* sums, const double* shift) {
    last.end(sums, shift, last.number, y.u8() + first * dtype_size(y.dtype), n);
  };
  if (chunks == 1) {
    const int64_t work = terms * min64(walk.columns, kColumns);
    parallel_ranges(call, walk.units, max64(1, 32768 / max64(1, work)), [&](int64_t begin, int64_t finish) {
      alignas(64) double sums[2][kColumns];
      for (int64_t unit = begin; unit < finish; unit++) {
        const double* shift = nullptr;
        for (int i = 0; i < count; i++) {
          if (i > 0) shift = sums[0];
          walk.sum(folds[i], unit, 0, terms, shift, sums[i]);
          for (int64_t c = 0; i < count - 1 && c < walk.width(unit); c++) sums[i][c] *= folds[i].number;
        }
        end(walk.first(unit), walk.width(unit), sums[count - 1], shift);
      }
    });
    return;
  }
  double *partial = static_cast<double*>(call.scratch), *shift = nullptr;  // [chunks, outputs], [outputs]
  for (int i = 0; i < count; i++) {
    parallel_tasks(call, walk.units * chunks, [&](int64_t task, int) {
      alignas(64) double sums[kColumns];
      const int64_t unit = task / chunks, chunk = task % chunks, first = walk.first(unit);
      walk.sum(folds[i], unit, terms * chunk / chunks, terms * (chunk + 1) / chunks, shift ? shift + first : nullptr,
               sums);
      memcpy(partial + chunk * outputs + first, sums, static_cast<size_t>(walk.width(unit)) * sizeof(double));
    });
    folds[i].join(partial + outputs, outputs, chunks - 1, nullptr, partial, outputs);
    if (i == count - 1) break;
    shift = partial + chunks * outputs;
    for (int64_t o = 0; o < outputs; o++) shift[o] = partial[o] * folds[i].number;
  }
  end(0, outputs, partial, shift);
}

constexpr double kInfinity = __builtin_inf();

// Rows of a contiguous f32 input whose last axes are the reduced ones: each output is one run of terms, long runs in
// pieces that are worked on in parallel and put together in order.
constexpr int64_t kRun = 65536;

bool is_row_reduction(const Call& call) {
  const View& x = call.in[0];
  if (x.dtype != DType::f32 || !x.contiguous() || x.count() == 0) return false;
  bool gone[kMaxRank] = {};
  for (int i = 0; i < call.n_number; i++) gone[call.integer(i)] = true;
  for (int axis = 0; axis < x.rank; axis++)
    if (gone[axis] != (axis >= x.rank - call.n_number)) return false;
  return true;
}

int64_t row_scratch(const Call& call, int) {
  if (!is_row_reduction(call)) return walk_scratch(call, 1);
  const int64_t outputs = call.out[0].count(), terms = call.in[0].count() / outputs;
  return terms <= kRun ? 0 : outputs * ceil_div(terms, kRun) * static_cast<int64_t>(sizeof(double));
}

// Runs no longer than a vector, several at a time: join_all(rows, terms) gives each its result in all of its lanes. False
// if they are longer.
__attribute__((noinline)) bool reduce_short(const Call& call, Vec (*join_all)(const ShortRows&, Vec), double none,
                                            double factor) {
  const float* x = call.in[0].f32();
  float* y = call.out[0].f32();
  const ShortRows s(call.in[0].count() / call.out[0].count());
  if (!s) return false;
  parallel_ranges(call, call.out[0].count(), 32768 / s.n / s.together * s.together, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; o += s.together) {
      const int64_t rows = min64(s.together, end - o);
      s.store_first(y + o, rows, join_all(s, s.load(x + o * s.n, rows, broadcast(static_cast<float>(none)))));
    }
    for (int64_t o = begin; o < end; o++) y[o] = static_cast<float>(y[o] * factor);
  });
  return true;
}

// end(output, f(x, n)) of the rows, if they are not long.
template <class F, class End>
bool each_row(const Call& call, const F& f, const End& end) {
  const int64_t outputs = call.out[0].count(), terms = call.in[0].count() / outputs;
  if (terms > kRun) return false;
  const float* x = call.in[0].f32();
  parallel_ranges(call, outputs, max64(1, 32768 / terms), [&](int64_t begin, int64_t finish) {
    for (int64_t o = begin; o < finish; o++) end(o, f(x + o * terms, terms));
  });
  return true;
}

// piece(x, n) of the runs, joined by join(a, b); end(output, result).
template <class Piece, class Join, class End>
void reduce_rows(const Call& call, const Piece& piece, const Join& join, const End& end) {
  if (each_row(call, piece, end)) return;
  const int64_t outputs = call.out[0].count(), terms = call.in[0].count() / outputs;
  const float* x = call.in[0].f32();
  const int64_t pieces = ceil_div(terms, kRun);
  double* partial = static_cast<double*>(call.scratch);
  parallel_tasks(call, outputs * pieces, [&](int64_t task, int) {
    const int64_t from = task % pieces * kRun;
    partial[task] = piece(x + task / pieces * terms + from, min64(kRun, terms - from));
  });
  for (int64_t o = 0; o < outputs; o++) {
    double result = partial[o * pieces];
    for (int64_t i = 1; i < pieces; i++) result = join(result, partial[o * pieces + i]);
    end(o, result);
  }
}

// y = f(x, n) of the runs, if there are some that are not long.
template <class F>
bool each_run(const Call& call, const F& f) {
  float* y = call.out[0].f32();
  return is_row_reduction(call) &&
         each_row(call, f, [=](int64_t o, double result) { y[o] = static_cast<float>(result); });
}

// The sum of d^2, d = x - shift, and of d in *first: by itself in double where squares are no numbers for a float.
__attribute__((noinline)) double sum_squares(const float* x, int64_t n, float shift, double* first) {
  const Vec less = broadcast(shift);
  double squares;
  sum_pairs(
      n,
      [=](int64_t i, auto lanes, Vec& u, Vec& v) {
        u = lanes.load(x + i) - less;
        v = u * u;
      },
      first, &squares);
  if (squares >= 1e-25 && squares <= 1e35) return squares;
  *first = squares = 0;
  for (int64_t i = 0; i < n; i++) {
    const double d = static_cast<double>(x[i]) - shift;
    *first += d;
    squares += d * d;
  }
  return squares;
}

int64_t fold_scratch(const Call& call, int) { return walk_scratch(call, 1); }

// Terms as they are, joined by Op.
template <class Op>
bool reduce_by(const Call& call, double start, double number = 1) {
  const bool whole = call.in[0].dtype == DType::i32, bytes = dtype_size(call.in[0].dtype) == 1;
  const Fold fold = {whole || bytes ? put<Op, double> : put<Op, float>, put<Op, double>, start, number,
                     whole   ? scaled<int32_t, int64_t>
                     : bytes ? scaled<uint8_t>
                             : scaled<float>};
  reduce(call, &fold, 1);
  return true;
}

__attribute__((noinline)) bool sum_times(const Call& call, double factor) {
  if (!is_row_reduction(call)) return reduce_by<Add>(call, 0, factor);
  if (reduce_short(
          call, [](const ShortRows& rows, Vec terms) { return rows.sum(terms); }, 0, factor))
    return true;
  reduce_rows(
      call, row_sum, [](double a, double b) { return a + b; },
      [&](int64_t o, double s) { call.out[0].f32()[o] = static_cast<float>(s * factor); });
  return true;
}
bool sum(const Call& call) { return sum_times(call, 1); }
bool mean(const Call& call) { return sum_times(call, 1 / static_cast<double>(Split(call, call.in[0]).reduced.count)); }

template <bool kMax>
bool extreme(const Call& call) {
  typedef Extreme<kMax> Op;
  if (call.in[0].dtype == DType::i32) return reduce_by<Op>(call, kMax ? INT32_MIN : INT32_MAX);
  constexpr double kNone = kMax ? -kInfinity : kInfinity;
  if (!is_row_reduction(call)) return reduce_by<Op>(call, kNone);
  const auto join_all = [](const ShortRows& rows, Vec terms) {
    return join_lanes(terms, rows.width, [](Vec a, Vec b) { return Op::join(a, b); });
  };
  if (reduce_short(call, join_all, kNone, 1)) return true;
  reduce_rows(
      call,
      [](const float* x, int64_t n) -> double {
        bool nan;
        const float best = row_extreme<kMax>(x, n, &nan);
        return nan ? __builtin_nanf("") : best;
      },
      [](double a, double b) { return Op::join(a, b); },
      [&](int64_t o, double s) { call.out[0].f32()[o] = static_cast<float>(s); });
  return true;
}

// argmax over the one axis in numbers: x f32 -> i32; the first of equals wins, the first NaN beats all.
bool argmax(const Call& call) {
  const View& x = call.in[0];
  const Split s(call, x);
  const int64_t n = s.reduced.count, step = s.reduced.rank > 0 ? s.reduced.stride[0] : 1;
  if (step == 1) {
    parallel_ranges(call, s.kept.count, max64(1, 16384 / max64(n, 1)), [&](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; o++) call.out[0].i32()[o] = row_place(x.f32() + s.kept.offset(o), n);
    });
    return true;
  }
  // Columns that lie side by side, in blocks, down their rows.
  const int64_t columns = s.kept.dense() ? max64(1, s.kept.size[s.kept.rank - 1]) : 1;
  const int64_t blocks = ceil_div(columns, kColumns), work = n * min64(columns, kColumns);
  parallel_ranges(call, s.kept.count / columns * blocks, max64(1, 16384 / max64(1, work)),
                  [&](int64_t begin, int64_t end) {
                    float top[kColumns];
                    for (int64_t unit = begin; unit < end; unit++) {
                      const int64_t from = unit % blocks * kColumns, first = unit / blocks * columns + from;
                      const int64_t count = min64(kColumns, columns - from);
                      const float* p = x.f32() + s.kept.offset(first);
                      float* place = static_cast<float*>(call.out[0].data) + first;  // whole numbers, bit by bit
                      for (int64_t c = 0; c < count; c++) top[c] = -__builtin_inff();
                      set_zero(place, count);
                      for (int64_t i = 0; i < n; i++)
                        each_vector(0, count, [&](int64_t c, auto lanes) {
                          Vec best = lanes.load(top + c);
                          IntVec at = (IntVec)lanes.load(place + c);
                          take_larger(lanes.load(p + i * step + c), static_cast<int32_t>(i), &best, &at);
                          lanes.store(top + c, best);
                          lanes.store(place + c, (Vec)at);
                        });
                    }
                  });
  return true;
}

bool prod(const Call& call) { return reduce_by<Multiply>(call, 1); }

// prod_grad: x, dy (both contiguous) -> dx, dy times the product of the other terms; numbers: the reduced axes
bool prod_grad(const Call& call) {
  const Split s(call, call.in[0]);
  parallel_ranges(call, s.kept.count, max64(1, 16384 / max64(s.reduced.count, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; o++) {
      const float* x = call.in[0].f32() + s.kept.offset(o);
      float* dx = call.out[0].f32() + s.kept.offset(o);
      double others = 1;
      int64_t zeros = 0;
      for (int64_t i = 0; i < s.reduced.count; i++) {
        const float v = x[s.reduced.offset(i)];
        if (v == 0) zeros++;
        else others *= v;
      }
      const double scaled = others * call.in[1].f32()[o];
      for (int64_t i = 0; i < s.reduced.count; i++) {
        const int64_t at = s.reduced.offset(i);
        dx[at] = static_cast<float>(zeros == 0 ? scaled / x[at] : (zeros == 1 && x[at] == 0 ? scaled : 0.0));
      }
    }
  });
  return true;
}

bool any(const Call& call) { return reduce_by<Extreme<true>>(call, 0); }
bool all(const Call& call) { return reduce_by<Extreme<false>>(call, 1); }

// norm: the Euclidean norm
bool norm(const Call& call) {
  if (each_run(call, [](const float* x, int64_t n) {
        double sum;
        return __builtin_sqrt(sum_squares(x, n, 0, &sum));
      }))
    return true;
  const auto roots = [](const double* sums, const double*, double, void* y, int64_t n) {
    for (int64_t i = 0; i < n; i++) static_cast<float*>(y)[i] = static_cast<float>(__builtin_sqrt(sums[i]));
  };
  const Fold squares = {put<AddSquare, float>, put<Add, double>, 0, 1, roots};
  reduce(call, &squares, 1);
  return true;
}

// var: numbers: correction, then the reduced axes. Two passes: a mean far from zero costs no digits.
Call without_correction(const Call& call) {
  Call axes = call;
  axes.number++;
  axes.n_number--;
  return axes;
}
int64_t var_scratch(const Call& call, int) { return walk_scratch(without_correction(call), 2); }

bool var(const Call& call) {
  const Call axes = without_correction(call);
  const double n = static_cast<double>(Split(axes, axes.in[0]).reduced.count), rest = n - call.number[0];
  const double share = 1 / (rest > 0 ? rest : 0.0);
  if (each_run(axes, [=](const float* x, int64_t terms) {
        double sum;
        const double squares = sum_squares(x, terms, static_cast<float>(row_sum(x, terms) / n), &sum);
        const double about = squares - sum * sum / n;
        return (about < 0 ? 0 : about) * share;
      }))
    return true;
  const Fold folds[] = {{put<Add, float>, put<Add, double>, 0, 1 / n, nullptr},
                        {put<AddSquare, float>, put<Add, double>, 0, share, scaled<float>}};
  reduce(axes, folds, 2);
  return true;
}

int64_t scratch_of_two(const Call& call, int) { return walk_scratch(call, 2); }

bool log_sum_exp(const Call& call) {
#if defined(__AVX2__)
  if (each_run(call, [](const float* x, int64_t n) {
        bool nan;
        const float most = row_extreme<true>(x, n, &nan);
        if (nan) return not_a_number();
        const Vec top = broadcast(most);
        const double sum = sum_terms(n, [=](int64_t i, auto lanes) { return exp_lanes(lanes.load(x + i) - top); });
        return most - most == 0 ? most + log_f32(static_cast<float>(sum)) : most;
      }))
    return true;
#endif
  const auto logs = [](const double* sums, const double* top, double, void* y, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
      const float most = static_cast<float>(top[i]);
      static_cast<float*>(y)[i] = most - most == 0 ? most + log_f32(static_cast<float>(sums[i])) : most;
    }
  };
  const Fold folds[] = {{put<Extreme<true>, float>, put<Extreme<true>, double>, -kInfinity, 1, nullptr},
                        {put_exp, put<Add, double>, 0, 1, logs}};
  reduce(call, folds, 2);
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"sum", sum, row_scratch}, {"mean", mean, row_scratch}, {"max", extreme<true>, row_scratch},
                {"min", extreme<false>, row_scratch}, {"argmax", argmax}, {"prod", prod, fold_scratch},
                {"prod_grad", prod_grad}, {"any", any, fold_scratch}, {"all", all, fold_scratch},
                {"norm", norm, fold_scratch}, {"var", var, var_scratch}, {"log_sum_exp", log_sum_exp, scratch_of_two})
