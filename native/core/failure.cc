#include <cstdarg>
#include <cstdio>
#include <mutex>

#include "kernel.h"

namespace auxgrad {

bool Failure::set(ErrorCode error, const char* format, ...) {
  static std::mutex mutex;
  std::lock_guard<std::mutex> lock(mutex);
  if (failed()) return false;
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  code = error;
  return false;
}

}  // namespace auxgrad
