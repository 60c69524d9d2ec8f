// Two bits an element; core/code2.h says which.
#include "../../core/code2.h"
#include "../bypass.h"
#include "../sign/pack.h"

namespace auxgrad {
namespace {

// code2_pack: x [..., C] -> codes [ceil(T/16), C], ranges [G, 2]. A group with a NaN has the range NaN, NaN.
bool code2_pack(const Call& call) {
  const View &x = call.in[0], &codes = call.out[0], &ranges = call.out[1];
  const int64_t channels = x.shape[x.rank - 1], tokens = x.count(0, x.rank - 1), words = ceil_div(tokens, 16);
  if (!check_ranges(call, ranges, tokens)) return false;
  const int64_t span = tokens == 0 ? 1 : tokens / ranges.shape[0], grain = max64(4, 1024 / max64(channels, 1));
  const auto range = [&](int64_t group) {
    range_of(x.f32() + group * span * channels, span * channels, ranges.f32() + 2 * group);
  };
  if (span > 1)
    parallel_ranges(call, tokens / span, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) range(i);
    });
  parallel_ranges(call, words, grain, [&](int64_t begin, int64_t end) {
    for (int64_t w = begin; w < end; w++) {
      if (span == 1)
        for (int64_t t = w * 16; t < min64(tokens, w * 16 + 16); t++) range(t);
      pack_codes(x.f32(), ranges.f32(), span, tokens, channels, codes.u32(), w, w + 1);
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
