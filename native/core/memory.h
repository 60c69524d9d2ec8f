// Every byte auxgrad holds passes through here: counted live and at its peak, 64-byte aligned, and able to fail on
// purpose (AUXGRAD_FAULTS=alloc:k fails the k-th allocation, alloc:k+ that one and all later ones).
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>

namespace auxgrad {

class Device;
class Failure;

constexpr int64_t kAlignment = 64;

// Counters of one environment (a Node main thread or worker, or a native program).
class Ledger {
 public:
  int64_t live() const { return live_.load(); }
  int64_t peak() const { return peak_.load(); }
  int64_t blocks() const { return blocks_.load(); }
  int64_t allocations() const { return allocations_.load(); }
  void reset_peak() { peak_.store(live_.load()); }

  void add(int64_t bytes);
  void remove(int64_t bytes);

 private:
  std::atomic<int64_t> live_{0}, peak_{0}, blocks_{0}, allocations_{0};
};

// A block of memory, of the processor or of a device, freed with its last owner. The bytes are uninitialised unless asked
// for.
class Storage {
 public:
  // Null if the system has no memory (or a fault was injected).
  static std::shared_ptr<Storage> create(std::shared_ptr<Ledger> ledger, int64_t bytes, bool zero,
                                         std::shared_ptr<Device> device = nullptr);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  uint8_t* data() const { return data_; }  // an address of the device, if it lies there
  int64_t bytes() const { return bytes_; }
  const Device* device() const { return device_.get(); }  // null: the processor

  // Bytes out of it and into it, wherever it lies.
  bool read(void* to, int64_t offset, int64_t bytes, Failure* failure) const;
  bool write(const void* from, int64_t offset, int64_t bytes, Failure* failure);

  // Moves it to the memory of a device (null: of the processor), from then on counted in `ledger`. If that has no room,
  // false with failure set, and it stays where it is.
  bool move(std::shared_ptr<Ledger> ledger, std::shared_ptr<Device> device, Failure* failure);
  int64_t moves() const { return moves_; }  // so far: addresses from before the last one are void

 private:
  explicit Storage(std::shared_ptr<Ledger> ledger) : ledger_(std::move(ledger)) {}
  std::shared_ptr<Ledger> ledger_;
  std::shared_ptr<Device> device_;  // null: the processor's memory
  uint8_t* data_ = nullptr;
  int64_t bytes_ = 0, moves_ = 0;
};

// Arms the fault of AUXGRAD_FAULTS again: k-th allocation from now (0 disarms).
void set_allocation_fault(int64_t k, bool persistent);

}  // namespace auxgrad
