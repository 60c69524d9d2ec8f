// Adam with moments of 8 bits (Dettmers et al. 2022, "8-bit optimizers via block-wise quantization"): blocks of 256
// elements in row-major order, each scaled by its largest magnitude, in a code whose steps grow with the number.
//
// The dynamic code: magnitudes in seven decades, [10^(d - 7), 10^(d - 6)) for d = 0 to 6; decade d is cut into 2^d equal
// parts (2^(d + 1) where there is no sign), a code for the middle of each. One code is 0 and one is 1. Part j of n has
// the number n + j, so that its exponent as a float tells the decade; a sign is bit 7. Numbers go to the nearest code, but
// no square other than 0 to the code of 0: updates divide by its root.
#include "../adam.h"
#include "../conv/vec.h"

namespace auxgrad {
namespace {

constexpr int64_t kBlock = 256;
constexpr int64_t kTogether = 64;  // blocks of a task

typedef uint8_t ByteVec __attribute__((vector_size(kLanes)));

template <bool kSigned>
struct Dynamic {
  static constexpr int32_t kFirst = kSigned ? 1 : 2;   // parts of the first decade, and its first code
  static constexpr int32_t kOne = kSigned ? 0x80 : 1;  // code of 1; that of 0 is 0
  static constexpr float kParts = static_cast<float>(64 * kFirst);
  static constexpr float kTop =
      1.0f - 0.225f / kParts;  // from here on 1 is nearest: the last middle is 0.45 parts below
  static constexpr float kLeast = kSigned ? 0.5e-6f * (0.1f + 0.45f / kFirst) : 1e-45f;  // what is less is 0

  // Between the last middle of decade d - 1 and the first of decade d.
  static constexpr float boundary(int d) {
    float tenth = 1;
    for (int i = d; i < 7; i++) tenth /= 10;
    return tenth * (1.0f + 1.8f / static_cast<float>(kFirst << d));
  }
  // 10^d from the bits of d.
  static Vec power_of_ten(IntVec d) {
    const Vec one = broadcast(1.0f);
    const Vec a = (d & 1) != 0 ? broadcast(10.0f) : one, b = (d & 2) != 0 ? broadcast(100.0f) : one,
              c = (d & 4) != 0 ? broadcast(10000.0f) : one;
    return a * b * c;
  }

  static Vec decode(ByteVec bytes) {
    const IntVec code = __builtin_convertvector(bytes, IntVec), k = kSigned ? code & 127 : code;
    // k = n + j with n a power of two: n is the float's exponent, 1 + j / n what is left of it.
    const IntVec bits = (IntVec) __builtin_convertvector(k, Vec);
    const Vec reciprocal = (Vec)(0x7f000000 - (bits & 0x7f800000)), share = (Vec)((bits & 0x007fffff) | 0x3f800000);
    const IntVec decade = (bits >> 23) - (127 + (kSigned ? 0 : 1));
    const Vec x = power_of_ten(decade) * (0.9e-6f * (share + 0.5f * reciprocal) - 0.8e-6f);
    const Vec magnitude = code == kOne ? broadcast(1.0f) : k < kFirst ? Vec{} : x;
    const IntVec sign = code > 0x80 ? IntVec{} + INT32_MIN : IntVec{};
    return kSigned ? (Vec)((IntVec)magnitude | sign) : magnitude;
  }

  // |x| <= 1 to within rounding; of any other x some code.
  static ByteVec encode(Vec x) {
    const Vec magnitude = (Vec)((IntVec)x & INT32_MAX);
    IntVec decade = {};
    AUXGRAD_UNROLL
    for (int d = 1; d < 7; d++) decade -= magnitude >= boundary(d);
    const IntVec parts = (IntVec{} + kFirst) << decade;
    const Vec n = __builtin_convertvector(parts, Vec);
    // 10^(6 - d) of it lies in [0.1, 1).
    const Vec place = (magnitude * power_of_ten(6 - decade) - 0.1f) * n * (1.0f / 0.9f);
    IntVec j = __builtin_convertvector(place, IntVec);
    j = j < 0 ? IntVec{} : j;
    j = j < parts ? j : parts - 1;
    IntVec code = parts + j;
    if (kSigned) code |= ((IntVec)x >> 24) & 0x80;
    const IntVec one = IntVec{} + kOne;
    code = magnitude >= kTop && (kSigned ? x > 0 : magnitude > 0) ? one : code;
    code = magnitude < kLeast ? IntVec{} : code;
    return __builtin_convertvector(code, ByteVec);
  }
};
using Mean = Dynamic<true>;
using Square = Dynamic<false>;

template <class Code>
void decode_block(const uint8_t* codes, float largest, float* x) {
  for (int64_t i = 0; i < kBlock; i += kLanes) {
    ByteVec bytes;
    memcpy(&bytes, codes + i, kLanes);
    store(x + i, Code::decode(bytes) * largest);
  }
}

// Returns the largest magnitude, by which the codes are scaled: NaN if a number is not finite.
template <class Code>
float encode_block(const float* x, uint8_t* codes) {
  Vec top = {}, odd = {};
  for (int64_t i = 0; i < kBlock; i += kLanes) {
    const Vec v = load(x + i), magnitude = (Vec)((IntVec)v & INT32_MAX);
    top = magnitude > top ? magnitude : top;
    odd += v * 0.0f;
  }
  float largest = 0;
  for (int k = 0; k < kLanes; k++) largest = top[k] > largest ? top[k] : largest;
  if (any_lane(odd != odd)) largest = __builtin_nanf("");
  // What is less than the smallest normal number is nothing.
  if (!(largest >= 1.17549435e-38f)) {
    memset(codes, 0, kBlock);
    return largest != largest ? largest : 0.0f;
  }
  const Vec scale = broadcast(1.0f / largest);
  for (int64_t i = 0; i < kBlock; i += kLanes) {
    const ByteVec bytes = Code::encode(load(x + i) * scale);
    memcpy(codes + i, &bytes, kLanes);
  }
  return largest;
}

// adam8_update: grad, lr [], step [] (f32, counts from 1), grad scale [] or absent -> param, codes of m and of v (u8, of
// its shape), largest f32 [2, blocks] (all in place)
// numbers: beta1, beta2, eps, weight decay, decoupled, as adam_update has them
bool adam8_update(const Call& call) {
  const AdamStep a(call);
  const float* grad = call.in[0].f32();
  float *w = call.out[0].f32(), *largest = call.out[3].f32();
  uint8_t *means = static_cast<uint8_t*>(call.out[1].data), *squares = static_cast<uint8_t*>(call.out[2].data);
  const int64_t n = call.out[0].count(), blocks = ceil_div(n, kBlock);
  parallel_ranges(call, blocks, kTogether, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; b++) {
      const int64_t first = b * kBlock, count = min64(kBlock, n - first);
      float m[kBlock], v[kBlock];
      uint8_t rest[2][kBlock] = {};  // codes of the last block
      uint8_t *mean = means + first, *square = squares + first;
      if (count < kBlock) {
        memcpy(rest[0], mean, static_cast<size_t>(count));
        memcpy(rest[1], square, static_cast<size_t>(count));
        mean = rest[0];
        square = rest[1];
      }
      decode_block<Mean>(mean, largest[b], m);
      decode_block<Square>(square, largest[blocks + b], v);
      a.update(grad + first, w + first, m, v, count);
      largest[b] = encode_block<Mean>(m, mean);
      largest[blocks + b] = encode_block<Square>(v, square);
      if (count < kBlock) {
        memcpy(means + first, mean, static_cast<size_t>(count));
        memcpy(squares + first, square, static_cast<size_t>(count));
      }
    }
  });
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"adam8_update", adam8_update})
