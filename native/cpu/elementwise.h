// Loops over broadcast operands, and elementary functions that the compiler can vectorise.
#pragma once
#include "unit.h"

namespace auxgrad {
namespace {

// exp(x) within 2 ULP on [-87.3, 88.7]; below it flushes to 0, above it is inf. NaN stays NaN.
inline float exp_f32(float x) {
  const float clamped = x > 88.8f ? 88.8f : (x < -88.0f ? -88.0f : x);
  const float n = __builtin_floorf(clamped * 1.44269504f + 0.5f);
  float r = clamped - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // Two factors: 2^n itself would overflow for n = 128.
  const int32_t e = static_cast<int32_t>(n == n ? n : 0.0f), half = e >> 1;
  const int32_t b1 = (half + 127) << 23, b2 = (e - half + 127) << 23;
  float s1, s2;
  memcpy(&s1, &b1, 4);
  memcpy(&s2, &b2, 4);
  const float y = p * s1 * s2;
  return x != x ? x : (x < -87.33f ? 0.0f : y);
}

// log(x) within 2 ULP for normal x; log(0) = -inf, log(<0) = NaN, log(inf) = inf. Subnormals are scaled first.
inline float log_f32(float x) {
  const float scaled = x < 1.17549435e-38f ? x * 8388608.0f : x;
  int32_t bits;
  memcpy(&bits, &scaled, 4);
  const int32_t e = ((bits - 0x3f3504f3) >> 23);
  const int32_t mantissa = bits - (e << 23);
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
  const float near =
      x + x * z * (-3.33332819422e-1f + z * (1.33314422036e-1f + z * (-5.37397155531e-2f + z * (2.06390887954e-2f - z * 5.70498872745e-3f))));
  const float a = __builtin_fabsf(x);
  const float far = 1.0f - 2.0f / (exp_f32(2.0f * a) + 1.0f);
  return a < 0.625f ? near : (x < 0 ? -far : far);
}

// erf(x) for |x| <= 1, within 2 ULP. Coefficients of this and the next function: least maximal relative error, fitted
// in double.
inline float erf_near(float x) {
  const float z = x * x;
  return x + x * (0.12837910652f + z * (-0.37612625957f + z * (0.11283585429f + z * (-0.02685381286f +
                 z * (0.00518832775f + z * (-0.00080101937f + z * 7.85386146e-5f))))));
}

// 1 - erf(a) for a >= 0.95 as exp(-a^2) times a polynomial in 1 / (1 + 0.4 a); relative error below 1e-6 down to 1e-37.
inline float erfc_far(float a) {
  const float t = a > 10.0f ? 10.0f : a, s = 1.0f / (1.0f + 0.4f * t), z = t * t;
  const float q = 2.345096436e-5f + s * (0.225125372f + s * (0.231241047f + s * (0.175950050f + s * (0.282485545f +
                  s * (-0.122851424f + s * (0.393921643f + s * (-0.212062001f + s * 0.026028998f)))))));
  // What rounding took from t^2, exactly, from halves of t.
  uint32_t bits;
  memcpy(&bits, &t, 4);
  bits &= 0xfffff000u;
  float high;
  memcpy(&high, &bits, 4);
  const float low = t - high, lost = ((high * high - z) + 2.0f * high * low) + low * low;
  const float e = q * exp_f32(-z);
  return e - e * lost;
}

// erf(x) within 2 ULP (relative and absolute error below 2e-7).
inline float erf_f32(float x) {
  const float a = __builtin_fabsf(x), far = 1.0f - erfc_far(a);
  return a < 1.0f ? erf_near(x) : (x < 0 ? -far : far);
}

// Distribution function of the standard normal; keeps its relative precision in the lower tail.
inline float normal_cdf_f32(float x) {
  const float a = __builtin_fabsf(x) * 0.70710678f;
  const float tail = 0.5f * (a < 1.0f ? 1.0f - erf_near(a) : erfc_far(a));
  return x < 0 ? tail : 1.0f - tail;
}

// exp(x) - 1 within 4 ULP: a series near zero.
inline float expm1_f32(float x) {
  const float near = x * (1.0f + x * (1.0f / 2) * (1.0f + x * (1.0f / 3) * (1.0f + x * (1.0f / 4) * (1.0f + x * (1.0f / 5) *
                     (1.0f + x * (1.0f / 6) * (1.0f + x * (1.0f / 7) * (1.0f + x * (1.0f / 8))))))));
  return __builtin_fabsf(x) < 0.5f ? near : exp_f32(x) - 1.0f;
}

// log(1 + x) within 4 ULP: x / ((1 + x) - 1) undoes the rounding of 1 + x.
inline float log1p_f32(float x) {
  const float u = 1.0f + x, d = u - 1.0f;
  return d == 0 || x == __builtin_inff() ? x : log_f32(u) * (x / d);
}

// log(1 + exp(x)) without overflow.
inline float softplus_f32(float x) { return (x > 0 ? x : 0.0f) + log1p_f32(exp_f32(-__builtin_fabsf(x))); }

// Calls row(offsets of each operand at its inner row, row number) for every row of the last axis of `out`.
template <int N, class Row>
inline void for_rows(const Call& call, const View& out, const View* const (&operands)[N], const Row& row) {
  const int rank = out.rank;
  const int64_t inner = rank ? out.shape[rank - 1] : 1;
  if (inner == 0) return;
  parallel_ranges(call, out.count() / inner, max64(1, 32768 / inner), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      int64_t offset[N] = {}, rest = r;
      for (int axis = rank - 2; axis >= 0; axis--) {
        const int64_t i = rest % out.shape[axis];
        rest /= out.shape[axis];
        for (int o = 0; o < N; o++) offset[o] += i * operands[o]->stride[axis];
      }
      row(offset, r * inner, inner);
    }
  });
}

// Strided operands go through a small buffer, so that each function is compiled for neighbours only, once: of a long
// polynomial every further copy of the loop costs kilobytes, for each instruction set and platform.
constexpr int64_t kGather = 256;

template <class T>
inline const T* neighbours(const T* from, int64_t stride, int64_t n, T* buffer) {
  if (stride == 1) return from;
  for (int64_t i = 0; i < n; i++) buffer[i] = from[i * stride];
  return buffer;
}

template <class T, class R, class F>
__attribute__((noinline)) void apply1(const T* x, R* y, int64_t n, const F& f) {
  for (int64_t i = 0; i < n; i++) y[i] = f(x[i]);
}
template <class T, class R, class F>
__attribute__((noinline)) void apply2(const T* a, const T* b, R* y, int64_t n, const F& f) {
  for (int64_t i = 0; i < n; i++) y[i] = f(a[i], b[i]);
}

// y = f(x) elementwise; x of any strides, y contiguous.
template <class T, class R, class F>
inline void map1(const Call& call, const View& x, const View& y, const F& f) {
  const T* in = static_cast<const T*>(x.data);
  R* out = static_cast<R*>(y.data);
  if (x.contiguous()) {
    parallel_ranges(call, y.count(), 32768,
                    [&](int64_t begin, int64_t end) { apply1(in + begin, out + begin, end - begin, f); });
    return;
  }
  const View* const operands[1] = {&x};
  for_rows(call, y, operands, [&](const int64_t (&offset)[1], int64_t at, int64_t n) {
    const int64_t s = x.stride[x.rank - 1];
    T buffer[kGather];
    for (int64_t i = 0; i < n; i += kGather) {
      const int64_t m = min64(kGather, n - i);
      apply1(neighbours(in + offset[0] + i * s, s, m, buffer), out + at + i, m, f);
    }
  });
}

// y = f(a, b) elementwise; a and b of y's shape with any strides (0 repeats).
template <class T, class R, class F>
inline void map2(const Call& call, const View& a, const View& b, const View& y, const F& f) {
  const T *p = static_cast<const T*>(a.data), *q = static_cast<const T*>(b.data);
  R* out = static_cast<R*>(y.data);
  if (a.contiguous() && b.contiguous()) {
    parallel_ranges(call, y.count(), 32768,
                    [&](int64_t begin, int64_t end) { apply2(p + begin, q + begin, out + begin, end - begin, f); });
    return;
  }
  const View* const operands[2] = {&a, &b};
  for_rows(call, y, operands, [&](const int64_t (&offset)[2], int64_t at, int64_t n) {
    const int64_t s = y.rank ? a.stride[y.rank - 1] : 0, t = y.rank ? b.stride[y.rank - 1] : 0;
    const T *u = p + offset[0], *v = q + offset[1];
    R* w = out + at;
    if (s == 1 && t == 1) return apply2(u, v, w, n, f);
    if (s == 1 && t == 0) {
      const T same = v[0];
      for (int64_t i = 0; i < n; i++) w[i] = f(u[i], same);
      return;
    }
    T left[kGather], right[kGather];
    for (int64_t i = 0; i < n; i += kGather) {
      const int64_t m = min64(kGather, n - i);
      apply2(neighbours(u + i * s, s, m, left), neighbours(v + i * t, t, m, right), w + i, m, f);
    }
  });
}

}  // namespace
}  // namespace auxgrad
