// Which instruction sets this machine has, and which one kernels are taken from.
#pragma once
#include "../core/kernel.h"

namespace auxgrad {

// amx: the kernels of avx512, which then may use the matrix unit.
enum class Isa : int { scalar = 0, neon = 1, avx2 = 2, avx512 = 3, amx = 4 };
constexpr int kIsaCount = 5;

const char* isa_name(Isa isa);
// True if this build contains kernels for it and CPU and operating system can run them.
bool isa_available(Isa isa);
Isa current_isa();
// Whether processor and operating system have the AMX matrix unit (8-bit integers, bfloat16), and let this process use it.
bool machine_has_amx();
// False if unknown or unavailable. AUXGRAD_ISA sets it for a whole process.
bool set_isa(const char* name);
// What AUXGRAD_ISA names if this machine has no kernels for it, for programs to refuse; otherwise nullptr.
const char* refused_isa();

// All kernels, for listings: every family of the table of one instruction set.
int family_count();
const KernelTable& family(Isa isa, int index);

}  // namespace auxgrad
