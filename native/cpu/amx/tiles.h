// The AMX matrix unit: eight registers ("tiles") of 16 rows of 64 bytes.
#pragma once
#include "../isa.h"
#include "../unit.h"

#if defined(__AVX512F__) && defined(__linux__) && defined(__has_include)
#if __has_include(<amxbf16intrin.h>)
#define AUXGRAD_HAS_AMX 1
#endif
#endif

#if defined(AUXGRAD_HAS_AMX)
#include <immintrin.h>

// GCC bug 105593: its own intrinsics' undefined operands.
#pragma GCC diagnostic ignored "-Wuninitialized"

#define AUXGRAD_AMX __attribute__((target("amx-tile,amx-int8,amx-bf16,avx512vbmi")))

// On a machine shared with others, tile instructions less than seven others apart are at times executed one by one, at 40 %
// of the speed (measured; as it seems, while the core's other thread is in use). So these go between them.
#define AUXGRAD_APART __asm__ volatile("nop\n nop\n nop\n nop\n nop\n nop\n nop")
// A load is several instructions by itself.
#define AUXGRAD_TILE_LOAD(tile, from, stride) \
  do {                                        \
    _tile_loadd(tile, from, stride);          \
    __asm__ volatile("nop\n nop");            \
  } while (0)

namespace auxgrad {
namespace {

constexpr int kTileBytes = 1024;

// To GCC the tile intrinsics do not read memory: what was written before must be written by here.
inline void memory_barrier() { __asm__ volatile("" ::: "memory"); }

struct alignas(64) TileConfig {
  uint8_t palette, start, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

// Before the first use of a tile in a task; stop_tiles() after the last.
AUXGRAD_AMX inline void start_tiles() {
  TileConfig config;
  memset(&config, 0, sizeof(config));
  config.palette = 1;
  for (int i = 0; i < 8; i++) config.row_bytes[i] = 64, config.rows[i] = 16;
  memory_barrier();
  _tile_loadconfig(&config);
}
AUXGRAD_AMX inline void stop_tiles() { _tile_release(); }

}  // namespace
}  // namespace auxgrad
#endif

namespace auxgrad {
namespace {

// Whether scratch is booked for the matrix unit: the instruction set may be switched after planning.
inline bool amx_possible() {
#if defined(AUXGRAD_HAS_AMX)
  return machine_has_amx();
#else
  return false;
#endif
}
// Whether kernels are to use it.
inline bool amx_in_force() { return amx_possible() && current_isa() == Isa::amx; }

}  // namespace
}  // namespace auxgrad
