// Elementwise functions, and the gradients and losses that are cheaper fused. One family: they share what is done around
// a function.
#include "../elementwise.h"

#include "../../core/binary.h"
#include "../../core/loss.h"
#include "../../core/unary.h"
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

AUXGRAD_KERNELS(AUXGRAD_UNARY_KERNELS, AUXGRAD_BINARY_KERNELS, AUXGRAD_LOSS_KERNELS)
