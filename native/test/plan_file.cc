// Plan files, whole and damaged. The file is written here by hand; AUXGRAD_PLAN_FILE names one to damage instead (the
// jest tests give one of a real network).
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "core/plan_file.h"
#include "core/sha256.h"
#include "harness.h"

namespace {

using auxgrad::DType;
using auxgrad::ErrorCode;
using auxgrad::Failure;
using auxgrad::Ledger;
using auxgrad::PlanFile;
using Bytes = std::vector<uint8_t>;

constexpr size_t kHead = 24;

class Fields {
 public:
  Fields& n(uint64_t value) {
    for (int i = 0; i < 8; i++) bytes.push_back(static_cast<uint8_t>(value >> (8 * i)));
    return *this;
  }
  Fields& real(double value) {
    uint64_t word;
    std::memcpy(&word, &value, sizeof word);
    return n(word);
  }
  Fields& text(const std::string& s) {
    n(s.size());
    bytes.insert(bytes.end(), s.begin(), s.end());
    return *this;
  }
  Fields& words(std::initializer_list<double> values) {
    for (double v : values) real(v);
    return *this;
  }
  Fields& f32(std::initializer_list<float> values) {
    for (float v : values) {
      const auto* p = reinterpret_cast<const uint8_t*>(&v);
      bytes.insert(bytes.end(), p, p + 4);
    }
    return *this;
  }

  Bytes bytes;
};

// The checksum of the file as it is now.
Bytes sealed(Bytes file) {
  file.resize(file.size() - auxgrad::Sha256::kBytes);
  auxgrad::Sha256 hash;
  hash.update(file.data(), file.size());
  uint8_t digest[auxgrad::Sha256::kBytes];
  hash.finish(digest);
  file.insert(file.end(), digest, digest + sizeof digest);
  return file;
}

// w (2 x 2, a storage) += a b, where a is given and b filled with threes; lr, step and random key are read besides. a b is
// said to be of that shape.
Bytes handmade(std::initializer_list<uint64_t> shape = {2, 2}) {
  Fields d;
  d.text("step").n(0x0000000500000003).n(7).n(2).n(1);
  d.n(0).n(2).real(0.5).real(0.25);   // two rates, no more
  d.n(1).text("w").n(16).n(1).n(16);  // one storage, one value
  d.n(1).n(1024 + 64);                // one program
  d.n(3).text("fill").text("matmul").text("accumulate").n(1).n(0);
  const double f32 = 0, arena = 1 << 16;
  Fields w;
  w.words({auxgrad::kPlanMagic, auxgrad::kPlanVersion, arena, 3, 2});
  w.words({0, 0, 1, 0, 0, 1, 3.0, /**/ 0, 64, 0, f32, 2, 2, 2, 2, 1});
  w.words({1, 2, 1, 4096, arena - 4096, 1, 1.0, /**/ 0, 0, 0, f32, 2, 2, 2, 2, 1, /**/ 0, 64, 0, f32, 2, 2, 2, 2, 1});
  w.words({0, 128, 0, f32, 2, 2, 2, 2, 1});
  w.words({2, 1, 1, 0, 0, 0, /**/ 0, 128, 0, f32, 2, 2, 2, 2, 1, /**/ 1, 0, 0, f32, 2, 2, 2, 2, 1});
  d.n(w.bytes.size() / 8);
  d.bytes.insert(d.bytes.end(), w.bytes.begin(), w.bytes.end());
  d.n(3).text("forward - fill").text("forward fc matmul").text("update - accumulate");
  const auto f32_code = static_cast<uint64_t>(DType::f32), i32_code = static_cast<uint64_t>(DType::i32);
  d.n(4).text("a").n(f32_code).n(2).n(2).n(2).n(0).n(0).n(0);
  d.text("$lr").n(f32_code).n(0).n(256).n(1).n(0);
  d.text("$step").n(f32_code).n(0).n(320).n(2).n(0);
  d.text("$random").n(i32_code).n(1).n(4).n(384).n(3).n(0);
  d.n(5).text("loss").n(f32_code).n(0).n(128);
  d.text("product").n(f32_code).n(shape.size());
  for (uint64_t n : shape) d.n(n);
  d.n(128);
  d.text("lr").n(f32_code).n(0).n(256);
  d.text("step").n(f32_code).n(0).n(320);
  d.text("key").n(i32_code).n(1).n(4).n(384);
  Fields file;
  for (const char* p = "AUXPLAN\n"; *p; p++) file.bytes.push_back(static_cast<uint8_t>(*p));
  file.n(1).n(d.bytes.size());
  file.bytes.insert(file.bytes.end(), d.bytes.begin(), d.bytes.end());
  file.f32({0, 0, 0, 0}).f32({1, 2, 3, 4}).bytes.resize(file.bytes.size() + auxgrad::Sha256::kBytes);
  return sealed(file.bytes);
}

// The file under a name of its own, gone with this.
class Written {
 public:
  explicit Written(const Bytes& bytes) : path_(std::filesystem::temp_directory_path() / name()) {
    std::ofstream(path_, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }
  ~Written() { std::filesystem::remove(path_); }
  std::unique_ptr<PlanFile> load(Failure* failure, std::shared_ptr<Ledger> ledger = std::make_shared<Ledger>()) const {
    return PlanFile::load(path_.string().c_str(), ledger, failure);
  }

 private:
  static std::string name() {
    static const unsigned id = std::random_device()();
    return "auxgrad-" + std::to_string(id) + ".plan";
  }
  std::filesystem::path path_;
};

// Null or a plan, never both a plan and an error, and no more memory than the file and its arena stand for.
bool consistent(const Bytes& bytes, bool* valid) {
  Failure failure;
  auto ledger = std::make_shared<Ledger>();
  const auto file = Written(bytes).load(&failure, ledger);
  *valid = file != nullptr;
  const bool told = failure.code == ErrorCode::bad_file || failure.code == ErrorCode::bad_plan ||
                    failure.code == ErrorCode::no_kernel || failure.code == ErrorCode::out_of_memory;
  return (file ? !failure.failed() : told && failure.message[0] != 0) && (file || ledger->live() == 0);
}

void put(Bytes* file, size_t at, uint64_t word) {
  for (size_t i = 0; i < 8; i++) (*file)[at + i] = static_cast<uint8_t>(word >> (8 * i));
}

Bytes original() {
  const char* name = std::getenv("AUXGRAD_PLAN_FILE");
  if (!name || !*name) return handmade();
  std::ifstream in(name, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(in), {});
}

// Whether a byte is one of the words of a program. Kernels trust those once operands lie inside their buffers: what
// finds damage there is the checksum.
std::vector<bool> words_of(const Bytes& file) {
  std::vector<bool> inside(file.size());
  const Bytes magic = Fields().real(auxgrad::kPlanMagic).bytes;
  for (auto at = file.begin(); (at = std::search(at, file.end(), magic.begin(), magic.end())) != file.end(); at++) {
    const size_t from = static_cast<size_t>(at - file.begin());
    size_t count = 0;
    for (size_t i = 8; i > 0; i--) count = count << 8 | file[from - 9 + i];
    std::fill_n(inside.begin() + static_cast<long>(from), 8 * count, true);
  }
  return inside;
}

}  // namespace

TEST(sha256_of_known_texts) {
  const auto hex = [](const std::string& text, size_t part) {
    auxgrad::Sha256 hash;
    for (size_t at = 0; at < text.size(); at += part) hash.update(text.data() + at, std::min(part, text.size() - at));
    uint8_t digest[32];
    hash.finish(digest);
    std::string out;
    char two[3];
    for (uint8_t byte : digest) {
      std::snprintf(two, sizeof two, "%02x", byte);
      out += two;
    }
    return out;
  };
  // FIPS 180-4's examples.
  CHECK(hex("", 1) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(hex("abc", 1) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  for (size_t part : {1, 55, 64, 65, 1000})
    CHECK(hex(std::string(1000000, 'a'), part) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(plan_file_runs_with_the_inputs_of_each_step) {
  Failure failure;
  auto ledger = std::make_shared<Ledger>();
  const Written written(handmade());
  const auto file = written.load(&failure, ledger);
  CHECK(file != nullptr);
  if (!file) return;
  const auxgrad::SavedProgram& program = file->programs()[0];
  CHECK(file->kind() == "step" && program.labels[1] == "forward fc matmul" && program.outputs.size() == 5);
  CHECK(ledger->peak() == 64 + file->arena_bytes());
  const auto output = [&](size_t i) { return file->data(program.outputs[i]); };
  for (int step = 0; step < 2; step++) {
    auxgrad::RunStats stats;
    double seconds[3] = {};
    CHECK(file->run(&failure, &stats, seconds));
#if !defined(_WIN32)  // whose clock may stand still for calls this short
    CHECK(seconds[0] > 0 && seconds[1] > 0 && seconds[2] > 0);
#endif
    CHECK(seconds[0] + seconds[1] + seconds[2] <= stats.seconds + 1e-9);
    const float product[] = {9, 9, 21, 21};
    CHECK(std::memcmp(output(1), product, sizeof product) == 0);
    const float lr = step == 0 ? 0.5f : 0.25f, count = 3.0f + static_cast<float>(step);
    CHECK(std::memcmp(output(2), &lr, 4) == 0);
    CHECK(std::memcmp(output(3), &count, 4) == 0);
    const uint32_t key[] = {3, 5, 7 + static_cast<uint32_t>(step), 0};
    CHECK(std::memcmp(output(4), key, sizeof key) == 0);
    CHECK(stats.arena_peak == 1 << 16 && program.planned_arena == 1 << 16);
  }
  auxgrad::RunStats stats;
  CHECK(!file->run(&failure, &stats) && failure.code == ErrorCode::invalid_argument);
}

TEST(plan_file_of_another_machine_books_the_scratch_it_needs) {
  // As if planned where matmul needs none.
  Bytes file = handmade();
  const double booked = (1 << 16) - 4096, none = 0;
  const auto* p = reinterpret_cast<const uint8_t*>(&booked);
  auto at = std::search(file.begin(), file.end(), p, p + 8);
  CHECK(at != file.end());
  std::memcpy(&*at, &none, 8);
  Failure failure;
  const Written written(sealed(file));
  const auto loaded = written.load(&failure);
  CHECK(loaded != nullptr);
  if (!loaded) return;
  auxgrad::RunStats stats;
  CHECK(loaded->run(&failure, &stats));
  const float product[] = {9, 9, 21, 21};
  CHECK(std::memcmp(loaded->data(loaded->programs()[0].outputs[1]), product, sizeof product) == 0);
  CHECK(loaded->programs()[0].planned_arena == 1 << 16);
  CHECK(stats.arena_peak <= loaded->arena_bytes());
}

TEST(plan_file_of_shapes_that_cannot_be_counted_is_refused) {
  const uint64_t much = 1ull << 52;
  Failure failure;
  CHECK(Written(handmade({0, much, much})).load(&failure) == nullptr && failure.code == ErrorCode::bad_file);
}

TEST(plan_file_damaged_is_refused) {
  const Bytes file = original();
  bool valid = false;
  CHECK(consistent(file, &valid) && valid);
  std::mt19937 random(11);
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  int accepted = 0;
  const auto refused = [&](const Bytes& bytes) {
    CHECK(consistent(bytes, &valid));
    accepted += valid && bytes != file;
  };
  for (size_t cut = 0; cut < 200; cut++) refused(Bytes(file.begin(), file.begin() + static_cast<long>(cut)));
  for (int round = 0; round < 3000; round++) {
    Bytes copy = file;
    switch (below(5)) {
      case 0: copy[below(copy.size())] ^= static_cast<uint8_t>(1 << below(8)); break;
      case 1: copy.resize(below(copy.size())); break;
      case 2: copy.insert(copy.begin() + static_cast<long>(below(copy.size())), 1 + below(20), 0); break;
      case 3: {
        const size_t from = below(copy.size()), n = std::min(copy.size() - from, 1 + below(64));
        copy.erase(copy.begin() + static_cast<long>(from), copy.begin() + static_cast<long>(from + n));
        break;
      }
      default:
        for (size_t i = 0; i < 16; i++) copy[below(copy.size())] = static_cast<uint8_t>(random());
    }
    refused(copy);
  }
  CHECK(accepted == 0);
}

// With the checksum made right again, so that what lies behind it is reached.
TEST(plan_file_forged_is_read_consistently_or_refused) {
  const Bytes file = original();
  uint64_t length = 0;
  for (size_t i = 8; i > 0; i--) length = length << 8 | file[15 + i];
  std::mt19937 random(12);
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  const uint64_t numbers[] = {0,          1,          2,          3,          7,          8,
                              63,         64,         255,        4096,       65535,      1 << 20,
                              INT32_MAX,  1u << 31,   UINT32_MAX, 1ull << 32, 1ull << 52, 1ull << 53,
                              1ull << 62, 1ull << 63, INT64_MAX,  UINT64_MAX};
  const std::vector<bool> words = words_of(file);
  int accepted = 0, rounds = 0;
  for (; rounds < 3000; rounds++) {
    Bytes copy = file;
    for (size_t edits = 1 + below(2); edits > 0; edits--) {
      size_t at = kHead + below(length - 8);
      while (words[at] || words[at + 7]) at = kHead + below(length - 8);
      switch (below(4)) {
        case 0: copy[at] ^= static_cast<uint8_t>(1 << below(8)); break;
        case 1: copy[at] = static_cast<uint8_t>(random()); break;
        case 2: put(&copy, at, numbers[below(std::size(numbers))]); break;
        default: put(&copy, below(kHead - 7), numbers[below(std::size(numbers))]);
      }
    }
    bool valid = false;
    CHECK(consistent(sealed(copy), &valid));
    accepted += valid;
  }
  CHECK(accepted > rounds / 100 && accepted < rounds * 3 / 4);
}
