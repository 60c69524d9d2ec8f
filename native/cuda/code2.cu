// Two bits an element; core/code2.h says which.
#include "../core/code2.h"
#include "reduce.cuh"

namespace auxgrad {
namespace {

// The least element and the distance to the largest; NaN, NaN if one of them is NaN.
struct Bounds {
  float low, high;
};
struct Range {
  using Part = Bounds;
  const float* x;
  float* ranges;
  __device__ Bounds none() const { return {infinity(), -infinity()}; }
  __device__ void join(Bounds& p, const Bounds& q) const {
    if (q.low < p.low || q.low != q.low) p.low = q.low;
    if (q.high > p.high) p.high = q.high;
  }
  __device__ void add(Bounds& p, int64_t, int64_t at, int64_t, int64_t) const { join(p, {x[at], x[at]}); }
  __device__ void finish(const Bounds& p, int64_t o, int64_t, int64_t) const {
    const bool nan = p.low != p.low;
    ranges[2 * o] = p.low;
    ranges[2 * o + 1] = nan ? p.low : p.high - p.low;
  }
};

__global__ void pack_codes(const float* x, const float* ranges, int64_t span, int64_t tokens, int64_t channels,
                           uint32_t* words, int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_step()) {
    const int64_t row = quotient(i, channels), c = i - row * channels;
    const int count = static_cast<int>(min64(16, tokens - row * 16));
    uint32_t word = 0;
    for (int t = 0; t < count; t++) {
      const int64_t token = row * 16 + t;
      const float *range = ranges + 2 * quotient(token, span), scale = code_scale(range);
      word |= code_of(x[token * channels + c], range[0], scale) << (2 * t);
    }
    words[i] = word;
  }
}

// Spans of tokens as rows.
Split groups_of(const View& x, int64_t groups) {
  View v;
  v.rank = 2;
  v.shape[0] = groups;
  v.shape[1] = v.stride[0] = x.count() / max64(groups, 1);
  v.stride[1] = 1;
  const bool gone[kMaxRank] = {false, true};
  return Split(v, gone);
}
int64_t pack_scratch(const Call& call, int) {
  const View& ranges = call.out[1];
  return groups_of(call.in[0], ranges.rank > 0 ? ranges.shape[0] : 0).scratch<Range>();
}

// code2_pack: x [..., C] -> codes [ceil(T/16), C], ranges [G, 2]
bool code2_pack(const Call& call) {
  const View &x = call.in[0], &ranges = call.out[1];
  const int64_t channels = x.shape[x.rank - 1], tokens = x.count(0, x.rank - 1), n = ceil_div(tokens, 16) * channels;
  if (!check_ranges(call, ranges, tokens)) return false;
  if (tokens == 0) return true;
  return reduce(call, groups_of(x, ranges.shape[0]), Range{x.f32(), ranges.f32()}, call.scratch) &&
         launch_items(call, n, pack_codes, x.f32(), ranges.f32(), tokens / ranges.shape[0], tokens, channels,
                      call.out[0].u32(), n);
}

__global__ void unpack_codes(const uint32_t* words, const float* ranges, int64_t span, int64_t channels, float* y,
                             int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_step()) {
    const int64_t t = quotient(i, channels), c = i - t * channels;
    const float* range = ranges + 2 * quotient(t, span);
    y[i] = static_cast<float>(words[t / 16 * channels + c] >> (t % 16 * 2) & 3u) * range[1] / 3.0f + range[0];
  }
}

// code2_unpack: codes, ranges -> x^ [..., C]
bool code2_unpack(const Call& call) {
  const View &ranges = call.in[1], &y = call.out[0];
  const int64_t channels = y.shape[y.rank - 1], tokens = y.count(0, y.rank - 1);
  if (!check_ranges(call, ranges, tokens)) return false;
  const int64_t span = tokens == 0 ? 1 : tokens / ranges.shape[0];
  return launch_items(call, y.count(), unpack_codes, call.in[0].u32(), ranges.f32(), span, channels, y.f32(),
                      y.count());
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"code2_pack", code2_pack, pack_scratch}, {"code2_unpack", code2_unpack})
