// Losses that are worth a kernel of their own.
#include "../core/loss.h"

#include "elementwise.cuh"

AUXGRAD_LOSS_KERNELS
