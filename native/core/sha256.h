// SHA-256 (FIPS 180-4): the checksum of the files that auxgrad writes.
#pragma once
#include <cstddef>
#include <cstdint>

namespace auxgrad {

class Sha256 {
 public:
  static constexpr size_t kBytes = 32;

  void update(const void* data, size_t bytes);
  // The digest of all bytes so far; nothing may follow.
  void finish(uint8_t digest[kBytes]);

 private:
  void block(const uint8_t* p);

  uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint8_t pending_[64] = {};
  size_t used_ = 0;     // of pending_
  uint64_t bytes_ = 0;  // in all
};

}  // namespace auxgrad
