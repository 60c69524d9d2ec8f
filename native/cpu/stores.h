// How register tiles spread their stores.
#pragma once
#include "vector.h"

namespace auxgrad {
namespace {

// Stores of more vectors than this in a row hold up the multiply-adds of the next tile. A tile of more makes its last
// kLastSteps steps a few rows at a time, and stores these while it makes those of the next ones.
constexpr int kFreeStores = kLanes == 16 ? 16 : 32, kLastSteps = 3;

}  // namespace
}  // namespace auxgrad
