// A few bits an element, in groups; core/quantize.h says which.
#include "../core/quantize.h"
#include "stream.cuh"

namespace auxgrad {
namespace {

constexpr int kOfThread = kElements / 32;  // of a warp, which has a group

// A warp a group. Lane l holds elements l + 32 k.
template <int kBits>
__global__ void encode(const float* x, int64_t n, Stream stream, bool random, uint32_t* codes, uint32_t* ranges) {
  constexpr int kWords = Codes<kBits>::kWords;
  constexpr uint32_t kTop = Codes<kBits>::kTop;
  __shared__ uint32_t quantized[kBlock / 32][kElements];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  uint32_t* codes_of = quantized[warp];
  const int64_t groups = ceil_div(n, kElements);
  for (int64_t g = static_cast<int64_t>(blockIdx.x) * (kBlock / 32) + warp; g < groups;
       g += static_cast<int64_t>(gridDim.x) * (kBlock / 32)) {
    float value[kOfThread];
    float low = infinity(), high = -low;
    bool odd = false;
    for (int k = 0; k < kOfThread; k++) {
      const int64_t i = g * kElements + lane + 32 * k;
      value[k] = x[i < n ? i : g * kElements];  // the rest repeats the first element
      low = fminf(low, value[k]);
      high = fmaxf(high, value[k]);
      odd = odd || !(fabsf(value[k]) < infinity());
    }
    low = warp_reduce(low, [](float a, float b) { return fminf(a, b); });
    high = warp_reduce(high, [](float a, float b) { return fmaxf(a, b); });
    const uint32_t word =
        __any_sync(0xffffffffu, odd) ? kNoRange : range_of<float, uint32_t>(bits_of(low + 0.0f), bits_of(high + 0.0f));
    if (lane == 0) ranges[g] = word;
    const float minimum = minimum_of(word), scale = Codes<kBits>::scale(width_of(word));
    const bool far = Codes<kBits>::far(minimum, scale);
    const float origin = Codes<kBits>::origin(far ? 0.0f : minimum, scale, random);
    uint32_t words[4] = {};
    __syncwarp();
    if (lane < kDrawWords / 4) {
      if (random) stream.words(g * (kDrawWords / 4) + lane, words);
      for (int k = 0; k < 4; k++)
        for (int quarter = 0; quarter < 4; quarter++)
          codes_of[4 * lane + k + kDrawWords * quarter] = draw_of(words[k], quarter);
    }
    __syncwarp();
    for (int k = 0; k < kOfThread; k++) {
      uint32_t& code = codes_of[lane + 32 * k];
      const uint32_t place = place_of(far ? value[k] - minimum : value[k], scale, origin);
      code = word == kNoRange ? 0 : code_at(place, code) & kTop;
    }
    __syncwarp();
    for (int j = lane; j < kWords; j += 32) {
      uint32_t packed = 0;
      for (int k = 0; k < 32 / kBits; k++) packed |= codes_of[j + kWords * k] << (kBits * k);
      codes[g * kWords + j] = packed;
    }
  }
}

template <int kBits>
__global__ void decode(const uint32_t* codes, const uint32_t* ranges, float* x, int64_t n) {
  constexpr int kWords = Codes<kBits>::kWords;
  constexpr uint32_t kTop = Codes<kBits>::kTop;
  for (int64_t i = first_item(); i < n; i += item_step()) {
    const int64_t g = i / kElements;
    const int e = static_cast<int>(i % kElements), j = e % kWords, k = e / kWords;
    const uint32_t code = codes[g * kWords + j] >> (kBits * k) & kTop, range = ranges[g];
    x[i] = static_cast<float>(code) * Codes<kBits>::step(width_of(range)) + minimum_of(range);
  }
}

template <int kBits>
bool quantize_bits(const Call& call) {
  const int64_t n = call.in[0].count();
  const bool random = static_cast<bool>(call.in[1]);
  return launch_items(call, ceil_div(n, kElements) * 32, encode<kBits>, call.in[0].f32(), n,
                      random ? Stream(call.in[1], call.number[1], kNoiseRounds) : Stream(), random, call.out[0].u32(),
                      call.out[1].u32());
}
template <int kBits>
bool dequantize_bits(const Call& call) {
  const int64_t n = call.out[0].count();
  return launch_items(call, n, decode<kBits>, call.in[0].u32(), call.in[1].u32(), call.out[0].f32(), n);
}

// quantize: x, key or absent -> codes u32, ranges u32; numbers: bits (2, 4 or 8), stream
bool quantize(const Call& call) {
  switch (call.integer(0)) {
    case 2: return quantize_bits<2>(call);
    case 4: return quantize_bits<4>(call);
    default: return quantize_bits<8>(call);
  }
}

// dequantize: codes, ranges -> x^; numbers: bits
bool dequantize(const Call& call) {
  switch (call.integer(0)) {
    case 2: return dequantize_bits<2>(call);
    case 4: return dequantize_bits<4>(call);
    default: return dequantize_bits<8>(call);
  }
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"quantize", quantize}, {"dequantize", dequantize})
