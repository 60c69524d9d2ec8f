#include "plan_file.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <new>

#include "sha256.h"

namespace auxgrad {
namespace {

constexpr char kMagic[] = "AUXPLAN\n";
constexpr size_t kHead = 24;
constexpr uint64_t kLimit = uint64_t{1} << 52;  // sizes and counts beyond it are nonsense
static_assert(sizeof(double) == 8, "files hold 64-bit floats");

uint64_t integer_at(const uint8_t* p) {
  uint64_t n = 0;
  for (int i = 7; i >= 0; i--) n = n << 8 | p[i];
  return n;
}

// An open file that hashes what is read.
class Input {
 public:
  Input(const char* path, Failure* failure) : path_(path), failure_(failure) {}
  ~Input() {
    if (file_) std::fclose(file_);
  }
  Input(const Input&) = delete;
  Input& operator=(const Input&) = delete;

  bool open() {
#ifdef _WIN32
    struct _stat64 entry;
    const bool found = _stat64(path_, &entry) == 0;
#else
    struct stat entry;
    const bool found = stat(path_, &entry) == 0;
#endif
    if (!found) return bad(std::strerror(errno));
    if ((entry.st_mode & S_IFMT) != S_IFREG) return bad("it is not a regular file");
    file_ = std::fopen(path_, "rb");
    if (!file_) return bad(std::strerror(errno));
    size_ = static_cast<uint64_t>(entry.st_size);
    return true;
  }
  bool read(void* target, uint64_t bytes) {
    uint8_t* p = static_cast<uint8_t*>(target);
    for (uint64_t done = 0; done < bytes;) {
      const size_t part = static_cast<size_t>(std::min<uint64_t>(bytes - done, 1 << 20));
      if (std::fread(p + done, 1, part, file_) != part) return bad("it was cut short while it was read");
      hash.update(p + done, part);
      done += part;
    }
    return true;
  }
  bool bad(const char* what) {
    return failure_->set(ErrorCode::bad_file, "%.200s: not a plan that can be run: %s", path_, what);
  }
  uint64_t size() const { return size_; }

  Sha256 hash;

 private:
  const char* path_;
  Failure* failure_;
  std::FILE* file_ = nullptr;
  uint64_t size_ = 0;
};

// Reads the description, remembering whether all was well. Counts are checked against the bytes that are left, so
// nothing makes it allocate more than a file holds.
class Description {
 public:
  explicit Description(std::vector<uint8_t> bytes) : bytes_(std::move(bytes)) {}

  uint64_t integer(uint64_t high) {
    const uint64_t n = raw();
    return n <= high ? n : fail();
  }
  uint64_t raw() {
    if (!ok_ || left() < 8) return fail();
    at_ += 8;
    return integer_at(&bytes_[at_ - 8]);
  }
  double real() {
    const uint64_t n = raw();
    double x;
    std::memcpy(&x, &n, sizeof x);
    return x;
  }
  // Number of items of at least `bytes` each that follow.
  size_t count(size_t bytes) {
    const uint64_t n = raw();
    return static_cast<size_t>(n <= left() / bytes ? n : fail());
  }
  std::string text() {
    const size_t n = count(1);
    if (!ok_) return "";
    at_ += n;
    return std::string(reinterpret_cast<const char*>(bytes_.data()) + at_ - n, n);
  }
  uint64_t fail() {
    ok_ = false;
    return 0;
  }
  bool ok() const { return ok_; }
  size_t left() const { return bytes_.size() - at_; }

 private:
  std::vector<uint8_t> bytes_;
  size_t at_ = 0;
  bool ok_ = true;
};

// A dense value in the arena.
SavedValue read_value(Description& d) {
  SavedValue v;
  v.name = d.text();
  v.view.dtype = static_cast<DType>(d.integer(kDTypeCount - 1));
  v.view.rank = static_cast<int32_t>(d.integer(kMaxRank));
  // Of axes that are not empty: strides are products of some.
  double bytes = static_cast<double>(dtype_size(v.view.dtype));
  for (int i = 0; i < v.view.rank; i++) {
    v.view.shape[i] = static_cast<int64_t>(d.integer(kLimit));
    bytes *= static_cast<double>(std::max<int64_t>(v.view.shape[i], 1));
  }
  v.offset = static_cast<int64_t>(d.integer(kLimit));
  if (bytes > static_cast<double>(kLimit)) d.fail();
  if (!d.ok()) return SavedValue();
  int64_t stride = 1;
  for (int i = v.view.rank - 1; i >= 0; i--) {
    v.view.stride[i] = stride;
    stride *= v.view.shape[i];
  }
  v.bytes = v.view.count() * dtype_size(v.view.dtype);
  return v;
}

// A program as the file describes it, before its storages are there.
struct Draft {
  std::vector<std::string> kernels;
  std::vector<size_t> buffers;
  std::vector<double> words;
};

bool fits(const SavedValue& v, int64_t arena) {
  return v.offset % dtype_size(v.view.dtype) == 0 && v.offset <= arena && v.bytes <= arena - v.offset;
}

bool is(const SavedValue& v, DType dtype, int64_t count) { return v.view.dtype == dtype && v.view.count() == count; }

bool source_fits(const SavedValue& v, const std::vector<std::vector<uint8_t>>& batch, size_t rates) {
  switch (v.source) {
    case Source::batch: return v.batch < batch.size() && static_cast<int64_t>(batch[v.batch].size()) == v.bytes;
    case Source::rate: return rates > 0 && is(v, DType::f32, 1);
    case Source::updates: return is(v, DType::f32, 1);
    case Source::random: return is(v, DType::i32, 4);
  }
  return false;
}

}  // namespace

std::unique_ptr<PlanFile> PlanFile::load(const char* path, std::shared_ptr<Ledger> ledger, Failure* failure,
                                         std::shared_ptr<Device> device) try {
  Input in(path, failure);
  const auto bad = [&](const std::string& what) {
    in.bad(what.c_str());
    return nullptr;
  };
  if (!in.open()) return nullptr;
  uint8_t head[kHead] = {};
  if (in.size() < kHead + Sha256::kBytes) return bad("it is too short for one");
  if (!in.read(head, kHead)) return nullptr;
  if (std::memcmp(head, kMagic, 8) != 0) return bad("it does not begin as one");
  const uint64_t version = integer_at(head + 8);
  if (version != kPlanFileVersion)
    return bad("expected version " + std::to_string(kPlanFileVersion) + ", got " + std::to_string(version) +
               "; a newer auxgrad may have written it");
  const uint64_t length = integer_at(head + 16);
  const uint64_t body = in.size() - kHead - Sha256::kBytes;
  if (length > body) return bad("it is cut short or damaged: its description would not fit in it");
  std::vector<uint8_t> bytes(static_cast<size_t>(length));
  if (!in.read(bytes.data(), length)) return nullptr;

  auto file = std::make_unique<PlanFile>();
  file->device_ = device;
  Description d(std::move(bytes));
  file->kind_ = d.text();
  file->seed_ = d.raw();
  file->runs_ = d.integer(kLimit);
  file->updates_ = file->first_update_ = d.integer(kLimit);
  file->accumulate_ = d.integer(kLimit);
  file->last_rate_stays_ = d.integer(1) == 1;
  for (size_t n = d.count(8); n > 0; n--) file->rates_.push_back(d.real());
  std::vector<std::pair<std::string, uint64_t>> storages;
  for (size_t n = d.count(16); n > 0; n--) {
    std::string name = d.text();
    storages.emplace_back(std::move(name), d.integer(kLimit));
  }
  std::vector<uint64_t> batch;
  for (size_t n = d.count(8); n > 0; n--) batch.push_back(d.integer(kLimit));
  std::vector<Draft> drafts;
  for (size_t programs = d.count(56); programs > 0 && d.ok(); programs--) {
    Draft draft;
    SavedProgram program;
    program.planned_bytes = static_cast<int64_t>(d.integer(kLimit));
    for (size_t n = d.count(8); n > 0; n--) draft.kernels.push_back(d.text());
    for (size_t n = d.count(8); n > 0; n--) draft.buffers.push_back(static_cast<size_t>(d.integer(storages.size())));
    for (size_t n = d.count(8); n > 0; n--) draft.words.push_back(d.real());
    for (size_t n = d.count(8); n > 0; n--) program.labels.push_back(d.text());
    for (size_t n = d.count(48); n > 0 && d.ok(); n--) {
      SavedValue v = read_value(d);
      v.source = static_cast<Source>(d.integer(static_cast<uint64_t>(Source::random)));
      v.batch = static_cast<size_t>(d.integer(kLimit));
      program.inputs.push_back(std::move(v));
    }
    for (size_t n = d.count(32); n > 0 && d.ok(); n--) program.outputs.push_back(read_value(d));
    drafts.push_back(std::move(draft));
    file->programs_.push_back(std::move(program));
  }
  const bool all = d.ok() && d.left() == 0;
  if (!all || (file->kind_ != "step" && file->kind_ != "function") || file->accumulate_ < 1 ||
      drafts.size() != (file->accumulate_ > 1 ? 2u : 1u))
    return bad("its description is damaged");

  uint64_t expected = 0;  // held low, so that it cannot overflow
  for (const auto& s : storages) expected = std::min(expected + s.second, 2 * kLimit);
  for (uint64_t n : batch) expected = std::min(expected + n, 2 * kLimit);
  if (expected != body - length)
    return bad("expected " + std::to_string(expected) + " bytes of values, got " + std::to_string(body - length) +
               (body - length < expected ? ": it is cut short" : ": other bytes follow it"));
  const auto no_memory = [&](const char* what, int64_t wanted) {
    failure->set(ErrorCode::out_of_memory, "%s: the %s has no %lld bytes to give", what, device ? "device" : "system",
                 static_cast<long long>(wanted));
    return nullptr;
  };
  std::vector<std::shared_ptr<Storage>> held;
  for (const auto& [name, size] : storages) {
    held.push_back(Storage::create(ledger, static_cast<int64_t>(size), false, device));
    if (!held.back()) return no_memory(name.c_str(), static_cast<int64_t>(size));
    std::vector<uint8_t> read(device ? static_cast<size_t>(size) : 0);
    if (!in.read(device ? read.data() : held.back()->data(), size)) return nullptr;
    if (device && !held.back()->write(read.data(), 0, static_cast<int64_t>(size), failure)) return nullptr;
  }
  for (uint64_t size : batch) {
    file->batch_.emplace_back(static_cast<size_t>(size));
    const Holding holding(device.get());
    if (device && size) device->pin(file->batch_.back().data(), static_cast<int64_t>(size));
    if (!in.read(file->batch_.back().data(), size)) return nullptr;
  }
  uint8_t digest[Sha256::kBytes], stored[Sha256::kBytes];
  Sha256 sum = in.hash;
  sum.finish(digest);
  if (!in.read(stored, sizeof stored)) return nullptr;
  if (std::memcmp(digest, stored, sizeof digest) != 0) return bad("its checksum is not that of its contents: damaged");

  int64_t arena = 0;
  for (size_t i = 0; i < drafts.size(); i++) {
    SavedProgram& program = file->programs_[i];
    const Draft& draft = drafts[i];
    std::vector<std::shared_ptr<Storage>> buffers(1);
    for (size_t k : draft.buffers) {
      if (k >= held.size()) return bad("its description is damaged");
      buffers.push_back(held[k]);
    }
    program.plan = Plan::decode(draft.words.data(), static_cast<int64_t>(draft.words.size()), draft.kernels,
                                std::move(buffers), failure, Scratch::as_needed, device);
    if (!program.plan) return nullptr;
    program.planned_arena = static_cast<int64_t>(draft.words[2]);  // decode has checked it
    if (program.labels.size() != program.plan->calls().size()) return bad("its calls and their names do not match");
    for (const SavedValue& v : program.inputs) {
      if (!fits(v, program.planned_arena) || !source_fits(v, file->batch_, file->rates_.size()))
        return bad("an input of it is damaged");
      const int64_t whole = std::max((v.bytes + kAlignment - 1) / kAlignment * kAlignment, kAlignment);
      program.input_end = std::max(program.input_end, v.offset + whole);
    }
    for (const SavedValue& v : program.outputs)
      if (!fits(v, program.planned_arena)) return bad("an output of it is damaged");
    arena = std::max(arena, program.plan->arena_bytes());
  }
  file->arena_ = Storage::create(ledger, arena, false, device);
  if (!file->arena_) return no_memory("the arena of a step", arena);
  file->planned_bytes_ = file->arena_->bytes();
  for (const auto& storage : held) file->planned_bytes_ += storage->bytes();
  for (const SavedProgram& program : file->programs_)
    if (device && !program.plan->record(*file->arena_, failure)) return nullptr;
  return file;
} catch (const std::bad_alloc&) {
  failure->set(ErrorCode::out_of_memory, "%.200s: the system has no memory to read it", path);
  return nullptr;
}

PlanFile::~PlanFile() {
  const Holding holding(device_.get());
  for (std::vector<uint8_t>& value : batch_)
    if (device_ && !value.empty()) device_->unpin(value.data());
}

// The last run of an update has the last program.
size_t PlanFile::next() const { return (runs_ + 1) % accumulate_ == 0 ? programs_.size() - 1 : 0; }

const uint8_t* PlanFile::data(const SavedValue& output) const {
  if (!device_) return arena_->data() + output.offset;
  copied_.resize(static_cast<size_t>(output.bytes) + 1);  // never null
  Failure failure;
  return arena_->read(copied_.data(), output.offset, output.bytes, &failure) ? copied_.data() : nullptr;
}

bool PlanFile::run(Failure* failure, RunStats* stats, double* call_seconds) {
  const bool update = (runs_ + 1) % accumulate_ == 0;
  const SavedProgram& program = programs_[next()];
  const Holding holding(device_.get());
  const auto set = [&](const SavedValue& v, const void* value, size_t bytes) {
    uint8_t* target = arena_->data() + v.offset;
    if (device_) return device_->copy(target, value, static_cast<int64_t>(bytes), failure);
    if (bytes) std::memcpy(target, value, bytes);
    return true;
  };
  for (const SavedValue& v : program.inputs) {
    if (v.source == Source::batch) {
      if (!set(v, batch_[v.batch].data(), static_cast<size_t>(v.bytes))) return false;
    } else if (v.source == Source::random) {
      const uint32_t words[4] = {static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32),
                                 static_cast<uint32_t>(runs_), static_cast<uint32_t>(runs_ >> 32)};
      if (!set(v, words, sizeof words)) return false;
    } else {
      double value = static_cast<double>(updates_ + 1);
      if (v.source == Source::rate) {
        const uint64_t i = updates_ - first_update_;
        if (i >= rates_.size() && !last_rate_stays_)
          return failure->set(
              ErrorCode::invalid_argument,
              "the plan holds the learning rates of %lld updates; save it with more, or run fewer steps",
              static_cast<long long>(rates_.size()));
        value = rates_[static_cast<size_t>(std::min<uint64_t>(i, rates_.size() - 1))];
      }
      const float number = static_cast<float>(value);
      if (!set(v, &number, sizeof number)) return false;
    }
  }
  if (!program.plan->run(*arena_, process_pool(), nullptr, failure, stats, call_seconds)) return false;
  stats->arena_peak = std::max(stats->arena_peak, program.input_end);
  runs_++;
  if (update) updates_++;
  return true;
}

}  // namespace auxgrad
