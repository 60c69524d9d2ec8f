// auxgrad_run FILE: runs a plan that `save` of a compiled step or function wrote, without Node, on the batch that was
// saved with it. Every run is what Node's next run on that batch would have been, bit for bit on the same kernels.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/plan_file.h"
#include "cpu/isa.h"

namespace {

using auxgrad::DType;
using auxgrad::SavedProgram;
using auxgrad::SavedValue;

constexpr const char* kUsage =
    "usage: auxgrad_run FILE [--steps N] [--threads T] [--device cuda] [--profile] [--json]\n"
    "  --steps N    runs, 10\n"
    "  --threads T  threads of the kernels, as many as the machine has (AUXGRAD_THREADS); results do not depend on it\n"
    "  --device D   cuda, or cuda:1 for the second one: its kernels, in its memory (auxgrad_cuda.so beside this\n"
    "               program, or AUXGRAD_CUDA_LIBRARY)\n"
    "  --profile    time by kernel, and the calls that take longest\n"
    "  --json       one object as the last line: losses, times, bytes, outputs of up to 4096 elements, profile\n"
    "AUXGRAD_ISA=scalar|avx2|avx512|amx|neon picks the kernels.\n";
constexpr int64_t kShownElements = 4096;
constexpr size_t kShownCalls = 10;

struct Options {
  std::string file, device;
  long steps = 10;
  int threads = 0;
  bool profile = false, json = false;
};

[[noreturn]] void wrong_usage(const std::string& text) {
  std::fprintf(stderr, "auxgrad_run: %s\n%s", text.c_str(), kUsage);
  std::exit(2);
}

long number(const std::string& option, const char* text, long high) {
  char* end = nullptr;
  const long n = std::strtol(text, &end, 10);
  if (*text == 0 || *end != 0 || n < 1 || n > high)
    wrong_usage(option + ": expected a number from 1 to " + std::to_string(high) + ", got \"" + text + "\"");
  return n;
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; i++) {
    const std::string arg = argv[i];
    const auto value = [&]() -> const char* {
      if (i + 1 >= argc) wrong_usage(arg + " needs a value");
      return argv[++i];
    };
    if (arg == "--help") {
      std::printf("%s", kUsage);
      std::exit(0);
    }
    if (arg == "--steps") o.steps = number(arg, value(), 1000000000);
    else if (arg == "--threads") o.threads = static_cast<int>(number(arg, value(), 256));
    else if (arg == "--device") o.device = value();
    else if (arg == "--profile") o.profile = true;
    else if (arg == "--json") o.json = true;
    else if (arg.rfind("--", 0) == 0) wrong_usage("unknown option " + arg);
    else if (o.file.empty()) o.file = arg;
    else wrong_usage("expected one file, got also " + arg);
  }
  if (o.file.empty()) wrong_usage("expected a file");
  if (o.threads && !o.device.empty()) wrong_usage("--threads is for the kernels of the processor, not with --device");
  return o;
}

// Names as in src/errors.ts.
const char* code_name(auxgrad::ErrorCode code) {
  static const char* const names[] = {"",
                                      "AUX_INVALID_ARGUMENT",
                                      "AUX_INDEX_OUT_OF_RANGE",
                                      "AUX_OUT_OF_MEMORY",
                                      "AUX_ABORTED",
                                      "AUX_BAD_PLAN",
                                      "AUX_NO_KERNEL",
                                      "AUX_BAD_FILE"};
  return names[static_cast<int>(code)];
}

int report(const auxgrad::Failure& failure) {
  std::fflush(stdout);  // the error is the last line
  std::fprintf(stderr, "auxgrad_run: %s: %s\n", code_name(failure.code), failure.message);
  return 1;
}

std::string quoted(const std::string& s) {
  std::string out = "\"";
  for (const char c : s) {
    char escape[8];
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < ' ') {
      std::snprintf(escape, sizeof escape, "\\u%04x", c);
      out += escape;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

// Nine digits give the same f32 back; JSON has no infinities and no NaN.
std::string json_number(double x) {
  char text[40];
  std::snprintf(text, sizeof text, "%.9g", x);
  return std::isfinite(x) ? text : "null";
}

double element(const SavedValue& v, const uint8_t* data, int64_t i) {
  const uint8_t* p = data + i * auxgrad::dtype_size(v.view.dtype);
  const auto as = [p](auto x) {
    std::memcpy(&x, p, sizeof x);
    return x;
  };
  switch (v.view.dtype) {
    case DType::f32: return static_cast<double>(as(float()));
    case DType::i32: return as(int32_t());
    case DType::u32: return as(uint32_t());
    case DType::u8:
    case DType::boolean: return *p;
    case DType::bf16: {
      const uint32_t bits = static_cast<uint32_t>(as(uint16_t())) << 16;
      float x;
      std::memcpy(&x, &bits, sizeof x);
      return static_cast<double>(x);
    }
  }
  return 0;
}

std::string shape_text(const SavedValue& v) {
  std::string out = "[";
  for (int i = 0; i < v.view.rank; i++) out += (i ? "," : "") + std::to_string(v.view.shape[i]);
  return out + "]";
}

struct Step {
  double ms;
  std::vector<std::pair<std::string, double>> scalars;  // outputs of one element
};

struct Row {
  std::string name;
  int64_t calls;  // of all steps together
  double seconds;
};

struct Profile {
  std::vector<Row> kernels, calls;
  double seconds = 0;
};

// `seconds` by program and call, and how often each program ran.
Profile profile_of(const std::vector<SavedProgram>& programs, const std::vector<std::vector<double>>& seconds,
                   const std::vector<int64_t>& runs) {
  Profile p;
  std::map<std::string, Row> kernels, calls;
  for (size_t k = 0; k < programs.size(); k++)
    for (size_t i = 0; i < seconds[k].size() && runs[k] > 0; i++) {
      const std::string kernel = programs[k].plan->calls()[i].kernel->name;
      const double s = seconds[k][i];
      const std::string& label = programs[k].labels[i];  // phase, layer, op
      const std::string call = label.substr(label.rfind(' ') + 1) == kernel ? label : label + " (" + kernel + ")";
      const std::pair<std::map<std::string, Row>*, std::string> places[] = {{&kernels, kernel}, {&calls, call}};
      for (const auto& [rows, name] : places) {
        Row& row = rows->try_emplace(name, Row{name, 0, 0}).first->second;
        row.calls += runs[k];
        row.seconds += s;
      }
      p.seconds += s;
    }
  const auto sorted = [](const std::map<std::string, Row>& rows) {
    std::vector<Row> out;
    for (const auto& [name, row] : rows) out.push_back(row);
    std::stable_sort(out.begin(), out.end(), [](const Row& a, const Row& b) { return a.seconds > b.seconds; });
    return out;
  };
  p.kernels = sorted(kernels);
  p.calls = sorted(calls);
  return p;
}

void print_rows(const char* title, const std::vector<Row>& rows, size_t most, double total, double steps) {
  std::printf("\n%-60s %10s %10s %7s\n", title, "calls/step", "ms/step", "share");
  for (size_t i = 0; i < rows.size() && i < most; i++)
    std::printf("%-60s %10.1f %10.3f %6.1f%%\n", rows[i].name.c_str(), static_cast<double>(rows[i].calls) / steps,
                1e3 * rows[i].seconds / steps, total > 0 ? 100 * rows[i].seconds / total : 0);
}

std::string json_rows(const std::vector<Row>& rows, const char* key) {
  std::string out = "[";
  for (const Row& r : rows)
    out += std::string(out.size() > 1 ? "," : "") + "{\"" + key + "\":" + quoted(r.name) +
           ",\"calls\":" + std::to_string(r.calls) + ",\"ms\":" + json_number(1e3 * r.seconds) + "}";
  return out + "]";
}

std::string json_outputs(const auxgrad::PlanFile& file, const SavedProgram& program) {
  std::string out = "{";
  for (const SavedValue& v : program.outputs) {
    out += std::string(out.size() > 1 ? "," : "") + quoted(v.name) + ":{\"dtype\":\"" +
           auxgrad::dtype_name(v.view.dtype) + "\",\"shape\":" + shape_text(v) + ",\"values\":";
    if (v.view.count() > kShownElements) {
      out += "null}";
      continue;
    }
    const uint8_t* data = file.data(v);
    out += "[";
    for (int64_t i = 0; i < v.view.count(); i++) out += (i ? "," : "") + json_number(element(v, data, i));
    out += "]}";
  }
  return out + "}";
}

int run(const Options& o) {
  if (o.threads) auxgrad::set_threads(o.threads);
  auto ledger = std::make_shared<auxgrad::Ledger>();
  auxgrad::Failure failure;
  std::shared_ptr<auxgrad::Device> device;
  if (!o.device.empty() && !(device = auxgrad::open_device(o.device.c_str(), &failure))) return report(failure);
  const int64_t own = device ? device->live_bytes() : 0;
  const auto file = auxgrad::PlanFile::load(o.file.c_str(), ledger, &failure, device);
  if (!file) return report(failure);
  const int threads = auxgrad::process_pool().threads();
  const char* isa = device ? "cuda" : auxgrad::isa_name(auxgrad::current_isa());
  if (device) std::printf("%s: a %s on %s\n", o.file.c_str(), file->kind().c_str(), device->name());
  else
    std::printf("%s: a %s, %s kernels, %d thread%s\n", o.file.c_str(), file->kind().c_str(), isa, threads,
                threads > 1 ? "s" : "");

  const std::vector<SavedProgram>& programs = file->programs();
  int64_t elsewhere = 0;
  for (const SavedProgram& p : programs) elsewhere = std::max(elsewhere, p.planned_bytes);
  const int64_t planned = file->planned_bytes() + own, planned_arena = file->arena_bytes();
  std::printf("planned %lld bytes, %lld of them the arena\n", static_cast<long long>(planned),
              static_cast<long long>(planned_arena));
  if (planned > elsewhere)
    std::printf("(%lld more than where it was saved: other kernels%s)\n", static_cast<long long>(planned - elsewhere),
                device ? "" : ", or more threads");
  const int64_t left = device ? device->free_bytes() : 0;

  std::vector<std::vector<double>> seconds;
  for (const SavedProgram& p : programs) seconds.emplace_back(p.plan->calls().size());
  std::vector<int64_t> runs(programs.size());
  std::vector<Step> steps;
  int64_t measured_arena = 0;
  size_t last = 0;
  for (long i = 0; i < o.steps; i++) {
    const size_t k = last = file->next();
    auxgrad::RunStats stats;
    const auto start = std::chrono::steady_clock::now();
    if (!file->run(&failure, &stats, o.profile ? seconds[k].data() : nullptr)) return report(failure);
    Step step;
    step.ms = 1e3 * std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    runs[k]++;
    measured_arena = std::max(measured_arena, stats.arena_peak);
    std::printf("step %ld", i + 1);
    for (const SavedValue& v : programs[k].outputs)
      if (v.view.count() == 1) {
        step.scalars.emplace_back(v.name, element(v, file->data(v), 0));
        std::printf("  %s %.9g", v.name.c_str(), step.scalars.back().second);
      }
    std::printf("  %.3f ms\n", step.ms);
    steps.push_back(std::move(step));
  }

  std::vector<double> times;
  for (const Step& s : steps) times.push_back(s.ms);
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  std::printf("median %.3f ms, best %.3f ms\n", median, times[0]);
  const int64_t measured = device ? device->peak_bytes() : ledger->peak();
  std::printf("measured %lld bytes, %lld of them the arena\n", static_cast<long long>(measured),
              static_cast<long long>(measured_arena));
  if (device)
    std::printf("the device has %lld bytes less left than before the first step\n",
                static_cast<long long>(left - device->free_bytes()));

  const Profile p = o.profile ? profile_of(programs, seconds, runs) : Profile();
  if (o.profile) {
    const double n = static_cast<double>(o.steps);
    print_rows("kernel", p.kernels, p.kernels.size(), p.seconds, n);
    print_rows("call", p.calls, kShownCalls, p.seconds, n);
  }
  if (o.json) {
    std::string list;
    for (const Step& s : steps) {
      std::string values;
      for (const auto& [name, x] : s.scalars)
        values += (values.empty() ? "" : ",") + quoted(name) + ":" + json_number(x);
      list += (list.empty() ? "{\"ms\":" : ",{\"ms\":") + json_number(s.ms) + ",\"values\":{" + values + "}}";
    }
    std::string profile;
    if (o.profile)
      profile = ",\"kernels\":" + json_rows(p.kernels, "kernel") + ",\"calls\":" + json_rows(p.calls, "call");
    std::printf(
        "{\"kind\":%s,\"isa\":\"%s\",\"threads\":%d,\"steps\":[%s],\"medianMs\":%s,\"plannedBytes\":%lld,"
        "\"measuredBytes\":%lld,\"plannedArenaBytes\":%lld,\"measuredArenaBytes\":%lld,\"outputs\":%s%s}\n",
        quoted(file->kind()).c_str(), isa, device ? 1 : threads, list.c_str(), json_number(median).c_str(),
        static_cast<long long>(planned), static_cast<long long>(measured), static_cast<long long>(planned_arena),
        static_cast<long long>(measured_arena), json_outputs(*file, programs[last]).c_str(), profile.c_str());
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (const char* isa = auxgrad::refused_isa())
    wrong_usage(std::string("this machine has no kernels for AUXGRAD_ISA=") + isa);
  return run(parse(argc, argv));
}
