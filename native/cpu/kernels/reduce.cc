// Reductions over any axes. numbers: the reduced axes. Sums run in a fixed order, whatever the number of threads.
#include "../elementwise.h"
#include "../rows.h"

namespace auxgrad {
namespace {

// The kept axes and the reduced axes of an input, each as sizes and strides.
struct Split {
  int kept = 0, reduced = 0;
  int64_t kept_size[kMaxRank], kept_stride[kMaxRank], reduced_size[kMaxRank], reduced_stride[kMaxRank];
  int64_t outputs = 1, terms = 1;
};

Split split_axes(const Call& call, const View& x) {
  bool gone[kMaxRank] = {};
  for (int i = 0; i < call.n_number; i++) gone[call.integer(i)] = true;
  Split s;
  for (int axis = 0; axis < x.rank; axis++) {
    if (gone[axis]) {
      s.reduced_size[s.reduced] = x.shape[axis];
      s.reduced_stride[s.reduced++] = x.stride[axis];
      s.terms *= x.shape[axis];
    } else {
      s.kept_size[s.kept] = x.shape[axis];
      s.kept_stride[s.kept++] = x.stride[axis];
      s.outputs *= x.shape[axis];
    }
  }
  return s;
}

int64_t offset_of(int64_t i, int rank, const int64_t* size, const int64_t* stride) {
  int64_t offset = 0;
  for (int axis = rank - 1; axis >= 0; axis--) {
    offset += i % size[axis] * stride[axis];
    i /= size[axis];
  }
  return offset;
}

// f(accumulator, value) over the terms of each output. The sum type is double for floats: exact enough for any length.
template <class T, class Sum, class F, class End>
void reduce(const Call& call, Sum start, const F& f, const End& end) {
  const Split s = split_axes(call, call.in[0]);
  const T* x = static_cast<const T*>(call.in[0].data);
  const int inner_axis = s.reduced - 1;
  const int64_t inner = s.reduced ? s.reduced_size[inner_axis] : 1;
  const int64_t stride = s.reduced ? s.reduced_stride[inner_axis] : 0;
  parallel_ranges(call, s.outputs, max64(1, 16384 / max64(s.terms, 1)), [&](int64_t begin, int64_t finish) {
    for (int64_t o = begin; o < finish; o++) {
      const T* base = x + offset_of(o, s.kept, s.kept_size, s.kept_stride);
      Sum sum = start;
      for (int64_t r = 0; inner && r < s.terms / inner; r++) {
        const T* p = base + offset_of(r, inner_axis, s.reduced_size, s.reduced_stride);
        for (int64_t i = 0; i < inner; i++) sum = f(sum, p[i * stride]);
      }
      end(o, sum, s.terms);
    }
  });
}

// Leading axes of a contiguous f32 [rows, C] input reduced, C kept (a bias gradient): vectorises over C.
bool is_column_sum(const Call& call) {
  const View& x = call.in[0];
  if (x.dtype != DType::f32 || x.rank < 2 || !x.contiguous() || call.n_number != x.rank - 1) return false;
  for (int i = 0; i < call.n_number; i++)
    if (call.integer(i) == x.rank - 1) return false;
  return x.count() > 0;
}

constexpr int64_t kFloatRows = 32;  // rows added in float; the rest is added in double

int64_t column_chunks(const View& x) {
  const int64_t rows = x.count(0, x.rank - 1), columns = x.shape[x.rank - 1];
  return max64(1, min64(min64(64, ceil_div(rows, 4 * kFloatRows)), 32768 / columns));
}

int64_t column_scratch(const Call& call) {
  const View& x = call.in[0];
  return column_chunks(x) * x.shape[x.rank - 1] * static_cast<int64_t>(sizeof(double) + sizeof(float));
}

void column_sum(const Call& call, double scale) {
  const View& x = call.in[0];
  const int64_t columns = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1), chunks = column_chunks(x);
  double* partial = static_cast<double*>(call.scratch);
  float* floats = reinterpret_cast<float*>(partial + chunks * columns);
  parallel_tasks(call, chunks, [&](int64_t chunk, int) {
    double* sum = partial + chunk * columns;
    float* part = floats + chunk * columns;
    memset(sum, 0, static_cast<size_t>(columns) * sizeof(double));
    const int64_t end = rows * (chunk + 1) / chunks;
    for (int64_t r = rows * chunk / chunks; r < end; r += kFloatRows) {
      set_zero(part, columns);
      for (int64_t i = r; i < min64(end, r + kFloatRows); i++) {
        const float* row = x.f32() + i * columns;
        for (int64_t c = 0; c < columns; c++) part[c] += row[c];
      }
      for (int64_t c = 0; c < columns; c++) sum[c] += part[c];
    }
  });
  for (int64_t c = 0; c < columns; c++) {
    double sum = 0;
    for (int64_t chunk = 0; chunk < chunks; chunk++) sum += partial[chunk * columns + c];
    call.out[0].f32()[c] = static_cast<float>(sum * scale);
  }
}

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
  if (!is_row_reduction(call)) return 0;
  const Split s = split_axes(call, call.in[0]);
  return s.terms <= kRun ? 0 : s.outputs * ceil_div(s.terms, kRun) * static_cast<int64_t>(sizeof(double));
}

// piece(x, n) of the runs, joined by join(a, b); end(output, result).
template <class Piece, class Join, class End>
void reduce_rows(const Call& call, const Piece& piece, const Join& join, const End& end) {
  const Split s = split_axes(call, call.in[0]);
  const float* x = call.in[0].f32();
  if (s.terms <= kRun) {
    parallel_ranges(call, s.outputs, max64(1, 32768 / s.terms), [&](int64_t begin, int64_t finish) {
      for (int64_t o = begin; o < finish; o++) end(o, piece(x + o * s.terms, s.terms));
    });
    return;
  }
  const int64_t pieces = ceil_div(s.terms, kRun);
  double* partial = static_cast<double*>(call.scratch);
  parallel_tasks(call, s.outputs * pieces, [&](int64_t task, int) {
    const int64_t from = task % pieces * kRun;
    partial[task] = piece(x + task / pieces * s.terms + from, min64(kRun, s.terms - from));
  });
  for (int64_t o = 0; o < s.outputs; o++) {
    double result = partial[o * pieces];
    for (int64_t i = 1; i < pieces; i++) result = join(result, partial[o * pieces + i]);
    end(o, result);
  }
}

int64_t sum_scratch(const Call& call, int threads) {
  return is_column_sum(call) ? column_scratch(call) : row_scratch(call, threads);
}

// Sum of floats, times `scale` of the number of terms.
template <class Scale>
void float_sum(const Call& call, const Scale& scale) {
  const View& y = call.out[0];
  const double factor = scale(split_axes(call, call.in[0]).terms);
  const auto end = [&](int64_t o, double s) { y.f32()[o] = static_cast<float>(s * factor); };
  if (is_column_sum(call)) column_sum(call, factor);
  else if (is_row_reduction(call))
    reduce_rows(
        call, row_sum, [](double a, double b) { return a + b; }, end);
  else
    reduce<float>(
        call, 0.0, [](double s, float v) { return s + v; }, [&](int64_t o, double s, int64_t) { end(o, s); });
}

bool sum(const Call& call) {
  const View& y = call.out[0];
  if (call.in[0].dtype == DType::i32)
    reduce<int32_t>(
        call, int64_t{0}, [](int64_t s, int32_t v) { return s + v; },
        [&](int64_t o, int64_t s, int64_t) { y.i32()[o] = static_cast<int32_t>(s); });
  else float_sum(call, [](int64_t) { return 1.0; });
  return true;
}

bool mean(const Call& call) {
  float_sum(call, [](int64_t terms) { return 1 / static_cast<double>(terms); });
  return true;
}

// Leading axes reduced, the last one kept: blocks of columns down the rows.
template <bool kMax>
void column_extreme(const Call& call) {
  const View& x = call.in[0];
  const int64_t columns = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1);
  constexpr int64_t kBlock = 4 * kLanes;
  parallel_tasks(call, ceil_div(columns, kBlock), [&](int64_t task, int) {
    const int64_t begin = task * kBlock, end = min64(columns, begin + kBlock);
    Vec best[4];
    int k = 0;
    each_vector(begin, end, [&](int64_t c, auto lanes) { best[k++] = lanes.load(x.f32() + c); });
    for (int64_t r = 1; r < rows; r++) {
      const float* row = x.f32() + r * columns;
      k = 0;
      each_vector(begin, end, [&](int64_t c, auto lanes) {
        const Vec v = lanes.load(row + c), b = best[k];
        best[k++] = (b == b) & ((kMax ? v > b : v < b) | (v != v)) ? v : b;
      });
    }
    k = 0;
    each_vector(begin, end, [&](int64_t c, auto lanes) { lanes.store(call.out[0].f32() + c, best[k++]); });
  });
}

template <bool kMax>
bool extreme(const Call& call) {
  const View& y = call.out[0];
  if (call.in[0].dtype == DType::i32)
    reduce<int32_t>(
        call, kMax ? INT32_MIN : INT32_MAX, [](int32_t s, int32_t v) { return (kMax ? v > s : v < s) ? v : s; },
        [&](int64_t o, int32_t s, int64_t) { y.i32()[o] = s; });
  else if (is_column_sum(call)) column_extreme<kMax>(call);
  else if (is_row_reduction(call))
    reduce_rows(
        call,
        [](const float* x, int64_t n) -> double {
          bool nan;
          const float best = row_extreme<kMax>(x, n, &nan);
          return nan ? __builtin_nanf("") : best;
        },
        [](double a, double b) { return a != a ? a : ((kMax ? b > a : b < a) || b != b ? b : a); },
        [&](int64_t o, double s) { y.f32()[o] = static_cast<float>(s); });
  else
    reduce<float>(
        call, kMax ? -__builtin_inff() : __builtin_inff(),
        [](float s, float v) { return s != s ? s : ((kMax ? v > s : v < s) || v != v ? v : s); },
        [&](int64_t o, float s, int64_t) { y.f32()[o] = s; });
  return true;
}

// argmax over the one axis in numbers: x f32 -> i32; the first of equals wins, the first NaN beats all.
bool argmax(const Call& call) {
  const View& x = call.in[0];
  const Split s = split_axes(call, call.in[0]);
  parallel_ranges(call, s.outputs, max64(1, 16384 / max64(s.terms, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; o++) {
      const float* p = x.f32() + offset_of(o, s.kept, s.kept_size, s.kept_stride);
      int64_t best = 0;
      if (s.reduced_stride[0] == 1 && s.terms > 0) {
        bool nan;
        const float top = row_extreme<true>(p, s.terms, &nan);
        const Vec wanted = broadcast(top);
        const auto here = [&](Vec v) { return any_lane(nan ? v != v : v == wanted); };
        while (best + kLanes <= s.terms && !here(load(p + best))) best += kLanes;
        while (nan ? p[best] == p[best] : p[best] != top) best++;
        call.out[0].i32()[o] = static_cast<int32_t>(best);
        continue;
      }
      for (int64_t i = 1; i < s.terms; i++) {
        const float v = p[i * s.reduced_stride[0]], b = p[best * s.reduced_stride[0]];
        if (b == b && (v > b || v != v)) best = i;
      }
      call.out[0].i32()[o] = static_cast<int32_t>(best);
    }
  });
  return true;
}

// g(value) for each term of an output that starts at `base`.
template <class T, class G>
inline void each_term(const Split& s, const T* base, const G& g) {
  const int last = s.reduced - 1;
  const int64_t inner = s.reduced ? s.reduced_size[last] : 1, stride = s.reduced ? s.reduced_stride[last] : 0;
  for (int64_t r = 0; inner && r < s.terms / inner; r++) {
    T* p = const_cast<T*>(base) + offset_of(r, last, s.reduced_size, s.reduced_stride);
    for (int64_t i = 0; i < inner; i++) g(p[i * stride]);
  }
}

// f(split, output, base): base is the output's first term.
template <class F>
void each_output(const Call& call, const View& x, const F& f) {
  const Split s = split_axes(call, x);
  parallel_ranges(call, s.outputs, max64(1, 16384 / max64(s.terms, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; o++) f(s, o, x.f32() + offset_of(o, s.kept, s.kept_size, s.kept_stride));
  });
}

bool prod(const Call& call) {
  const View& y = call.out[0];
  reduce<float>(
      call, 1.0, [](double s, float v) { return s * v; },
      [&](int64_t o, double s, int64_t) { y.f32()[o] = static_cast<float>(s); });
  return true;
}

// prod_grad: x, dy (both contiguous) -> dx, dy times the product of the other terms; numbers: the reduced axes
bool prod_grad(const Call& call) {
  const View& x = call.in[0];
  float* dx = call.out[0].f32();
  each_output(call, x, [&](const Split& s, int64_t o, const float* base) {
    double others = 1;
    int64_t zeros = 0;
    each_term(s, base, [&](const float& v) {
      if (v == 0) zeros++;
      else others *= v;
    });
    const double scaled = others * call.in[1].f32()[o];
    each_term(s, base, [&](const float& v) {
      dx[&v - x.f32()] = static_cast<float>(zeros == 0 ? scaled / v : (zeros == 1 && v == 0 ? scaled : 0.0));
    });
  });
  return true;
}

template <bool kAll>
bool logical(const Call& call) {
  const View& y = call.out[0];
  reduce<uint8_t>(
      call, static_cast<uint8_t>(kAll), [](uint8_t s, uint8_t v) -> uint8_t { return kAll ? s && v : s || v; },
      [&](int64_t o, uint8_t s, int64_t) { y.u8()[o] = s; });
  return true;
}

// norm: the Euclidean norm
bool norm(const Call& call) {
  const View& y = call.out[0];
  reduce<float>(
      call, 0.0, [](double s, float v) { return s + static_cast<double>(v) * v; },
      [&](int64_t o, double s, int64_t) { y.f32()[o] = static_cast<float>(__builtin_sqrt(s)); });
  return true;
}

// var: numbers: correction, then the reduced axes. Two passes: a mean far from zero costs no digits.
bool var(const Call& call) {
  Call axes = call;
  axes.number++;
  axes.n_number--;
  each_output(axes, call.in[0], [&](const Split& s, int64_t o, const float* base) {
    const double n = static_cast<double>(s.terms), rest = n - call.number[0];
    double sum = 0, squares = 0;
    each_term(s, base, [&](const float& v) { sum += v; });
    each_term(s, base, [&](const float& v) { squares += (v - sum / n) * (v - sum / n); });
    call.out[0].f32()[o] = static_cast<float>(squares / (rest > 0 ? rest : 0.0));
  });
  return true;
}

bool log_sum_exp(const Call& call) {
  each_output(call, call.in[0], [&](const Split& s, int64_t o, const float* base) {
    float top = -__builtin_inff();
    each_term(s, base, [&](const float& v) { top = v > top || v != v ? v : top; });
    double sum = 0;
    if (top - top == 0) each_term(s, base, [&](const float& v) { sum += exp_f32(v - top); });
    call.out[0].f32()[o] = top - top == 0 ? top + log_f32(static_cast<float>(sum)) : top;
  });
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"sum", sum, sum_scratch}, {"mean", mean, sum_scratch}, {"max", extreme<true>, row_scratch},
                {"min", extreme<false>, row_scratch}, {"argmax", argmax}, {"prod", prod}, {"prod_grad", prod_grad},
                {"any", logical<false>}, {"all", logical<true>}, {"norm", norm}, {"var", var},
                {"log_sum_exp", log_sum_exp})
