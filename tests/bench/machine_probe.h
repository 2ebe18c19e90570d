// What this machine gives at best, measured in the same process as the benchmark that is compared
// with it.
#pragma once

#include "runtime/ops/tensor.h"

namespace kvasir::bench {

// Bytes per second of all compute threads reading a buffer far larger than the caches once: the
// best of `repeats` passes, for neighbours on a shared machine only ever make it slower.
double ReadBandwidth(int repeats);

// Multiply-adds x 2 per second of one large product (512 x 2048 x 8192) through oneDNN in this
// compute type, the best of `repeats`.
double LargeProductRate(ComputeType compute_type, int repeats);

}  // namespace kvasir::bench
