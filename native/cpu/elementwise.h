// Loops over broadcast operands, and elementary functions that the compiler can vectorise.
#pragma once
#include "bypass.h"

namespace auxgrad {
namespace {

// a b + c, in one rounding where the machine has it.
inline float mul_add(float a, float b, float c) {
#if defined(__FMA__) || defined(AUXGRAD_NEON)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number and leaves that in the low bits

// 2^n exp(r) for t = n + kRound and |r| <= log(2) / 2. Where 2^n is no normal number the result is useless.
inline float exp_parts(float t, float r) {
  float p = 1.9875691500e-4f;
  p = mul_add(p, r, 1.3981999507e-3f);
  p = mul_add(p, r, 8.3334519073e-3f);
  p = mul_add(p, r, 4.1665795894e-2f);
  p = mul_add(p, r, 1.6666665459e-1f);
  p = mul_add(p, r, 5.0000001201e-1f);
  p = mul_add(p * r, r, r) + 1.0f;
  // Times 2^n: n is added to the exponent.
  uint32_t bits, shift;
  memcpy(&bits, &p, 4);
  memcpy(&shift, &t, 4);
  bits += shift << 23;
  float y;
  memcpy(&y, &bits, 4);
  return y;
}

// exp(x) within 2 ULP on [-87.33, 88.72]; below it flushes to 0, above it is inf. NaN stays NaN.
inline float exp_f32(float x) {
  const float t = mul_add(x, 1.44269504f, kRound), n = t - kRound;
  // Where 2^n would overflow, or of a NaN, the choice below does not take it.
  float y = exp_parts(t, mul_add(n, 2.12194440e-4f, mul_add(n, -0.693359375f, x)));
  const float above = x + __builtin_inff();
  y = x < 88.72283f ? y : above;
  return x < -87.33f ? 0.0f : y;
}

// log(x) within 2 ULP for normal x; log(0) = -inf, log(<0) = NaN, log(inf) = inf. Subnormals are scaled first.
inline float log_f32(float x) {
  const float scaled = x < 1.17549435e-38f ? x * 8388608.0f : x;
  uint32_t bits;
  memcpy(&bits, &scaled, 4);
  const int32_t e = static_cast<int32_t>(bits - 0x3f3504f3u) >> 23;
  const uint32_t mantissa = bits - (static_cast<uint32_t>(e) << 23);
  float m;
  memcpy(&m, &mantissa, 4);
  const float f = m - 1.0f, z = f * f;
  float p = 7.0376836292e-2f;
  p = p * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  const float n = static_cast<float>(e) - (x < 1.17549435e-38f ? 23.0f : 0.0f);
  const float y = f + (p * f * z - n * 2.12194440e-4f - 0.5f * z) + n * 0.693359375f;
  return x == 0 ? -__builtin_inff() : (!(x >= 0) ? __builtin_nanf("") : (x == __builtin_inff() ? x : y));
}

inline float sigmoid_f32(float x) { return 1.0f / (1.0f + exp_f32(-x)); }

// tanh(x) within 4 ULP: a polynomial near zero, where 1 - 2/(e^2x + 1) would cancel.
inline float tanh_f32(float x) {
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = mul_add(p, z, 2.06390887954e-2f);
  p = mul_add(p, z, -5.37397155531e-2f);
  p = mul_add(p, z, 1.33314422036e-1f);
  p = mul_add(p, z, -3.33332819422e-1f);
  const float near = mul_add(p * z, x, x);
  const float a = __builtin_fabsf(x);
  const float far = 1.0f - 2.0f / (exp_f32(2.0f * a) + 1.0f);
  return a < 0.625f ? near : __builtin_copysignf(far, x);
}

// erf(x) for |x| <= 1, within 2 ULP. Coefficients of this and the next function: least maximal relative error, fitted
// in double.
inline float erf_near(float x) {
  const float z = x * x;
  float p = 7.85386146e-5f;
  p = mul_add(p, z, -0.00080101937f);
  p = mul_add(p, z, 0.00518832775f);
  p = mul_add(p, z, -0.02685381286f);
  p = mul_add(p, z, 0.11283585429f);
  p = mul_add(p, z, -0.37612625957f);
  p = mul_add(p, z, 0.12837910652f);
  return mul_add(p, x, x);
}

// Of the standard normal distribution at x >= 0: its density over that at 0, exp(-x^2 / 2), and what lies above x, over
// that. Relative errors are below 4e-7 for x < 3 and below 6e-6 to x = 12.9, where 2e-38 lies above; from there on the
// density is 0.
struct Normal {
  float bell, ratio;
};

inline Normal normal_f32(float x) {
  const float a = x > 12.9f ? 12.9f : x;
  // The ratio as a polynomial in a / (1 + 0.23 a), the least maximal relative error (5e-8) fitted in double.
  const float u = a / mul_add(0.23f, a, 1.0f);
  float q = -6.136443744e-7f;
  q = mul_add(q, u, 1.147468265e-5f);
  q = mul_add(q, u, -6.542377378e-5f);
  q = mul_add(q, u, -2.172011446e-4f);
  q = mul_add(q, u, 5.525156856e-3f);
  q = mul_add(q, u, -3.906037658e-2f);
  q = mul_add(q, u, 0.1582353711f);
  q = mul_add(q, u, -0.3989412487f);
  q = mul_add(q, u, 0.4999999702f);
  const float half = -0.5f * a, z = half * a;
#if defined(__FMA__) || defined(AUXGRAD_NEON)
  const float lost = __builtin_fmaf(half, a, -z);  // what rounding took from -a^2 / 2
#else
  // The same, exactly, from the upper and the lower half of a.
  uint32_t bits;
  memcpy(&bits, &a, 4);
  bits &= 0xfffff000u;
  float high;
  memcpy(&high, &bits, 4);
  const float low = a - high, lost = ((-0.5f * high * high - z) - high * low) - 0.5f * low * low;
#endif
  const float t = mul_add(z, 1.44269504f, kRound), n = t - kRound;
  const float bell = exp_parts(t, mul_add(n, -0.693359375f, z) + mul_add(n, 2.12194440e-4f, lost));
  return {x > 12.9f ? 0.0f : bell, q};
}

// erf(x) within 2 ULP (relative and absolute error below 2e-7).
inline float erf_f32(float x) {
  const float a = __builtin_fabsf(x);
  const Normal at = normal_f32(1.41421356f * a);
  const float far = 1.0f - 2.0f * at.bell * at.ratio;
  return a < 1.0f ? erf_near(x) : __builtin_copysignf(far, x);
}

// x times the distribution function of the standard normal; keeps its relative precision in the lower tail.
inline float gelu_f32(float x) {
  const Normal at = normal_f32(__builtin_fabsf(x));
  const float tail = at.bell * at.ratio;
  return x * (x < 0 ? tail : 1.0f - tail);
}

// Its derivative, the distribution function plus x times the density.
inline float gelu_slope_f32(float x) {
  const float a = __builtin_fabsf(x);
  const Normal at = normal_f32(a);
  const float lower = at.bell * mul_add(-0.39894228f, a, at.ratio);  // at -a
  return x < 0 ? lower : 1.0f - lower;
}

// exp(x) - 1 within 4 ULP: a series near zero.
inline float expm1_f32(float x) {
  const float near =
      x *
      (1.0f +
       x * (1.0f / 2) *
           (1.0f +
            x * (1.0f / 3) *
                (1.0f + x * (1.0f / 4) *
                            (1.0f + x * (1.0f / 5) *
                                        (1.0f + x * (1.0f / 6) * (1.0f + x * (1.0f / 7) * (1.0f + x * (1.0f / 8))))))));
  const float far = exp_f32(x) - 1.0f;
  return __builtin_fabsf(x) < 0.5f ? near : far;
}

// log(1 + x) within 4 ULP: x / ((1 + x) - 1) undoes the rounding of 1 + x.
inline float log1p_f32(float x) {
  const float u = 1.0f + x, d = u - 1.0f;
  const float y = log_f32(u) * (x / d);
  return d == 0 || x == __builtin_inff() ? x : y;
}

// log(1 + exp(x)) without overflow.
inline float softplus_f32(float x) { return (x > 0 ? x : 0.0f) + log1p_f32(exp_f32(-__builtin_fabsf(x))); }

// Asks the memory for what is needed soon: while arithmetic is at work, it would rest.
inline void fetch(const void* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(from) + i);
}

// Tells the compiler that no two iterations of the next loop touch the same element: operands are apart or the same.
#if defined(__clang__)
#define AUXGRAD_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define AUXGRAD_INDEPENDENT _Pragma("GCC ivdep")
#endif

// The axes of a contiguous output and the strides of N operands over them, neighbours made one where all agree.
template <int N>
struct Axes {
  int rank = 0;
  int64_t shape[kMaxRank + 1], stride[N][kMaxRank + 1];

  Axes(const View& out, const View* const (&operands)[N]) {
    for (int axis = 0; axis < out.rank; axis++) {
      if (out.shape[axis] == 1) continue;
      bool joins = rank > 0;
      for (int o = 0; o < N; o++) joins = joins && stride[o][rank - 1] == operands[o]->stride[axis] * out.shape[axis];
      if (joins) shape[rank - 1] *= out.shape[axis];
      else shape[rank++] = out.shape[axis];
      for (int o = 0; o < N; o++) stride[o][rank - 1] = operands[o]->stride[axis];
    }
    if (rank > 0) return;
    shape[rank++] = 1;
    for (int o = 0; o < N; o++) stride[o][0] = 0;
  }
};

// What is done around an elementwise function is compiled once for each instruction set, for operands of bytes: rows,
// buffers and ends. Only the loop itself, over neighbours and whole blocks, is compiled for each function, of which there
// are a hundred, and of a long polynomial every further copy of the loop costs kilobytes.
template <int N>
struct Loop {
  // out[i] = f(in[0][i], .., in[N - 1][i]) for i in [0, n), n a multiple of block.
  void (*run)(const void* f, const void* const (&in)[N], void* out, int64_t n);
  const void* f;
  int64_t block, out_size, in_size[N];  // sizes: bytes of an element, 1, 2 or 4
};

constexpr int64_t kGather = 1024;  // elements of a buffer, a multiple of every block
constexpr int64_t kStretch = 256;  // elements of a long row at a time, a multiple of every block
constexpr int64_t kAhead = 512;    // elements

template <class T, class R>
constexpr int64_t kLoopBlock = sizeof(T) == 4 && sizeof(R) == 4 ? 16 : 64;

typedef uint16_t AnyTwoBytes __attribute__((may_alias));
typedef uint32_t AnyFourBytes __attribute__((may_alias));

template <class T>
inline void gather_as(void* buffer, const void* from, int64_t stride, int64_t n) {
  T* to = static_cast<T*>(buffer);
  const T* x = static_cast<const T*>(from);
  if (stride == 0) {
    const T value = *x;
    for (int64_t i = 0; i < n; i++) to[i] = value;
  } else {
    for (int64_t i = 0; i < n; i++) to[i] = x[i * stride];
  }
}
__attribute__((noinline)) inline void gather(void* buffer, const void* from, int64_t size, int64_t stride, int64_t n) {
  if (stride == 1) memcpy(buffer, from, static_cast<size_t>(n * size));
  else if (size == 4) gather_as<AnyFourBytes>(buffer, from, stride, n);
  else if (size == 2) gather_as<AnyTwoBytes>(buffer, from, stride, n);
  else gather_as<uint8_t>(buffer, from, stride, n);
}

// Runs a loop over rows whose outputs follow each other. Short rows, and what is no whole block of a long one, are
// gathered until they fill a buffer.
template <int N>
class Rows {
 public:
  Rows(const Loop<N>& loop, bool past) : loop_(loop), past_(past) {}

  void add(const char* const (&in)[N], const int64_t (&step)[N], char* out, int64_t n) {
    bool strided = false;
    for (int o = 0; o < N; o++) strided = strided || (step[o] != 0 && step[o] != 1);
    int64_t done = 0;
    if (n >= (strided ? kGather + 1 : kGather / 4)) {
      flush();
      done = add_long(in, step, out, n / loop_.block * loop_.block);
    } else if (filled_ + n > kGather) {
      flush();
    }
    if (done == n) return;
    if (filled_ == 0) out_ = out + done * loop_.out_size;
    for (int o = 0; o < N; o++) {
      const int64_t size = loop_.in_size[o];
      gather(buffer(o) + filled_ * size, in[o] + done * step[o] * size, size, step[o], n - done);
    }
    filled_ += n - done;
  }

  __attribute__((noinline)) void flush() {
    if (filled_ == 0) return;
    const int64_t padded = ceil_div(filled_, loop_.block) * loop_.block;
    const void* from[N];
    for (int o = 0; o < N; o++) {
      const int64_t size = loop_.in_size[o];
      from[o] = buffer(o);
      if (padded > filled_) gather(buffer(o) + filled_ * size, buffer(o), size, 0, padded - filled_);
    }
    void* to = padded == filled_ ? out_ : static_cast<void*>(buffer(N));
    loop_.run(loop_.f, from, to, padded);
    if (to != out_) memcpy(out_, to, static_cast<size_t>(filled_ * loop_.out_size));
    filled_ = 0;
  }

 private:
  char* buffer(int o) { return reinterpret_cast<char*>(buffer_[o]); }

  // n: whole blocks. The buffers are free. Memory some stretches ahead is asked for: of itself a processor reads ahead
  // to the end of a page, and of a long function the loads behind it start too late.
  __attribute__((noinline)) int64_t add_long(const char* const (&in)[N], const int64_t (&step)[N], char* out,
                                             int64_t n) {
    const bool past = past_ && lines_apart(out, 0);
    for (int64_t i = 0; i < n; i += kStretch) {
      const int64_t m = min64(kStretch, n - i);
      const void* from[N];
      for (int o = 0; o < N; o++) {
        const int64_t size = loop_.in_size[o];
        const char* x = in[o] + i * step[o] * size;
        from[o] = step[o] == 1 ? x : buffer(o);
        if (step[o] == 1) fetch(x + kAhead * size, kStretch * size);
        // A repeated value fills its buffer only once.
        else if (i == 0 || step[o] != 0) gather(buffer(o), x, size, step[o], m);
      }
      char* to = out + i * loop_.out_size;
      if (!past) fetch(to + kAhead * loop_.out_size, kStretch * loop_.out_size);
      loop_.run(loop_.f, from, past ? buffer(N) : to, m);
      if (past) bypass_copy(to, buffer(N), m * loop_.out_size);
    }
    return n;
  }

  const Loop<N>& loop_;
  const bool past_;  // whole lines of long rows are stored past the caches
  char* out_ = nullptr;
  int64_t filled_ = 0;
  alignas(64) uint32_t buffer_[N + 1][kGather];
};

// The longest rows that all operands allow; y is contiguous.
template <int N>
__attribute__((noinline)) void loop_rows(const Call& call, const View* const (&operands)[N], const View& y,
                                         const Loop<N>& loop) {
  if (y.count() == 0) return;
  const Axes<N> axes(y, operands);
  const int last = axes.rank - 1;
  const int64_t inner = axes.shape[last];
  int64_t step[N];
  for (int o = 0; o < N; o++) step[o] = axes.stride[o][last];
  bool past = too_large(y);
  for (int o = 0; o < N; o++) past = past && operands[o]->data != y.data;  // in place: it has been read
  // Long rows are cut too.
  const int64_t piece = min64(inner, 65536), pieces = ceil_div(inner, piece);
  parallel_ranges(call, y.count() / inner * pieces, max64(1, 32768 / piece), [&](int64_t begin, int64_t end) {
    int64_t index[kMaxRank + 1], offset[N] = {}, rest = begin / pieces, part = begin % pieces;
    for (int axis = last - 1; axis >= 0; axis--) {
      index[axis] = rest % axes.shape[axis];
      rest /= axes.shape[axis];
      for (int o = 0; o < N; o++) offset[o] += index[axis] * axes.stride[o][axis];
    }
    Rows<N> rows(loop, past);
    for (int64_t r = begin; r < end; r++) {
      const int64_t from = part * piece;
      const char* in[N];
      for (int o = 0; o < N; o++)
        in[o] = static_cast<const char*>(operands[o]->data) + (offset[o] + from * step[o]) * loop.in_size[o];
      rows.add(in, step, static_cast<char*>(y.data) + (r / pieces * inner + from) * loop.out_size,
               min64(piece, inner - from));
      if (++part < pieces) continue;
      part = 0;
      for (int axis = last - 1; axis >= 0; axis--) {
        for (int o = 0; o < N; o++) offset[o] += axes.stride[o][axis];
        if (++index[axis] < axes.shape[axis]) break;
        index[axis] = 0;
        for (int o = 0; o < N; o++) offset[o] -= axes.shape[axis] * axes.stride[o][axis];
      }
    }
    rows.flush();
    if (past) end_bypass();
  });
}

// One operand repeats short rows, as a bias over few channels does: the row is repeated to a long one first. False if
// these operands are others.
__attribute__((noinline)) inline bool loop_repeated(const Call& call, const View* const (&operands)[2], const View& y,
                                                    const Loop<2>& loop) {
  const Axes<2> axes(y, operands);
  const auto dense = [&](int o) { return axes.stride[o][0] == axes.shape[1] && axes.stride[o][1] == 1; };
  const auto repeats = [&](int o) { return axes.stride[o][0] == 0 && axes.stride[o][1] == 1; };
  if (axes.rank != 2 || axes.shape[1] > 128 || y.count() == 0 ||
      !((dense(0) && repeats(1)) || (dense(1) && repeats(0))))
    return false;
  const int64_t rows = axes.shape[0], n = axes.shape[1], size = loop.in_size[0];
  const int64_t together = max64(16, kGather / n / 16 * 16);  // rows: whole blocks of 16 elements
  const int same = repeats(1) ? 1 : 0;
  const bool past = too_large(y) && operands[1 - same]->data != y.data;
  parallel_ranges(call, rows, ceil_div(32768 / n, together) * together, [&](int64_t begin, int64_t end) {
    uint32_t buffer[2 * kGather];
    char* repeated = reinterpret_cast<char*>(buffer);
    for (int64_t r = 0; r < min64(together, end - begin); r++)
      memcpy(repeated + r * n * size, operands[same]->data, static_cast<size_t>(n * size));
    const int64_t step[2] = {1, 1};
    Rows<2> all(loop, past);
    for (int64_t r = begin; r < end; r += together) {
      const char* row = static_cast<const char*>(operands[1 - same]->data) + r * n * size;
      const char* const in[2] = {same == 0 ? repeated : row, same == 0 ? row : repeated};
      all.add(in, step, static_cast<char*>(y.data) + r * n * loop.out_size, min64(together, end - r) * n);
    }
    all.flush();
    if (past) end_bypass();
  });
  return true;
}

// y = f(x) elementwise; x of any strides, y contiguous.
template <class T, class R, class F>
inline void map1(const Call& call, const View& x, const View& y, const F& f) {
  const auto run = [](const void* function, const void* const(&in)[1], void* out, int64_t n) {
    const F& g = *static_cast<const F*>(function);
    const T* u = static_cast<const T*>(in[0]);
    R* w = static_cast<R*>(out);
    n &= -kLoopBlock<T, R>;  // as it is: so the compiler leaves out the loops over what would be left
    AUXGRAD_INDEPENDENT
    for (int64_t i = 0; i < n; i++) w[i] = g(u[i]);
  };
  const View* const operands[1] = {&x};
  loop_rows<1>(call, operands, y, {run, &f, kLoopBlock<T, R>, sizeof(R), {sizeof(T)}});
}

// y = f(a, b) elementwise; a and b of y's shape with any strides (0 repeats).
template <class T, class R, class F>
inline void map2(const Call& call, const View& a, const View& b, const View& y, const F& f) {
  const auto run = [](const void* function, const void* const(&in)[2], void* out, int64_t n) {
    const F& g = *static_cast<const F*>(function);
    const T *u = static_cast<const T*>(in[0]), *v = static_cast<const T*>(in[1]);
    R* w = static_cast<R*>(out);
    n &= -kLoopBlock<T, R>;
    AUXGRAD_INDEPENDENT
    for (int64_t i = 0; i < n; i++) w[i] = g(u[i], v[i]);
  };
  const View* const operands[2] = {&a, &b};
  const Loop<2> loop = {run, &f, kLoopBlock<T, R>, sizeof(R), {sizeof(T), sizeof(T)}};
  if (!loop_repeated(call, operands, y, loop)) loop_rows<2>(call, operands, y, loop);
}

// y = f(a, b, c), a of type S.
template <class S, class T, class R, class F>
inline void map3(const Call& call, const View& a, const View& b, const View& c, const View& y, const F& f) {
  constexpr int64_t kBlock = sizeof(S) == 4 ? kLoopBlock<T, R> : 64;
  const auto run = [](const void* function, const void* const(&in)[3], void* out, int64_t n) {
    const F& g = *static_cast<const F*>(function);
    const S* s = static_cast<const S*>(in[0]);
    const T *u = static_cast<const T*>(in[1]), *v = static_cast<const T*>(in[2]);
    R* w = static_cast<R*>(out);
    n &= -kBlock;
    AUXGRAD_INDEPENDENT
    for (int64_t i = 0; i < n; i++) w[i] = g(s[i], u[i], v[i]);
  };
  const View* const operands[3] = {&a, &b, &c};
  loop_rows<3>(call, operands, y, {run, &f, kBlock, sizeof(R), {sizeof(S), sizeof(T), sizeof(T)}});
}

}  // namespace
}  // namespace auxgrad
