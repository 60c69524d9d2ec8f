// Elementwise functions of one tensor, and the gradients that are cheaper fused.
#include "../../core/unary.h"

#include "../elementwise.h"
#include "../piecewise.h"

#if defined(__AVX512F__)
namespace auxgrad {
namespace {

template <>
constexpr Vec (*kOnVector<Tanh>)(Vec) = tanh_lanes;
template <>
constexpr Vec (*kOnVector<Gelu>)(Vec) = gelu_lanes;
template <>
constexpr Vec (*kOnVectors<GeluGrad>)(Vec, Vec) = gelu_grad_lanes;

}  // namespace
}  // namespace auxgrad
#endif

AUXGRAD_UNARY_KERNELS
