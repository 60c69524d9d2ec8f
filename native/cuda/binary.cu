// Elementwise functions of two tensors: operands come broadcast to the output's shape by strides.
#include "elementary.cuh"
#include "elementwise.cuh"

namespace auxgrad {
namespace {

// A struct of the function, and the kernel's entry for operands of type T.
#define FUNCTION(name, T, R, expression)                           \
  struct name##_##T {                                              \
    __device__ R operator()(T a, T b) const { return expression; } \
  };                                                               \
  bool name##_of_##T(const Call& call) { return map2<T, R>(call, call.in[0], call.in[1], call.out[0], name##_##T()); }
#define ARITHMETIC(name, expression)                                                         \
  FUNCTION(name, int32_t, int32_t, expression)                                               \
  FUNCTION(name, float, float, expression)                                                   \
  bool name(const Call& call) {                                                              \
    return call.in[0].dtype == DType::i32 ? name##_of_int32_t(call) : name##_of_float(call); \
  }
ARITHMETIC(add, a + b)
ARITHMETIC(sub, a - b)
ARITHMETIC(mul, a* b)
ARITHMETIC(maximum, a != a ? a : (a < b || b != b ? b : a))
ARITHMETIC(minimum, a != a ? a : (b < a || b != b ? b : a))
#undef ARITHMETIC

FUNCTION(divide, float, float, a / b)
// 0 where b is 0.
FUNCTION(ratio, float, float, b == 0 ? 0.0f : a / b)

FUNCTION(logical_and, uint8_t, uint8_t, a&& b)
FUNCTION(logical_or, uint8_t, uint8_t, a || b)
FUNCTION(logical_xor, uint8_t, uint8_t, !a != !b)

// pow(a, b) = exp(b log |a|) with the sign rules for whole b; exact for b = 0, 1, 2, 3.
__device__ inline float power_f32(float a, float b) {
  const float magnitude = exp_f32(b * log_f32(fabsf(a)));
  const float whole = floorf(b), odd = whole - 2.0f * floorf(whole * 0.5f);
  const float negative = whole != b ? kNan : (odd != 0 ? -magnitude : magnitude);
  if (b == 0.0f) return 1.0f;
  if (b == 1.0f) return a;
  if (b == 2.0f) return a * a;
  if (b == 3.0f) return a * a * a;
  return a >= 0 ? magnitude : negative;
}
FUNCTION(power, float, float, power_f32(a, b))

#define COMPARISON(name, expression)                       \
  FUNCTION(name, float, uint8_t, expression)               \
  FUNCTION(name, int32_t, uint8_t, expression)             \
  FUNCTION(name, uint8_t, uint8_t, expression)             \
  bool name(const Call& call) {                            \
    const DType type = call.in[0].dtype;                   \
    return type == DType::f32   ? name##_of_float(call)    \
           : type == DType::i32 ? name##_of_int32_t(call)  \
                                : name##_of_uint8_t(call); \
  }
COMPARISON(equal, a == b)
COMPARISON(not_equal, a != b)
COMPARISON(less, a < b)
COMPARISON(less_equal, a <= b)
COMPARISON(greater, a > b)
COMPARISON(greater_equal, a >= b)
#undef COMPARISON
#undef FUNCTION

struct Choice {
  __device__ uint32_t operator()(uint8_t yes, uint32_t a, uint32_t b) const { return yes ? a : b; }
};
// where: condition bool, a, b (4-byte elements), all broadcast to the output
bool where(const Call& call) {
  return map3<uint8_t, uint32_t, uint32_t>(call, call.in[0], call.in[1], call.in[2], call.out[0], Choice());
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"add", add}, {"sub", sub}, {"mul", mul}, {"div", divide_of_float}, {"maximum", maximum},
                {"minimum", minimum}, {"pow", power_of_float}, {"eq", equal}, {"ne", not_equal}, {"lt", less},
                {"le", less_equal}, {"gt", greater}, {"ge", greater_equal}, {"where", where}, {"ratio", ratio_of_float},
                {"logical_and", logical_and_of_uint8_t}, {"logical_or", logical_or_of_uint8_t},
                {"logical_xor", logical_xor_of_uint8_t})
