// One bit an element: packing signs along tokens, and what reads them in backward (Woo & Jeon 2023; spec section 4).
// Layout: u32 words [ceil(T/32), C]; bit t % 32 of word [t / 32][c] is token t of channel c. Unused bits are 0.
#include "../sign/pack.h"

namespace auxgrad {
namespace {

// sign_pack: x [..., C] -> signs; bit = x > 0 (zero, -0 and NaN give 0)
bool sign_pack(const Call& call) {
  const View& x = call.in[0];
  const int64_t channels = x.shape[x.rank - 1], tokens = x.count(0, x.rank - 1);
  parallel_ranges(call, ceil_div(tokens, 32), max64(1, 512 / max64(channels, 1)), [&](int64_t begin, int64_t end) {
    pack_signs(call.in[0].f32(), tokens, channels, call.out[0].u32(), begin, end);
  });
  return true;
}

// sign_unpack: signs -> s [..., C]; numbers: alphabet (0: +1/-1, 1: 1/0), scale
bool sign_unpack(const Call& call) {
  const View& y = call.out[0];
  const int64_t channels = y.shape[y.rank - 1], tokens = y.count(0, y.rank - 1);
  const float on = call.real(1), off = call.integer(0) ? 0.0f : -on;
  parallel_ranges(call, tokens, max64(1, 16384 / max64(channels, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const uint32_t* words = call.in[0].u32() + t / 32 * channels;
      float* s = y.f32() + t * channels;
      for (int64_t c = 0; c < channels; c++) s[c] = words[c] >> (t % 32) & 1 ? on : off;
    }
  });
  return true;
}

// add_sign: x -> h = x + epsilon s; numbers: epsilon, alphabet
bool add_sign(const Call& call) {
  const float epsilon = call.real(0), off = call.integer(1) ? 0.0f : -epsilon;
  parallel_ranges(call, call.out[0].count(), 32768, [&](int64_t begin, int64_t end) {
    const float *x = call.in[0].f32(), up = epsilon, down = off;
    float* h = call.out[0].f32();
    for (int64_t i = begin; i < end; i++) h[i] = x[i] + (x[i] > 0 ? up : down);
  });
  return true;
}

// mask_apply: dy [..., C], mask -> dx = bit ? dy : 0 (backward of ReLU)
bool mask_apply(const Call& call) {
  const View& y = call.out[0];
  const int64_t channels = y.shape[y.rank - 1], tokens = y.count(0, y.rank - 1);
  parallel_ranges(call, tokens, max64(1, 16384 / max64(channels, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const uint32_t* words = call.in[1].u32() + t / 32 * channels;
      const float* dy = call.in[0].f32() + t * channels;
      float* dx = y.f32() + t * channels;
      for (int64_t c = 0; c < channels; c++) dx[c] = words[c] >> (t % 32) & 1 ? dy[c] : 0.0f;
    }
  });
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"sign_pack", sign_pack}, {"sign_unpack", sign_unpack}, {"add_sign", add_sign},
                {"mask_apply", mask_apply})
