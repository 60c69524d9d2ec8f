// Elementwise functions of one tensor, and the gradients that are cheaper fused.
#include "elementary.cuh"
#include "elementwise.cuh"

namespace auxgrad {
namespace {

#define UNARY(name, expression)                                       \
  struct name##_of {                                                  \
    Numbers call;                                                     \
    __device__ float operator()(float x) const { return expression; } \
  };                                                                  \
  bool name(const Call& call) { return map1<float, float>(call, call.in[0], call.out[0], name##_of{Numbers(call)}); }

UNARY(neg, -x)
UNARY(absolute, fabsf(x))
UNARY(sign, x != x ? x : static_cast<float>((x > 0) - (x < 0)))
UNARY(exponential, exp_f32(x))
UNARY(logarithm, log_f32(x))
UNARY(square_root, sqrtf(x))
UNARY(reciprocal_root, 1.0f / sqrtf(x))
UNARY(square, x* x)
UNARY(reciprocal, 1.0f / x)
UNARY(hyperbolic_tangent, tanh_f32(x))
UNARY(sigmoid, sigmoid_f32(x))
UNARY(error_function, erf_f32(x))
UNARY(gelu, gelu_f32(x))
UNARY(silu, x* sigmoid_f32(x))
UNARY(relu, x < 0 ? 0.0f : x)
UNARY(floor_, floorf(x))
UNARY(ceil_, ceilf(x))
// To the nearest whole number, ties to even: adding 1.5 * 2^23 leaves no bits for the fraction.
UNARY(round_, fabsf(x) < 4194304.0f ? copysignf((x + 12582912.0f) - 12582912.0f, x) : x)
UNARY(sine, static_cast<float>(sin(static_cast<double>(x))))
UNARY(cosine, static_cast<float>(cos(static_cast<double>(x))))
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

struct Not {
  __device__ uint8_t operator()(uint8_t x) const { return !x; }
};
bool logical_not(const Call& call) { return map1<uint8_t, uint8_t>(call, call.in[0], call.out[0], Not()); }

// dy, and x or y as the name of the second operand says -> dx
#define GRADIENT(name, v, expression)                                                               \
  struct name##_of {                                                                                \
    Numbers call;                                                                                   \
    __device__ float operator()(float dy, float v) const { return expression; }                     \
  };                                                                                                \
  bool name(const Call& call) {                                                                     \
    return map2<float, float>(call, call.in[0], call.in[1], call.out[0], name##_of{Numbers(call)}); \
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

// Elements of each dtype as a number, and back.
template <DType kType>
struct Element {
  using T = uint8_t;
  __device__ static float get(uint8_t x) { return static_cast<float>(x); }
  __device__ static uint8_t set(float x) { return static_cast<uint8_t>(static_cast<int32_t>(x)); }
  __device__ static uint8_t set(double x) { return static_cast<uint8_t>(static_cast<int32_t>(x)); }
};
template <>
struct Element<DType::boolean> : Element<DType::u8> {
  __device__ static uint8_t set(double x) { return x != 0; }
};
template <>
struct Element<DType::f32> {
  using T = float;
  __device__ static float get(float x) { return x; }
  __device__ static float set(double x) { return static_cast<float>(x); }
};
template <>
struct Element<DType::bf16> {
  using T = uint16_t;
  __device__ static float get(uint16_t x) { return bf16_to_f32(x); }
  __device__ static uint16_t set(double x) { return f32_to_bf16(static_cast<float>(x)); }
};
template <>
struct Element<DType::i32> {
  using T = int32_t;
  __device__ static double get(int32_t x) { return x; }
  __device__ static int32_t set(double x) { return static_cast<int32_t>(x); }
};
template <>
struct Element<DType::u32> {
  using T = uint32_t;
  __device__ static double get(uint32_t x) { return x; }
  __device__ static uint32_t set(double x) { return static_cast<uint32_t>(x); }
};

template <DType kFrom, DType kTo>
struct Cast {
  __device__ typename Element<kTo>::T operator()(typename Element<kFrom>::T x) const {
    return Element<kTo>::set(Element<kFrom>::get(x));
  }
};

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

// cast: x of any dtype and strides -> y of another dtype. Floats to integers truncate; to bool: not zero.
bool cast(const Call& call) {
  switch (call.in[0].dtype) {
    case DType::f32: return cast_from<DType::f32>(call);
    case DType::bf16: return cast_from<DType::bf16>(call);
    case DType::i32: return cast_from<DType::i32>(call);
    case DType::u32: return cast_from<DType::u32>(call);
    default: return cast_from<DType::u8>(call);
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
