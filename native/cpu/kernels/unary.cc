// Elementwise functions of one tensor, and the gradients that are cheaper fused. f32, any strides in, contiguous out.
#include "../elementwise.h"

namespace auxgrad {
namespace {

#define UNARY(name, expression)                                                             \
  bool name(const Call& call) {                                                             \
    map1<float, float>(call, call.in[0], call.out[0], [&](float x) { return expression; }); \
    return true;                                                                            \
  }

UNARY(neg, -x)
UNARY(absolute, __builtin_fabsf(x))
UNARY(sign, x != x ? x : static_cast<float>((x > 0) - (x < 0)))
UNARY(exponential, exp_f32(x))
UNARY(logarithm, log_f32(x))
UNARY(square_root, __builtin_sqrtf(x))
UNARY(reciprocal_root, 1.0f / __builtin_sqrtf(x))
UNARY(square, x* x)
UNARY(reciprocal, 1.0f / x)
UNARY(hyperbolic_tangent, tanh_f32(x))
UNARY(sigmoid, sigmoid_f32(x))
UNARY(error_function, erf_f32(x))
UNARY(gelu, gelu_f32(x))
UNARY(silu, x* sigmoid_f32(x))
UNARY(relu, x < 0 ? 0.0f : x)
UNARY(floor_, __builtin_floorf(x))
UNARY(ceil_, __builtin_ceilf(x))
// To the nearest whole number, ties to even: adding 1.5 * 2^23 leaves no bits for the fraction.
UNARY(round_, __builtin_fabsf(x) < 4194304.0f ? __builtin_copysignf((x + 12582912.0f) - 12582912.0f, x) : x)
UNARY(sine, static_cast<float>(__builtin_sin(static_cast<double>(x))))
UNARY(cosine, static_cast<float>(__builtin_cos(static_cast<double>(x))))
UNARY(exponential_minus_1, expm1_f32(x))
UNARY(logarithm_1_plus, log1p_f32(x))
// numbers: the scalar
UNARY(add_scalar, x + call.real(0))
UNARY(mul_scalar, x* call.real(0))
// numbers: low, high. NaN stays NaN.
UNARY(clamp, x < call.real(0) ? call.real(0) : (x > call.real(1) ? call.real(1) : x))
// numbers: slope below zero
UNARY(leaky_relu, x < 0 ? x * call.real(0) : x)
// numbers: alpha
UNARY(elu, x > 0 ? x : call.real(0) * expm1_f32(x))
// numbers: beta
UNARY(softplus, softplus_f32(x* call.real(0)) / call.real(0))
// numbers: delta. x^2 / 2 within delta, a straight line beyond.
UNARY(huber, (x < -call.real(0) ? -call.real(0) : (x > call.real(0) ? call.real(0) : x)) *
                 (x - 0.5f * (x < -call.real(0) ? -call.real(0) : (x > call.real(0) ? call.real(0) : x))))
#undef UNARY

bool logical_not(const Call& call) {
  map1<uint8_t, uint8_t>(call, call.in[0], call.out[0], [](uint8_t x) -> uint8_t { return !x; });
  return true;
}

// dy, and x or y as the name of the second operand says -> dx
#define GRADIENT(name, v, expression)                                                                             \
  bool name(const Call& call) {                                                                                   \
    map2<float, float>(call, call.in[0], call.in[1], call.out[0], [&](float dy, float v) { return expression; }); \
    return true;                                                                                                  \
  }
GRADIENT(relu_grad, y, y > 0 ? dy : 0.0f)
GRADIENT(sigmoid_grad, y, dy* y*(1.0f - y))
GRADIENT(tanh_grad, y, dy*(1.0f - y * y))
GRADIENT(gelu_grad, x, dy* gelu_slope_f32(x))
GRADIENT(silu_grad, x, dy* sigmoid_f32(x) * (1.0f + x * (1.0f - sigmoid_f32(x))))
GRADIENT(clamp_grad, x, x >= call.real(0) && x <= call.real(1) ? dy : 0.0f)
// Zero at the borders too, unlike clamp's.
GRADIENT(hardtanh_grad, x, x > call.real(0) && x < call.real(1) ? dy : 0.0f)
GRADIENT(leaky_relu_grad, x, x > 0 ? dy : dy * call.real(0))
GRADIENT(elu_grad, x, x > 0 ? dy : dy * call.real(0) * exp_f32(x))
GRADIENT(softplus_grad, x, dy* sigmoid_f32(x* call.real(0)))
#undef GRADIENT

// cast: x of any dtype and strides -> y of another dtype. Floats to integers truncate; to bool: not zero.
template <class T, class F>
bool cast_from(const Call& call, const F& to_f32) {
  const View &x = call.in[0], &y = call.out[0];
  switch (y.dtype) {
    case DType::f32: map1<T, float>(call, x, y, [&](T v) { return to_f32(v); }); break;
    case DType::bf16: map1<T, uint16_t>(call, x, y, [&](T v) { return f32_to_bf16(to_f32(v)); }); break;
    case DType::i32: map1<T, int32_t>(call, x, y, [&](T v) { return static_cast<int32_t>(to_f32(v)); }); break;
    case DType::u32: map1<T, uint32_t>(call, x, y, [&](T v) { return static_cast<uint32_t>(to_f32(v)); }); break;
    case DType::u8:
      map1<T, uint8_t>(call, x, y, [&](T v) { return static_cast<uint8_t>(static_cast<int32_t>(to_f32(v))); });
      break;
    case DType::boolean: map1<T, uint8_t>(call, x, y, [&](T v) { return static_cast<uint8_t>(to_f32(v) != 0); }); break;
  }
  return true;
}

bool cast(const Call& call) {
  switch (call.in[0].dtype) {
    case DType::f32: return cast_from<float>(call, [](float v) { return v; });
    case DType::bf16: return cast_from<uint16_t>(call, [](uint16_t v) { return bf16_to_f32(v); });
    case DType::i32: return cast_from<int32_t>(call, [](int32_t v) { return static_cast<double>(v); });
    case DType::u32: return cast_from<uint32_t>(call, [](uint32_t v) { return static_cast<double>(v); });
    default: return cast_from<uint8_t>(call, [](uint8_t v) { return static_cast<float>(v); });
  }
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"neg", neg}, {"abs", absolute}, {"sign", sign}, {"exp", exponential}, {"log", logarithm},
                {"sqrt", square_root}, {"rsqrt", reciprocal_root}, {"square", square}, {"reciprocal", reciprocal},
                {"tanh", hyperbolic_tangent}, {"sigmoid", sigmoid}, {"erf", error_function}, {"gelu", gelu},
                {"silu", silu}, {"relu", relu}, {"floor", floor_}, {"ceil", ceil_}, {"add_scalar", add_scalar},
                {"mul_scalar", mul_scalar}, {"clamp", clamp}, {"relu_grad", relu_grad}, {"sigmoid_grad", sigmoid_grad},
                {"tanh_grad", tanh_grad}, {"gelu_grad", gelu_grad}, {"silu_grad", silu_grad},
                {"clamp_grad", clamp_grad}, {"cast", cast}, {"round", round_}, {"sin", sine}, {"cos", cosine},
                {"expm1", exponential_minus_1}, {"log1p", logarithm_1_plus}, {"leaky_relu", leaky_relu}, {"elu", elu},
                {"softplus", softplus}, {"huber", huber}, {"logical_not", logical_not},
                {"hardtanh_grad", hardtanh_grad}, {"leaky_relu_grad", leaky_relu_grad}, {"elu_grad", elu_grad},
                {"softplus_grad", softplus_grad})
