// Two bits an element; core/code2.h says which.
#include "../../core/code2.h"
#include "../bypass.h"
#include "../extremes.h"
#include "../sign/pack.h"

namespace auxgrad {
namespace {

// Ranges of up to four groups of n elements: the least and the distance to the largest; NaN, NaN if one of them is NaN.
__attribute__((noinline)) void measure_groups(const float* x, int64_t count, int64_t n, float* ranges) {
  FourExtremes groups[4] = {};
  for (int64_t i = 0; i < count; i++) groups[i] = extremes_of(x + i * n, n);
  const FourExtremes e = each_to_one(groups);
  const FourFloats width = e.largest - e.least;
  for (int i = 0; i < count; i++) ranges[2 * i] = e.least[i], ranges[2 * i + 1] = width[i];
}

// code2_pack: x [..., C] -> codes [ceil(T/16), C], ranges [G, 2]. A group with a NaN has the range NaN, NaN.
bool code2_pack(const Call& call) {
  const View &x = call.in[0], &codes = call.out[0], &ranges = call.out[1];
  const int64_t channels = x.shape[x.rank - 1], tokens = x.count(0, x.rank - 1), words = ceil_div(tokens, 16);
  if (!check_ranges(call, ranges, tokens)) return false;
  const int64_t span = tokens == 0 ? 1 : tokens / ranges.shape[0], grain = max64(4, 1024 / max64(channels, 1));
  const auto measure = [&](int64_t group, int64_t count) {
    measure_groups(x.f32() + group * span * channels, count, span * channels, ranges.f32() + 2 * group);
  };
  if (span > 1)
    parallel_ranges(call, tokens / span, 1, [&](int64_t begin, int64_t end) {
      for (int64_t group = begin; group < end; group++) measure(group, 1);
    });
  parallel_ranges(call, words, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin * 16; t < min64(tokens, end * 16); t += 4) {
      // Four rows stay in the first cache; processors read on from the first lines of the next ones.
      if (span == 1) measure(t, min64(4, tokens - t));
      for (int line = 0; line < 4; line++) __builtin_prefetch(x.f32() + (t + 4) * channels + line * kLineFloats);
      pack_codes(x.f32(), ranges.f32(), span, tokens, channels, codes.u32(), t);
    }
  });
  return true;
}

// code2_unpack: codes, ranges -> x^ [..., C]
bool code2_unpack(const Call& call) {
  const View &codes = call.in[0], &ranges = call.in[1], &y = call.out[0];
  const int64_t channels = y.shape[y.rank - 1], tokens = y.count(0, y.rank - 1);
  if (!check_ranges(call, ranges, tokens)) return false;
  const int64_t span = tokens == 0 ? 1 : tokens / ranges.shape[0];
  const bool past = too_large(y, channels);
  parallel_ranges(call, tokens, max64(1, 16384 / max64(channels, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const float* range = ranges.f32() + 2 * (t / span);
      const uint32_t* words = codes.u32() + t / 16 * channels;
      float* row = y.f32() + t * channels;
      const Vec low = broadcast(range[0]), width = broadcast(range[1]);
      const int32_t at = t % 16 * 2;
      each_vector(0, channels, [&](int64_t c, auto lanes) {
        const IntVec code = (IntVec)lanes.load(reinterpret_cast<const float*>(words + c)) >> at & 3;
        put(past, lanes, row + c, __builtin_convertvector(code, Vec) * width / 3.0f + low);
      });
    }
    if (past) end_bypass();
  });
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"code2_pack", code2_pack}, {"code2_unpack", code2_unpack})
