#include "isa.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

// Written by the build: AUXGRAD_FAMILY_ROW(name) for each source in kernels/.
#define AUXGRAD_TABLE(family, isa) kernels_##family##_##isa

namespace auxgrad {

#if defined(__x86_64__) || defined(_M_X64)
#define AUXGRAD_FAMILY_ROW(family)                        \
  extern const KernelTable AUXGRAD_TABLE(family, scalar); \
  extern const KernelTable AUXGRAD_TABLE(family, avx2);   \
  extern const KernelTable AUXGRAD_TABLE(family, avx512);
#elif defined(__aarch64__)
#define AUXGRAD_FAMILY_ROW(family)                        \
  extern const KernelTable AUXGRAD_TABLE(family, scalar); \
  extern const KernelTable AUXGRAD_TABLE(family, neon);
#else
#define AUXGRAD_FAMILY_ROW(family) extern const KernelTable AUXGRAD_TABLE(family, scalar);
#endif
#include "kernel_families.inc"
#undef AUXGRAD_FAMILY_ROW

namespace {

// By Isa.
struct Family {
  const KernelTable* tables[kIsaCount];
};

#if defined(__x86_64__) || defined(_M_X64)
#define AUXGRAD_FAMILY_ROW(family)                                                                         \
  {{&AUXGRAD_TABLE(family, scalar), nullptr, &AUXGRAD_TABLE(family, avx2), &AUXGRAD_TABLE(family, avx512), \
    &AUXGRAD_TABLE(family, avx512)}},
#elif defined(__aarch64__)
#define AUXGRAD_FAMILY_ROW(family) {{&AUXGRAD_TABLE(family, scalar), &AUXGRAD_TABLE(family, neon)}},
#else
#define AUXGRAD_FAMILY_ROW(family) {{&AUXGRAD_TABLE(family, scalar)}},
#endif
const Family families[] = {
#include "kernel_families.inc"
};
constexpr int kFamilies = sizeof(families) / sizeof(families[0]);

bool machine_has(Isa isa) {
  switch (isa) {
    case Isa::scalar: return true;
#if defined(__x86_64__) || defined(_M_X64)
    // These builtins ask the operating system (XGETBV) too.
    case Isa::avx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case Isa::amx: return machine_has(Isa::avx512) && machine_has_amx();
#endif
#if defined(__aarch64__)
    case Isa::neon: return true;
#endif
    default: return false;
  }
}

Isa best_isa() {
  for (int i = kIsaCount - 1; i > 0; i--)
    if (isa_available(static_cast<Isa>(i))) return static_cast<Isa>(i);
  return Isa::scalar;
}

// That of its name; false if unknown or unavailable.
bool find_isa(const char* name, Isa* isa) {
  for (int i = 0; i < kIsaCount; i++) {
    *isa = static_cast<Isa>(i);
    if (std::strcmp(isa_name(*isa), name) == 0) return isa_available(*isa);
  }
  return false;
}

Isa first_isa() {
  const char* wanted = std::getenv("AUXGRAD_ISA");
  Isa isa;
  return wanted && find_isa(wanted, &isa) ? isa : best_isa();
}

std::atomic<int>& chosen() {
  static std::atomic<int> isa{static_cast<int>(first_isa())};
  return isa;
}

}  // namespace

#if defined(__x86_64__) && defined(__linux__)
// Linux hands out the unit's large registers only on request (a call for the whole process, arch_prctl).
bool machine_has_amx() {
  static const bool has = [] {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const bool vbmi = c >> 1 & 1, bf16 = d >> 22 & 1, tile = d >> 24 & 1, int8 = d >> 25 & 1;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return vbmi && bf16 && tile && int8 && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return has;
}
#else
bool machine_has_amx() { return false; }
#endif

const char* isa_name(Isa isa) {
  static const char* const names[kIsaCount] = {"scalar", "neon", "avx2", "avx512", "amx"};
  return names[static_cast<int>(isa)];
}

bool isa_available(Isa isa) { return families[0].tables[static_cast<int>(isa)] != nullptr && machine_has(isa); }

Isa current_isa() { return static_cast<Isa>(chosen().load()); }

bool set_isa(const char* name) {
  Isa isa;
  if (!find_isa(name, &isa)) return false;
  chosen().store(static_cast<int>(isa));
  return true;
}

const char* refused_isa() {
  const char* wanted = std::getenv("AUXGRAD_ISA");
  Isa isa;
  return wanted && *wanted && !find_isa(wanted, &isa) ? wanted : nullptr;
}

int family_count() { return kFamilies; }
const KernelTable& family(Isa isa, int index) {
  const auto& tables = families[index].tables;
  int i = static_cast<int>(isa);
  while (i > 0 && !(tables[i] && tables[i]->count)) i--;  // to where the family was compiled
  return *tables[i];
}

const Kernel* find_kernel(const char* name) {
  const Isa isa = current_isa();
  for (int f = 0; f < kFamilies; f++) {
    const KernelTable& table = family(isa, f);
    for (int i = 0; i < table.count; i++)
      if (std::strcmp(table.rows[i].name, name) == 0) return &table.rows[i];
  }
  return nullptr;
}

}  // namespace auxgrad
