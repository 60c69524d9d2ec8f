// Elementary functions where a register holds a table: on each of 16 segments a polynomial of its own, whose coefficients
// a permutation looks up. That takes fewer operations than one polynomial for all numbers, and no division. Coefficients
// are those of the least maximal error, fitted in double; middles of segments lie where the function is a float.
#pragma once
#include "../core/elementary.h"
#include "vector.h"

#if defined(__AVX512F__)
namespace auxgrad {
namespace {

// table[i % 16] of each lane of i.
template <class T>
inline Vec look_up(const T (&table)[16], IntVec i) {
  return (Vec)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)i, _mm512_load_ps(table));
}

// The lesser and the greater number; y where one is NaN.
inline Vec lesser(Vec x, Vec y) { return (Vec)_mm512_min_ps((__m512)x, (__m512)y); }
inline Vec greater(Vec x, Vec y) { return (Vec)_mm512_max_ps((__m512)x, (__m512)y); }

inline Vec magnitude_of(Vec x) { return (Vec)((IntVec)x & INT32_MAX); }

// Four segments between powers of two of u, which is in [1, 16): those from 1 on come last.
inline IntVec segment_of(Vec u) { return (IntVec)u >> 21; }

template <int kCoefficients>
inline Vec polynomial(const float (&coefficient)[kCoefficients][16], IntVec segment, Vec x) {
  Vec p = look_up(coefficient[kCoefficients - 1], segment);
  AUXGRAD_UNROLL
  for (int k = kCoefficients - 2; k >= 0; k--) p = fma(p, x, look_up(coefficient[k], segment));
  return p;
}

// tanh(a) for a < 9.02, in powers of what a is above the middle of its segment of 1 + kTanhScale a, within 2e-8 of itself
// before coefficients are rounded. The last of them makes 1 of what is not less.
constexpr float kTanhScale = 1.6629528f;
alignas(64) constexpr float kTanhMiddle[16] = {0.75167996f, 1.0523889f, 1.3530341f,  1.653732f, 2.1047838f, 2.7060413f,
                                               3.3074622f,  3.908805f,  4.8107753f,  6.0134f,   7.21627f,   8.418759f,
                                               0,           0.2255081f, 0.37583837f, 0.5261798f};
alignas(64) constexpr float kTanh[6][16] = {
    {0.6361501f, 0.7827334f, 0.87476754f, 0.92936796f, 0.9707292f, 0.991115f, 0.99732316f, 0.99919516f, 0.99986744f,
     0.999988f, 0.9999989f, 0.99999994f, 0, 0.22176163f, 0.35908788f, 0.4824555f},
    {0.5953131f, 0.38732845f, 0.23478173f, 0.13627519f, 0.057684824f, 0.017691124f, 0.005346532f, 0.0016090382f,
     0.00026513467f, 2.3929439e-05f, 2.158432e-06f, 1.9483605e-07f, 1.0f, 0.9508218f, 0.8710559f, 0.7672367f},
    {-0.3787082f, -0.30318043f, -0.20538282f, -0.12665083f, -0.055994205f, -0.017531266f, -0.005331202f, -0.0016074168f,
     -0.0002641711f, -2.3845003e-05f, -2.150833e-06f, -1.9415054e-07f, 1.1103199e-06f, -0.2108546f, -0.31278437f,
     -0.37015676f},
    {0.042465836f, 0.10819879f, 0.10140266f, 0.07228102f, 0.03513246f, 0.011480021f, 0.003535194f, 0.0010699071f,
     0.00017612813f, 1.590176e-05f, 1.4343358e-06f, 1.2947751e-07f, -0.33338767f, -0.2701859f, -0.17803833f,
     -0.0771636f},
    {0.09918383f, 0.017020535f, -0.019843634f, -0.024836985f, -0.015501571f, -0.0056127966f, -0.0017786366f,
     -0.0005428484f, -9.484233e-05f, -8.569053e-06f, -7.7300183e-07f, -6.9777414e-08f, 0.0008884023f, 0.12964247f,
     0.16760415f, 0.16023172f},
    {-0.06310629f, -0.040385097f, -0.011131799f, 0.0020020187f, 0.0044907606f, 0.0020709336f, 0.00069489225f,
     0.0002155287f, 3.7759513e-05f, 3.4151462e-06f, 3.0822406e-07f, 2.7813831e-08f, 0.12830651f, 0.08290492f,
     0.018933283f, -0.034175433f}};

inline Vec tanh_lanes(Vec x) {
  const Vec a = lesser(broadcast(9.02f), magnitude_of(x));
  const IntVec segment = segment_of(fma(a, broadcast(kTanhScale), broadcast(1.0f)));
  const Vec y = polynomial(kTanh, segment, a - look_up(kTanhMiddle, segment));
  return (Vec)((IntVec)y | ((IntVec)x & INT32_MIN));
}

// Adding it rounds to sixteenths and leaves their number in the low bits.
constexpr float kSixteenths = 786432.0f;

// 2^(k / 16)
alignas(64) constexpr float kPower[16] = {1.0f,       1.0442737f, 1.0905077f, 1.1387886f, 1.1892071f, 1.2418578f,
                                          1.2968396f, 1.3542556f, 1.4142135f, 1.4768262f, 1.5422108f, 1.6104903f,
                                          1.6817929f, 1.7562522f, 1.8340081f, 1.9152066f};

// 2^n exp(step r) for n in sixteenths, t = n + kSixteenths, and |step r| <= log(2) / 32.
inline Vec power_lanes(Vec t, Vec n, Vec r, float step) {
  const Vec power = look_up(kPower, (IntVec)t);
  Vec p = fma(r, broadcast(0.16666667f * step * step * step), broadcast(0.50001466f * step * step));
  p = fma(p, r, broadcast(step));
  return (Vec)_mm512_maskz_scalef_ps(0xffff, (__m512)fma(power * r, p, power), (__m512)n);
}

// exp(x) within 2 ULP, where it is no normal number within half of the least one that is not 0.
inline Vec exp_lanes(Vec x) {
  x = lesser(broadcast(89.0f), greater(broadcast(-104.0f), x));
  const Vec t = fma(x, broadcast(kInverseLn2), broadcast(kSixteenths)), n = t - broadcast(kSixteenths);
  return power_lanes(t, n, fma(n, broadcast(kLn2Low), fma(n, broadcast(-kLn2High), x)), 1.0f);
}

inline Vec sigmoid_lanes(Vec x) { return 1.0f / (1.0f + exp_lanes(-x)); }

inline Vec silu_lanes(Vec x) { return x / (1.0f + exp_lanes(-x)); }

inline Vec silu_grad_lanes(Vec dy, Vec x) {
  const Vec s = sigmoid_lanes(x);
  return dy * s * (1.0f + x * (1.0f - s));
}

inline Vec gelu_tanh_lanes(Vec x) {
  return x / (1.0f + exp_lanes(x * fma(broadcast(-kGeluCubic), x * x, broadcast(-kGeluLinear))));
}

inline Vec gelu_tanh_grad_lanes(Vec dy, Vec x) {
  const Vec a = lesser(broadcast(13.0f), magnitude_of(x)), square = a * a;
  const Vec below = 1.0f / (1.0f + exp_lanes(a * fma(broadcast(kGeluCubic), square, broadcast(kGeluLinear))));
  const Vec slope = a * fma(broadcast(3.0f * kGeluCubic), square, broadcast(kGeluLinear));
  const Vec lower = below * (1.0f - slope * (1.0f - below));
  return dy * (x < Vec{} ? lower : 1.0f - lower);
}

// Of the standard normal distribution at a: 2^g lies above it, and (1 - slope) times that is a times its density.
// g (kTail) and slope (kSlope) are polynomials of what a is above the middle of its segment of 1 + a. From 13 on, where no
// normal number lies above, it is 0.
alignas(64) constexpr float kNormalMiddle[16] = {
    1.250022f, 1.7500331f, 2.250073f,  2.7500622f, 3.5000312f,  4.50001f,    5.500005f,   6.50019f,
    8.000331f, 10.00005f,  12.000286f, 0,          0.12500542f, 0.37500957f, 0.62501544f, 0.87501794f};
alignas(64) constexpr float kTail[5][16] = {
    {-3.2426934f, -4.641827f, -6.3543572f, -8.390861f, -12.06985f, -18.16709f, -25.650257f, -34.53727f, -50.51759f,
     -76.79723f, -108.79959f, -160.0f, -1.151171f, -1.4988853f, -1.9106078f, -2.3900025f},
    {-2.494181f, -3.1072423f, -3.7459114f, -4.402861f, -5.4121537f, -6.786912f, -8.182121f, -9.590297f, -11.717126f,
     -14.56854f, -17.43136f, 0, -1.2683187f, -1.5161988f, -1.7799488f, -2.057249f},
    {-0.59712315f, -0.62726456f, -0.648783f, -0.6643227f, -0.6802803f, -0.6933495f, -0.70124966f, -0.706313f,
     -0.7110155f, -0.71453434f, -0.71653587f, 0, -0.47823602f, -0.5124292f, -0.54177296f, -0.56672937f},
    {-0.023757992f, -0.016905693f, -0.0121306665f, -0.008829295f, -0.0056852773f, -0.0033333388f, -0.0020804896f,
     -0.0013695082f, -0.00079874444f, -0.00043228015f, -0.00025812222f, 0, -0.04897739f, -0.042277858f, -0.036094844f,
     -0.030599073f},
    {0.0040537687f, 0.0028518485f, 0.0019736032f, 0.0013662527f, 0.0008066502f, 0.00041744678f, 0.00023041214f,
     0.00013502195f, 6.734848e-5f, 3.0215007e-5f, 1.534697e-5f, 0, 0.0068592755f, 0.0064829085f, 0.005855791f,
     0.005128753f}};
alignas(64) constexpr float kSlope[5][16] = {
    {-1.1610817f, -2.7691803f, -4.8422427f, -7.3927245f, -12.13009f, -20.169529f, -30.19281f, -42.209927f, -63.976242f,
     -99.981926f, -143.99344f, 0, 0.8901038f, 0.6058841f, 0.22887684f, -0.24775492f},
    {-2.7635865f, -3.675557f, -4.620192f, -5.584491f, -7.0521836f, -9.0296755f, -11.01818f, -13.0121975f, -16.00743f,
     -20.003738f, -24.002737f, 0, -0.96200705f, -1.3173472f, -1.7031885f, -2.1134374f},
    {-0.88943386f, -0.93097717f, -0.95605594f, -0.97134924f, -0.9841954f, -0.9922262f, -0.9958405f, -0.9976114f,
     -0.99884313f, -0.9994867f, -0.99974096f, 0, -0.67570627f, -0.74333984f, -0.79795444f, -0.8413092f},
    {-0.03541185f, -0.021360444f, -0.012943152f, -0.007963089f, -0.004038339f, -0.001743313f, -0.00082250737f,
     -0.00041977502f, -0.00017601866f, -6.443209e-05f, -2.7580552e-05f, 0, -0.09947248f, -0.081185564f, -0.06492492f,
     -0.051202472f},
    {0.0088928975f, 0.005398277f, 0.0032001343f, 0.0018950193f, 0.00089414546f, 0.00034582117f, 0.00014587145f,
     6.681317e-05f, 2.4185549e-05f, 7.3897036e-06f, 2.7022927e-06f, 0, 0.018944219f, 0.01741663f, 0.015025234f,
     0.012422945f}};

struct NormalTail {
  IntVec segment;
  Vec a, above;  // a from the middle of the segment; what lies above

  inline __attribute__((always_inline)) explicit NormalTail(Vec x) {
    const Vec magnitude = lesser(broadcast(13.2f), magnitude_of(x));
    segment = segment_of(magnitude + broadcast(1.0f));
    a = magnitude - look_up(kNormalMiddle, segment);
    const Vec g = polynomial(kTail, segment, a), t = g + broadcast(kSixteenths), n = t - broadcast(kSixteenths);
    above = power_lanes(t, n, g - n, 0.69314718f);  // log(2)
  }
};

// x times the distribution function, within 4 ULP above 0; relative error 5e-7 for x > -3 and 4e-6 to -12.9.
inline Vec gelu_lanes(Vec x) {
  const Vec above = NormalTail(x).above;
  return x * (x < Vec{} ? above : 1.0f - above);
}

// dy times its derivative, which is within 1e-7.
inline Vec gelu_grad_lanes(Vec dy, Vec x) {
  const NormalTail at(x);
  const Vec below = at.above * polynomial(kSlope, at.segment, at.a);
  return dy * (x < Vec{} ? below : 1.0f - below);
}

}  // namespace
}  // namespace auxgrad
#endif
