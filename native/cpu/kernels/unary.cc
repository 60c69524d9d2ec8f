// Elementwise functions of one tensor, and the gradients that are cheaper fused.
#include "../../core/unary.h"

#include "../elementwise.h"

AUXGRAD_UNARY_KERNELS
