// Elementwise functions of one tensor, and the gradients that are cheaper fused.
#include "../../core/unary.h"

#include "../elementwise.h"
#include "../piecewise.h"

namespace auxgrad {
namespace {

template <>
constexpr Vec (*kOnVector<Relu>)(Vec) = relu;
#if defined(__AVX2__)
template <>
constexpr Vec (*kOnVector<Exp>)(Vec) = exp_lanes;
template <>
constexpr Vec (*kOnVector<Sigmoid>)(Vec) = sigmoid_lanes;
template <>
constexpr Vec (*kOnVector<Silu>)(Vec) = silu_lanes;
template <>
constexpr Vec (*kOnVectors<SiluGrad>)(Vec, Vec) = silu_grad_lanes;
template <>
constexpr Vec (*kOnVector<Tanh>)(Vec) = tanh_lanes;
template <>
constexpr Vec (*kOnVector<Gelu>)(Vec) = gelu_lanes;
template <>
constexpr Vec (*kOnVectors<GeluGrad>)(Vec, Vec) = gelu_grad_lanes;
template <>
constexpr Vec (*kOnVector<GeluTanh>)(Vec) = gelu_tanh_lanes;
template <>
constexpr Vec (*kOnVectors<GeluTanhGrad>)(Vec, Vec) = gelu_tanh_grad_lanes;
#endif

}  // namespace
}  // namespace auxgrad

AUXGRAD_UNARY_KERNELS
