// Elementary functions, the same to the bit as the processor's (../cpu/elementwise.h): bounds of their errors and the
// reasons stand there.
#pragma once
#include <math.h>

#include "unit.cuh"

namespace auxgrad {
namespace {

#define kInf __int_as_float(0x7f800000)
#define kNan __int_as_float(0x7fc00000)

constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number and leaves that in the low bits

// 2^n exp(r) for t = n + kRound and |r| <= log(2) / 2. Where 2^n is no normal number the result is useless.
__device__ inline float exp_parts(float t, float r) {
  float p = 1.9875691500e-4f;
  p = fmaf(p, r, 1.3981999507e-3f);
  p = fmaf(p, r, 8.3334519073e-3f);
  p = fmaf(p, r, 4.1665795894e-2f);
  p = fmaf(p, r, 1.6666665459e-1f);
  p = fmaf(p, r, 5.0000001201e-1f);
  p = fmaf(p * r, r, r) + 1.0f;
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
__device__ inline float exp_f32(float x) {
  const float t = fmaf(x, 1.44269504f, kRound), n = t - kRound;
  // Where 2^n would overflow, or of a NaN, the choice below does not take it.
  float y = exp_parts(t, fmaf(n, 2.12194440e-4f, fmaf(n, -0.693359375f, x)));
  const float above = x + kInf;
  y = x < 88.72283f ? y : above;
  return x < -87.33f ? 0.0f : y;
}

// log(x) within 2 ULP for normal x; log(0) = -inf, log(<0) = NaN, log(inf) = inf. Subnormals are scaled first.
__device__ inline float log_f32(float x) {
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
  return x == 0 ? -kInf : (!(x >= 0) ? kNan : (x == kInf ? x : y));
}

__device__ inline float sigmoid_f32(float x) { return 1.0f / (1.0f + exp_f32(-x)); }

// tanh(x) within 4 ULP: a polynomial near zero, where 1 - 2/(e^2x + 1) would cancel.
__device__ inline float tanh_f32(float x) {
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = fmaf(p, z, 2.06390887954e-2f);
  p = fmaf(p, z, -5.37397155531e-2f);
  p = fmaf(p, z, 1.33314422036e-1f);
  p = fmaf(p, z, -3.33332819422e-1f);
  const float near = fmaf(p * z, x, x);
  const float a = fabsf(x);
  const float far = 1.0f - 2.0f / (exp_f32(2.0f * a) + 1.0f);
  return a < 0.625f ? near : copysignf(far, x);
}

// erf(x) for |x| <= 1, within 2 ULP. Coefficients of this and the next function: least maximal relative error, fitted
// in double.
__device__ inline float erf_near(float x) {
  const float z = x * x;
  float p = 7.85386146e-5f;
  p = fmaf(p, z, -0.00080101937f);
  p = fmaf(p, z, 0.00518832775f);
  p = fmaf(p, z, -0.02685381286f);
  p = fmaf(p, z, 0.11283585429f);
  p = fmaf(p, z, -0.37612625957f);
  p = fmaf(p, z, 0.12837910652f);
  return fmaf(p, x, x);
}

// Of the standard normal distribution at x >= 0: its density over that at 0, exp(-x^2 / 2), and what lies above x, over
// that. Relative errors are below 4e-7 for x < 3 and below 6e-6 to x = 12.9, where 2e-38 lies above; from there on the
// density is 0.
struct Normal {
  float bell, ratio;
};

__device__ inline Normal normal_f32(float x) {
  const float a = x > 12.9f ? 12.9f : x;
  // The ratio as a polynomial in a / (1 + 0.23 a), the least maximal relative error (5e-8) fitted in double.
  const float u = a / fmaf(0.23f, a, 1.0f);
  float q = -6.136443744e-7f;
  q = fmaf(q, u, 1.147468265e-5f);
  q = fmaf(q, u, -6.542377378e-5f);
  q = fmaf(q, u, -2.172011446e-4f);
  q = fmaf(q, u, 5.525156856e-3f);
  q = fmaf(q, u, -3.906037658e-2f);
  q = fmaf(q, u, 0.1582353711f);
  q = fmaf(q, u, -0.3989412487f);
  q = fmaf(q, u, 0.4999999702f);
  const float half = -0.5f * a, z = half * a;
  const float lost = fmaf(half, a, -z);  // what rounding took from -a^2 / 2
  const float t = fmaf(z, 1.44269504f, kRound), n = t - kRound;
  const float bell = exp_parts(t, fmaf(n, -0.693359375f, z) + fmaf(n, 2.12194440e-4f, lost));
  return {x > 12.9f ? 0.0f : bell, q};
}

// erf(x) within 2 ULP (relative and absolute error below 2e-7).
__device__ inline float erf_f32(float x) {
  const float a = fabsf(x);
  const Normal at = normal_f32(1.41421356f * a);
  const float far = 1.0f - 2.0f * at.bell * at.ratio;
  return a < 1.0f ? erf_near(x) : copysignf(far, x);
}

// x times the distribution function of the standard normal; keeps its relative precision in the lower tail.
__device__ inline float gelu_f32(float x) {
  const Normal at = normal_f32(fabsf(x));
  const float tail = at.bell * at.ratio;
  return x * (x < 0 ? tail : 1.0f - tail);
}

// Its derivative, the distribution function plus x times the density.
__device__ inline float gelu_slope_f32(float x) {
  const float a = fabsf(x);
  const Normal at = normal_f32(a);
  const float lower = at.bell * fmaf(-0.39894228f, a, at.ratio);  // at -a
  return x < 0 ? lower : 1.0f - lower;
}

// exp(x) - 1 within 4 ULP: a series near zero.
__device__ inline float expm1_f32(float x) {
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
  return fabsf(x) < 0.5f ? near : far;
}

// log(1 + x) within 4 ULP: x / ((1 + x) - 1) undoes the rounding of 1 + x.
__device__ inline float log1p_f32(float x) {
  const float u = 1.0f + x, d = u - 1.0f;
  const float y = log_f32(u) * (x / d);
  return d == 0 || x == kInf ? x : y;
}

// log(1 + exp(x)) without overflow.
__device__ inline float softplus_f32(float x) { return (x > 0 ? x : 0.0f) + log1p_f32(exp_f32(-fabsf(x))); }

}  // namespace
}  // namespace auxgrad
