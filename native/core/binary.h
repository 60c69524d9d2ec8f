// Elementwise functions of two tensors, and the choice between two.
#pragma once
#include "elementary.h"
#include "elementwise.h"

namespace auxgrad {
namespace {

// a - b floor(a / b), of the sign of b. By 0: NaN, of whole numbers 0.
AUXGRAD_HOST_DEVICE inline float remainder_of(float a, float b) {
  const float r = __builtin_fmodf(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
AUXGRAD_HOST_DEVICE inline int32_t remainder_of(int32_t a, int32_t b) {
  const int32_t r = b == 0 || b == -1 ? 0 : a % b;
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

// f32 or i32.
#define AUXGRAD_ARITHMETIC(Name, expression)           \
  struct Name {                                        \
    template <class T>                                 \
    AUXGRAD_HOST_DEVICE T operator()(T a, T b) const { \
      return expression;                               \
    }                                                  \
  };
AUXGRAD_ARITHMETIC(Sum, a + b)
AUXGRAD_ARITHMETIC(Difference, a - b)
AUXGRAD_ARITHMETIC(Product, a* b)
AUXGRAD_ARITHMETIC(Maximum, a != a ? a : (a < b || b != b ? b : a))
AUXGRAD_ARITHMETIC(Minimum, a != a ? a : (b < a || b != b ? b : a))
AUXGRAD_ARITHMETIC(Remainder, remainder_of(a, b))
// f32 alone.
AUXGRAD_ARITHMETIC(Division, a / b)
AUXGRAD_ARITHMETIC(Ratio, b == 0 ? 0.0f : a / b)  // 0 where b is 0
AUXGRAD_ARITHMETIC(Power, power_f32(a, b))
AUXGRAD_ARITHMETIC(Angle, static_cast<float>(__builtin_atan2(static_cast<double>(a), static_cast<double>(b))))
#undef AUXGRAD_ARITHMETIC

#define AUXGRAD_COMPARISON(Name, expression)                 \
  struct Name {                                              \
    template <class T>                                       \
    AUXGRAD_HOST_DEVICE uint8_t operator()(T a, T b) const { \
      return expression;                                     \
    }                                                        \
  };
AUXGRAD_COMPARISON(Equal, a == b)
AUXGRAD_COMPARISON(NotEqual, a != b)
AUXGRAD_COMPARISON(Less, a < b)
AUXGRAD_COMPARISON(LessEqual, a <= b)
AUXGRAD_COMPARISON(Greater, a > b)
AUXGRAD_COMPARISON(GreaterEqual, a >= b)
// bool alone.
AUXGRAD_COMPARISON(And, a&& b)
AUXGRAD_COMPARISON(Or, a || b)
AUXGRAD_COMPARISON(Xor, !a != !b)
#undef AUXGRAD_COMPARISON

struct Choice {
  AUXGRAD_HOST_DEVICE uint32_t operator()(uint8_t yes, uint32_t a, uint32_t b) const { return yes ? a : b; }
};

template <class F>
bool of_floats(const Call& call) {
  return map2<float, float>(call, call.in[0], call.in[1], call.out[0], F());
}
template <class F>
bool arithmetic(const Call& call) {
  if (call.in[0].dtype != DType::i32) return of_floats<F>(call);
  return map2<int32_t, int32_t>(call, call.in[0], call.in[1], call.out[0], F());
}
template <class F>
bool logical(const Call& call) {
  return map2<uint8_t, uint8_t>(call, call.in[0], call.in[1], call.out[0], F());
}
template <class F>
bool comparison(const Call& call) {
  switch (call.in[0].dtype) {
    case DType::f32: return map2<float, uint8_t>(call, call.in[0], call.in[1], call.out[0], F());
    case DType::i32: return map2<int32_t, uint8_t>(call, call.in[0], call.in[1], call.out[0], F());
    default: return logical<F>(call);
  }
}

// where: condition bool, a, b (4-byte elements), all broadcast to the output
bool where(const Call& call) {
  return map3<uint8_t, uint32_t, uint32_t>(call, call.in[0], call.in[1], call.in[2], call.out[0], Choice());
}

#define AUXGRAD_BINARY_KERNELS                                                                                   \
  AUXGRAD_ROWS({"add", arithmetic<Sum>}, {"sub", arithmetic<Difference>}, {"mul", arithmetic<Product>},          \
               {"div", of_floats<Division>}, {"maximum", arithmetic<Maximum>}, {"minimum", arithmetic<Minimum>}, \
               {"pow", of_floats<Power>}, {"eq", comparison<Equal>}, {"ne", comparison<NotEqual>},               \
               {"lt", comparison<Less>}, {"le", comparison<LessEqual>}, {"gt", comparison<Greater>},             \
               {"ge", comparison<GreaterEqual>}, {"where", where}, {"ratio", of_floats<Ratio>},                  \
               {"logical_and", logical<And>}, {"logical_or", logical<Or>}, {"logical_xor", logical<Xor>},        \
               {"remainder", arithmetic<Remainder>}, {"atan2", of_floats<Angle>})

}  // namespace
}  // namespace auxgrad
