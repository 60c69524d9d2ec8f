// Runs the groups: `auxgrad_bench [--quick] [--only gemm,fused] [--match TEXT] [--threads 1,2] [--json FILE] [--list]
// [--ask NAME]`; --match takes the cases whose name contains the text.
// A case is measured as best of many, its contenders taking turns so that a slow moment of the machine hits them alike;
// and in passes over all cases, so that a slow minute does not stay; the later ones over those alone of which the best of
// either side was seen but once.
// With --ask another program takes its turns, too, in the cases it can do: what it is to measure is a line on stdout, "ask",
// group, name, threads and seconds, separated by tabs; its answer is a line on stdin, the seconds of a run or why there are none.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "bench.h"
#include "blas.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "cpu/isa.h"

namespace bench {
namespace {

std::vector<Group>& groups() {
  static std::vector<Group> all;
  return all;
}

[[noreturn]] void die(const std::string& text) {
  std::fprintf(stderr, "auxgrad_bench: %s\n", text.c_str());
  std::exit(2);
}

// Memory as the library gives it to tensors.
std::shared_ptr<char> aligned(int64_t bytes) {
  static const auto ledger = std::make_shared<auxgrad::Ledger>();
  const std::shared_ptr<auxgrad::Storage> storage = auxgrad::Storage::create(ledger, bytes, false);
  if (!storage) die("out of memory");
  return {storage, reinterpret_cast<char*>(storage->data())};
}

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

Registration::Registration(const char* name, void (*fill)(Group&)) {
  for (Group& g : groups())
    if (std::strcmp(g.name, name) == 0) {
      fill(g);
      return;
    }
  groups().emplace_back(name);
  fill(groups().back());
}

Array::Array(std::vector<int64_t> shape, auxgrad::DType dtype) : shape_(std::move(shape)), count_(1), dtype_(dtype) {
  for (int64_t n : shape_) count_ *= n;
  data_ = aligned(bytes());
  std::memset(data_.get(), 0xff, static_cast<size_t>(bytes()));  // NaN until written
}

Array Array::integers(std::vector<int64_t> shape, uint32_t seed) {
  Array a(std::move(shape));
  uint32_t state = seed * 2654435761u + 1;
  for (int64_t i = 0; i < a.count_; i++) {
    state = state * 1664525u + 1013904223u;
    a.f32()[i] = static_cast<float>(static_cast<int>((state >> 16) % 9) - 4);
  }
  return a;
}

auxgrad::View Array::view() const {
  auxgrad::View v;
  v.data = data_.get();
  v.dtype = dtype_;
  v.rank = static_cast<int32_t>(shape_.size());
  int64_t stride = 1;
  for (int i = v.rank - 1; i >= 0; i--) {
    v.shape[i] = shape_[static_cast<size_t>(i)];
    v.stride[i] = stride;
    stride *= v.shape[i];
  }
  return v;
}

auxgrad::View Array::transposed() const {
  auxgrad::View v = view();
  std::swap(v.shape[v.rank - 1], v.shape[v.rank - 2]);
  std::swap(v.stride[v.rank - 1], v.stride[v.rank - 2]);
  return v;
}

KernelCall::KernelCall(const char* kernel, std::vector<auxgrad::View> in, std::vector<auxgrad::View> out,
                       std::vector<double> numbers)
    : kernel_(auxgrad::find_kernel(kernel)), in_(std::move(in)), out_(std::move(out)), numbers_(std::move(numbers)) {
  if (!kernel_) die(std::string("no kernel ") + kernel);
}

void KernelCall::run() {
  auxgrad::Failure failure;
  auxgrad::Call call;
  call.in = in_.data();
  call.out = out_.data();
  call.n_in = static_cast<int>(in_.size());
  call.n_out = static_cast<int>(out_.size());
  call.number = numbers_.data();
  call.n_number = static_cast<int>(numbers_.size());
  call.pool = &auxgrad::process_pool();
  call.failure = &failure;
  if (threads_ != call.pool->threads()) {  // as a plan does: once
    threads_ = call.pool->threads();
    scratch_bytes_ = kernel_->scratch ? kernel_->scratch(call, threads_) : 0;
    scratch_ = aligned(scratch_bytes_);
  }
  call.scratch = scratch_.get();
  if (!kernel_->run(call)) die(std::string(kernel_->name) + ": " + failure.message);
}

std::string compare(const float* a, const float* b, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (!(a[i] == b[i]))
      return "element " + std::to_string(i) + " is " + std::to_string(a[i]) + ", expected " + std::to_string(b[i]);
  return "";
}

std::string compare(const uint32_t* a, const uint32_t* b, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (a[i] != b[i])
      return "word " + std::to_string(i) + " is " + std::to_string(a[i]) + ", expected " + std::to_string(b[i]);
  return "";
}

namespace {

struct Options {
  bool quick = false, list = false;
  std::vector<std::string> only;
  std::vector<int> threads = {1, 2};
  std::string json, match, ask;
};

struct Roof {
  int threads;
  double gflops, gbs;
};

struct Speed {
  std::string name;
  double seconds = 1e9, second = 1e9;  // the best of all passes and the next to it
  std::string wrong;

  void take(double measured) {
    second = std::min(second, std::max(seconds, measured));
    seconds = std::min(seconds, measured);
  }
  bool settled() const { return !wrong.empty() || second <= 1.02 * seconds; }
};

struct Result {
  std::string group, name;
  int threads;
  double flops, bytes;
  bool streams, asks;         // asks: the last of the speeds is that of the program asked
  std::vector<Speed> speeds;  // ours first

  // Of the others those count that may be the best, and the program asked.
  bool settled() const {
    double best = 1e9;
    for (size_t i = 1; i < speeds.size(); i++) best = std::min(best, speeds[i].seconds);
    for (size_t i = 0; i < speeds.size(); i++)
      if ((i == 0 || speeds[i].seconds < 1.1 * best || (asks && i + 1 == speeds.size())) && !speeds[i].settled())
        return false;
    return !speeds.empty();
  }
};

struct Job {
  const Group* group;
  const Case* c;
  std::vector<Result> results;  // one for each number of threads

  bool settled() const {
    return std::all_of(results.begin(), results.end(), [](const Result& r) { return r.settled(); });
  }
};

std::vector<std::string> split(const char* text) {
  std::vector<std::string> parts(1);
  for (const char* p = text; *p; p++) {
    if (*p == ',') parts.emplace_back();
    else parts.back() += *p;
  }
  return parts;
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; i++) {
    const std::string arg = argv[i];
    const auto value = [&] {
      if (i + 1 >= argc) die(arg + " needs a value");
      return argv[++i];
    };
    if (arg == "--quick") o.quick = true;
    else if (arg == "--list") o.list = true;
    else if (arg == "--json") o.json = value();
    else if (arg == "--only") o.only = split(value());
    else if (arg == "--match") o.match = value();
    else if (arg == "--ask") o.ask = value();
    else if (arg == "--threads") {
      o.threads.clear();
      for (const std::string& t : split(value())) o.threads.push_back(std::atoi(t.c_str()));
    } else die("unknown option " + arg + "; there are --quick, --only, --match, --threads, --ask, --json, --list");
  }
  for (int t : o.threads)
    if (t < 1 || t > 256) die("--threads must be numbers from 1 to 256, separated by commas");
  for (const std::string& name : o.only)
    if (std::none_of(groups().begin(), groups().end(), [&](const Group& g) { return name == g.name; })) {
      std::string known;
      for (const Group& g : groups()) known += std::string(known.empty() ? "" : ", ") + g.name;
      die("--only: no group " + name + "; there are " + known);
    }
  return o;
}

// Best seconds of one run over `time` seconds. Runs shorter than the clock is good for are timed many at a time.
double best_of(const std::function<void()>& run, double time) {
  const auto begin = Clock::now();
  run();
  const double first = since(begin);
  const int repeat = static_cast<int>(std::max(1.0, std::min(1e5, 1e-4 / std::max(first, 1e-8))));
  double best = repeat == 1 ? first : 1e9;
  while (best > 1e8 || since(begin) < time) {
    const auto start = Clock::now();
    for (int i = 0; i < repeat; i++) run();
    best = std::min(best, since(start) / repeat);
  }
  return best;
}

// Worker threads of other libraries spin for a while after a product; they must be asleep before the next one runs.
void settle(int threads) {
  if (threads > 1) std::this_thread::sleep_for(std::chrono::milliseconds(30));
}

bool is_library(const std::string& name) {
  return std::any_of(blas_libraries().begin(), blas_libraries().end(), [&](const Blas& b) { return b.name == name; });
}

// Lets the other program measure a case.
void ask(Speed& s, const Result& r, double seconds) {
  std::printf("ask\t%s\t%s\t%d\t%g\n", r.group.c_str(), r.name.c_str(), r.threads, seconds);
  std::fflush(stdout);
  char line[512] = "no answer";
  const bool answered = std::fgets(line, sizeof(line), stdin) != nullptr;
  const double measured = answered ? std::atof(line) : 0;
  if (measured > 0) s.take(measured);
  else s.wrong = std::string(line, std::strcspn(line, "\n"));
}

// One turn of each contender for each number of threads; `time` is for all of them.
void measure(Job& job, double time, const std::string& asked) {
  const Prepared prepared = job.c->prepare();
  for (Result& r : job.results) {
    auxgrad::set_threads(r.threads);
    for (const Blas& blas : blas_libraries()) blas.set_threads(r.threads);
    if (r.speeds.empty()) {
      for (const Contender& contender : prepared.contenders) {
        r.speeds.emplace_back();
        r.speeds.back().name = contender.name;
        contender.run();
        if (contender.check) r.speeds.back().wrong = contender.check();
      }
      settle(r.threads);
      if (r.asks) {
        r.speeds.emplace_back();
        r.speeds.back().name = asked;
      }
    }
    const double slice = time / static_cast<double>(job.results.size() * r.speeds.size());
    for (size_t i = 0; i < r.speeds.size(); i++) {
      Speed& s = r.speeds[i];
      if (!s.wrong.empty()) continue;
      if (i < prepared.contenders.size()) s.take(best_of(prepared.contenders[i].run, slice));
      else ask(s, r, slice);
      if (i >= prepared.contenders.size() || is_library(s.name)) settle(r.threads);
    }
  }
}

double speed(const Result& r, double seconds) { return (r.flops > 0 ? r.flops : r.bytes) / seconds * 1e-9; }

// The best that the machine allows this case: its arithmetic, its memory, or whichever of the two ends first. Of a case
// without arithmetic, the stream of the same bytes that was measured in turn with it.
double roof_of(const Result& r, const Roof& roof) {
  for (const Speed& s : r.speeds)
    if (s.name == "stream") return speed(r, s.seconds);
  if (r.flops == 0) return roof.gbs;
  return !r.streams ? roof.gflops : std::min(roof.gflops, r.flops / r.bytes * roof.gbs);
}

// To the best of the others; or to the program that was asked, which does the whole of the work where others may do a part.
double ratio(const Result& r) {
  double best = 1e9;
  const bool alone = r.asks && r.speeds.back().wrong.empty();
  for (size_t i = alone ? r.speeds.size() - 1 : 1; i < r.speeds.size(); i++)
    if (r.speeds[i].wrong.empty()) best = std::min(best, r.speeds[i].seconds);
  return best < 1e8 && r.speeds[0].wrong.empty() ? best / r.speeds[0].seconds : 0;
}

const Roof& roof_for(const Result& r, const std::vector<Roof>& roofs) {
  return *std::find_if(roofs.begin(), roofs.end(), [&](const Roof& x) { return x.threads == r.threads; });
}

void print(const Result& r, const std::vector<Roof>& roofs) {
  std::printf("%-34s %dt", r.name.c_str(), r.threads);
  for (size_t k = 0; k < r.speeds.size(); k++) {
    const Speed& s = r.speeds[k];
    if (s.wrong.empty()) std::printf("  %s %.1f", s.name.c_str(), speed(r, s.seconds));
    else std::printf("  %s WRONG (%s)", s.name.c_str(), s.wrong.c_str());
    if (k == 0 && s.wrong.empty())
      std::printf(" (%.0f %%)", 100 * speed(r, s.seconds) / roof_of(r, roof_for(r, roofs)));
  }
  if (ratio(r) > 0) std::printf("  ratio %.2f", ratio(r));
  const bool seen_once = r.speeds[0].second > 1e8;
  std::printf("%s\n", seen_once || r.settled() ? "" : " ~");
  std::fflush(stdout);
}

void write_json(const std::string& file, const Options& o, const std::vector<Roof>& roofs,
                const std::vector<Job>& jobs) {
  std::vector<Result> results;
  for (const Job& job : jobs) results.insert(results.end(), job.results.begin(), job.results.end());
  std::FILE* out = std::fopen(file.c_str(), "w");
  if (!out) die("cannot write " + file);
  const auto text = [](const std::string& s) {
    std::string quoted = "\"";
    for (char c : s) {
      if (c == '"' || c == '\\') quoted += '\\';
      quoted += c < ' ' ? ' ' : c;
    }
    return quoted + "\"";
  };
  const auto number = [](double v) {
    char s[32];
    std::snprintf(s, sizeof s, "%.5g", v);
    return std::string(v > 0 ? s : "null");
  };
  // The numbers of one core stand for the machine; those of more threads follow.
  std::fprintf(out, "{\"machine\":{\"isa\":%s,\"fmaPeakGflops\":%s,\"bandwidthGBs\":%s,\"byThreads\":[",
               text(auxgrad::isa_name(auxgrad::current_isa())).c_str(), number(roofs[0].gflops).c_str(),
               number(roofs[0].gbs).c_str());
  for (size_t i = 0; i < roofs.size(); i++)
    std::fprintf(out, "%s{\"threads\":%d,\"fmaPeakGflops\":%s,\"bandwidthGBs\":%s}", i ? "," : "", roofs[i].threads,
                 number(roofs[i].gflops).c_str(), number(roofs[i].gbs).c_str());
  std::fprintf(out, "]},\n\"quick\":%s,\n\"peers\":{", o.quick ? "true" : "false");
  for (size_t i = 0; i < blas_libraries().size(); i++)
    std::fprintf(out, "%s%s:%s", i ? "," : "", text(blas_libraries()[i].name).c_str(),
                 text(blas_libraries()[i].version).c_str());
  std::fprintf(out, "},\n\"missing\":[");
  for (size_t i = 0; i < blas_missing().size(); i++)
    std::fprintf(out, "%s%s", i ? "," : "", text(blas_missing()[i]).c_str());
  std::fprintf(out, "],\n\"results\":[");
  for (size_t i = 0; i < results.size(); i++) {
    const Result& r = results[i];
    const Roof& roof = roof_for(r, roofs);
    const bool right = r.speeds[0].wrong.empty();
    const double seconds = right ? r.speeds[0].seconds : 1e30;
    std::fprintf(out,
                 "%s\n{\"group\":%s,\"name\":%s,\"threads\":%d,\"seconds\":%s,\"gflops\":%s,\"gbs\":%s,"
                 "\"fractionOfPeak\":%s,\"peers\":{",
                 i ? "," : "", text(r.group).c_str(), text(r.name).c_str(), r.threads,
                 number(right ? seconds : 0).c_str(), number(r.flops / seconds * 1e-9).c_str(),
                 number(r.bytes / seconds * 1e-9).c_str(), number(speed(r, seconds) / roof_of(r, roof)).c_str());
    std::string wrong;
    for (size_t k = 0; k < r.speeds.size(); k++) {
      const Speed& s = r.speeds[k];
      if (!s.wrong.empty()) wrong += (wrong.empty() ? "" : ",") + text(s.name + ": " + s.wrong);
      if (k == 0) continue;
      std::fprintf(out, "%s%s:%s", k > 1 ? "," : "", text(s.name).c_str(),
                   number(s.wrong.empty() ? speed(r, s.seconds) : 0).c_str());
    }
    std::fprintf(out, "},\"ratioToBestPeer\":%s,\"settled\":%s,\"flops\":%s,\"bytes\":%s,\"roof\":%s,\"wrong\":[%s]}",
                 number(ratio(r)).c_str(), r.settled() ? "true" : "false", number(r.flops).c_str(),
                 number(r.bytes).c_str(), number(roof_of(r, roof)).c_str(), wrong.c_str());
  }
  std::fprintf(out, "\n]}\n");
  if (std::fclose(out) != 0) die("cannot write " + file);
}

int run(const Options& o) {
  // Seconds. run.js adds what the training steps take, about 40 and 200: together they may take 60 and 600.
  const double total = o.quick ? 9 : 340;
  // A machine shared with others is slow for seconds: all cases are seen in some passes, however much alike two of them are.
  const size_t passes = o.quick ? 1 : 6, of_all = 3;
  const auto begin = Clock::now();
  const auto wanted = [&](const Group& g) {
    return o.only.empty() || std::find(o.only.begin(), o.only.end(), g.name) != o.only.end();
  };
  std::vector<int> threads;
  for (int t : o.threads)
    if (t <= static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))) threads.push_back(t);
  if (threads.empty()) threads.push_back(1);

  std::vector<Job> jobs;
  for (const Group& g : groups())
    if (wanted(g))
      for (const Case& c : g.cases) {
        if ((o.quick && !c.quick) || c.name.find(o.match) == std::string::npos) continue;
        Job job = {&g, &c, {}};
        for (int t : threads)
          if (std::find(c.threads.begin(), c.threads.end(), t) != c.threads.end())
            job.results.push_back({g.name, c.name, t, c.flops, c.bytes, c.streams, c.asks && !o.ask.empty(), {}});
        if (!job.results.empty()) jobs.push_back(std::move(job));
      }
  if (o.list) {
    for (const Job& job : jobs)
      for (const Result& r : job.results)
        std::printf("%s: %s, threads %d\n", r.group.c_str(), r.name.c_str(), r.threads);
    return 0;
  }

  std::printf("kernels: %s\n", auxgrad::isa_name(auxgrad::current_isa()));
  for (const Blas& b : blas_libraries()) std::printf("%s: %s\n", b.name.c_str(), b.version.c_str());
  for (const std::string& m : blas_missing()) std::printf("%s\n", m.c_str());
  std::vector<Roof> roofs;
  for (int t : threads) roofs.push_back({t, 0, 0});
  const auto measure_roofs = [&] {
    for (Roof& roof : roofs) {
      roof.gflops = std::max(roof.gflops, fma_peak_gflops(roof.threads));
      roof.gbs = std::max(roof.gbs, bandwidth_gbs(roof.threads));
      std::printf("threads %d: %.1f GF/s multiply-add peak, %.1f GB/s memory\n", roof.threads, roof.gflops, roof.gbs);
    }
  };

  bool wrong = false;
  for (size_t pass = 0; pass < passes; pass++) {
    const auto again = [&](const Job& job) { return pass < of_all || !job.settled(); };
    const int64_t open = std::count_if(jobs.begin(), jobs.end(), again);
    if (pass && (open == 0 || since(begin) > total)) break;
    if (pass)
      std::printf("\npass %zu: %lld of %zu cases to be seen again\n", pass + 1, static_cast<long long>(open),
                  jobs.size());
    measure_roofs();
    int64_t left = open * static_cast<int64_t>(passes - pass);
    const Group* group = nullptr;
    for (Job& job : jobs) {
      if (!again(job)) continue;
      if (pass && since(begin) > total) break;
      if (group != job.group) std::printf("\n%s\n", (group = job.group)->name);
      // What is left is shared among the looks that are to come; a case late in a slow first pass still gets its one.
      const double share = (total - since(begin)) / static_cast<double>(left--);
      measure(job, std::min(0.6 * share, 2.0), o.ask);
      for (const Result& r : job.results) {
        print(r, roofs);
        wrong |= !r.speeds[0].wrong.empty();
      }
    }
  }
  if (!o.json.empty()) write_json(o.json, o, roofs, jobs);
  return wrong ? 1 : 0;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  if (const char* isa = auxgrad::refused_isa())
    bench::die(std::string("this machine has no kernels for AUXGRAD_ISA=") + isa);
  return bench::run(bench::parse(argc, argv));
}
