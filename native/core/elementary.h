// Elementary functions of float32, in a form that compilers make vectors of. Without a fused a b + c they round more
// often; where there is one, all give the same bits, but for what AVX-512 has in another form (cpu/piecewise.h).
#pragma once
#include "arithmetic.h"

namespace auxgrad {
namespace {

constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number and leaves that in the low bits
// log(2) = kLn2High - kLn2Low; products of the first with small whole numbers are exact.
constexpr float kLn2High = 0.693359375f, kLn2Low = 2.12194440e-4f, kInverseLn2 = 1.44269504f;

// 2^n exp(r) for t = n + kRound and |r| <= log(2) / 2. Where 2^n is no normal number the result is useless.
AUXGRAD_HOST_DEVICE inline float exp_parts(float t, float r) {
  float p = 1.9875691500e-4f;
  p = mul_add(p, r, 1.3981999507e-3f);
  p = mul_add(p, r, 8.3334519073e-3f);
  p = mul_add(p, r, 4.1665795894e-2f);
  p = mul_add(p, r, 1.6666665459e-1f);
  p = mul_add(p, r, 5.0000001201e-1f);
  p = mul_add(p * r, r, r) + 1.0f;
  return float_of(bits_of(p) + (bits_of(t) << 23));  // times 2^n: n is added to the exponent
}

// exp(x) within 2 ULP on [-87.33, 88.72]; below it flushes to 0, above it is inf. NaN stays NaN.
AUXGRAD_HOST_DEVICE inline float exp_f32(float x) {
  const float t = mul_add(x, kInverseLn2, kRound), n = t - kRound;
  // Where 2^n would overflow, or of a NaN, the choice below does not take it.
  float y = exp_parts(t, mul_add(n, kLn2Low, mul_add(n, -kLn2High, x)));
  const float above = x + infinity();
  y = x < 88.72283f ? y : above;
  return x < -87.33f ? 0.0f : y;
}

// log(x) within 2 ULP for normal x; log(0) = -inf, log(<0) = NaN, log(inf) = inf. Subnormals are scaled first.
AUXGRAD_HOST_DEVICE inline float log_f32(float x) {
  const uint32_t bits = bits_of(x < 1.17549435e-38f ? x * 8388608.0f : x);
  const int32_t e = static_cast<int32_t>(bits - 0x3f3504f3u) >> 23;
  const float f = float_of(bits - (static_cast<uint32_t>(e) << 23)) - 1.0f, z = f * f;
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
  const float y = f + (p * f * z - n * kLn2Low - 0.5f * z) + n * kLn2High;
  return x == 0 ? -infinity() : (!(x >= 0) ? not_a_number() : (x == infinity() ? x : y));
}

AUXGRAD_HOST_DEVICE inline float sigmoid_f32(float x) { return 1.0f / (1.0f + exp_f32(-x)); }

// tanh(x) within 4 ULP: a polynomial near zero, where 1 - 2/(e^2x + 1) would cancel.
AUXGRAD_HOST_DEVICE inline float tanh_f32(float x) {
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
AUXGRAD_HOST_DEVICE inline float erf_near(float x) {
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

AUXGRAD_HOST_DEVICE inline Normal normal_f32(float x) {
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
#if defined(AUXGRAD_FMA)
  const float lost = __builtin_fmaf(half, a, -z);  // what rounding took from -a^2 / 2
#else
  // The same, exactly, from the upper and the lower half of a.
  const float high = float_of(bits_of(a) & 0xfffff000u), low = a - high,
              lost = ((-0.5f * high * high - z) - high * low) - 0.5f * low * low;
#endif
  const float t = mul_add(z, kInverseLn2, kRound), n = t - kRound;
  const float bell = exp_parts(t, mul_add(n, -kLn2High, z) + mul_add(n, kLn2Low, lost));
  return {x > 12.9f ? 0.0f : bell, q};
}

// erf(x) within 2 ULP (relative and absolute error below 2e-7).
AUXGRAD_HOST_DEVICE inline float erf_f32(float x) {
  const float a = __builtin_fabsf(x);
  const Normal at = normal_f32(1.41421356f * a);
  const float far = 1.0f - 2.0f * at.bell * at.ratio;
  return a < 1.0f ? erf_near(x) : __builtin_copysignf(far, x);
}

// x times the distribution function of the standard normal; keeps its relative precision in the lower tail.
AUXGRAD_HOST_DEVICE inline float gelu_f32(float x) {
  const Normal at = normal_f32(__builtin_fabsf(x));
  const float tail = at.bell * at.ratio;
  return x * (x < 0 ? tail : 1.0f - tail);
}

// Its derivative, the distribution function plus x times the density.
AUXGRAD_HOST_DEVICE inline float gelu_slope_f32(float x) {
  const float a = __builtin_fabsf(x);
  const Normal at = normal_f32(a);
  const float lower = at.bell * mul_add(-0.39894228f, a, at.ratio);  // at -a
  return x < 0 ? lower : 1.0f - lower;
}

// The distribution function of the normal distribution as gelu's approximation has it: a sigmoid of
// 2 sqrt(2 / pi) (x + 0.044715 x^3).
constexpr float kGeluLinear = 1.59576912f, kGeluCubic = 0.0713548163f;

AUXGRAD_HOST_DEVICE inline float gelu_tanh_f32(float x) {
  return x * sigmoid_f32(x * mul_add(kGeluCubic, x * x, kGeluLinear));
}

// Its derivative, from that at -|x|. From 13 on nothing is left there.
AUXGRAD_HOST_DEVICE inline float gelu_tanh_slope_f32(float x) {
  const float magnitude = __builtin_fabsf(x), a = magnitude > 13.0f ? 13.0f : magnitude, square = a * a;
  const float below = sigmoid_f32(-a * mul_add(kGeluCubic, square, kGeluLinear));
  const float lower = below * (1.0f - a * (1.0f - below) * mul_add(3.0f * kGeluCubic, square, kGeluLinear));
  return x < 0 ? lower : 1.0f - lower;
}

// exp(x) - 1 within 4 ULP: a series near zero.
AUXGRAD_HOST_DEVICE inline float expm1_f32(float x) {
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
AUXGRAD_HOST_DEVICE inline float log1p_finite(float x) {
  const float u = 1.0f + x, d = u - 1.0f;
  const float y = log_f32(u) * (x / d);
  return d == 0 ? x : y;
}
AUXGRAD_HOST_DEVICE inline float log1p_f32(float x) { return x == infinity() ? x : log1p_finite(x); }

// log(1 + exp(x)) without overflow.
AUXGRAD_HOST_DEVICE inline float softplus_f32(float x) {
  return (x > 0 ? x : 0.0f) + log1p_finite(exp_f32(-__builtin_fabsf(x)));
}

// erf^-1(x) from x and log((1 - x)(1 + x)), relative error below 1e-6 (Giles 2010, single precision).
AUXGRAD_HOST_DEVICE inline float inverse_erf(float x, float log_rest) {
  const float w = -log_rest, a = w - 2.5f, b = __builtin_sqrtf(w) - 3.0f;
  float p = 2.81022636e-08f;
  p = 3.43273939e-07f + p * a;
  p = -3.5233877e-06f + p * a;
  p = -4.39150654e-06f + p * a;
  p = 0.00021858087f + p * a;
  p = -0.00125372503f + p * a;
  p = -0.00417768164f + p * a;
  p = 0.246640727f + p * a;
  p = 1.50140941f + p * a;
  float q = -0.000200214257f;
  q = 0.000100950558f + q * b;
  q = 0.00134934322f + q * b;
  q = -0.00367342844f + q * b;
  q = 0.00573950773f + q * b;
  q = -0.0076224613f + q * b;
  q = 0.00943887047f + q * b;
  q = 1.00167406f + q * b;
  q = 2.83297682f + q * b;
  return (w < 5.0f ? p : q) * x;
}

// x - n c in one rounding, for x near the product: of halves of the factors its error is known (Dekker 1971).
AUXGRAD_HOST_DEVICE inline double less_product(double x, double n, double c) {
#if defined(AUXGRAD_FMA)
  return __builtin_fma(-n, c, x);
#else
  constexpr double kSplit = 134217729.0;  // 2^27 + 1
  const double product = n * c, n_high = n * kSplit - (n * kSplit - n), c_high = c * kSplit - (c * kSplit - c);
  const double n_low = n - n_high, c_low = c - c_high;
  return (x - product) - (((n_high * c_high - product) + n_high * c_low + n_low * c_high) + n_low * c_low);
#endif
}

// sin(x + turns pi / 2) within 0.51 ULP, for |x| to 10^15; beyond, where neighbours are many turns apart, something in
// [-1, 1]. In double: x is brought to [-pi / 4, pi / 4] by products with the two parts of pi / 2, where a series will do.
AUXGRAD_HOST_DEVICE inline float sin_f32(float x, uint64_t turns) {
  constexpr double kWhole = 6755399441055744.0;  // 1.5 * 2^52: as kRound
  const double t = mul_add(static_cast<double>(x), 0.6366197723675814, kWhole), n = t - kWhole;
  double r = mul_add(-n, 6.123233995736766e-17, less_product(static_cast<double>(x), n, 1.5707963267948966));
  r = r > 1 ? 1 : (r < -1 ? -1 : r);
  const double z = r * r;
  double s = -1.0 / 39916800, c = -1.0 / 3628800;
  s = mul_add(s, z, 1.0 / 362880), c = mul_add(c, z, 1.0 / 40320);
  s = mul_add(s, z, -1.0 / 5040), c = mul_add(c, z, -1.0 / 720);
  s = mul_add(s, z, 1.0 / 120), c = mul_add(c, z, 1.0 / 24);
  s = mul_add(s, z, -1.0 / 6), c = mul_add(c, z, -0.5);
  s = mul_add(s * z, r, r), c = mul_add(c, z, 1.0);
  uint64_t quarter;
  memcpy(&quarter, &t, 8);
  quarter += turns;
  const double y = quarter & 1 ? c : s;
  return static_cast<float>(quarter & 2 ? -y : y);
}

// pow(a, b) = exp(b log |a|) with the sign rules for whole b; exact for b = 0, 1, 2, 3.
AUXGRAD_HOST_DEVICE inline float power_f32(float a, float b) {
  const float magnitude = exp_f32(b * log_f32(__builtin_fabsf(a)));
  const float whole = __builtin_floorf(b), odd = whole - 2.0f * __builtin_floorf(whole * 0.5f);
  const float negative = whole != b ? not_a_number() : (odd != 0 ? -magnitude : magnitude);
  // Chosen, not branched: it vectorises.
  float y = a >= 0 ? magnitude : negative;
  y = b == 3.0f ? a * a * a : y;
  y = b == 2.0f ? a * a : y;
  y = b == 1.0f ? a : y;
  return b == 0.0f ? 1.0f : y;
}

}  // namespace
}  // namespace auxgrad
