// A plan: kernel calls on numbered buffers, decided in advance. Buffer 0 is the arena, the others are storages that
// outlive a run (parameters, optimizer state, captured tensors).
//
// Encoding (a flat list of numbers, all integers exact in a double):
//   magic, version, arena bytes, calls, first update (index of the first call that changes state; = calls if none),
//   then for each call: kernel index, inputs, outputs, scratch byte offset in the arena, scratch bytes,
//   count of numbers, numbers..., and the operands, inputs first, each
//   buffer, byte offset, element offset, dtype, rank, shape..., strides...   or -1 for an absent one.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "device.h"
#include "kernel.h"
#include "memory.h"

namespace auxgrad {

constexpr double kPlanMagic = 0x41585031;  // "AXP1"
constexpr double kPlanVersion = 1;

struct Operand {
  int32_t buffer = -1;  // -1: absent
  int64_t byte_offset = 0;
  View view;  // data is filled in when it runs

  int64_t first_byte() const { return byte_offset; }
  // One past the last byte that the view reaches.
  int64_t end_byte() const;
};

// Reads one operand at words[at], advancing it. False if the words run out or make no sense.
bool decode_operand(const double* words, int64_t count, int64_t* at, Operand* operand);

struct PlannedCall {
  const Kernel* kernel = nullptr;
  std::vector<Operand> operands;  // inputs, then outputs
  int n_in = 0;
  std::vector<double> numbers;
  int64_t scratch_offset = 0, scratch_bytes = 0;
};

struct RunStats {
  int64_t arena_peak = 0;  // one past the highest arena byte that a kernel was given
  double seconds = 0;
};

// What a running plan is asked to do.
enum Stop : int32_t {
  kRun = 0,
  kStopUnchanged = 1,  // stop if nothing has changed yet, else finish the step
  kStopNow = 2,        // stop between any two kernels: the environment is going away and its state with it
};

// Where kernels put their scratch.
enum class Scratch {
  as_planned,  // where the plan says; a plan made for fewer threads runs on fewer
  as_needed,   // behind the arena where it is more than planned: more threads or other kernels than it was planned for
};

class Plan {
 public:
  Plan() = default;
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  // Null, with failure set, unless every operand lies inside its buffer and every kernel exists. With a device, its
  // kernels run, and arena and buffers lie in its memory.
  static std::unique_ptr<Plan> decode(const double* words, int64_t count, const std::vector<std::string>& kernels,
                                      std::vector<std::shared_ptr<Storage>> buffers, Failure* failure,
                                      Scratch scratch = Scratch::as_planned, std::shared_ptr<Device> device = nullptr);

  // With all scratch.
  int64_t arena_bytes() const { return arena_bytes_; }
  const std::vector<PlannedCall>& calls() const { return calls_; }

  // Runs every call in order. `abort`, if given, holds a Stop and is looked at between kernels; the seconds of each
  // call are added to `call_seconds`, if given. On a device (which has no use for the pool, and is held meanwhile) calls
  // follow each other in its stream; it is waited for at the end, and once more before the first change if a value could
  // have been found wrong. An error (bad_plan), before anything runs, if a buffer lies elsewhere.
  bool run(Storage& arena, Parallel& pool, const std::atomic<int32_t>* abort, Failure* failure, RunStats* stats,
           double* call_seconds = nullptr) const;

  // On a device, what run() would do for its first run on this arena: the calls are recorded, to be launched together.
  // Of small kernels the launches alone would take longer. Calls that touch no memory in common may run side by side.
  bool record(Storage& arena, Failure* failure) const;

 private:
  bool run_call(const PlannedCall& planned, Storage& arena, Parallel* pool, Failure* failure) const;
  bool run_calls(size_t begin, size_t end, Storage& arena, Parallel& pool, const std::atomic<int32_t>* abort,
                 Failure* failure, double* call_seconds) const;
  bool run_device(Storage& arena, Parallel& pool, const std::atomic<int32_t>* abort, Failure* failure,
                  double* call_seconds) const;
  uint8_t* base(const Operand& o, const Storage& arena) const {
    return o.buffer == 0 ? arena.data() : buffers_[static_cast<size_t>(o.buffer)]->data();
  }
  bool fault(Failure* failure) const;
  int64_t moves() const;

  int64_t arena_bytes_ = 0;
  int64_t arena_peak_ = 0;  // one past the highest byte of it that a call is given
  int64_t first_update_ = 0;
  int threads_ = 1;  // its scratch was booked for this many; a later set_threads() can only lower it
  std::vector<PlannedCall> calls_;
  std::shared_ptr<Device> device_;
  mutable std::unique_ptr<Recording> recordings_[2];  // of a device: calls before the first change, and the rest
  mutable const uint8_t* recorded_ = nullptr;         // the arena they are for
  mutable int64_t recorded_moves_ = 0;                // of all buffers, by then
  std::vector<std::shared_ptr<Storage>> buffers_;     // [0] is empty: the arena comes with each run
};

}  // namespace auxgrad
