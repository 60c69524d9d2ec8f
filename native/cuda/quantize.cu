// A few bits an element (Chen et al. 2021, ActNN), in groups of 256. Layout: ../cpu/kernels/quantize.cc.
#include "stream.cuh"

namespace auxgrad {
namespace {

constexpr int kElements = 256;  // of a group: eight for each thread of a warp
constexpr int kOfThread = kElements / 32;

__device__ inline float minimum_of(uint32_t word) { return __uint_as_float(word & 0xffff0000u); }
__device__ inline float range_of(uint32_t word) { return __uint_as_float(word << 16); }

// The bfloat16 next to f towards minus infinity, as the upper half of a word.
__device__ inline uint32_t round_down(float f) {
  const uint32_t bits = __float_as_uint(f), high = bits & 0xffff0000u;
  return high + (bits != high && f < 0 ? 0x10000u : 0u);
}

// A warp a group. Lane l holds elements l + 32 k.
template <int kBits>
__global__ void encode(const float* x, int64_t n, Stream stream, bool random, uint32_t* codes, uint32_t* ranges) {
  constexpr int kWords = 8 * kBits;
  constexpr uint32_t kTop = (1u << kBits) - 1;
  __shared__ uint32_t quantized[kBlock / 32][kElements];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  uint32_t* codes_of = quantized[warp];
  const int64_t groups = ceil_div(n, kElements);
  for (int64_t g = static_cast<int64_t>(blockIdx.x) * (kBlock / 32) + warp; g < groups;
       g += static_cast<int64_t>(gridDim.x) * (kBlock / 32)) {
    float value[kOfThread];
    float low = __int_as_float(0x7f800000), high = -low;
    bool odd = false;
    for (int k = 0; k < kOfThread; k++) {
      const int64_t i = g * kElements + lane + 32 * k;
      value[k] = x[i < n ? i : g * kElements];  // the rest repeats the first element
      low = fminf(low, value[k]);
      high = fmaxf(high, value[k]);
      odd = odd || !(fabsf(value[k]) < __int_as_float(0x7f800000));
    }
    low = warp_reduce(low, [](float a, float b) { return fminf(a, b); });
    high = warp_reduce(high, [](float a, float b) { return fmaxf(a, b); });
    uint32_t word = 0x7fc07fc0u;
    if (!__any_sync(0xffffffffu, odd)) {
      const uint32_t minimum = round_down(low);
      const float range = (high - minimum_of(minimum)) * (1.0f - 1.0f / (1 << 20));
      word = minimum | (range > 0 ? (__float_as_uint(range) + 0xffffu) >> 16 : 0u);
    }
    if (lane == 0) ranges[g] = word;
    const float width = range_of(word), ratio = kTop * 65536.0f / width;
    const bool finite = width < __int_as_float(0x7f800000);
    const float scale = width > 0 && ratio < __int_as_float(0x7f800000) ? ratio : 0.0f;
    // Elements j and j + 128 have the lower and the upper half of word j of the group.
    uint32_t draws[4] = {0x80008000u, 0x80008000u, 0x80008000u, 0x80008000u};
    if (random) stream.words(g * (kElements / 8) + lane, draws);
    __syncwarp();
    for (int k = 0; k < 4; k++) {
      codes_of[4 * lane + k] = draws[k] & 0xffffu;
      codes_of[4 * lane + k + kElements / 2] = draws[k] >> 16;
    }
    __syncwarp();
    for (int k = 0; k < kOfThread; k++) {
      const int i = lane + 32 * k;
      const uint32_t draw = codes_of[i] < 32 ? 32 : codes_of[i] > 65504 ? 65504 : codes_of[i];
      const float level = (value[k] - minimum_of(word)) * scale;
      codes_of[i] = finite ? (static_cast<uint32_t>(static_cast<int32_t>(level)) + draw) >> 16 & kTop : 0;
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
  constexpr int kWords = 8 * kBits;
  constexpr uint32_t kTop = (1u << kBits) - 1;
  for (int64_t i = first_item(); i < n; i += item_step()) {
    const int64_t g = i / kElements;
    const int e = static_cast<int>(i % kElements), j = e % kWords, k = e / kWords;
    const uint32_t code = codes[g * kWords + j] >> (kBits * k) & kTop, range = ranges[g];
    x[i] = static_cast<float>(code) * (range_of(range) * (1.0f / static_cast<float>(kTop))) + minimum_of(range);
  }
}

template <int kBits>
bool quantize_bits(const Call& call) {
  const int64_t n = call.in[0].count();
  const bool random = static_cast<bool>(call.in[1]);
  return launch_items(call, ceil_div(n, kElements) * 32, encode<kBits>, call.in[0].f32(), n,
                      random ? Stream(call.in[1], call.number[1]) : Stream(), random, call.out[0].u32(),
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
