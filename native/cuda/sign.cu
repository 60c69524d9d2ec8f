// One bit an element: packing signs along tokens, and what reads them in backward. Layout: ../cpu/kernels/sign.cc.
#include "elementwise.cuh"

namespace auxgrad {
namespace {

// One thread a word; neighbours read neighbouring channels.
__global__ void pack_words(const float* x, int64_t tokens, int64_t channels, uint32_t* words, int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_step()) {
    const int64_t row = quotient(i, channels), first = row * 32;
    const float* from = x + first * channels + (i - row * channels);
    const int count = static_cast<int>(min64(32, tokens - first));
    uint32_t word = 0;
    if (count == 32) {
#pragma unroll
      for (int t = 0; t < 32; t++) word |= static_cast<uint32_t>(from[t * channels] > 0) << t;
    } else {
      for (int t = 0; t < count; t++) word |= static_cast<uint32_t>(from[t * channels] > 0) << t;
    }
    words[i] = word;
  }
}

// sign_pack: x [..., C] -> signs; bit = x > 0 (zero, -0 and NaN give 0)
bool sign_pack(const Call& call) {
  const View& x = call.in[0];
  const int64_t channels = x.shape[x.rank - 1], tokens = x.count(0, x.rank - 1), n = ceil_div(tokens, 32) * channels;
  return launch_items(call, n, pack_words, x.f32(), tokens, channels, call.out[0].u32(), n);
}

// y = bit ? on(i) : off, on from dy where there is one.
__global__ void read_bits(const uint32_t* words, const float* dy, float on, float off, float* y, int64_t channels,
                          int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_step()) {
    const int64_t t = quotient(i, channels), c = i - t * channels;
    const bool bit = words[t / 32 * channels + c] >> (t % 32) & 1;
    y[i] = bit ? (dy ? dy[i] : on) : off;
  }
}

// sign_unpack: signs -> s [..., C]; numbers: alphabet (0: +1/-1, 1: 1/0), scale
bool sign_unpack(const Call& call) {
  const View& y = call.out[0];
  const float on = call.real(1), off = call.integer(0) ? 0.0f : -on;
  return launch_items(call, y.count(), read_bits, call.in[0].u32(), nullptr, on, off, y.f32(), y.shape[y.rank - 1],
                      y.count());
}

// mask_apply: dy [..., C], mask -> dx = bit ? dy : 0 (backward of ReLU)
bool mask_apply(const Call& call) {
  const View& y = call.out[0];
  return launch_items(call, y.count(), read_bits, call.in[1].u32(), call.in[0].f32(), 0.0f, 0.0f, y.f32(),
                      y.shape[y.rank - 1], y.count());
}

// add_sign: x -> h = x + epsilon s; numbers: epsilon, alphabet
struct AddSign {
  float up, down;
  __device__ float operator()(float x) const { return x + (x > 0 ? up : down); }
};
bool add_sign(const Call& call) {
  const float epsilon = call.real(0);
  return map1<float, float>(call, call.in[0], call.out[0], AddSign{epsilon, call.integer(1) ? 0.0f : -epsilon});
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"sign_pack", sign_pack}, {"sign_unpack", sign_unpack}, {"add_sign", add_sign},
                {"mask_apply", mask_apply})
