// Streams of random words, the same as the processor's (../cpu/stream.h): element i is word i % 4 of the Philox block
// with counter (i / 4, stream, step low, step high).
#pragma once
#include "../core/philox.h"
#include "unit.cuh"

namespace auxgrad {
namespace {

struct Stream {
  const int32_t* key;  // i32[4], in the device's memory
  int64_t key_step;
  uint32_t number;
  int rounds;

  Stream() = default;
  Stream(const View& v, double stream, int rounds = kPhiloxRounds)
      : key(v.i32()),
        key_step(v.stride[0]),
        number(static_cast<uint32_t>(static_cast<int64_t>(stream))),
        rounds(rounds) {}

  // The words of elements 4 block, ... 4 block + 3.
  __device__ void words(int64_t block, uint32_t (&out)[4]) const {
    const uint32_t counter[4] = {static_cast<uint32_t>(block), number, static_cast<uint32_t>(key[2 * key_step]),
                                 static_cast<uint32_t>(key[3 * key_step])};
    Philox{{static_cast<uint32_t>(key[0]), static_cast<uint32_t>(key[key_step])}, rounds}(counter, out);
  }
};

}  // namespace
}  // namespace auxgrad
