#include "plan.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "fence.h"

namespace auxgrad {
namespace {

constexpr double kLimit = 4503599627370496.0;  // 2^52: sizes beyond it are nonsense

// Reads integers off the words, remembering whether all was well.
class Reader {
 public:
  Reader(const double* words, int64_t count, int64_t at) : words_(words), count_(count), at_(at) {}
  int64_t integer(int64_t low, int64_t high) {
    const double w = number();
    if (!(w >= static_cast<double>(low) && w <= static_cast<double>(high)) || w != std::floor(w)) {
      refuse();
      return low;
    }
    return static_cast<int64_t>(w);
  }
  double number() {
    if (at_ >= count_) {
      refuse();
      return 0;
    }
    return words_[at_++];
  }
  void refuse() { ok_ = false; }
  bool ok() const { return ok_; }
  int64_t at() const { return at_; }
  int64_t left() const { return count_ - at_; }

 private:
  const double* words_;
  int64_t count_, at_;
  bool ok_ = true;
};

Operand read_operand(Reader& r) {
  const int64_t limit = static_cast<int64_t>(kLimit);
  Operand o;
  o.buffer = static_cast<int32_t>(r.integer(-1, INT32_MAX));
  if (o.buffer < 0) return o;
  o.byte_offset = r.integer(0, limit);
  const int64_t element = r.integer(0, limit);
  o.view.dtype = static_cast<DType>(r.integer(0, kDTypeCount - 1));
  o.view.rank = static_cast<int32_t>(r.integer(0, kMaxRank));
  double elements = 1;  // of axes that are not empty: kernels multiply some of them
  for (int i = 0; i < o.view.rank; i++) {
    o.view.shape[i] = r.integer(0, limit);
    elements *= static_cast<double>(std::max<int64_t>(o.view.shape[i], 1));
  }
  if (elements > kLimit) r.refuse();
  for (int i = 0; i < o.view.rank; i++) o.view.stride[i] = r.integer(0, limit);
  o.byte_offset += element * dtype_size(o.view.dtype);
  return o;
}

}  // namespace

int64_t Operand::end_byte() const {
  double last = 0;  // in double: no overflow, whatever came
  for (int i = 0; i < view.rank; i++) {
    if (view.shape[i] == 0) return byte_offset;
    last += static_cast<double>(view.shape[i] - 1) * static_cast<double>(view.stride[i]);
  }
  const double end = static_cast<double>(byte_offset) + (last + 1) * static_cast<double>(dtype_size(view.dtype));
  return end < kLimit ? static_cast<int64_t>(end) : INT64_MAX;
}

namespace {

// The views of a call, whose data are left to `address(operand)`, and its numbers.
template <class Address>
Call call_of(const PlannedCall& planned, View (&views)[2 * kMaxOperands], const Address& address) {
  for (size_t k = 0; k < planned.operands.size(); k++) {
    const Operand& o = planned.operands[k];
    views[k] = o.view;
    if (o.buffer >= 0) views[k].data = address(o);
  }
  Call call;
  call.in = views;
  call.n_in = planned.n_in;
  call.out = views + planned.n_in;
  call.n_out = static_cast<int>(planned.operands.size()) - planned.n_in;
  call.number = planned.numbers.data();
  call.n_number = static_cast<int>(planned.numbers.size());
  return call;
}

// While a call runs, of the arena its operands and its scratch alone may be touched.
class Fence {
 public:
  Fence(const Storage& arena, const PlannedCall& planned) : arena_(arena) {
    if (!guards()) return;
    close_fence(arena.data(), arena.bytes());
    for (const Operand& o : planned.operands)
      if (o.buffer == 0) open_fence(arena.data() + o.first_byte(), o.end_byte() - o.first_byte());
    open_fence(arena.data() + planned.scratch_offset, planned.scratch_bytes);
  }
  ~Fence() {
    if (guards()) open_fence(arena_.data(), arena_.bytes());
  }
  Fence(const Fence&) = delete;
  Fence& operator=(const Fence&) = delete;

 private:
  bool guards() const { return kFences && !arena_.device(); }
  const Storage& arena_;
};

// Bytes of scratch that a call needs on this many threads.
int64_t scratch_for(const PlannedCall& planned, int threads) {
  if (!planned.kernel->scratch) return 0;
  View views[2 * kMaxOperands];
  const auto present = [](const Operand&) { return reinterpret_cast<void*>(kAlignment); };  // never read
  return planned.kernel->scratch(call_of(planned, views, present), threads);
}

// Most threads that the scratch booked for a call is enough for; 0 if it is not even enough for one.
int threads_for(const PlannedCall& planned, int threads) {
  while (threads > 0 && scratch_for(planned, threads) > planned.scratch_bytes) threads--;
  return threads;
}

}  // namespace

bool decode_operand(const double* words, int64_t count, int64_t* at, Operand* operand) {
  Reader r(words, count, *at);
  *operand = read_operand(r);
  *at = r.at();
  return r.ok();
}

std::unique_ptr<Plan> Plan::decode(const double* words, int64_t count, const std::vector<std::string>& kernels,
                                   std::vector<std::shared_ptr<Storage>> buffers, Failure* failure, Scratch scratch,
                                   std::shared_ptr<Device> device) {
  const auto bad = [&](const char* what, int64_t call) {
    failure->set(ErrorCode::bad_plan, "plan: %s (call %lld)", what, static_cast<long long>(call));
    return nullptr;
  };
  std::vector<const Kernel*> found;
  std::string missing;
  for (const std::string& name : kernels) {
    found.push_back(device ? device->find_kernel(name.c_str()) : find_kernel(name.c_str()));
    if (!found.back()) missing += (missing.empty() ? "\"" : ", \"") + name + "\"";
  }
  if (!missing.empty()) {
    failure->set(ErrorCode::no_kernel, "no %s kernel named %.300s", device ? "CUDA" : "CPU", missing.c_str());
    return nullptr;
  }
  Reader r(words, count, 0);
  if (r.number() != kPlanMagic || r.number() != kPlanVersion) return bad("expected a plan of version 1", -1);
  const int64_t limit = static_cast<int64_t>(kLimit);
  auto plan = std::make_unique<Plan>();
  plan->arena_bytes_ = r.integer(0, limit);
  const int64_t calls = r.integer(0, INT32_MAX);
  plan->first_update_ = r.integer(0, INT32_MAX);
  plan->buffers_ = std::move(buffers);
  plan->threads_ = device ? 1 : process_pool().threads();
  plan->device_ = std::move(device);
  const int64_t behind = (plan->arena_bytes_ + kAlignment - 1) / kAlignment * kAlignment;
  int64_t whole = plan->arena_bytes_;  // with the scratch that lies behind what was planned
  for (int64_t i = 0; i < calls; i++) {
    PlannedCall call;
    const int64_t kernel = r.integer(0, INT32_MAX);
    const int64_t n_in = r.integer(0, kMaxOperands), n_out = r.integer(0, kMaxOperands);
    call.scratch_offset = r.integer(0, limit);
    call.scratch_bytes = r.integer(0, limit);
    const int64_t numbers = r.integer(0, INT32_MAX);
    if (!r.ok() || numbers > r.left()) return bad("malformed call", i);
    if (kernel >= static_cast<int64_t>(found.size())) return bad("unknown kernel", i);
    if (call.scratch_offset + call.scratch_bytes > plan->arena_bytes_) return bad("scratch outside the arena", i);
    if (call.scratch_bytes && call.scratch_offset % kAlignment != 0) return bad("misaligned scratch", i);
    call.kernel = found[static_cast<size_t>(kernel)];
    call.n_in = static_cast<int>(n_in);
    for (int64_t k = 0; k < numbers; k++) call.numbers.push_back(r.number());
    for (int64_t k = 0; k < n_in + n_out; k++) {
      call.operands.push_back(read_operand(r));
      const Operand& o = call.operands.back();
      if (!r.ok() || o.buffer >= static_cast<int64_t>(plan->buffers_.size())) return bad("malformed operand", i);
      if (o.buffer < 0) continue;
      const int64_t size = o.buffer == 0 ? plan->arena_bytes_ : plan->buffers_[static_cast<size_t>(o.buffer)]->bytes();
      if (o.end_byte() > size) return bad("operand outside its buffer", i);
      if (o.byte_offset % dtype_size(o.view.dtype) != 0) return bad("misaligned operand", i);
    }
    const int64_t needed = scratch == Scratch::as_needed ? scratch_for(call, plan->threads_) : 0;
    if (needed > call.scratch_bytes) {
      if (needed > limit) return bad("more scratch than there is", i);
      call.scratch_offset = behind;
      call.scratch_bytes = needed;
      whole = std::max(whole, behind + needed);
    }
    plan->threads_ = std::min(plan->threads_, threads_for(call, plan->threads_));
    if (plan->threads_ == 0) return bad("less scratch than its kernel needs", i);
    for (const Operand& o : call.operands)
      if (o.buffer == 0) plan->arena_peak_ = std::max(plan->arena_peak_, o.end_byte());
    if (call.scratch_bytes) plan->arena_peak_ = std::max(plan->arena_peak_, call.scratch_offset + call.scratch_bytes);
    plan->calls_.push_back(std::move(call));
  }
  if (!r.ok() || r.left() != 0) return bad("length does not fit its calls", calls);
  plan->arena_bytes_ = whole;
  return plan;
}

Plan::~Plan() {
  const Holding holding(device_.get());
  for (auto& recording : recordings_) recording.reset();
}

// Waits for the device; true, with failure set, if it failed or a kernel found a value wrong.
bool Plan::fault(Failure* failure) const {
  Fault found = {};
  if (!device_->copy(&found, device_->fault(), sizeof found, failure) || !device_->wait(failure)) return true;
  return !check_fault(found, failure);
}

bool Plan::run_calls(size_t begin, size_t end, Storage& arena, Parallel& pool, const std::atomic<int32_t>* abort,
                     Failure* failure, double* call_seconds) const {
  using Clock = std::chrono::steady_clock;
  for (size_t i = begin; i < end; i++) {
    const int32_t stop = abort ? abort->load(std::memory_order_relaxed) : kRun;
    if (stop == kStopNow || (stop == kStopUnchanged && static_cast<int64_t>(i) <= first_update_))
      return failure->set(ErrorCode::aborted, "the step was aborted before it changed anything");
    const auto begun = call_seconds ? Clock::now() : Clock::time_point();
    if (!run_call(calls_[i], arena, &pool, failure)) return false;
    if (call_seconds && device_ && !device_->mark(static_cast<int64_t>(i) + 1, failure)) return false;
    if (call_seconds && !device_) call_seconds[i] += std::chrono::duration<double>(Clock::now() - begun).count();
  }
  return true;
}

bool Plan::record(Storage& arena, Failure* failure) const {
  struct Access {
    const uint8_t *begin, *end;
    bool writes;
  };
  const Holding holding(device_.get());
  recorded_ = nullptr;
  const size_t all = calls_.size(), ends[] = {std::min(static_cast<size_t>(first_update_), all), all};
  for (int part = 0; part < 2; part++) {
    recordings_[part].reset();
    const size_t first = part ? ends[0] : 0, count = ends[part] - first;
    if (count == 0) continue;
    std::vector<std::vector<Access>> accesses(count);
    std::vector<std::vector<bool>> before(count);  // calls that are done when this one begins
    if (!device_->record(failure)) return false;
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++) {
      const PlannedCall& planned = calls_[first + i];
      for (size_t k = 0; k < planned.operands.size(); k++) {
        const Operand& o = planned.operands[k];
        if (o.buffer < 0) continue;
        const uint8_t* data = base(o, arena);
        accesses[i].push_back({data + o.first_byte(), data + o.end_byte(), k >= static_cast<size_t>(planned.n_in)});
      }
      const uint8_t* scratch = arena.data() + planned.scratch_offset;
      accesses[i].push_back({scratch, scratch + planned.scratch_bytes, true});
      const auto meet = [&](size_t j) {
        for (const Access& a : accesses[i])
          for (const Access& b : accesses[j])
            if ((a.writes || b.writes) && a.begin < b.end && b.begin < a.end) return true;
        return false;
      };
      before[i].resize(count);
      std::vector<int32_t> after;
      for (size_t j = i; j-- > 0;) {
        if (before[i][j] || !meet(j)) continue;
        after.push_back(static_cast<int32_t>(j));
        before[i][j] = true;
        for (size_t k = 0; k < j; k++)
          if (before[j][k]) before[i][k] = true;
      }
      ok = device_->piece(after, failure) && run_call(planned, arena, nullptr, failure);
    }
    recordings_[part] = device_->recorded(failure);  // ends it in any case
    if (!ok || !recordings_[part]) return false;
  }
  recorded_ = arena.data();
  recorded_moves_ = moves();
  return true;
}

int64_t Plan::moves() const {
  int64_t sum = 0;
  for (const auto& buffer : buffers_)
    if (buffer) sum += buffer->moves();
  return sum;
}

bool Plan::run_call(const PlannedCall& planned, Storage& arena, Parallel* pool, Failure* failure) const {
  View views[2 * kMaxOperands];
  Call call = call_of(planned, views, [&](const Operand& o) { return base(o, arena) + o.byte_offset; });
  call.scratch = arena.data() + planned.scratch_offset;
  call.failure = failure;
  if (device_) {
    call.stream = device_->stream();
    call.fault = device_->fault();
  } else {
    call.pool = pool;
  }
  const Fence fence(arena, planned);
  if (planned.kernel->run(call)) return true;
  if (!failure->failed()) failure->set(ErrorCode::invalid_argument, "%s failed", planned.kernel->name);
  return false;
}

// In two parts: before the first change, all that was looked up must have been right. A part is launched as a whole,
// as it was recorded, unless its calls are timed.
bool Plan::run_device(Storage& arena, Parallel& pool, const std::atomic<int32_t>* abort, Failure* failure,
                      double* call_seconds) const {
  const Holding holding(device_.get());
  const bool recorded = recorded_ == arena.data() && recorded_moves_ == moves();
  if (!call_seconds && !recorded && !record(arena, failure)) return false;
  const size_t all = calls_.size(), ends[] = {std::min(static_cast<size_t>(first_update_), all), all};
  if (!device_->fill(device_->fault(), 0, sizeof(Fault), failure)) return false;
  if (call_seconds && !device_->mark(0, failure)) return false;
  for (int part = 0; part < 2; part++) {
    const size_t begin = part ? ends[0] : 0, end = ends[part];
    if (begin == end) continue;
    if (call_seconds) {
      if (!run_calls(begin, end, arena, pool, abort, failure, call_seconds)) return false;
    } else {
      if (abort && abort->load() != kRun && (part == 0 || abort->load() == kStopNow || ends[0] == 0))
        return failure->set(ErrorCode::aborted, "the step was aborted before it changed anything");
      if (!recordings_[part]->launch(failure)) return false;
    }
    if (fault(failure)) return false;
  }
  for (size_t i = 0; call_seconds && i < all; i++)
    call_seconds[i] += device_->seconds(static_cast<int64_t>(i), static_cast<int64_t>(i) + 1);
  return true;
}

bool Plan::run(Storage& arena, Parallel& pool, const std::atomic<int32_t>* abort, Failure* failure, RunStats* stats,
               double* call_seconds) const {
  const auto start = std::chrono::steady_clock::now();
  if (arena.bytes() < arena_bytes_)
    return failure->set(ErrorCode::bad_plan, "plan: expected an arena of %lld bytes, got %lld",
                        static_cast<long long>(arena_bytes_), static_cast<long long>(arena.bytes()));
  for (const auto& buffer : buffers_)
    if (buffer && buffer->device() != device_.get())
      return failure->set(ErrorCode::bad_plan, "plan: a tensor of it lies in the memory of another device");
  FixedThreads threads(pool, std::min(threads_, pool.threads()));
  const bool ok = device_ ? run_device(arena, threads, abort, failure, call_seconds)
                          : run_calls(0, calls_.size(), arena, threads, abort, failure, call_seconds);
  if (!ok) return false;
  stats->arena_peak = (arena_peak_ + kAlignment - 1) / kAlignment * kAlignment;  // blocks are whole lines
  stats->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return true;
}

}  // namespace auxgrad
