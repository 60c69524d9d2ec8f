// A plan saved to a file with all that it reads, to be run without Node. src/compile/save.ts writes it.
//
// The file, all numbers little-endian (u64 unless said otherwise; a text is its length in bytes and UTF-8):
//   8 bytes "AUXPLAN\n", version, bytes of the description
//   the description:
//     kind of program ("step" or "function"), text
//     seed, runs done, updates done, runs that make one update
//     learning rates: whether the last one stays, count, f64...; the first is that of the next update
//     storages: count, then for each: name, bytes
//     batch: count, then for each value: bytes
//     programs: count (one for each run of an update that differs), then for each:
//       bytes planned in all
//       kernels: count, names
//       buffers: count, storage of each (buffer 0, the arena, left out)
//       words (plan.h): count, f64...
//       calls: count, for each its phase, layer and op as one text
//       inputs: count, for each: name, dtype, rank, shape..., byte offset in the arena, source (Source), batch value
//       outputs: count, for each: name, dtype, rank, shape..., byte offset in the arena
//   the bytes of the storages, then of the batch, with nothing between them
//   SHA-256 of all that comes before
//
// The checksum finds damage. It is no signature: a plan file is a program (kernels trust shapes and numbers that the
// compiler settled), run only those of a source you trust.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "memory.h"
#include "plan.h"

namespace auxgrad {

constexpr uint64_t kPlanFileVersion = 1;

// Where an input's value comes from, run by run.
enum class Source : int32_t {
  batch = 0,    // stored in the file, the same at every run
  rate = 1,     // f32: learning rate of the update to come
  updates = 2,  // f32: updates done, the one to come included
  random = 3,   // i32[4]: seed low, seed high, runs done low, runs done high
};

struct SavedValue {
  std::string name;
  View view;  // shape, dense; data is not set
  int64_t offset = 0, bytes = 0;
  Source source = Source::batch;  // of an input
  size_t batch = 0;               // which value of the batch
};

struct SavedProgram {
  std::unique_ptr<Plan> plan;
  int64_t planned_bytes = 0;  // where it was saved: parameters, optimizer state and arena
  int64_t planned_arena = 0;
  int64_t input_end = 0;  // one past the last arena byte that inputs are written to
  std::vector<std::string> labels;
  std::vector<SavedValue> inputs, outputs;
};

class PlanFile {
 public:
  ~PlanFile();
  // Null, with failure set (bad_file; out_of_memory; no_kernel), unless the file is whole and all in it fits together.
  // Storages and arena are counted in `ledger`, and lie on the device if one is given.
  static std::unique_ptr<PlanFile> load(const char* path, std::shared_ptr<Ledger> ledger, Failure* failure,
                                        std::shared_ptr<Device> device = nullptr);

  // One run, as Node would do the next one. If it fails, nothing has changed. `call_seconds` as Plan::run.
  bool run(Failure* failure, RunStats* stats, double* call_seconds = nullptr);

  const std::string& kind() const { return kind_; }
  const std::vector<SavedProgram>& programs() const { return programs_; }
  // The program of the next run.
  size_t next() const;
  // What this machine's kernels and threads need: known before the first run. Storages and arena; the arena.
  int64_t planned_bytes() const { return planned_bytes_; }
  int64_t arena_bytes() const { return arena_->bytes(); }
  // The bytes of an output of the last run; of a device, until the next call. Null if the device fails.
  const uint8_t* data(const SavedValue& output) const;

 private:
  std::string kind_;
  uint64_t seed_ = 0, runs_ = 0, updates_ = 0, accumulate_ = 1;
  uint64_t first_update_ = 0;  // updates done when it was saved: that of rates_[0]
  bool last_rate_stays_ = false;
  std::vector<double> rates_;
  std::vector<std::vector<uint8_t>> batch_;  // pinned, if there is a device
  std::vector<SavedProgram> programs_;
  std::shared_ptr<Device> device_;
  std::shared_ptr<Storage> arena_;
  int64_t planned_bytes_ = 0;
  mutable std::vector<uint8_t> copied_;  // from the device
};

}  // namespace auxgrad
