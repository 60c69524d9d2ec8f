// Reductions over any axes. numbers: the reduced axes. Sums run in a fixed order, whatever the number of threads.
#include "../elementwise.h"

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

constexpr int64_t kRowsPerChunk = 512;

// Leading axes of a contiguous [rows, C] input reduced, C kept (a bias gradient): vectorises over C, in fixed chunks.
bool is_column_sum(const Call& call) {
  const View& x = call.in[0];
  if (x.dtype != DType::f32 || x.rank < 2 || !x.contiguous() || call.n_number != x.rank - 1) return false;
  for (int i = 0; i < call.n_number; i++)
    if (call.integer(i) == x.rank - 1) return false;
  return x.count() > 0;
}

int64_t column_chunks(const View& x) { return min64(64, ceil_div(x.count(0, x.rank - 1), kRowsPerChunk)); }

int64_t sum_scratch(const Call& call, int) {
  if (!is_column_sum(call)) return 0;
  const View& x = call.in[0];
  return column_chunks(x) * x.shape[x.rank - 1] * static_cast<int64_t>(sizeof(float));
}

void column_sum(const Call& call, float scale) {
  const View& x = call.in[0];
  const int64_t columns = x.shape[x.rank - 1], rows = x.count(0, x.rank - 1), chunks = column_chunks(x);
  const int64_t step = ceil_div(rows, chunks);
  float* partial = static_cast<float*>(call.scratch);
  parallel_tasks(call, chunks, [&](int64_t chunk, int) {
    float* sum = partial + chunk * columns;
    memset(sum, 0, static_cast<size_t>(columns) * sizeof(float));
    for (int64_t r = chunk * step; r < min64(rows, (chunk + 1) * step); r++) {
      const float* row = x.f32() + r * columns;
      for (int64_t c = 0; c < columns; c++) sum[c] += row[c];
    }
  });
  float* y = call.out[0].f32();
  for (int64_t c = 0; c < columns; c++) {
    float sum = 0;
    for (int64_t chunk = 0; chunk < chunks; chunk++) sum += partial[chunk * columns + c];
    y[c] = sum * scale;
  }
}

bool sum(const Call& call) {
  const View& y = call.out[0];
  if (is_column_sum(call)) column_sum(call, 1.0f);
  else if (call.in[0].dtype == DType::i32)
    reduce<int32_t>(call, int64_t{0}, [](int64_t s, int32_t v) { return s + v; }, [&](int64_t o, int64_t s, int64_t) { y.i32()[o] = static_cast<int32_t>(s); });
  else
    reduce<float>(call, 0.0, [](double s, float v) { return s + v; }, [&](int64_t o, double s, int64_t) { y.f32()[o] = static_cast<float>(s); });
  return true;
}

bool mean(const Call& call) {
  const View& y = call.out[0];
  if (is_column_sum(call)) column_sum(call, 1.0f / static_cast<float>(call.in[0].count(0, call.in[0].rank - 1)));
  else
    reduce<float>(call, 0.0, [](double s, float v) { return s + v; }, [&](int64_t o, double s, int64_t n) { y.f32()[o] = static_cast<float>(s / static_cast<double>(n)); });
  return true;
}

template <bool kMax>
bool extreme(const Call& call) {
  const View& y = call.out[0];
  if (call.in[0].dtype == DType::i32)
    reduce<int32_t>(call, kMax ? INT32_MIN : INT32_MAX, [](int32_t s, int32_t v) { return (kMax ? v > s : v < s) ? v : s; }, [&](int64_t o, int32_t s, int64_t) { y.i32()[o] = s; });
  else
    reduce<float>(call, kMax ? -__builtin_inff() : __builtin_inff(), [](float s, float v) { return s != s ? s : ((kMax ? v > s : v < s) || v != v ? v : s); }, [&](int64_t o, float s, int64_t) { y.f32()[o] = s; });
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
  reduce<float>(call, 1.0, [](double s, float v) { return s * v; }, [&](int64_t o, double s, int64_t) { y.f32()[o] = static_cast<float>(s); });
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
  reduce<uint8_t>(call, static_cast<uint8_t>(kAll), [](uint8_t s, uint8_t v) -> uint8_t { return kAll ? s && v : s || v; },
                  [&](int64_t o, uint8_t s, int64_t) { y.u8()[o] = s; });
  return true;
}

// norm: the Euclidean norm
bool norm(const Call& call) {
  const View& y = call.out[0];
  reduce<float>(call, 0.0, [](double s, float v) { return s + static_cast<double>(v) * v; }, [&](int64_t o, double s, int64_t) { y.f32()[o] = static_cast<float>(__builtin_sqrt(s)); });
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

AUXGRAD_KERNELS({"sum", sum, sum_scratch}, {"mean", mean, sum_scratch}, {"max", extreme<true>}, {"min", extreme<false>},
                {"argmax", argmax}, {"prod", prod}, {"prod_grad", prod_grad}, {"any", logical<false>},
                {"all", logical<true>}, {"norm", norm}, {"var", var}, {"log_sum_exp", log_sum_exp})
