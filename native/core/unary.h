// Elementwise functions of one tensor, the gradients that are cheaper fused, and conversions between dtypes.
#pragma once
#include "elementary.h"
#include "elementwise.h"

namespace auxgrad {
namespace {

#define AUXGRAD_UNARY(Name, expression)                                        \
  struct Name {                                                                \
    Numbers call;                                                              \
    AUXGRAD_HOST_DEVICE float operator()(float x) const { return expression; } \
  };
AUXGRAD_UNARY(Neg, -x)
AUXGRAD_UNARY(Abs, __builtin_fabsf(x))
AUXGRAD_UNARY(Sign, x != x ? x : static_cast<float>((x > 0) - (x < 0)))
AUXGRAD_UNARY(Exp, exp_f32(x))
AUXGRAD_UNARY(Log, log_f32(x))
AUXGRAD_UNARY(Sqrt, __builtin_sqrtf(x))
AUXGRAD_UNARY(Rsqrt, 1.0f / __builtin_sqrtf(x))
AUXGRAD_UNARY(Square, x* x)
AUXGRAD_UNARY(Reciprocal, 1.0f / x)
AUXGRAD_UNARY(Tanh, tanh_f32(x))
AUXGRAD_UNARY(Sigmoid, sigmoid_f32(x))
AUXGRAD_UNARY(Erf, erf_f32(x))
AUXGRAD_UNARY(Gelu, gelu_f32(x))
AUXGRAD_UNARY(GeluTanh, gelu_tanh_f32(x))
AUXGRAD_UNARY(Silu, x* sigmoid_f32(x))
AUXGRAD_UNARY(Relu, x < 0 ? 0.0f : x)
AUXGRAD_UNARY(Floor, __builtin_floorf(x))
AUXGRAD_UNARY(Ceil, __builtin_ceilf(x))
// To the nearest whole number, ties to even: adding kRound leaves no bits for the fraction.
AUXGRAD_UNARY(Round, __builtin_fabsf(x) < 4194304.0f ? __builtin_copysignf((x + kRound) - kRound, x) : x)
AUXGRAD_UNARY(Sin, sin_f32(x, 0))
AUXGRAD_UNARY(Cos, sin_f32(x, 1))
AUXGRAD_UNARY(Expm1, expm1_f32(x))
AUXGRAD_UNARY(Log1p, log1p_f32(x))
// numbers: the scalar
AUXGRAD_UNARY(AddScalar, x + call.real(0))
AUXGRAD_UNARY(MulScalar, x* call.real(0))
// numbers: low, high. NaN stays NaN.
AUXGRAD_UNARY(Clamp, x < call.real(0) ? call.real(0) : (x > call.real(1) ? call.real(1) : x))
// numbers: slope below zero
AUXGRAD_UNARY(LeakyRelu, x < 0 ? x * call.real(0) : x)
// numbers: alpha
AUXGRAD_UNARY(Elu, x > 0 ? x : call.real(0) * expm1_f32(x))
// numbers: beta
AUXGRAD_UNARY(Softplus, softplus_f32(x* call.real(0)) / call.real(0))
// numbers: delta. x^2 / 2 within delta, a straight line beyond.
AUXGRAD_UNARY(Huber, (x < -call.real(0) ? -call.real(0) : (x > call.real(0) ? call.real(0) : x)) *
                         (x - 0.5f * (x < -call.real(0) ? -call.real(0) : (x > call.real(0) ? call.real(0) : x))))
#undef AUXGRAD_UNARY

// dy, and x or y as the name of the second operand says -> dx
#define AUXGRAD_GRADIENT(Name, v, expression)                                            \
  struct Name {                                                                          \
    Numbers call;                                                                        \
    AUXGRAD_HOST_DEVICE float operator()(float dy, float v) const { return expression; } \
  };
AUXGRAD_GRADIENT(ReluGrad, y, y > 0 ? dy : 0.0f)
AUXGRAD_GRADIENT(SigmoidGrad, y, dy* y*(1.0f - y))
AUXGRAD_GRADIENT(TanhGrad, y, dy*(1.0f - y * y))
AUXGRAD_GRADIENT(GeluGrad, x, dy* gelu_slope_f32(x))
AUXGRAD_GRADIENT(GeluTanhGrad, x, dy* gelu_tanh_slope_f32(x))
AUXGRAD_GRADIENT(SiluGrad, x, dy* sigmoid_f32(x) * (1.0f + x * (1.0f - sigmoid_f32(x))))
AUXGRAD_GRADIENT(ClampGrad, x, x >= call.real(0) && x <= call.real(1) ? dy : 0.0f)
// Zero at the borders too, unlike clamp's.
AUXGRAD_GRADIENT(HardtanhGrad, x, x > call.real(0) && x < call.real(1) ? dy : 0.0f)
AUXGRAD_GRADIENT(LeakyReluGrad, x, x > 0 ? dy : dy * call.real(0))
AUXGRAD_GRADIENT(EluGrad, x, x > 0 ? dy : dy * call.real(0) * exp_f32(x))
AUXGRAD_GRADIENT(SoftplusGrad, x, dy* sigmoid_f32(x* call.real(0)))
#undef AUXGRAD_GRADIENT

template <class F>
bool unary(const Call& call) {
  return map1<float, float>(call, call.in[0], call.out[0], F{Numbers(call)});
}
template <class F>
bool gradient(const Call& call) {
  return map2<float, float>(call, call.in[0], call.in[1], call.out[0], F{Numbers(call)});
}

struct LogicalNot {
  AUXGRAD_HOST_DEVICE uint8_t operator()(uint8_t x) const { return !x; }
};

// Elements of a dtype as a number, and back. Floats to integers truncate; to bool: not zero.
template <DType kType>
struct Element {
  using T = uint8_t;
  AUXGRAD_HOST_DEVICE static float get(uint8_t x) { return static_cast<float>(x); }
  template <class X>
  AUXGRAD_HOST_DEVICE static uint8_t set(X x) {
    return kType == DType::boolean ? x != 0 : static_cast<uint8_t>(static_cast<int32_t>(x));
  }
};
template <>
struct Element<DType::f32> {
  using T = float;
  AUXGRAD_HOST_DEVICE static float get(float x) { return x; }
  template <class X>
  AUXGRAD_HOST_DEVICE static float set(X x) {
    return static_cast<float>(x);
  }
};
template <>
struct Element<DType::bf16> {
  using T = uint16_t;
  AUXGRAD_HOST_DEVICE static float get(uint16_t x) { return bf16_to_f32(x); }
  template <class X>
  AUXGRAD_HOST_DEVICE static uint16_t set(X x) {
    return f32_to_bf16(static_cast<float>(x));
  }
};
template <>
struct Element<DType::i32> {
  using T = int32_t;
  AUXGRAD_HOST_DEVICE static double get(int32_t x) { return x; }
  template <class X>
  AUXGRAD_HOST_DEVICE static int32_t set(X x) {
    return static_cast<int32_t>(x);
  }
};
template <>
struct Element<DType::u32> {
  using T = uint32_t;
  AUXGRAD_HOST_DEVICE static double get(uint32_t x) { return x; }
  template <class X>
  AUXGRAD_HOST_DEVICE static uint32_t set(X x) {
    return static_cast<uint32_t>(x);
  }
};
template <DType kFrom, DType kTo>
struct Cast {
  AUXGRAD_HOST_DEVICE typename Element<kTo>::T operator()(typename Element<kFrom>::T x) const {
    return Element<kTo>::set(Element<kFrom>::get(x));
  }
};

bool logical_not(const Call& call) { return map1<uint8_t, uint8_t>(call, call.in[0], call.out[0], LogicalNot()); }

template <DType kFrom, DType kTo>
bool cast_to(const Call& call) {
  return map1<typename Element<kFrom>::T, typename Element<kTo>::T>(call, call.in[0], call.out[0], Cast<kFrom, kTo>());
}
template <DType kFrom>
bool cast_from(const Call& call) {
  switch (call.out[0].dtype) {
    case DType::f32: return cast_to<kFrom, DType::f32>(call);
    case DType::bf16: return cast_to<kFrom, DType::bf16>(call);
    case DType::i32: return cast_to<kFrom, DType::i32>(call);
    case DType::u32: return cast_to<kFrom, DType::u32>(call);
    case DType::u8: return cast_to<kFrom, DType::u8>(call);
    default: return cast_to<kFrom, DType::boolean>(call);
  }
}

// cast: x of any dtype and strides -> y of another dtype
bool cast(const Call& call) {
  switch (call.in[0].dtype) {
    case DType::f32: return cast_from<DType::f32>(call);
    case DType::bf16: return cast_from<DType::bf16>(call);
    case DType::i32: return cast_from<DType::i32>(call);
    case DType::u32: return cast_from<DType::u32>(call);
    default: return cast_from<DType::u8>(call);
  }
}

#define AUXGRAD_UNARY_KERNELS                                                                                        \
  AUXGRAD_ROWS(                                                                                                      \
      {"neg", unary<Neg>}, {"abs", unary<Abs>}, {"sign", unary<Sign>}, {"exp", unary<Exp>}, {"log", unary<Log>},     \
      {"sqrt", unary<Sqrt>}, {"rsqrt", unary<Rsqrt>}, {"square", unary<Square>}, {"reciprocal", unary<Reciprocal>},  \
      {"tanh", unary<Tanh>}, {"sigmoid", unary<Sigmoid>}, {"erf", unary<Erf>}, {"gelu", unary<Gelu>},                \
      {"silu", unary<Silu>}, {"relu", unary<Relu>}, {"floor", unary<Floor>}, {"ceil", unary<Ceil>},                  \
      {"add_scalar", unary<AddScalar>}, {"mul_scalar", unary<MulScalar>}, {"clamp", unary<Clamp>},                   \
      {"relu_grad", gradient<ReluGrad>}, {"sigmoid_grad", gradient<SigmoidGrad>}, {"tanh_grad", gradient<TanhGrad>}, \
      {"gelu_grad", gradient<GeluGrad>}, {"silu_grad", gradient<SiluGrad>}, {"clamp_grad", gradient<ClampGrad>},     \
      {"cast", cast}, {"round", unary<Round>}, {"sin", unary<Sin>}, {"cos", unary<Cos>}, {"expm1", unary<Expm1>},    \
      {"log1p", unary<Log1p>}, {"leaky_relu", unary<LeakyRelu>}, {"elu", unary<Elu>}, {"softplus", unary<Softplus>}, \
      {"huber", unary<Huber>}, {"logical_not", logical_not}, {"hardtanh_grad", gradient<HardtanhGrad>},              \
      {"leaky_relu_grad", gradient<LeakyReluGrad>}, {"elu_grad", gradient<EluGrad>},                                 \
      {"softplus_grad", gradient<SoftplusGrad>}, {"gelu_tanh", unary<GeluTanh>},                                     \
      {"gelu_tanh_grad", gradient<GeluTanhGrad>})

}  // namespace
}  // namespace auxgrad
