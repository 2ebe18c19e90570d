// How a kernel that reads a stream of weights asks for the lines that come next. CPUs follow a
// stream by themselves, up to the end of a page. Some follow best when all lines are asked for (a
// Xeon of the fifth generation reads Q4_0 at 25 GB/s so, and at 19 with half), some when half are
// and their own prefetchers fetch the rest (an EPYC of the fourth: int8 at 52 GB/s, and at 42 with
// all). So it is measured: see runtime/ops/product_timing.h.
#pragma once

#include <cstdint>

namespace kvasir {

enum class StreamAsking : uint8_t { kAllLines, kHalf };

}  // namespace kvasir
