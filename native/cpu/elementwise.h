// Loops over broadcast operands, and the elementary functions in them that the compiler can vectorise.
#pragma once
#include "../core/elementary.h"
#include "../core/elementwise.h"
#include "bypass.h"

namespace auxgrad {
namespace {

// Asks the memory for what is needed soon: while arithmetic is at work, it would rest.
inline void fetch(const void* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(from) + i);
}

// Tells the compiler that no two iterations of the next loop touch the same element: operands are apart or the same.
#if defined(__clang__)
#define AUXGRAD_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define AUXGRAD_INDEPENDENT _Pragma("GCC ivdep")
#endif

// What is done around an elementwise function is compiled once for each instruction set, for operands of bytes: rows,
// buffers and ends. Only the loop itself, over neighbours and whole blocks, is compiled for each function, of which there
// are a hundred, and of a long polynomial every further copy of the loop costs kilobytes.
template <int N>
struct Loop {
  // out[i] = f(in[0][i], .., in[N - 1][i]) for i in [0, n), n a multiple of block; if `past`, which only a loop of `past`
  // is asked for, the stores go past the caches, and what the next calls read is asked for.
  void (*run)(const void* f, const void* const (&in)[N], void* out, int64_t n, bool past);
  const void* f;
  bool past;
  int64_t block, out_size, in_size[N];  // sizes: bytes of an element, 1, 2 or 4
};

constexpr int64_t kGather = 1024;  // elements of a buffer, a multiple of every block
constexpr int64_t kStretch = 256;  // elements of a long row at a time, a multiple of every block
constexpr int64_t kAhead = 512;    // elements

template <class T, class R>
constexpr int64_t kLoopBlock = sizeof(T) == 4 && sizeof(R) == 4 ? 16 : 64;

typedef uint16_t AnyTwoBytes __attribute__((may_alias));
typedef uint32_t AnyFourBytes __attribute__((may_alias));

template <class T>
inline void gather_as(void* buffer, const void* from, int64_t stride, int64_t n) {
  T* to = static_cast<T*>(buffer);
  const T* x = static_cast<const T*>(from);
  if (stride == 0) {
    const T value = *x;
    for (int64_t i = 0; i < n; i++) to[i] = value;
  } else {
    for (int64_t i = 0; i < n; i++) to[i] = x[i * stride];
  }
}
__attribute__((noinline)) inline void gather(void* buffer, const void* from, int64_t size, int64_t stride, int64_t n) {
  if (stride == 1) memcpy(buffer, from, static_cast<size_t>(n * size));
  else if (size == 4) gather_as<AnyFourBytes>(buffer, from, stride, n);
  else if (size == 2) gather_as<AnyTwoBytes>(buffer, from, stride, n);
  else gather_as<uint8_t>(buffer, from, stride, n);
}

// Runs a loop over rows whose outputs follow each other. Short rows, and what is no whole block of a long one, are
// gathered until they fill a buffer.
template <int N>
class Rows {
 public:
  Rows(const Loop<N>& loop, bool past) : loop_(loop), past_(past) {}

  void add(const char* const (&in)[N], const int64_t (&step)[N], char* out, int64_t n) {
    bool strided = false;
    for (int o = 0; o < N; o++) strided = strided || (step[o] != 0 && step[o] != 1);
    int64_t done = 0;
    if (n >= (strided ? kGather + 1 : kGather / 4)) {
      flush();
      done = add_long(in, step, out, n / loop_.block * loop_.block);
    } else if (filled_ + n > kGather) {
      flush();
    }
    if (done == n) return;
    if (filled_ == 0) out_ = out + done * loop_.out_size;
    for (int o = 0; o < N; o++) {
      const int64_t size = loop_.in_size[o];
      gather(buffer(o) + filled_ * size, in[o] + done * step[o] * size, size, step[o], n - done);
    }
    filled_ += n - done;
  }

  __attribute__((noinline)) void flush() {
    if (filled_ == 0) return;
    const int64_t padded = ceil_div(filled_, loop_.block) * loop_.block;
    const void* from[N];
    for (int o = 0; o < N; o++) {
      const int64_t size = loop_.in_size[o];
      from[o] = buffer(o);
      if (padded > filled_) gather(buffer(o) + filled_ * size, buffer(o), size, 0, padded - filled_);
    }
    void* to = padded == filled_ ? out_ : static_cast<void*>(buffer(N));
    loop_.run(loop_.f, from, to, padded, false);
    if (to != out_) memcpy(out_, to, static_cast<size_t>(filled_ * loop_.out_size));
    filled_ = 0;
  }

 private:
  char* buffer(int o) { return reinterpret_cast<char*>(buffer_[o]); }

  // n: whole blocks. The buffers are free. Memory some stretches ahead is asked for: of itself a processor reads ahead
  // to the end of a page, and of a long function the loads behind it start too late.
  __attribute__((noinline)) int64_t add_long(const char* const (&in)[N], const int64_t (&step)[N], char* out,
                                             int64_t n) {
    const bool past = past_ && lines_apart(out, 0), direct = past && loop_.past;
    for (int64_t i = 0; i < n; i += kStretch) {
      const int64_t m = min64(kStretch, n - i);
      const void* from[N];
      for (int o = 0; o < N; o++) {
        const int64_t size = loop_.in_size[o];
        const char* x = in[o] + i * step[o] * size;
        from[o] = step[o] == 1 ? x : buffer(o);
        // A repeated value fills its buffer only once.
        if (step[o] != 1 && (i == 0 || step[o] != 0)) gather(buffer(o), x, size, step[o], m);
        if (step[o] == 1 && !direct) fetch(x + kAhead * size, kStretch * size);
      }
      char* to = out + i * loop_.out_size;
      if (!past) fetch(to + kAhead * loop_.out_size, kStretch * loop_.out_size);
      loop_.run(loop_.f, from, past && !direct ? buffer(N) : to, m, direct);
      if (past && !direct) bypass_copy(to, buffer(N), m * loop_.out_size);
    }
    return n;
  }

  const Loop<N>& loop_;
  const bool past_;  // whole lines of long rows are stored past the caches
  char* out_ = nullptr;
  int64_t filled_ = 0;
  alignas(64) uint32_t buffer_[N + 1][kGather];
};

// The longest rows that all operands allow; y is contiguous.
template <int N>
__attribute__((noinline)) void loop_rows(const Call& call, const View* const (&operands)[N], const View& y,
                                         const Loop<N>& loop) {
  if (y.count() == 0) return;
  const Axes<N> axes(y, operands);
  const int last = axes.rank - 1;
  const int64_t inner = axes.shape[last];
  int64_t step[N];
  for (int o = 0; o < N; o++) step[o] = axes.stride[o][last];
  bool past = too_large(y);
  for (int o = 0; o < N; o++) past = past && operands[o]->data != y.data;  // in place: it has been read
  // Long rows are cut too.
  const int64_t piece = min64(inner, 65536), pieces = ceil_div(inner, piece);
  parallel_ranges(call, y.count() / inner * pieces, max64(1, 32768 / piece), [&](int64_t begin, int64_t end) {
    int64_t index[kMaxRank], offset[N] = {}, rest = begin / pieces, part = begin % pieces;
    for (int axis = last - 1; axis >= 0; axis--) {
      index[axis] = rest % axes.shape[axis];
      rest /= axes.shape[axis];
      for (int o = 0; o < N; o++) offset[o] += index[axis] * axes.stride[o][axis];
    }
    Rows<N> rows(loop, past);
    for (int64_t r = begin; r < end; r++) {
      const int64_t from = part * piece;
      const char* in[N];
      for (int o = 0; o < N; o++)
        in[o] = static_cast<const char*>(operands[o]->data) + (offset[o] + from * step[o]) * loop.in_size[o];
      rows.add(in, step, static_cast<char*>(y.data) + (r / pieces * inner + from) * loop.out_size,
               min64(piece, inner - from));
      if (++part < pieces) continue;
      part = 0;
      for (int axis = last - 1; axis >= 0; axis--) {
        for (int o = 0; o < N; o++) offset[o] += axes.stride[o][axis];
        if (++index[axis] < axes.shape[axis]) break;
        index[axis] = 0;
        for (int o = 0; o < N; o++) offset[o] -= axes.shape[axis] * axes.stride[o][axis];
      }
    }
    rows.flush();
    if (past) end_bypass();
  });
}

// One operand repeats short rows, as a bias over few channels does: the row is repeated to a long one first. False if
// these operands are others.
__attribute__((noinline)) inline bool loop_repeated(const Call& call, const View* const (&operands)[2], const View& y,
                                                    const Loop<2>& loop) {
  const Axes<2> axes(y, operands);
  const auto dense = [&](int o) { return axes.stride[o][0] == axes.shape[1] && axes.stride[o][1] == 1; };
  const auto repeats = [&](int o) { return axes.stride[o][0] == 0 && axes.stride[o][1] == 1; };
  if (axes.rank != 2 || axes.shape[1] > 128 || y.count() == 0 ||
      !((dense(0) && repeats(1)) || (dense(1) && repeats(0))))
    return false;
  const int64_t rows = axes.shape[0], n = axes.shape[1], size = loop.in_size[0];
  const int64_t together = max64(16, kGather / n / 16 * 16);  // rows: whole blocks of 16 elements
  const int same = repeats(1) ? 1 : 0;
  const bool past = too_large(y) && operands[1 - same]->data != y.data;
  parallel_ranges(call, rows, ceil_div(32768 / n, together) * together, [&](int64_t begin, int64_t end) {
    uint32_t buffer[2 * kGather];
    char* repeated = reinterpret_cast<char*>(buffer);
    for (int64_t r = 0; r < min64(together, end - begin); r++)
      memcpy(repeated + r * n * size, operands[same]->data, static_cast<size_t>(n * size));
    const int64_t step[2] = {1, 1};
    Rows<2> all(loop, past);
    for (int64_t r = begin; r < end; r += together) {
      const char* row = static_cast<const char*>(operands[1 - same]->data) + r * n * size;
      const char* const in[2] = {same == 0 ? repeated : row, same == 0 ? row : repeated};
      all.add(in, step, static_cast<char*>(y.data) + r * n * loop.out_size, min64(together, end - r) * n);
    }
    all.flush();
    if (past) end_bypass();
  });
  return true;
}

// What is done with whole vectors by a function that has a form of its own for them.
template <class F>
constexpr Vec (*kOnVector)(Vec) = nullptr;
template <class F>
constexpr Vec (*kOnVectors)(Vec, Vec) = nullptr;

// w[i..] = f(i) for the vectors of a loop. Lines are asked for one by one, and stored as they come: in bursts, arithmetic
// and memory would wait for each other.
template <int N, class F>
inline void run_vectors(const float* const (&in)[N], float* w, int64_t n, bool past, const F& f) {
  if (!past) {
    for (int64_t i = 0; i < n; i += kLanes) store(w + i, f(i));
    return;
  }
  for (int64_t i = 0; i < n; i += kLineFloats) {
    for (int o = 0; o < N; o++) __builtin_prefetch(in[o] + i + kAhead);
    Vec line[kLineFloats / kLanes];
    AUXGRAD_UNROLL
    for (int k = 0; k < kLineFloats / kLanes; k++) line[k] = f(i + k * kLanes);
    AUXGRAD_UNROLL
    for (int k = 0; k < kLineFloats / kLanes; k++) bypass(w + i + k * kLanes, line[k]);
  }
}

template <class T, class R, class F>
inline bool map1(const Call& call, const View& x, const View& y, const F& f) {
  const auto run = [](const void* function, const void* const(&in)[1], void* out, int64_t n, bool past) {
    const F g = *static_cast<const F*>(function);
    const T* u = static_cast<const T*>(in[0]);
    R* w = static_cast<R*>(out);
    n &= -kLoopBlock<T, R>;  // as it is: so the compiler leaves out the loops over what would be left
    if constexpr (kOnVector<F> != nullptr)
      return run_vectors<1>({u}, w, n, past, [&](int64_t i) { return kOnVector<F>(load(u + i)); });
    AUXGRAD_INDEPENDENT
    for (int64_t i = 0; i < n; i++) w[i] = g(u[i]);
  };
  const View* const operands[1] = {&x};
  constexpr bool kPast = kCanBypass && kOnVector<F> != nullptr;
  loop_rows<1>(call, operands, y, {run, &f, kPast, kLoopBlock<T, R>, sizeof(R), {sizeof(T)}});
  return true;
}

template <class T, class R, class F>
inline bool map2(const Call& call, const View& a, const View& b, const View& y, const F& f) {
  const auto run = [](const void* function, const void* const(&in)[2], void* out, int64_t n, bool past) {
    const F g = *static_cast<const F*>(function);
    const T *u = static_cast<const T*>(in[0]), *v = static_cast<const T*>(in[1]);
    R* w = static_cast<R*>(out);
    n &= -kLoopBlock<T, R>;
    if constexpr (kOnVectors<F> != nullptr)
      return run_vectors<2>({u, v}, w, n, past, [&](int64_t i) { return kOnVectors<F>(load(u + i), load(v + i)); });
    AUXGRAD_INDEPENDENT
    for (int64_t i = 0; i < n; i++) w[i] = g(u[i], v[i]);
  };
  const View* const operands[2] = {&a, &b};
  constexpr bool kPast = kCanBypass && kOnVectors<F> != nullptr;
  const Loop<2> loop = {run, &f, kPast, kLoopBlock<T, R>, sizeof(R), {sizeof(T), sizeof(T)}};
  if (!loop_repeated(call, operands, y, loop)) loop_rows<2>(call, operands, y, loop);
  return true;
}

template <class S, class T, class R, class F>
inline bool map3(const Call& call, const View& a, const View& b, const View& c, const View& y, const F& f) {
  constexpr int64_t kBlock = sizeof(S) == 4 ? kLoopBlock<T, R> : 64;
  const auto run = [](const void* function, const void* const(&in)[3], void* out, int64_t n, bool) {
    const F g = *static_cast<const F*>(function);
    const S* s = static_cast<const S*>(in[0]);
    const T *u = static_cast<const T*>(in[1]), *v = static_cast<const T*>(in[2]);
    R* w = static_cast<R*>(out);
    n &= -kBlock;
    AUXGRAD_INDEPENDENT
    for (int64_t i = 0; i < n; i++) w[i] = g(s[i], u[i], v[i]);
  };
  const View* const operands[3] = {&a, &b, &c};
  loop_rows<3>(call, operands, y, {run, &f, false, kBlock, sizeof(R), {sizeof(S), sizeof(T), sizeof(T)}});
  return true;
}

}  // namespace
}  // namespace auxgrad
