// What this machine can do at best, measured in the same run as what is compared with it: reading memory, and
// oneDNN's large product. Measured once, best of several; not thread safe.
#pragma once

#include "runtime/ops/tensor.h"

namespace kvasir {

// Bytes per second that all compute threads together read from memory, far beyond the caches.
double ReadBandwidth();

// Floating-point (int8: integer) operations per second of oneDNN's 2048 x 2048 x 8192 product, weights packed.
double ProductRate(ComputeType compute_type);

}  // namespace kvasir
