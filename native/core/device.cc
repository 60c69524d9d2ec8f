#include "device.h"

#include <cstdlib>
#include <cstring>
#include <string>

#ifndef _WIN32
#include <dlfcn.h>
#include <unistd.h>
#endif

namespace auxgrad {

std::shared_ptr<Device> open_device(const char* name, Failure* failure, const char* library) {
  const auto fail = [&](const char* what, const char* why) {
    failure->set(ErrorCode::invalid_argument, "device \"%s\": %s%s", name, what, why);
    return nullptr;
  };
  char* end = nullptr;
  const bool numbered = std::strncmp(name, "cuda:", 5) == 0;
  const long index = numbered ? std::strtol(name + 5, &end, 10) : 0;
  if (numbered ? end == name + 5 || *end || index < 0 || index > 1000 : std::strcmp(name, "cuda") != 0)
    return fail("expected \"cuda\" or \"cuda:1\"", "");
#ifdef _WIN32
  (void)library;
  return fail("there are no CUDA kernels for Windows", "");
#else
  std::string path;
  if (library || (library = std::getenv("AUXGRAD_CUDA_LIBRARY"))) {
    path = library;
  } else {
    char self[4096];
    const ssize_t length = readlink("/proc/self/exe", self, sizeof self);
    path.assign(self, length > 0 ? static_cast<size_t>(length) : 0);
    path = path.substr(0, path.rfind('/') + 1) + "auxgrad_cuda.so";
  }
  void* opened = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!opened) return fail("the library of its kernels does not open: ", dlerror());
  void* symbol = dlsym(opened, "auxgrad_open_device");
  if (!symbol) return fail("not a library of auxgrad: ", path.c_str());
  OpenDevice open = nullptr;
  std::memcpy(&open, &symbol, sizeof open);
  return std::shared_ptr<Device>(open(kDeviceVersion, static_cast<int32_t>(index), failure));
#endif
}

}  // namespace auxgrad
