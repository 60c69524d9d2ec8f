// Elementary functions where a register holds a table: on each of 8, 16 or 32 segments a polynomial of its own, whose
// coefficients a permutation looks up. That takes fewer operations than one polynomial for all numbers, and no division.
// Coefficients are those of the least maximal error, fitted in double; middles of segments lie where the function is a
// float.
#pragma once
#include "../core/elementary.h"
#include "vector.h"

#if defined(__AVX2__)
namespace auxgrad {
namespace {

#if defined(__AVX512F__)
// table[i % 16] of each lane of i, and table[i % 32].
template <class T>
inline Vec look_up(const T (&table)[16], IntVec i) {
  return (Vec)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)i, _mm512_load_ps(table));
}

template <class T>
inline Vec look_up(const T (&table)[32], IntVec i) {
  return (Vec)_mm512_maskz_permutex2var_ps(0xffff, _mm512_load_ps(table), (__m512i)i, _mm512_load_ps(table + 16));
}
#else
// table[i % 8] of each lane of i.
template <class T>
inline Vec look_up(const T (&table)[8], IntVec i) {
  return (Vec)_mm256_permutevar8x32_epi32(*reinterpret_cast<const __m256i*>(table), (__m256i)i);
}
#endif

inline Vec magnitude_of(Vec x) { return (Vec)((IntVec)x & INT32_MAX); }

// Of a table as long as a vector, segments between powers of two of u, which is in [1, 16): those from 1 on come last.
inline IntVec segment_of(Vec u) { return (IntVec)u >> (kLanes == 16 ? 21 : 22); }

template <int kCoefficients, int kSegments>
inline Vec polynomial(const float (&coefficient)[kCoefficients][kSegments], IntVec segment, Vec x) {
  Vec p = look_up(coefficient[kCoefficients - 1], segment);
  AUXGRAD_UNROLL
  for (int k = kCoefficients - 2; k >= 0; k--) p = fma(p, x, look_up(coefficient[k], segment));
  return p;
}

// tanh(a) for a < 9.02, in powers of what a is above the middle of its segment of 1 + kTanhScale a, within 2e-8 of itself
// before coefficients are rounded. The last of them makes 1 of what is not less.
constexpr float kTanhScale = 1.6629528f;
#if defined(__AVX512F__)
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
#else
alignas(32) constexpr float kTanhMiddle[8] = {0.90202063f, 1.5035464f, 2.4060237f, 3.6086612f,
                                              5.412935f,   7.819277f,  0,          0.45110402f};
alignas(32) constexpr float kTanh[7][8] = {
    {0.7172803f, 0.90578705f, 0.9838688f, 0.99853355f, 0.99996024f, 0.9999997f, 0, 0.42280608f},
    {0.48550966f, 0.1795495f, 0.03200227f, 0.0029309352f, 7.989842e-5f, 6.493428e-7f, 1.0f, 0.82123506f},
    {-0.34825012f, -0.16263343f, -0.0314849f, -0.0029266092f, -7.985527e-5f, -6.492029e-7f, -3.5820337e-6f,
     -0.34722325f},
    {0.08788827f, 0.0874897f, 0.020309396f, 0.001941286f, 5.089006e-5f, 4.1341997e-7f, -0.3331908f, -0.12694748f},
    {0.053160336f, -0.02502873f, -0.009502132f, -0.0009651964f, -2.5512845e-5f, -2.0691303e-7f, -0.0020841158f,
     0.16941814f},
    {-0.055095993f, -0.0031291866f, 0.0032869375f, 0.00040398547f, 1.3420822e-5f, 1.0925734e-7f, 0.14724247f,
     -0.010123607f},
    {0.012940818f, 0.0072363555f, -0.0007003273f, -0.00013077786f, -4.4380818e-6f, -3.6353573e-8f, -0.043665852f,
     -0.059358597f}};
#endif

inline Vec tanh_lanes(Vec x) {
  const Vec a = lesser(broadcast(9.02f), magnitude_of(x));
  const IntVec segment = segment_of(fma(a, broadcast(kTanhScale), broadcast(1.0f)));
  const Vec y = polynomial(kTanh, segment, a - look_up(kTanhMiddle, segment));
  return (Vec)((IntVec)y | ((IntVec)x & INT32_MIN));
}

// Adding it rounds to parts of 1, as many as a vector has lanes, and leaves their number in the low bits.
constexpr float kParts = 12582912.0f / kLanes;

// The bits of 2^(k / parts), less what k is among those of a float, and coefficients of exp(r) for |r| <= log(2) / (2 parts).
#if defined(__AVX512F__)
alignas(64) constexpr int32_t kPowerBits[16] = {0x3f800000, 0x3f7daac3, 0x3f7b95c2, 0x3f79c3d3, 0x3f7837f0, 0x3f76f532,
                                                0x3f75fed7, 0x3f75583f, 0x3f7504f3, 0x3f7508a4, 0x3f75672a, 0x3f76248c,
                                                0x3f7744fd, 0x3f78ccdf, 0x3f7ac0c7, 0x3f7d257d};
constexpr float kSquare = 0.50001466f, kCube = 0.16666667f;
#else
alignas(32) constexpr int32_t kPowerBits[8] = {0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7,
                                               0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7};
constexpr float kSquare = 0.50006472f, kCube = 0.16668231f;
#endif

// 2^n of n in parts, t = n + kParts, by adding n to a power: to the bits of 0 for -127, of infinity for 128.
inline Vec power_of(Vec t) {
  return (Vec)((IntVec)look_up(kPowerBits, (IntVec)t) + ((IntVec)t << (kLanes == 16 ? 19 : 20)));
}

// (exp(r) - 1) / r, and exp(r).
inline Vec rise(Vec r) { return fma(fma(r, broadcast(kCube), broadcast(kSquare)), r, broadcast(1.0f)); }
inline Vec near_one(Vec r) { return fma(rise(r), r, broadcast(1.0f)); }

// x less n times log(2).
inline Vec less_powers(Vec x, Vec n) { return fma(n, broadcast(kLn2Low), fma(n, broadcast(-kLn2High), x)); }

#if defined(__AVX512F__)
// 2^(k / 16)
alignas(64) constexpr float kPower[16] = {1.0f,       1.0442737f, 1.0905077f, 1.1387886f, 1.1892071f, 1.2418578f,
                                          1.2968396f, 1.3542556f, 1.4142135f, 1.4768262f, 1.5422108f, 1.6104903f,
                                          1.6817929f, 1.7562522f, 1.8340081f, 1.9152066f};

// 2^n exp(step r), what is no normal number too.
inline Vec power_lanes(Vec t, Vec n, Vec r, float step) {
  const Vec power = look_up(kPower, (IntVec)t);
  Vec p = fma(r, broadcast(kCube * step * step * step), broadcast(kSquare * step * step));
  p = fma(p, r, broadcast(step));
  return (Vec)_mm512_maskz_scalef_ps(0xffff, (__m512)fma(power * r, p, power), (__m512)n);
}

// exp(x) within 2 ULP, where it is no normal number within half of the least one that is not 0.
inline Vec exp_lanes(Vec x) {
  x = lesser(broadcast(89.0f), greater(broadcast(-104.0f), x));
  const Vec t = fma(x, broadcast(kInverseLn2), broadcast(kParts)), n = t - broadcast(kParts);
  return power_lanes(t, n, less_powers(x, n), 1.0f);
}
#else
// exp(x) within 2 ULP to 88.67 and within 3e-6 of itself above; what is no normal number is below the least of them.
inline Vec exp_lanes(Vec x) {
  x = greater(broadcast(-88.02969f), x);  // -127 log(2)
  const Vec t = lesser(broadcast(kParts + 127.875f), fma(x, broadcast(kInverseLn2), broadcast(kParts)));
  const Vec r = less_powers(x, t - broadcast(kParts)), power = power_of(t);
  return fma(power * r, rise(r), power);
}
#endif

// 1 + exp(x), that within 2 ULP.
inline Vec one_and_exp(Vec x) {
  x = lesser(broadcast(88.72284f), greater(broadcast(-88.02969f), x));  // 128 and -127 times log(2)
  const Vec t = fma(x, broadcast(kInverseLn2), broadcast(kParts));
  return fma(power_of(t), near_one(less_powers(x, t - broadcast(kParts))), broadcast(1.0f));
}

inline Vec sigmoid_lanes(Vec x) { return 1.0f / one_and_exp(-x); }

inline Vec silu_lanes(Vec x) { return x / one_and_exp(-x); }

inline Vec silu_grad_lanes(Vec dy, Vec x) {
  const Vec s = sigmoid_lanes(x);
  return dy * s * (1.0f + x * (1.0f - s));
}

inline Vec gelu_tanh_lanes(Vec x) {
  return x / one_and_exp(x * fma(broadcast(-kGeluCubic), x * x, broadcast(-kGeluLinear)));
}

inline Vec gelu_tanh_grad_lanes(Vec dy, Vec x) {
  const Vec a = lesser(broadcast(13.0f), magnitude_of(x)), square = a * a;
  const Vec below = 1.0f / one_and_exp(a * fma(broadcast(kGeluCubic), square, broadcast(kGeluLinear)));
  const Vec slope = a * fma(broadcast(3.0f * kGeluCubic), square, broadcast(kGeluLinear));
  const Vec lower = below * (1.0f - slope * (1.0f - below));
  return dy * (x < Vec{} ? lower : 1.0f - lower);
}

// Segments of equal length around whole multiples of it, in powers of what numbers are above the middle of theirs.
template <int kCoefficients, int kSegments>
inline Vec on_segments(const float (&coefficient)[kCoefficients][kSegments], float length, Vec a) {
  const Vec t = fma(a, broadcast(1 / length), broadcast(kRound));
  const Vec r = fma(broadcast(-length), t - broadcast(kRound), a);
  return polynomial(coefficient, (IntVec)t, r);
}

#if defined(__AVX512F__)
// What lies above a of the standard normal distribution, within 6e-6 of itself (2e-7 to a = 3).
constexpr float kAboveEnd = 5.2f, kAboveLength = kAboveEnd / 31;
alignas(64) constexpr float kAbove[5][32] = {
    {0.5f,          0.43339315f,    0.36863005f,   0.30740276f,   0.25112054f,   0.20081612f,   0.15709919f,
     0.12015875f,   0.08980845f,    0.065562874f,  0.04673025f,   0.032507036f,  0.022062404f,  0.014604834f,
     0.009427456f,  0.005932586f,   0.0036387586f, 0.0021749013f, 0.0012665679f, 0.0007185432f, 0.0003970562f,
     0.0002136834f, 0.00011198486f, 5.71442e-5f,   2.8390165e-5f, 1.3731208e-5f, 6.4648752e-6f, 2.962718e-6f,
     1.3215093e-6f, 5.736845e-7f,   2.4236743e-7f, 9.96442e-8f},
    {-0.3989421f,    -0.39336884f,   -0.37711182f,    -0.35149604f,     -0.31853038f,   -0.2806476f,    -0.2404097f,
     -0.20022704f,   -0.1621338f,    -0.12764518f,    -0.09770469f,     -0.072712064f,  -0.052611124f,  -0.037010822f,
     -0.02531395f,   -0.01683337f,   -0.0108833425f,  -0.006841219f,    -0.0041810432f, -0.002484367f,  -0.0014352475f,
     -0.0008061535f, -0.0004402391f, -0.00023374338f, -0.000120661825f, -6.0559225e-5f, -2.9550887e-5f, -1.4019759e-5f,
     -6.466813e-6f,  -2.9001455e-6f, -1.2645296e-6f,  -5.360937e-7f},
    {1.9437435e-7f, 0.03299239f,    0.063257575f,  0.08844096f,    0.106861725f,  0.11769076f,  0.1209801f,
     0.117552325f,  0.1087862f,     0.096351214f,  0.081945606f,   0.067082554f,  0.052950446f, 0.040353708f,
     0.029723512f,  0.02117755f,    0.014604852f,  0.009754369f,   0.0063121356f, 0.003959054f, 0.002407589f,
     0.0014199293f, 0.00081235496f, 0.0004509282f, 0.00024290023f, 0.0001269915f, 6.44476e-5f,  3.1752425e-5f,
     1.5189093e-5f, 7.0552674e-6f,  3.182435e-6f,  1.3949789e-6f},
    {0.066402785f,   0.06363524f,     0.055713516f,  0.043707673f,    0.029176416f,    0.013886595f,  -0.00048266025f,
     -0.012589357f,  -0.021585155f,   -0.027161246f, -0.029492473f,   -0.029109783f,   -0.02674075f,  -0.023156f,
     -0.01904897f,   -0.01496242f,    -0.011261107f, -0.008141722f,   -0.005665483f,   -0.003799993f, -0.0024595659f,
     -0.0015376934f, -0.00092928385f, -0.000543212f, -0.00030730068f, -0.00016831655f, -8.929495e-5f, -4.5899567e-5f,
     -2.286641e-5f,  -1.10434685e-5f, -5.171642e-6f, -2.286341e-6f},
    {-2.7662181e-5f, -0.00818343f,  -0.015217248f,  -0.020224068f,  -0.022673286f,  -0.022481408f, -0.019986348f,
     -0.015836494f,  -0.010831417f, -0.0057566958f, -0.0012508321f, 0.0022726678f,  0.0046425504f, 0.005896752f,
     0.00621904f,    0.0058652894f, 0.0051018433f,  0.0041584712f,  0.0032061297f,  0.0023522878f, 0.0016491482f,
     0.001108109f,   0.000715196f,  0.00044414913f, 0.00026575488f, 0.00015337544f, 8.5455365e-5f, 4.5999514e-5f,
     2.3936904e-5f,  1.2048031e-5f, 5.868064e-6f,   3.3588221e-6f}};
// The same less a times the density, within 4e-8; from 6 on it is nothing.
constexpr float kSlopeEnd = 6.0f, kSlopeLength = kSlopeEnd / 31;
alignas(64) constexpr float kSlope[5][32] = {
    {0.5f,           0.34748295f,     0.20606036f,     0.08503121f,
     -0.009471291f,  -0.07512965f,    -0.11328977f,    -0.12814175f,
     -0.12552072f,   -0.11166076f,    -0.09217827f,    -0.071440965f,
     -0.05234535f,   -0.036422387f,   -0.024140395f,   -0.015273847f,
     -0.009240029f,  -0.0053510973f,  -0.002969355f,   -0.0015799777f,
     -0.0008066144f, -0.00039529044f, -0.00018602639f, -8.4097825e-5f,
     -3.653158e-5f,  -1.52520815e-5f, -6.1214673e-6f,  -2.3622426e-6f,
     -8.766028e-7f,  -3.128594e-7f,   -1.07402705e-7f, -3.546875e-8f},
    {-0.7978829f,   -0.76841f,      -0.6848251f,    -0.56047f,     -0.41407546f, -0.26562896f,  -0.13241006f,
     -0.026197994f, 0.047822505f,   0.090505086f,   0.1070345f,    0.1047678f,   0.091263525f,  0.07290412f,
     0.0542342f,    0.03791083f,    0.02504435f,    0.015696451f,  0.00935925f,  0.0053200736f, 0.0028874113f,
     0.0014981086f, 0.00074377825f, 0.00035363203f, 0.0001611201f, 7.038389e-5f, 2.9493134e-5f, 1.1859385e-5f,
     4.577652e-6f,  1.6966377e-6f,  6.039648e-7f,   2.0656871e-7f},
    {-3.212897e-11f, 0.15014337f,    0.27582744f,     0.35842416f,     0.38916522f,    0.37024525f,   0.31293428f,
     0.23362306f,    0.14926164f,    0.073594145f,    0.015062545f,    -0.023459654f,  -0.04353678f,  -0.04936279f,
     -0.045970593f,  -0.037911247f,  -0.028560145f,   -0.019971792f,   -0.013086813f,  -0.008084351f, -0.00472777f,
     -0.0026252214f, -0.0013872139f, -0.00069877115f, -0.00033599176f, -0.0001543824f, -6.78469e-5f,  -2.8539554e-5f,
     -1.1497944e-5f, -4.4389412e-6f, -1.6429436e-6f,  -5.8437024e-7f},
    {0.265262f,     0.24339134f,   0.18305421f,    0.09842638f,    0.008264296f,   -0.06947554f,  -0.12220918f,
     -0.14508785f,  -0.14074661f,  -0.117002875f,  -0.08366133f,   -0.049613137f,  -0.021022638f, -0.0007976433f,
     0.010911638f,  0.01569458f,   0.015821096f,   0.013450826f,   0.010212958f,   0.007105702f,  0.004593731f,
     0.0027830333f, 0.0015889313f, 0.00085829303f, 0.00043990876f, 0.00021440594f, 9.954051e-5f,  4.4080254e-5f,
     1.8640236e-5f, 7.533909e-6f,  2.9126295e-6f,  1.0287392e-6f},
    {2.0475457e-9f,  -0.055341363f,  -0.09741998f,   -0.11709515f,    -0.111903764f,   -0.08619784f,     -0.049008306f,
     -0.010707971f,  0.020189665f,   0.039000127f,   0.045208793f,    0.041433185f,    0.03182024f,      0.020419272f,
     0.0101910215f,  0.0026644086f,  -0.0018698997f, -0.0039052889f,  -0.0042494927f,  -0.0036829296f,   -0.0027875532f,
     -0.001910706f,  -0.0012080556f, -0.0007121402f, -0.00039411886f, -0.00020574676f, -0.000101665195f, -4.7672078e-5f,
     -2.1255695e-5f, -9.0259955e-6f, -3.6549584e-6f, -1.77396e-6f}};

// Farther out, 2^g lies above a, and g (kTail) is a polynomial of what a is above the middle of its segment of 1 + a. From
// 13 on, where no normal number lies above, it is 0.
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

inline Vec far_above(Vec a) {
  const IntVec segment = segment_of(a + broadcast(1.0f));
  const Vec g = polynomial(kTail, segment, a - look_up(kNormalMiddle, segment));
  const Vec t = g + broadcast(kParts), n = t - broadcast(kParts);
  return power_lanes(t, n, g - n, 0.69314718f);  // log(2)
}

// x times the distribution function, within 4 ULP above 0; relative error 1.3e-6 for x > -3 and 8e-6 to -12.9. As a sum,
// of what it is without the tails and theirs.
inline Vec gelu_lanes(Vec x) {
  Vec a = lesser(broadcast(kAboveEnd), magnitude_of(x));
  Vec above = on_segments(kAbove, kAboveLength, a);
  const __mmask16 far = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-kAboveEnd), _CMP_LT_OQ);
  if (__builtin_expect(far != 0, 0)) {
    const Vec b = magnitude_of(x);  // of infinity NaN, as by the formula
    a = (Vec)_mm512_mask_mov_ps((__m512)a, far, (__m512)b);
    above = (Vec)_mm512_mask_mov_ps((__m512)above, far, (__m512)far_above(lesser(broadcast(13.2f), b)));
  }
  return fma(-a, above, relu(x));
}
#else
// What lies above a of the standard normal distribution, within 1.3e-6 of itself to a = 3.85, from there on within 3e-10.
constexpr float kAboveEnd = 5.24f, kAboveLength = 0.7f, kFar = 3.85f;
alignas(32) constexpr float kAbove[7][8] = {
    {0.5f, 0.24196365f, 0.080756664f, 0.017864421f, 0.0025551294f, 0.00023262936f, 1.3345675e-5f, 4.791803e-7f},
    {-0.3989423f, -0.31225398f, -0.1497276f, -0.04398357f, -0.007915431f, -0.0008726843f, -5.8947062e-5f,
     -2.4394442e-6f},
    {1.1700687e-6f, 0.10928852f, 0.1048087f, 0.046183065f, 0.011081832f, 0.0015271532f, 0.00012378609f, 5.9760237e-6f},
    {0.066470556f, 0.026544115f, -0.023948008f, -0.024999449f, -0.009025367f, -0.0016361071f, -0.00016321604f,
     -9.317226e-6f},
    {0.00016037955f, -0.022848954f, -0.009073088f, 0.0054193283f, 0.0044654855f, 0.0011782901f, 0.00015087915f,
     1.0438748e-5f},
    {-0.010644304f, -0.0008250899f, 0.005994478f, 0.0015088742f, -0.0011173645f, -0.0005823786f, -0.00010639414f,
     -9.476321e-6f},
    {0.0014070673f, 0.0030359249f, -0.0002575621f, -0.0011870476f, -4.3549284e-5f, 0.0001729837f, 5.277393e-5f,
     6.1363858e-6f}};
// The same less a times the density, within 3e-8; from 6 on it is nothing.
constexpr float kSlopeEnd = 6.0f, kSlopeLength = 0.802f;
alignas(32) constexpr float kSlope[8][8] = {
    {0.5f, -0.020684233f, -0.12242356f, -0.045045823f, -0.0067863017f, -0.00048523178f, -1.7246337e-5f, -3.109802e-7f},
    {-0.7978846f, -0.3924232f, 0.063131385f, 0.08363463f, 0.019266872f, 0.0018103677f, 7.910635e-5f, 1.6871425e-6f},
    {6.45964e-7f, 0.38932052f, 0.12615101f, -0.047503103f, -0.023449492f, -0.0031141308f, -0.00017234545f,
     -4.4178123e-6f},
    {0.26594928f, -0.0042743036f, -0.1357515f, -0.011078545f, 0.014667478f, 0.003214541f, 0.00023562594f,
     7.4001528e-6f},
    {0.000113617745f, -0.10952728f, 0.027062016f, 0.026942499f, -0.0033243557f, -0.0021435716f, -0.00022430303f,
     -8.8205e-6f},
    {-0.06040396f, 0.020323304f, 0.022360727f, -0.011943115f, -0.0018973786f, 0.0008826277f, 0.00015582818f,
     8.076846e-6f},
    {0.0014717376f, 0.017081361f, -0.011045763f, -0.00037252333f, 0.0018177744f, -0.00012266115f, -8.0806494e-5f,
     -6.3142625e-6f},
    {0.007797104f, -0.005046709f, -0.00089712185f, 0.0020037114f, -0.0005335622f, -8.125466e-5f, 2.7430995e-5f,
     3.4437323e-6f}};

__attribute__((noinline)) Vec far_above(Vec a) {
  for (int i = 0; i < kLanes; i++) {
    const Normal at = normal_f32(a[i]);
    a[i] = at.bell * at.ratio;
  }
  return a;
}

// x times the distribution function, within 4 ULP above 0; relative error 1.5e-6 for x > -3.85 and 1e-5 to -12.9.
inline Vec gelu_lanes(Vec x) {
  Vec a = lesser(broadcast(kAboveEnd), magnitude_of(x));
  Vec above = on_segments(kAbove, kAboveLength, a);
  const IntVec far = x < broadcast(-kFar);
  if (__builtin_expect(_mm256_movemask_ps((__m256)far) != 0, 0)) {
    const Vec b = magnitude_of(x);  // of infinity NaN, as by the formula
    a = far ? b : a;
    above = far ? far_above(b) : above;
  }
  return fma(-a, above, relu(x));
}
#endif

// dy times its derivative, which is within 1e-7.
inline Vec gelu_grad_lanes(Vec dy, Vec x) {
  const Vec below = on_segments(kSlope, kSlopeLength, lesser(broadcast(kSlopeEnd), magnitude_of(x)));
  return dy * (x < Vec{} ? below : 1.0f - below);
}

}  // namespace
}  // namespace auxgrad
#endif
