// A device with memory and kernels of its own, beside the processor. The library that drives it is opened at run time;
// nothing here needs it.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "kernel.h"

namespace auxgrad {

constexpr int32_t kDeviceVersion = 4;  // of this interface and of Call

// Calls that were recorded, to be launched together.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual bool launch(Failure* failure) = 0;
};

// All work is in the order of one stream. Whoever uses a device holds it meanwhile (Holding): one thread at a time, as often
// as it likes. Its name and its kernels can be asked for without.
class Device {
 public:
  virtual ~Device() = default;
  virtual void lock() = 0;
  virtual void unlock() = 0;
  virtual const char* name() const = 0;
  virtual const Kernel* find_kernel(const char* name) const = 0;

  // Null if there is no memory.
  virtual void* allocate(int64_t bytes) = 0;
  virtual void release(void* p) = 0;
  // Bytes asked of the driver, with what the device holds for itself: now, and at most.
  virtual int64_t live_bytes() const = 0;
  virtual int64_t peak_bytes() const = 0;
  // Bytes that the driver has left, whoever has the others.
  virtual int64_t free_bytes() = 0;

  // Between device and processor, either way, or within the device. Memory of the processor is read or written when it
  // returns; pinned memory, at the next wait().
  virtual bool copy(void* to, const void* from, int64_t bytes, Failure* failure) = 0;
  // Pinned memory of the processor is copied at the speed of the link, without the processor. Where that cannot be,
  // nothing happens.
  virtual void pin(void*, int64_t) {}
  virtual void unpin(void*) {}
  virtual bool fill(void* to, uint8_t byte, int64_t bytes, Failure* failure) = 0;
  // Waits for all that was launched.
  virtual bool wait(Failure* failure) = 0;

  // What a call is given.
  virtual void* stream() const = 0;
  virtual Fault* fault() const = 0;

  // What is launched between record() and recorded() is recorded instead, piece by piece; null if it failed. A piece
  // waits for the earlier ones named (by number, from 0), and for no others.
  virtual bool record(Failure* failure) = 0;
  virtual bool piece(const std::vector<int32_t>& after, Failure* failure) = 0;
  virtual std::unique_ptr<Recording> recorded(Failure* failure) = 0;

  // Marks a moment of the stream; seconds between two marks, after wait().
  virtual bool mark(int64_t index, Failure* failure) = 0;
  virtual double seconds(int64_t from, int64_t to) = 0;
};

// Holds a device, if there is one.
class Holding {
 public:
  explicit Holding(Device* device) : device_(device) {
    if (device_) device_->lock();
  }
  ~Holding() {
    if (device_) device_->unlock();
  }
  Holding(const Holding&) = delete;
  Holding& operator=(const Holding&) = delete;

 private:
  Device* device_;
};

// False, with failure set, if a value was found wrong.
inline bool check_fault(const Fault& fault, Failure* failure) { return !fault.raised || failure->set(fault); }

// The one function that the library of a device exports, under the name "auxgrad_open_device". Null, with failure set,
// if there is no such device or the library is of another version.
using OpenDevice = Device* (*)(int32_t version, int32_t index, Failure* failure);

// `name`: "cuda", or "cuda:1" for the second one. `library`: the file of its kernels; AUXGRAD_CUDA_LIBRARY or
// auxgrad_cuda.so beside the program if it is null. Null, with failure set, where library, driver or device is missing.
std::shared_ptr<Device> open_device(const char* name, Failure* failure, const char* library = nullptr);

}  // namespace auxgrad
