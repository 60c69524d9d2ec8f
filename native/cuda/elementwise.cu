// Elementwise functions, and the gradients and losses that are cheaper fused.
#include "../core/binary.h"
#include "../core/loss.h"
#include "../core/unary.h"
#include "elementwise.cuh"

AUXGRAD_KERNELS(AUXGRAD_UNARY_KERNELS, AUXGRAD_BINARY_KERNELS, AUXGRAD_LOSS_KERNELS)
