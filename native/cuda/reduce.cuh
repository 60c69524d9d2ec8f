// Reductions: many terms to one result for each output, in a fixed order. A reduction is a struct:
//
//   struct Sum {
//     using Part = ...;                       // what is known of some terms; trivially copyable, at most 32 bytes
//     Part none() const;
//     // One more term: at is its offset from the operand's data, t its number among the terms of output o, first the
//     // offset of term 0.
//     void add(Part& p, int64_t o, int64_t at, int64_t t, int64_t first) const;
//     void join(Part& p, const Part& later) const;
//     void finish(const Part& p, int64_t o, int64_t terms, int64_t first) const;  // writes the result
//   };
//
// Terms are cut into chunks by shape alone; the parts of more than one chunk go to scratch. A thread has several loads in
// flight: kInFlight terms, or parts, at a time.
#pragma once
#include "unit.cuh"

namespace auxgrad {
namespace {

constexpr int kInFlight = 8;

// The kept and the reduced axes of an operand.
struct Split {
  Layout kept, reduced;
  int64_t outputs = 1, terms = 1;

  Split(const View& x, const bool (&gone)[kMaxRank]) {
    int64_t size[2][kMaxRank], stride[2][kMaxRank];
    int rank[2] = {};
    for (int axis = 0; axis < x.rank; axis++) {
      const int side = gone[axis];
      size[side][rank[side]] = x.shape[axis];
      stride[side][rank[side]++] = x.stride[axis];
      (side ? terms : outputs) *= x.shape[axis];
    }
    kept = Layout(rank[0], size[0], stride[0]);
    reduced = Layout(rank[1], size[1], stride[1]);
  }
  // Leading axes reduced, the last one kept.
  static Split columns(const View& x) {
    bool gone[kMaxRank] = {};
    for (int axis = 0; axis < x.rank - 1; axis++) gone[axis] = true;
    return Split(x, gone);
  }
  // Neighbours in memory are terms of neighbouring outputs.
  bool across() const {
    return kept.rank > 0 && kept.stride[kept.rank - 1] == 1 &&
           (kept.shape[kept.rank - 1] >= 32 || reduced.rank == 0 || reduced.stride[reduced.rank - 1] != 1);
  }
  // Threads that share the terms of a chunk.
  int lanes() const { return across() || terms <= 8 ? 1 : terms <= 1024 ? 32 : kBlock; }
  // Terms of a chunk: whole rounds of its threads.
  int64_t each() const {
    const int64_t least = across() ? 2 * kInFlight : 2 * kInFlight * kBlock, most = across() ? 1 << 17 : 1 << 10;
    const int64_t chunks = max64(1, min64(ceil_div(terms, least), ceil_div(most, max64(1, outputs))));
    return max64(1, round_up(ceil_div(terms, chunks), kInFlight * lanes()));
  }
  int64_t chunks() const { return max64(1, ceil_div(terms, each())); }
  template <class Op>
  int64_t scratch() const {
    return chunks() > 1 ? round_up(chunks() * outputs * static_cast<int64_t>(sizeof(typename Op::Part)), 64) : 0;
  }
};

// Joins the parts of `lanes` neighbouring threads (a power of two that divides the block); thread 0 of them has the result.
template <class Op>
__device__ inline typename Op::Part join_lanes(const Op& op, typename Op::Part part, int lanes) {
  using Part = typename Op::Part;
  __shared__ alignas(16) char memory[kBlock * sizeof(Part)];
  Part* parts = reinterpret_cast<Part*>(memory);
  if (lanes == 1) return part;
  parts[threadIdx.x] = part;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  for (int half = lanes / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane < half) op.join(parts[threadIdx.x], parts[threadIdx.x + half]);
  }
  return parts[threadIdx.x];
}

template <class Op>
__global__ void __launch_bounds__(kBlock)
    reduce_chunks(Op op, Split s, int64_t chunks, int64_t each, int lanes, typename Op::Part* parts) {
  const int64_t task = static_cast<int64_t>(blockIdx.x) * (kBlock / lanes) + threadIdx.x / lanes;
  const int64_t o = task % s.outputs, chunk = task / s.outputs;
  const bool real = chunk < chunks;
  typename Op::Part part = op.none();
  const int64_t first = s.kept.at(o);
  if (real) {
    const int64_t end = min64(s.terms, (chunk + 1) * each);
    int64_t t = chunk * each + threadIdx.x % lanes;
    if (s.reduced.rank == 1) {
      const int64_t stride = s.reduced.stride[0];
      for (; t + (kInFlight - 1) * lanes < end; t += kInFlight * lanes)
#pragma unroll
        for (int k = 0; k < kInFlight; k++) op.add(part, o, first + (t + k * lanes) * stride, t + k * lanes, first);
    }
    for (; t < end; t += lanes) op.add(part, o, first + s.reduced.at(t), t, first);
  }
  part = join_lanes(op, part, lanes);
  if (!real || threadIdx.x % lanes != 0) return;
  if (chunks > 1) parts[o * chunks + chunk] = part;
  else op.finish(part, o, s.terms, first);
}

// The parts of each output, joined.
template <class Op>
__global__ void __launch_bounds__(kBlock)
    reduce_parts(Op op, Split s, int64_t chunks, int lanes, const typename Op::Part* parts) {
  const int64_t o = static_cast<int64_t>(blockIdx.x) * (kBlock / lanes) + threadIdx.x / lanes;
  const bool real = o < s.outputs;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  typename Op::Part part = op.none();
  // Neighbouring parts to one thread: they are joined in their order.
  const int64_t each = ceil_div(chunks, lanes), end = real ? min64(chunks, (lane + 1) * each) : 0;
  for (int64_t i = lane * each; i < end; i += kInFlight) {
    typename Op::Part some[kInFlight];
#pragma unroll
    for (int k = 0; k < kInFlight; k++) some[k] = i + k < end ? parts[o * chunks + i + k] : op.none();
#pragma unroll
    for (int k = 0; k < kInFlight; k++) op.join(part, some[k]);
  }
  part = join_lanes(op, part, lanes);
  if (real && lane == 0) op.finish(part, o, s.terms, s.kept.at(o));
}

template <class Op>
inline bool reduce(const Call& call, const Split& s, const Op& op, void* scratch) {
  using Part = typename Op::Part;
  static_assert(sizeof(Part) <= 32, "shared memory of a block");
  const int lanes = s.lanes();
  const int64_t chunks = s.chunks();
  const auto blocks = [](int64_t n, int64_t each) { return dim3(static_cast<unsigned>(ceil_div(n, each))); };
  if (!launch(call, reduce_chunks<Op>, blocks(s.outputs * chunks, kBlock / lanes), dim3(kBlock), 0, op, s, chunks,
              s.each(), lanes, static_cast<Part*>(scratch)))
    return false;
  const int joined = chunks <= 4 * 32 ? 32 : kBlock;
  return chunks == 1 || launch(call, reduce_parts<Op>, blocks(s.outputs, kBlock / joined), dim3(kBlock), 0, op, s,
                               chunks, joined, static_cast<const Part*>(scratch));
}

// Sums of doubles, of what `add` says: the usual case.
struct Sums {
  using Part = double;
  __device__ double none() const { return 0; }
  __device__ void join(double& p, const double& later) const { p += later; }
};
struct Two {
  double a, b;
};
struct TwoSums {
  using Part = Two;
  __device__ Two none() const { return {0, 0}; }
  __device__ void join(Two& p, const Two& later) const {
    p.a += later.a;
    p.b += later.b;
  }
};

}  // namespace
}  // namespace auxgrad
