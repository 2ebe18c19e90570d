// What this machine can do at best, measured in the same run as what is compared with it: reading
// memory, and oneDNN's large product. Best of several, for neighbours on a shared machine only ever
// take away; not thread safe.
#pragma once

#include "runtime/ops/tensor.h"

namespace kvasir {

// Bytes per second that all compute threads together read from memory, far beyond the caches.
double ReadBandwidth();

// The same, measured afresh in some 20 ms: on a shared machine the bandwidth drifts by a factor of
// two within minutes, so a ratio needs both figures from the same moment.
double ReadBandwidthNow();

// Floating-point (int8: integer) operations per second of oneDNN's 2048 x 2048 x 8192 product,
// weights packed.
double ProductRate(ComputeType compute_type);

// Measures both once more and keeps what is better: call it between the runs that are compared with
// them, so that both see the same neighbours.
void MeasureAgain(ComputeType compute_type);

}  // namespace kvasir
