#include "memory.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "kernel.h"

#ifdef _WIN32
#include <malloc.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "device.h"
#include "fence.h"

namespace auxgrad {
namespace {

std::atomic<int64_t> fault_in{0};  // allocations left until the failing one; 0: none armed
std::atomic<bool> fault_persistent{false};

bool fault_now() {
  static std::once_flag once;
  std::call_once(once, [] {
    const char* text = std::getenv("AUXGRAD_FAULTS");
    if (!text || std::strncmp(text, "alloc:", 6) != 0) return;
    char* end = nullptr;
    const long long k = std::strtoll(text + 6, &end, 10);
    if (k > 0) set_allocation_fault(k, end && *end == '+');
  });
  int64_t left = fault_in.load();
  while (left > 0) {
    if (left == 1 && fault_persistent.load()) return true;
    if (fault_in.compare_exchange_weak(left, left - 1)) return left == 1;
  }
  return false;
}

// Large blocks come straight from the system: they return to it when freed, so the resident set falls with them. (Address
// checks know the ends of the others.)
constexpr int64_t kMapFrom = kFences ? INT64_MAX : 1 << 20;
constexpr int64_t kLargest = int64_t{1} << 52;  // no system gives more, and no sum of a few overflows

uint8_t* system_allocate(int64_t bytes) {
#ifdef __linux__
  if (bytes >= kMapFrom) {
    void* p = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    // A page table of 4 KiB pages costs streaming kernels up to half of the bandwidth; a system without larger ones says no.
    (void)madvise(p, static_cast<size_t>(bytes), MADV_HUGEPAGE);
    return static_cast<uint8_t*>(p);
  }
#endif
#ifdef _WIN32
  return static_cast<uint8_t*>(_aligned_malloc(static_cast<size_t>(bytes), kAlignment));
#else
  void* p = nullptr;
  return posix_memalign(&p, kAlignment, static_cast<size_t>(bytes)) == 0 ? static_cast<uint8_t*>(p) : nullptr;
#endif
}

void system_free(uint8_t* p, int64_t bytes) {
#ifdef __linux__
  if (bytes >= kMapFrom) {
    munmap(p, static_cast<size_t>(bytes));
    return;
  }
#endif
#ifdef _WIN32
  _aligned_free(p);
#else
  std::free(p);
#endif
  (void)bytes;
}

// What the system says of the cache that cores share (what the processor says of itself may be the sum of several), or a
// usual size.
int64_t last_cache() {
  long long kib = 0;
#ifdef __linux__
  if (std::FILE* file = std::fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r")) {
    if (std::fscanf(file, "%lldK", &kib) != 1) kib = 0;
    std::fclose(file);
  }
#endif
  return (kib > 0 ? kib : 32768) * 1024;
}

std::atomic<int64_t> last_cache_bytes{-1};

uint8_t* allocate(Device* device, int64_t bytes) {
  return device ? static_cast<uint8_t*>(device->allocate(bytes)) : system_allocate(bytes);
}

void release(Device* device, uint8_t* data, int64_t bytes) {
  const Holding holding(device);
  if (device) {
    device->release(data);
  } else {
    open_fence(data, bytes);
    system_free(data, bytes);
  }
}

int64_t rounded(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

int64_t cache_bytes() {
  if (last_cache_bytes.load() < 0) last_cache_bytes.store(last_cache());
  return last_cache_bytes.load();
}
void set_cache_bytes(int64_t bytes) { last_cache_bytes.store(bytes); }

void set_allocation_fault(int64_t k, bool persistent) {
  fault_persistent.store(persistent);
  fault_in.store(k);
}

void Ledger::add(int64_t bytes) {
  const int64_t live = live_.fetch_add(bytes) + bytes;
  blocks_.fetch_add(1);
  allocations_.fetch_add(1);
  int64_t peak = peak_.load();
  while (live > peak && !peak_.compare_exchange_weak(peak, live)) {
  }
}

void Ledger::remove(int64_t bytes) {
  live_.fetch_sub(bytes);
  blocks_.fetch_sub(1);
}

std::shared_ptr<Storage> Storage::create(std::shared_ptr<Ledger> ledger, int64_t bytes, bool zero,
                                         std::shared_ptr<Device> device) {
  if (bytes < 0 || bytes > kLargest || fault_now()) return nullptr;
  // At least one line, so that an empty tensor still has an address of its own.
  const int64_t held = bytes == 0 ? kAlignment : rounded(bytes);
  auto storage = std::shared_ptr<Storage>(new Storage(std::move(ledger)));
  const Holding holding(device.get());
  storage->data_ = allocate(device.get(), held);
  if (!storage->data_) return nullptr;
  storage->device_ = std::move(device);
  storage->bytes_ = held;
  storage->ledger_->add(held);
  if (storage->device_) {
    Failure failure;
    return !zero || storage->device_->fill(storage->data_, 0, held, &failure) ? storage : nullptr;
  }
  const bool fresh_map =
#ifdef __linux__
      held >= kMapFrom;  // anonymous pages are zero already
#else
      false;
#endif
  if (zero && !fresh_map) std::memset(storage->data_, 0, static_cast<size_t>(held));
  close_fence(storage->data_ + bytes, held - bytes);
  return storage;
}

Storage::~Storage() {
  if (!data_) return;
  release(device_.get(), data_, bytes_);
  ledger_->remove(bytes_);
}

bool Storage::read(void* to, int64_t offset, int64_t bytes, Failure* failure) const {
  if (device_) {
    const Holding holding(device_.get());
    return device_->copy(to, data_ + offset, bytes, failure) && device_->wait(failure);
  }
  if (bytes) std::memcpy(to, data_ + offset, static_cast<size_t>(bytes));
  return true;
}

bool Storage::write(const void* from, int64_t offset, int64_t bytes, Failure* failure) {
  if (device_) {
    const Holding holding(device_.get());
    return device_->copy(data_ + offset, from, bytes, failure) && device_->wait(failure);
  }
  if (bytes) std::memcpy(data_ + offset, from, static_cast<size_t>(bytes));
  return true;
}

bool Storage::move(std::shared_ptr<Ledger> ledger, std::shared_ptr<Device> device, Failure* failure) {
  if (device == device_) return true;
  if (device && device_ && !move(ledger, nullptr, failure))
    return false;  // from one to another by way of the processor
  const Holding holding(device ? device.get() : device_.get());
  if (!device_) open_fence(data_, bytes_);  // its last line moves as a whole
  uint8_t* data = fault_now() ? nullptr : allocate(device.get(), bytes_);
  if (!data)
    return failure->set(ErrorCode::out_of_memory, "the %s has no %lld bytes to give", device ? "device" : "system",
                        static_cast<long long>(bytes_));
  Device& mover = device ? *device : *device_;
  if (!mover.copy(data, data_, bytes_, failure) || !mover.wait(failure)) {
    release(device.get(), data, bytes_);
    return false;
  }
  release(device_.get(), data_, bytes_);
  ledger_->remove(bytes_);
  ledger->add(bytes_);
  data_ = data;
  device_ = std::move(device);
  ledger_ = std::move(ledger);
  moves_++;
  return true;
}

}  // namespace auxgrad
