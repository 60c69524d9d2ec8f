// Elementwise functions of two tensors: operands come broadcast to the output's shape by strides.
#include "../core/binary.h"

#include "elementwise.cuh"

AUXGRAD_BINARY_KERNELS
