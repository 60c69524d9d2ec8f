// Opens the library of CUDA kernels, auxgrad_cuda.so beside the program (or AUXGRAD_CUDA_LIBRARY).
#pragma once
#include <memory>

#include "../core/device.h"

namespace auxgrad {

// `name`: "cuda", or "cuda:1" for the second one. Null, with failure set, where library, driver or device is missing.
std::shared_ptr<Device> open_device(const char* name, Failure* failure);

}  // namespace auxgrad
