// The CUDA device behind ../core/device.h: memory, copies, marks and the table of kernels.
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "../core/device.h"

// Written by the build: AUXGRAD_FAMILY_ROW(name) for each of the other sources here.
namespace auxgrad {
#define AUXGRAD_FAMILY_ROW(family) extern const KernelTable kernels_cuda_##family;
#include "cuda_families.inc"
#undef AUXGRAD_FAMILY_ROW
namespace {

#define AUXGRAD_FAMILY_ROW(family) &kernels_cuda_##family,
const KernelTable* const kFamilies[] = {
#include "cuda_families.inc"
};
#undef AUXGRAD_FAMILY_ROW

bool good(cudaError_t error, Failure* failure) {
  if (error == cudaSuccess) return true;
  return failure->set(ErrorCode::invalid_argument, "CUDA: %s", cudaGetErrorString(error));
}

class Graph : public Recording {
 public:
  Graph(cudaGraphExec_t graph, cudaStream_t stream) : graph_(graph), stream_(stream) {}
  ~Graph() override { cudaGraphExecDestroy(graph_); }
  bool launch(Failure* failure) override { return good(cudaGraphLaunch(graph_, stream_), failure); }

 private:
  cudaGraphExec_t graph_;
  cudaStream_t stream_;
};

class CudaDevice : public Device {
 public:
  void lock() override {
    mutex_.lock();
    cudaSetDevice(index_);  // of each thread its own
  }
  void unlock() override { mutex_.unlock(); }

  bool open(int32_t index, Failure* failure) {
    index_ = index;
    cudaDeviceProp facts;
    if (!good(cudaSetDevice(index), failure) || !good(cudaGetDeviceProperties(&facts, index), failure) ||
        !good(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), failure) ||
        !good(cudaMalloc(&fault_, sizeof(Fault)), failure))
      return false;
    live_ = peak_ = sizeof(Fault);
    snprintf(name_, sizeof name_, "%s (CUDA %d.%d, %.1f GB)", facts.name, facts.major, facts.minor,
             static_cast<double>(facts.totalGlobalMem) / 1e9);
    return true;
  }
  ~CudaDevice() override {
    for (cudaEvent_t e : events_)
      if (e) cudaEventDestroy(e);
    if (fault_) cudaFree(fault_);
    if (stream_) cudaStreamDestroy(stream_);
  }

  const char* name() const override { return name_; }
  const Kernel* find_kernel(const char* name) const override {
    for (const KernelTable* table : kFamilies)
      for (int i = 0; i < table->count; i++)
        if (strcmp(table->rows[i].name, name) == 0) return &table->rows[i];
    return nullptr;
  }

  void* allocate(int64_t bytes) override {
    void* p = nullptr;
    if (cudaMalloc(&p, static_cast<size_t>(bytes)) != cudaSuccess) {
      cudaGetLastError();  // it is reported by the null
      return nullptr;
    }
    sizes_[p] = bytes;
    live_ += bytes;
    if (live_ > peak_) peak_ = live_;
    return p;
  }
  void release(void* p) override {
    cudaStreamSynchronize(stream_);
    cudaFree(p);
    live_ -= sizes_[p];
    sizes_.erase(p);
  }
  int64_t live_bytes() const override { return live_; }
  int64_t peak_bytes() const override { return peak_; }
  int64_t free_bytes() override {
    size_t free = 0, total = 0;
    return cudaMemGetInfo(&free, &total) == cudaSuccess ? static_cast<int64_t>(free) : 0;
  }

  bool copy(void* to, const void* from, int64_t bytes, Failure* failure) override {
    if (bytes == 0) return true;
    if (!good(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream_), failure)) return false;
    return true;  // the driver has copied memory that is not pinned when it returns
  }
  void pin(void* p, int64_t bytes) override {
    if (cudaHostRegister(p, static_cast<size_t>(bytes), cudaHostRegisterDefault) != cudaSuccess) cudaGetLastError();
  }
  void unpin(void* p) override {
    cudaStreamSynchronize(stream_);
    if (cudaHostUnregister(p) != cudaSuccess) cudaGetLastError();  // it was not pinned
  }
  bool fill(void* to, uint8_t byte, int64_t bytes, Failure* failure) override {
    return good(cudaMemsetAsync(to, byte, static_cast<size_t>(bytes), stream_), failure);
  }
  bool wait(Failure* failure) override { return good(cudaStreamSynchronize(stream_), failure); }

  void* stream() const override { return stream_; }
  Fault* fault() const override { return fault_; }

  bool record(Failure* failure) override {
    pieces_.clear();
    return good(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), failure);
  }
  bool piece(const std::vector<int32_t>& after, Failure* failure) override {
    if (!end_piece(failure)) return false;
    std::vector<cudaGraphNode_t> nodes;
    nodes.reserve(1);  // never null
    for (int32_t i : after)
      for (cudaGraphNode_t node : pieces_[static_cast<size_t>(i)])
        if (std::find(nodes.begin(), nodes.end(), node) == nodes.end()) nodes.push_back(node);
    pieces_.emplace_back();
    return good(cudaStreamUpdateCaptureDependencies(stream_, nodes.data(), nullptr, nodes.size(),
                                                    cudaStreamSetCaptureDependencies),
                failure);
  }
  std::unique_ptr<Recording> recorded(Failure* failure) override {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    if (!good(cudaStreamEndCapture(stream_, &graph), failure)) return nullptr;
    // Uploaded now: what memory the driver needs for it is taken before the first launch.
    const bool ok = good(cudaGraphInstantiate(&ready, graph, 0), failure);
    cudaGraphDestroy(graph);
    if (!ok) return nullptr;
    auto result = std::make_unique<Graph>(ready, stream_);
    return good(cudaGraphUpload(ready, stream_), failure) ? std::move(result) : nullptr;
  }

  bool mark(int64_t index, Failure* failure) override {
    if (static_cast<size_t>(index) >= events_.size()) events_.resize(static_cast<size_t>(index) + 1);
    cudaEvent_t& event = events_[static_cast<size_t>(index)];
    if (!event && !good(cudaEventCreate(&event), failure)) return false;
    return good(cudaEventRecord(event, stream_), failure);
  }
  double seconds(int64_t from, int64_t to) override {
    float ms = 0;
    cudaEventElapsedTime(&ms, events_[static_cast<size_t>(from)], events_[static_cast<size_t>(to)]);
    return 1e-3 * static_cast<double>(ms);
  }

 private:
  // What must be done before the last piece is.
  bool end_piece(Failure* failure) {
    if (pieces_.empty()) return true;
    cudaStreamCaptureStatus status;
    const cudaGraphNode_t* nodes = nullptr;
    size_t count = 0;
    if (!good(cudaStreamGetCaptureInfo(stream_, &status, nullptr, nullptr, &nodes, nullptr, &count), failure))
      return false;
    pieces_.back().assign(nodes, nodes + count);
    return true;
  }

  std::recursive_mutex mutex_;
  int index_ = 0;
  char name_[320] = {};
  cudaStream_t stream_ = nullptr;
  Fault* fault_ = nullptr;
  std::vector<cudaEvent_t> events_;
  std::vector<std::vector<cudaGraphNode_t>> pieces_;  // of the recording, the last nodes of each
  std::unordered_map<void*, int64_t> sizes_;
  int64_t live_ = 0, peak_ = 0;
};

}  // namespace
}  // namespace auxgrad

extern "C" __attribute__((visibility("default"))) auxgrad::Device* auxgrad_open_device(int32_t version, int32_t index,
                                                                                       auxgrad::Failure* failure) {
  if (version != auxgrad::kDeviceVersion) {
    failure->set(auxgrad::ErrorCode::invalid_argument, "CUDA: its library is of another version of auxgrad");
    return nullptr;
  }
  // All kernels are loaded now: the memory that they take, and the time, are not part of the first step.
  setenv("CUDA_MODULE_LOADING", "EAGER", 1);
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || index >= count) {
    failure->set(auxgrad::ErrorCode::invalid_argument, "CUDA: %s",
                 error == cudaErrorInsufficientDriver ? "this machine has no driver for it, or an old one"
                 : error != cudaSuccess               ? cudaGetErrorString(error)
                                                      : "this machine has no such device");
    return nullptr;
  }
  auto* device = new auxgrad::CudaDevice();
  if (device->open(index, failure)) return device;
  delete device;
  return nullptr;
}
