// One bit an element: packing signs along tokens, and what reads them in backward (Woo & Jeon 2023; spec section 4).
// Layout: u32 words [ceil(T/32), C]; bit t % 32 of word [t / 32][c] is token t of channel c. Unused bits are 0.
#include "../bypass.h"
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

template <class Lanes>
inline IntVec load_words(const uint32_t* p, Lanes lanes) {
  return (IntVec)lanes.load(reinterpret_cast<const float*>(p));
}

// sign_unpack: signs -> s [..., C]; numbers: alphabet (0: +1/-1, 1: 1/0), scale
bool sign_unpack(const Call& call) {
  const View& y = call.out[0];
  const int64_t channels = y.shape[y.rank - 1], tokens = y.count(0, y.rank - 1);
  const Vec on = broadcast(call.real(1)), off = call.integer(0) ? Vec{} : -on;
  const bool past = too_large(y, channels);
  parallel_ranges(call, tokens, max64(1, 16384 / max64(channels, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const uint32_t* words = call.in[0].u32() + t / 32 * channels;
      float* s = y.f32() + t * channels;
      const IntVec mark = IntVec{} + static_cast<int32_t>(1u << t % 32);
      each_vector(0, channels, [&](int64_t c, auto lanes) {
        put(past, lanes, s + c, (load_words(words + c, lanes) & mark) != 0 ? on : off);
      });
    }
    if (past) end_bypass();
  });
  return true;
}

// add_sign: x -> h = x + epsilon s; numbers: epsilon, alphabet
bool add_sign(const Call& call) {
  const Vec up = broadcast(call.real(0)), down = call.integer(1) ? Vec{} : -up;
  const bool past = too_large(call.out[0], kLanes) && call.in[0].data != call.out[0].data;
  parallel_ranges(call, call.out[0].count(), 32768, [&](int64_t begin, int64_t end) {
    const float* x = call.in[0].f32();
    float* h = call.out[0].f32();
    each_vector(begin, end, [&](int64_t i, auto lanes) {
      const Vec v = lanes.load(x + i);
      put(past, lanes, h + i, add_signs(v, up, down));
    });
    if (past) end_bypass();
  });
  return true;
}

// mask_apply: dy [..., C], mask -> dx = bit ? dy : 0 (backward of ReLU)
bool mask_apply(const Call& call) {
  const View& y = call.out[0];
  const int64_t channels = y.shape[y.rank - 1], tokens = y.count(0, y.rank - 1);
  const bool past = too_large(y, channels) && y.data != call.in[0].data;
  parallel_ranges(call, tokens, max64(1, 16384 / max64(channels, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const uint32_t* words = call.in[1].u32() + t / 32 * channels;
      const float* dy = call.in[0].f32() + t * channels;
      float* dx = y.f32() + t * channels;
      const IntVec mark = IntVec{} + static_cast<int32_t>(1u << t % 32);
      each_vector(0, channels, [&](int64_t c, auto lanes) {
        put(past, lanes, dx + c, (load_words(words + c, lanes) & mark) != 0 ? lanes.load(dy + c) : Vec{});
      });
    }
    if (past) end_bypass();
  });
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"sign_pack", sign_pack}, {"sign_unpack", sign_unpack}, {"add_sign", add_sign},
                {"mask_apply", mask_apply})
