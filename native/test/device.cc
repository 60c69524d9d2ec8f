// Plans on a device (--device), and where its memory goes.
#include "core/plan.h"
#include "harness.h"

namespace {

using auxgrad::Failure;
using auxgrad::Ledger;
using auxgrad::Plan;
using auxgrad::RunStats;
using auxgrad::Storage;

constexpr int64_t kRows = 300, kColumns = 40;
constexpr int64_t kBytes = kRows * kColumns * 4;
constexpr int64_t kSlot = (kBytes + 63) / 64 * 64;

// The words of a plan, written by hand.
class Words {
 public:
  explicit Words(double arena) : words_{auxgrad::kPlanMagic, auxgrad::kPlanVersion, arena, 0, 0} {}
  Words& call(double kernel, double ins, double outs, std::vector<double> numbers) {
    words_[3]++;
    for (double w : {kernel, ins, outs, 0.0, 0.0, static_cast<double>(numbers.size())}) words_.push_back(w);
    words_.insert(words_.end(), numbers.begin(), numbers.end());
    return *this;
  }
  Words& operand(double buffer, int64_t byte, auxgrad::DType dtype, std::vector<int64_t> shape) {
    for (double w :
         {buffer, static_cast<double>(byte), 0.0, static_cast<double>(dtype), static_cast<double>(shape.size())})
      words_.push_back(w);
    for (int64_t n : shape) words_.push_back(static_cast<double>(n));
    for (size_t i = 0; i < shape.size(); i++) {
      int64_t stride = 1;
      for (size_t k = i + 1; k < shape.size(); k++) stride *= shape[k];
      words_.push_back(static_cast<double>(stride));
    }
    return *this;
  }
  Words& matrix(double buffer, int64_t slot) {
    return operand(buffer, slot * kSlot, auxgrad::DType::f32, {kRows, kColumns});
  }
  Words& updates_begin() {
    words_[4] = words_[3];
    return *this;
  }
  std::unique_ptr<Plan> decode(const std::vector<std::string>& kernels, std::vector<std::shared_ptr<Storage>> buffers,
                               Failure* failure) const {
    return Plan::decode(words_.data(), static_cast<int64_t>(words_.size()), kernels, std::move(buffers), failure,
                        auxgrad::Scratch::as_needed, test::device());
  }

 private:
  std::vector<double> words_;
};

bool run(const Plan& plan, Storage& arena, Failure* failure, double* seconds = nullptr) {
  RunStats stats;
  return plan.run(arena, auxgrad::process_pool(), nullptr, failure, &stats, seconds) &&
         stats.arena_peak <= arena.bytes();
}

std::vector<float> floats(const Storage& from, int64_t byte, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  Failure failure;
  CHECK(from.read(values.data(), byte, count * 4, &failure));
  return values;
}

// total += c (a + b) with a and b in turn 2 and 3, then 5 and 7 in the same memory: all but the fills wait for others.
// Sums of the columns need scratch.
struct Steps {
  Steps() : ledger(std::make_shared<Ledger>()) {
    Failure failure;
    total = Storage::create(ledger, kBytes, true, test::device());
    sums = Storage::create(ledger, kColumns * 4, true, test::device());
    Words words(4 * kSlot);
    const auto column_sums = [&](double buffer) { words.operand(buffer, 0, auxgrad::DType::f32, {kColumns}); };
    words.call(0, 0, 1, {2}).matrix(0, 0).call(0, 0, 1, {3}).matrix(0, 1);
    words.call(1, 2, 1, {}).matrix(0, 0).matrix(0, 1).matrix(0, 2);  // 5
    words.call(0, 0, 1, {5}).matrix(0, 0).call(0, 0, 1, {7}).matrix(0, 1);
    words.call(1, 2, 1, {}).matrix(0, 0).matrix(0, 1).matrix(0, 3);  // 12
    words.call(2, 2, 1, {}).matrix(0, 2).matrix(0, 3).matrix(0, 0);  // 60
    words.updates_begin();
    words.call(3, 1, 1, {}).matrix(0, 0).matrix(1, 0);
    words.call(4, 1, 1, {0}).matrix(1, 0);
    column_sums(2);
    plan = words.decode({"fill", "add", "mul", "accumulate", "sum"}, {nullptr, total, sums}, &failure);
    CHECK(plan != nullptr);
    if (plan) arena = Storage::create(ledger, plan->arena_bytes(), false, test::device());
  }
  void check(int64_t runs) const {
    bool right = true;
    for (float x : floats(*total, 0, kRows * kColumns)) right = right && x == 60.0f * static_cast<float>(runs);
    for (float x : floats(*sums, 0, kColumns)) right = right && x == 60.0f * static_cast<float>(runs * kRows);
    CHECK(right);
  }
  std::shared_ptr<Ledger> ledger;
  std::shared_ptr<Storage> total, sums, arena;
  std::unique_ptr<Plan> plan;
};

}  // namespace

TEST(device_steps_are_right_and_take_no_more_memory) {
  const auto device = test::device();
  if (!device) return;
  const int64_t before = device->live_bytes();
  {
    const Steps steps;
    const int64_t held = steps.ledger->live();
    CHECK(device->live_bytes() == before + held);
    Failure failure;
    if (!steps.plan || !steps.arena) return;
    CHECK(steps.plan->record(*steps.arena, &failure));
    CHECK(run(*steps.plan, *steps.arena, &failure));
    steps.check(1);
    const int64_t left = device->free_bytes();
    for (int i = 1; i < 200; i++) CHECK(run(*steps.plan, *steps.arena, &failure));
    steps.check(200);
    CHECK(device->free_bytes() == left);
    CHECK(steps.ledger->live() == held && steps.ledger->peak() == held);
    CHECK(device->live_bytes() == before + held);
    // Timed, its calls are launched one by one.
    std::vector<double> seconds(steps.plan->calls().size());
    CHECK(run(*steps.plan, *steps.arena, &failure, seconds.data()));
    steps.check(201);
    for (double s : seconds) CHECK(s > 0);
    CHECK(!failure.failed());
  }
  CHECK(device->live_bytes() == before);
}

TEST(device_runs_a_plan_on_another_arena) {
  if (!test::device()) return;
  const Steps steps;
  if (!steps.plan || !steps.arena) return;
  const auto other = Storage::create(steps.ledger, steps.plan->arena_bytes(), false, test::device());
  Failure failure;
  CHECK(run(*steps.plan, *steps.arena, &failure) && run(*steps.plan, *other, &failure));
  CHECK(run(*steps.plan, *steps.arena, &failure));
  steps.check(3);
}

TEST(device_step_with_an_index_out_of_range_changes_nothing) {
  const auto device = test::device();
  if (!device) return;
  auto ledger = std::make_shared<Ledger>();
  const auto index = Storage::create(ledger, 3 * 4, false, device),
             rows = Storage::create(ledger, kBytes, true, device);
  const auto total = Storage::create(ledger, 3 * kColumns * 4, true, device);
  const auto arena = Storage::create(ledger, kSlot, false, device);
  Failure failure;
  Words words(kSlot);
  words.call(0, 2, 1, {0, 1}).matrix(1, 0).operand(2, 0, auxgrad::DType::i32, {3});
  words.operand(0, 0, auxgrad::DType::f32, {3, kColumns}).updates_begin();
  words.call(1, 0, 1, {1}).operand(3, 0, auxgrad::DType::f32, {3, kColumns});
  const auto plan = words.decode({"take", "fill"}, {nullptr, rows, index, total}, &failure);
  CHECK(plan != nullptr);
  if (!plan) return;
  const int32_t wrong[] = {0, 299, 300}, right[] = {0, 299, 1};
  CHECK(index->write(wrong, 0, sizeof wrong, &failure));
  for (int i = 0; i < 2; i++) {
    Failure found;
    CHECK(!run(*plan, *arena, &found));
    CHECK(found.code == auxgrad::ErrorCode::index_out_of_range);
    CHECK(std::string(found.message) == "embedding: index 300 at position 2 is not in [0, 300)");
    CHECK(floats(*total, 0, 1)[0] == 0);
  }
  CHECK(index->write(right, 0, sizeof right, &failure));
  CHECK(run(*plan, *arena, &failure));
  CHECK(floats(*total, 0, 1)[0] == 1);
}

TEST(device_without_memory_gives_none) {
  const auto device = test::device();
  if (!device) return;
  const int64_t before = device->live_bytes();
  auto ledger = std::make_shared<Ledger>();
  CHECK(Storage::create(ledger, int64_t{1} << 44, false, device) == nullptr);
  CHECK(device->live_bytes() == before && ledger->live() == 0);
  const auto small = Storage::create(ledger, 64, true, device);  // and goes on
  CHECK(small != nullptr);
}
