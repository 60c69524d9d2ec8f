// The add-on: argument checking and handing over. One Environment per Node environment (main thread or worker), which
// owns all state but the thread pool of the process.
#include <napi.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "../core/device.h"
#include "../core/executor.h"
#include "../core/memory.h"
#include "../core/plan.h"
#include "../cpu/isa.h"

namespace auxgrad {
namespace {

using StorageBox = std::shared_ptr<Storage>;
using PlanBox = std::shared_ptr<const Plan>;

// A device, and the counters of what lies there.
struct DeviceBox {
  std::shared_ptr<Device> device;
  std::shared_ptr<Ledger> ledger = std::make_shared<Ledger>();
};

struct Environment;

// A run in flight: the job and the JavaScript function that learns of its end. Owned by its Environment.
struct Run {
  std::shared_ptr<Executor::Job> job;
  Napi::FunctionReference done;
};

void report_finished(Napi::Env env, Napi::Function, Environment* environment, void*);

struct Environment {
  std::shared_ptr<Ledger> ledger = std::make_shared<Ledger>();
  std::unique_ptr<Executor> executor = std::make_unique<Executor>();
  // Rung by the executor's thread. It carries nothing: what a closing environment leaves unanswered is still owned.
  Napi::TypedThreadSafeFunction<Environment, void, report_finished> bell;
  std::vector<std::unique_ptr<Run>> runs;  // in flight, in order; the event loop stays alive while there are any
  std::mutex mutex;
  int64_t finished = 0;  // of `runs`, from the front: jobs end in the order they were submitted
};

// Environments of this process: when the last one goes, so do the threads of the pool.
std::atomic<int> environments{0};

Environment& environment(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

Napi::Object status_object(Napi::Env env, const Failure& failure) {
  Napi::Object status = Napi::Object::New(env);
  status.Set("code", static_cast<int>(failure.code));
  status.Set("message", failure.message);
  return status;
}

Napi::Object stats_object(Napi::Env env, const RunStats& stats) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("arenaPeak", static_cast<double>(stats.arena_peak));
  object.Set("seconds", stats.seconds);
  return object;
}

template <class Box>
Box& unbox(const Napi::Value& value, const char* what) {
  if (!value.IsExternal()) throw Napi::TypeError::New(value.Env(), std::string("expected a ") + what + " handle");
  return *value.As<Napi::External<Box>>().Data();
}

Storage& live_storage(const Napi::Value& value) {
  StorageBox& box = unbox<StorageBox>(value, "storage");
  if (!box) throw Napi::Error::New(value.Env(), "this storage was released");
  return *box;
}

// Null for undefined or null: the processor.
DeviceBox* device_of(const Napi::Value& value) {
  return value.IsUndefined() || value.IsNull() ? nullptr : &unbox<DeviceBox>(value, "device");
}

std::vector<double> numbers_of(const Napi::Value& value) {
  const auto array = value.As<Napi::Float64Array>();
  return std::vector<double>(array.Data(), array.Data() + array.ElementLength());
}

// --- settings and counters ---

Napi::Value info(const Napi::CallbackInfo& call) {
  Napi::Env env = call.Env();
  Napi::Object object = Napi::Object::New(env);
  object.Set("isa", isa_name(current_isa()));
  Napi::Array available = Napi::Array::New(env);
  for (int i = 0; i < kIsaCount; i++)
    if (isa_available(static_cast<Isa>(i))) available.Set(available.Length(), isa_name(static_cast<Isa>(i)));
  object.Set("isaAvailable", available);
  object.Set("threads", process_pool().threads());
#ifdef __clang__
  object.Set("compiler", "clang " __clang_version__);
#else
  object.Set("compiler", "gcc " __VERSION__);
#endif
  return object;
}

Napi::Value set_isa_js(const Napi::CallbackInfo& call) {
  return Napi::Boolean::New(call.Env(), set_isa(call[0].As<Napi::String>().Utf8Value().c_str()));
}

void set_threads_js(const Napi::CallbackInfo& call) { set_threads(call[0].As<Napi::Number>().Int32Value()); }

// (name, library) -> device handle, or a status object
Napi::Value open_device_js(const Napi::CallbackInfo& call) {
  Napi::Env env = call.Env();
  Failure failure;
  auto device = open_device(call[0].As<Napi::String>().Utf8Value().c_str(), &failure,
                            call[1].As<Napi::String>().Utf8Value().c_str());
  if (!device) return status_object(env, failure);
  auto* box = new DeviceBox();
  box->device = std::move(device);
  return Napi::External<DeviceBox>::New(env, box, [](Napi::Env, DeviceBox* gone) { delete gone; });
}

Napi::Value device_name(const Napi::CallbackInfo& call) {
  return Napi::String::New(call.Env(), unbox<DeviceBox>(call[0], "device").device->name());
}

Napi::Value kernels(const Napi::CallbackInfo& call) {
  Napi::Array names = Napi::Array::New(call.Env());
  for (int f = 0; f < family_count(); f++) {
    const KernelTable& table = family(current_isa(), f);
    for (int i = 0; i < table.count; i++) names.Set(names.Length(), table.rows[i].name);
  }
  return names;
}

// The counters of the processor, or of a device.
const std::shared_ptr<Ledger>& ledger_of(Napi::Env env, const DeviceBox* device) {
  return device ? device->ledger : environment(env).ledger;
}

Napi::Value memory(const Napi::CallbackInfo& call) {
  const Ledger& ledger = *ledger_of(call.Env(), device_of(call[0]));
  Napi::Object object = Napi::Object::New(call.Env());
  object.Set("live", static_cast<double>(ledger.live()));
  object.Set("peak", static_cast<double>(ledger.peak()));
  object.Set("blocks", static_cast<double>(ledger.blocks()));
  object.Set("allocations", static_cast<double>(ledger.allocations()));
  return object;
}

void reset_peak(const Napi::CallbackInfo& call) { ledger_of(call.Env(), device_of(call[0]))->reset_peak(); }

void set_fault(const Napi::CallbackInfo& call) {
  set_allocation_fault(call[0].As<Napi::Number>().Int64Value(), call[1].As<Napi::Boolean>().Value());
}

// --- storage ---

// V8 is told of the bytes that a wrapper really holds, so that its garbage collector knows; of a device it need not.
void report(Napi::Env env, const Storage& storage, int sign) {
  if (!storage.device()) Napi::MemoryManagement::AdjustExternalMemory(env, sign * storage.bytes());
}

void drop_storage(Napi::Env env, StorageBox& box) {
  if (!box) return;
  report(env, *box, -1);
  box.reset();
}

// (bytes, zero, device) -> storage handle, or null if there is no memory
Napi::Value create(const Napi::CallbackInfo& call) {
  Napi::Env env = call.Env();
  const DeviceBox* device = device_of(call[2]);
  auto storage = Storage::create(ledger_of(env, device), call[0].As<Napi::Number>().Int64Value(),
                                 call[1].As<Napi::Boolean>().Value(), device ? device->device : nullptr);
  if (!storage) return env.Null();
  report(env, *storage, 1);
  return Napi::External<StorageBox>::New(env, new StorageBox(std::move(storage)), [](Napi::Env e, StorageBox* box) {
    drop_storage(e, *box);
    delete box;
  });
}

void release(const Napi::CallbackInfo& call) { drop_storage(call.Env(), unbox<StorageBox>(call[0], "storage")); }

// (storage, device) -> status object, or undefined when all is well
Napi::Value move(const Napi::CallbackInfo& call) {
  Napi::Env env = call.Env();
  Storage& storage = live_storage(call[0]);
  const DeviceBox* device = device_of(call[1]);
  Failure failure;
  report(env, storage, -1);
  storage.move(ledger_of(env, device), device ? device->device : nullptr, &failure);
  report(env, storage, 1);
  return failure.failed() ? status_object(env, failure) : env.Undefined();
}

// The bytes of the typed array in `call[2]` (of shared memory too, which Napi::ArrayBuffer refuses) and the storage bytes
// at offset `call[1]` that they go to or come from.
struct Transfer {
  Storage& storage;
  int64_t offset, bytes;
  uint8_t* script;
};

Transfer transfer(const Napi::CallbackInfo& call) {
  Storage& storage = live_storage(call[0]);
  const int64_t offset = call[1].As<Napi::Number>().Int64Value();
  auto array = call[2].As<Napi::Uint8Array>();  // or of another type: it knows its own
  const int64_t bytes = static_cast<int64_t>(array.ByteLength());
  if (offset < 0 || offset > storage.bytes() - bytes)
    throw Napi::RangeError::New(call.Env(), "transfer of " + std::to_string(bytes) + " bytes at " +
                                                std::to_string(offset) + " outside a storage of " +
                                                std::to_string(storage.bytes()));
  return {storage, offset, bytes, array.Data()};
}

void write(const Napi::CallbackInfo& call) {
  const Transfer t = transfer(call);
  Failure failure;
  if (!t.storage.write(t.script, t.offset, t.bytes, &failure)) throw Napi::Error::New(call.Env(), failure.message);
}

void read(const Napi::CallbackInfo& call) {
  const Transfer t = transfer(call);
  Failure failure;
  if (!t.storage.read(t.script, t.offset, t.bytes, &failure)) throw Napi::Error::New(call.Env(), failure.message);
}

// --- eager calls ---

// The operands of one call on live storages.
struct EagerCall {
  std::string name;
  const Kernel* kernel = nullptr;
  std::vector<View> views;
  std::vector<double> numbers;
  FixedThreads threads{process_pool(), process_pool().threads()};
  Call call;
  Failure failure;
};

// Decodes (name, operand words, inputs, numbers); `data(buffer)` gives a buffer's address and size.
template <class Data>
bool decode_call(EagerCall& eager, const Device* device, const Napi::Value& name, const Napi::Value& words,
                 const Napi::Value& inputs, const Napi::Value& numbers, const Data& data) {
  eager.name = name.As<Napi::String>().Utf8Value();
  eager.kernel = device ? device->find_kernel(eager.name.c_str()) : find_kernel(eager.name.c_str());
  if (!eager.kernel)
    return eager.failure.set(ErrorCode::no_kernel, "no %s kernel named \"%s\"", device ? "CUDA" : "CPU",
                             eager.name.c_str());
  const auto array = words.As<Napi::Float64Array>();
  const int64_t count = static_cast<int64_t>(array.ElementLength());
  int64_t at = 0;
  while (at < count) {
    Operand o;
    if (!decode_operand(array.Data(), count, &at, &o) || eager.views.size() >= 2 * kMaxOperands)
      return eager.failure.set(ErrorCode::bad_plan, "%s: malformed operands", eager.name.c_str());
    if (o.buffer >= 0 && !data(o))
      return eager.failure.set(ErrorCode::bad_plan, "%s: operand outside its memory", eager.name.c_str());
    eager.views.push_back(o.view);
  }
  eager.numbers = numbers_of(numbers);
  const int64_t n_in = inputs.As<Napi::Number>().Int64Value();
  if (n_in < 0 || n_in > static_cast<int64_t>(eager.views.size()))
    return eager.failure.set(ErrorCode::bad_plan, "%s: more inputs than operands", eager.name.c_str());
  eager.call.in = eager.views.data();
  eager.call.n_in = static_cast<int>(n_in);
  eager.call.out = eager.views.data() + n_in;
  eager.call.n_out = static_cast<int>(eager.views.size()) - eager.call.n_in;
  eager.call.number = eager.numbers.data();
  eager.call.n_number = static_cast<int>(eager.numbers.size());
  eager.call.pool = &eager.threads;
  eager.call.failure = &eager.failure;
  return true;
}

// (kernel, operand words, handles, inputs, numbers) -> status object, or undefined when all is well
Napi::Value call_kernel(const Napi::CallbackInfo& call) {
  Napi::Env env = call.Env();
  const auto handles = call[2].As<Napi::Array>();
  EagerCall eager;
  const bool decoded = decode_call(eager, nullptr, call[0], call[1], call[3], call[4], [&](Operand& o) {
    if (o.buffer >= static_cast<int32_t>(handles.Length())) return false;
    Storage& storage = live_storage(handles.Get(static_cast<uint32_t>(o.buffer)));
    o.view.data = storage.data() + o.byte_offset;
    return !storage.device() && o.end_byte() <= storage.bytes();
  });
  if (!decoded) return status_object(env, eager.failure);
  std::shared_ptr<Storage> scratch;
  const int64_t bytes = eager.kernel->scratch ? eager.kernel->scratch(eager.call, eager.call.pool->threads()) : 0;
  if (bytes > 0) {
    scratch = Storage::create(environment(env).ledger, bytes, false);
    if (!scratch) {
      eager.failure.set(ErrorCode::out_of_memory, "%s: the system has no %lld bytes of scratch to give",
                        eager.name.c_str(), static_cast<long long>(bytes));
      return status_object(env, eager.failure);
    }
    eager.call.scratch = scratch->data();
  }
  if (eager.kernel->run(eager.call)) return env.Undefined();
  if (!eager.failure.failed()) eager.failure.set(ErrorCode::invalid_argument, "%s failed", eager.name.c_str());
  return status_object(env, eager.failure);
}

// (kernel, operand words, inputs, numbers, device) -> bytes of scratch that the call would need, or a status object
Napi::Value scratch_bytes(const Napi::CallbackInfo& call) {
  EagerCall eager;
  const DeviceBox* device = device_of(call[4]);
  const bool decoded =
      decode_call(eager, device ? device->device.get() : nullptr, call[0], call[1], call[2], call[3], [](Operand& o) {
        o.view.data = reinterpret_cast<void*>(kAlignment);  // present; never read
        return true;
      });
  if (!decoded) return status_object(call.Env(), eager.failure);
  const int threads = device ? 1 : eager.call.pool->threads();
  const int64_t bytes = eager.kernel->scratch ? eager.kernel->scratch(eager.call, threads) : 0;
  return Napi::Number::New(call.Env(), static_cast<double>(bytes));
}

// --- plans ---

// (words, kernel names, handles of buffers 1..., device) -> plan handle, or a status object
Napi::Value make_plan(const Napi::CallbackInfo& call) {
  Napi::Env env = call.Env();
  const auto words = call[0].As<Napi::Float64Array>();
  const auto names = call[1].As<Napi::Array>();
  const auto handles = call[2].As<Napi::Array>();
  std::vector<std::string> kernels;
  for (uint32_t i = 0; i < names.Length(); i++) kernels.push_back(names.Get(i).As<Napi::String>().Utf8Value());
  std::vector<StorageBox> buffers(1);
  for (uint32_t i = 0; i < handles.Length(); i++) {
    live_storage(handles.Get(i));
    buffers.push_back(unbox<StorageBox>(handles.Get(i), "storage"));
  }
  Failure failure;
  const DeviceBox* device = device_of(call[3]);
  auto plan = Plan::decode(words.Data(), static_cast<int64_t>(words.ElementLength()), kernels, std::move(buffers),
                           &failure, Scratch::as_planned, device ? device->device : nullptr);
  if (!plan) return status_object(env, failure);
  return Napi::External<PlanBox>::New(env, new PlanBox(std::move(plan)), [](Napi::Env, PlanBox* box) { delete box; });
}

void release_plan(const Napi::CallbackInfo& call) { unbox<PlanBox>(call[0], "plan").reset(); }

const PlanBox& live_plan(const Napi::Value& value) {
  PlanBox& box = unbox<PlanBox>(value, "plan");
  if (!box) throw Napi::Error::New(value.Env(), "this plan was released");
  return box;
}

// On the JavaScript thread; env is null if the environment is going away.
void report_finished(Napi::Env env, Napi::Function, Environment* environment, void*) {
  if (static_cast<napi_env>(env) == nullptr) return;
  Napi::HandleScope scope(env);
  Environment& e = *environment;
  std::vector<std::unique_ptr<Run>> ended;
  {
    std::lock_guard<std::mutex> lock(e.mutex);
    for (; e.finished > 0; e.finished--) {
      ended.push_back(std::move(e.runs.front()));
      e.runs.erase(e.runs.begin());
    }
  }
  if (!ended.empty() && e.runs.empty()) e.bell.Unref(env);
  std::unique_ptr<Napi::Error> thrown;  // by a callback: the others are still told
  for (const auto& run : ended) {
    const Executor::Job& job = *run->job;
    try {
      run->done.Call({status_object(env, job.failure), stats_object(env, job.stats)});
    } catch (const Napi::Error& error) {
      thrown = std::make_unique<Napi::Error>(error);
    }
  }
  if (thrown) throw *thrown;
}

// (plan, arena, done(status, stats)) -> job handle, or a status object if it could not start
Napi::Value run(const Napi::CallbackInfo& call) {
  Napi::Env env = call.Env();
  Environment& e = environment(env);
  auto job = std::make_shared<Executor::Job>();
  job->plan = live_plan(call[0]);
  live_storage(call[1]);
  job->arena = unbox<StorageBox>(call[1], "storage");
  job->done = [&e] {
    std::lock_guard<std::mutex> lock(e.mutex);
    e.finished++;
    e.bell.NonBlockingCall();
  };
  auto record = std::make_unique<Run>(Run{job, Napi::Persistent(call[2].As<Napi::Function>())});
  using JobBox = std::shared_ptr<Executor::Job>;
  const Napi::Value handle =
      Napi::External<JobBox>::New(env, new JobBox(job), [](Napi::Env, JobBox* box) { delete box; });
  {
    std::lock_guard<std::mutex> lock(e.mutex);
    e.runs.push_back(std::move(record));
  }
  if (!e.executor->submit(job)) {
    std::lock_guard<std::mutex> lock(e.mutex);
    e.runs.pop_back();
    return status_object(env, job->failure);
  }
  if (e.runs.size() == 1) e.bell.Ref(env);
  return handle;
}

void abort_run(const Napi::CallbackInfo& call) {
  unbox<std::shared_ptr<Executor::Job>>(call[0], "job")->abort.store(kStopUnchanged);
}

Napi::Value run_sync(const Napi::CallbackInfo& call) {
  const PlanBox plan = live_plan(call[0]);
  Failure failure;
  RunStats stats;
  plan->run(live_storage(call[1]), process_pool(), nullptr, &failure, &stats);
  Napi::Object result = Napi::Object::New(call.Env());
  result.Set("status", status_object(call.Env(), failure));
  result.Set("stats", stats_object(call.Env(), stats));
  return result;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto* e = new Environment();
  env.SetInstanceData(e);
  // What looks for handles that keep a process alive (jest --detectOpenHandles) asks them as it asks timers.
  Napi::Object resource = Napi::Object::New(env);
  resource.Set("hasRef", Napi::Function::New(env, [e](const Napi::CallbackInfo& call) -> Napi::Value {
                 return Napi::Boolean::New(call.Env(), !e->runs.empty());
               }));
  e->bell = decltype(e->bell)::New(env, resource, "auxgrad", 0, 1, e);
  e->bell.Unref(env);
  environments++;
  // Hooks run last in, first out: before the hook of the thread-safe function, so that no thread of ours can call it
  // after its end (an abort in Node up to 24.13), and before the finalisers, so that no run holds what they free.
  env.AddCleanupHook(
      [](Environment* gone) {
        gone->executor.reset();
        gone->runs.clear();
        if (--environments == 0) rest_threads();
      },
      e);

  const auto add = [&](const char* name, auto function) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
  add("info", info);
  add("setIsa", set_isa_js);
  add("setThreads", set_threads_js);
  add("kernels", kernels);
  add("memory", memory);
  add("resetPeak", reset_peak);
  add("setFault", set_fault);
  add("openDevice", open_device_js);
  add("deviceName", device_name);
  add("create", create);
  add("release", release);
  add("move", move);
  add("write", write);
  add("read", read);
  add("call", call_kernel);
  add("scratch", scratch_bytes);
  add("plan", make_plan);
  add("planRelease", release_plan);
  add("run", run);
  add("abort", abort_run);
  add("runSync", run_sync);
  return exports;
}

}  // namespace
}  // namespace auxgrad

static Napi::Object init_addon(Napi::Env env, Napi::Object exports) { return auxgrad::init(env, exports); }
NODE_API_MODULE(auxgrad, init_addon)
