// A device made of the processor: its kernels, in memory that nobody else can touch. It stands in for CUDA where there is
// none, in tests of all that lies between JavaScript and a device (AUXGRAD_CUDA_LIBRARY names the library).
#include <sys/mman.h>

#include <chrono>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "core/device.h"
#include "cpu/isa.h"

namespace auxgrad {
namespace {

constexpr size_t kMostKernels = 512;
constexpr int64_t kBytes = int64_t{1} << 32;
// CUDA has no kernels for them yet.
constexpr const char* kMissing[] = {"lion_update", "adafactor_update", "sm3_update", "adam8_update", "ctc", "ctc_grad"};

// A call with all that its pointers lead to.
struct Recorded {
  const Kernel* kernel;
  std::vector<View> views;
  std::vector<double> numbers;
  Call call;
};

const Kernel* originals[kMostKernels];  // of the processor
std::vector<Recorded>* recording;       // null: calls run at once

bool run_now(const Kernel& kernel, Call call, Failure* failure) {
  call.pool = &serial_pool();
  call.failure = failure;
  return kernel.run(call);
}

// What the kernel of this number runs: no function can be made for a kernel once the program runs.
template <size_t I>
bool run_kernel(const Call& call) {
  if (!recording) return run_now(*originals[I], call, call.failure);
  Recorded r{originals[I], {call.in, call.in + call.n_in}, {call.number, call.number + call.n_number}, call};
  r.views.insert(r.views.end(), call.out, call.out + call.n_out);
  recording->push_back(std::move(r));
  return true;
}

template <size_t... I>
std::vector<bool (*)(const Call&)> runners(std::index_sequence<I...>) {
  return {run_kernel<I>...};
}

class Calls : public Recording {
 public:
  explicit Calls(std::vector<Recorded> calls) : calls_(std::move(calls)) {}
  bool launch(Failure* failure) override {
    for (Recorded& r : calls_) {
      r.call.in = r.views.data();
      r.call.out = r.views.data() + r.call.n_in;
      r.call.number = r.numbers.data();
      if (!run_now(*r.kernel, r.call, failure)) return false;
    }
    return true;
  }

 private:
  std::vector<Recorded> calls_;
};

class HostDevice : public Device {
 public:
  HostDevice() {
    const auto run = runners(std::make_index_sequence<kMostKernels>());
    for (int f = 0; f < family_count(); f++) {
      const KernelTable& table = family(current_isa(), f);
      for (int i = 0; i < table.count; i++) {
        const Kernel& kernel = table.rows[i];
        bool missing = kernels_.size() == kMostKernels;
        for (const char* name : kMissing) missing = missing || std::strcmp(name, kernel.name) == 0;
        if (missing) continue;
        originals[kernels_.size()] = &kernel;
        kernels_.push_back({kernel.name, run[kernels_.size()], kernel.scratch});
      }
    }
    const std::lock_guard<HostDevice> holding(*this);
    fault_ = static_cast<Fault*>(allocate(sizeof(Fault)));
  }
  ~HostDevice() override {
    for (const auto& [p, bytes] : blocks_) munmap(p, mapped(bytes));
  }
  void lock() override {
    mutex_.lock();
    if (depth_++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  void unlock() override {
    if (--depth_ == 0) protect(PROT_NONE);
    mutex_.unlock();
  }

  const char* name() const override { return "the processor, in the part of a device"; }
  const Kernel* find_kernel(const char* name) const override {
    for (const Kernel& kernel : kernels_)
      if (std::strcmp(kernel.name, name) == 0) return &kernel;
    return nullptr;
  }

  void* allocate(int64_t bytes) override {
    if (bytes > free_bytes()) return nullptr;
    void* p = mmap(nullptr, mapped(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    std::memset(p, 0xa5, static_cast<size_t>(bytes));
    blocks_[p] = bytes;
    live_ += bytes;
    if (live_ > peak_) peak_ = live_;
    return p;
  }
  void release(void* p) override {
    munmap(p, mapped(blocks_[p]));
    live_ -= blocks_[p];
    blocks_.erase(p);
  }
  int64_t live_bytes() const override { return live_; }
  int64_t peak_bytes() const override { return peak_; }
  int64_t free_bytes() override { return kBytes - live_; }

  bool copy(void* to, const void* from, int64_t bytes, Failure*) override {
    if (bytes) std::memmove(to, from, static_cast<size_t>(bytes));
    return true;
  }
  bool fill(void* to, uint8_t byte, int64_t bytes, Failure*) override {
    std::memset(to, byte, static_cast<size_t>(bytes));
    return true;
  }
  bool wait(Failure*) override { return true; }
  void* stream() const override { return nullptr; }
  Fault* fault() const override { return fault_; }

  bool record(Failure*) override {
    recording = &recorded_;
    return true;
  }
  bool piece(const std::vector<int32_t>&, Failure*) override { return true; }
  std::unique_ptr<Recording> recorded(Failure*) override {
    recording = nullptr;
    return std::make_unique<Calls>(std::exchange(recorded_, {}));
  }

  bool mark(int64_t index, Failure*) override {
    marks_[index] = std::chrono::steady_clock::now();
    return true;
  }
  double seconds(int64_t from, int64_t to) override {
    return std::chrono::duration<double>(marks_[to] - marks_[from]).count();
  }

 private:
  static size_t mapped(int64_t bytes) { return (static_cast<size_t>(bytes) + 4095) / 4096 * 4096; }
  void protect(int access) {
    for (const auto& [p, bytes] : blocks_) mprotect(p, mapped(bytes), access);
  }

  std::recursive_mutex mutex_;
  int depth_ = 0;
  std::vector<Kernel> kernels_;
  std::map<void*, int64_t> blocks_;
  std::map<int64_t, std::chrono::steady_clock::time_point> marks_;
  std::vector<Recorded> recorded_;
  Fault* fault_ = nullptr;
  int64_t live_ = 0, peak_ = 0;
};

}  // namespace
}  // namespace auxgrad

extern "C" __attribute__((visibility("default"))) auxgrad::Device* auxgrad_open_device(int32_t version, int32_t index,
                                                                                       auxgrad::Failure* failure) {
  if (version == auxgrad::kDeviceVersion && index == 0) return new auxgrad::HostDevice();
  failure->set(auxgrad::ErrorCode::invalid_argument, "this machine has no such device");
  return nullptr;
}
