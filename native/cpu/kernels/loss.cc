// Losses that are worth a kernel of their own.
#include "../../core/loss.h"

#include "../elementwise.h"

AUXGRAD_LOSS_KERNELS
