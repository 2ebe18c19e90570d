// Philox4x32-10: random numbers as a pure function of a key and a counter.
//
// A generated token's randomness is a function of (seed, completion index, output position) and of
// nothing else: it is the same whether the sequence runs alone or in a batch, on whichever thread,
// and after a preemption, and no generator state has to be kept or saved. A generator with state
// would need all of that.
//
// Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011;
// constants and known answers as in the authors' Random123 library. Not for cryptography.
// Stateless; safe from any thread.
#pragma once

#include <array>
#include <cstdint>

namespace kvasir {

using PhiloxCounter = std::array<uint32_t, 4>;
using PhiloxKey = std::array<uint32_t, 2>;

// Four independent, uniformly distributed 32-bit words.
PhiloxCounter Philox4x32(PhiloxCounter counter, PhiloxKey key);

// The draw for one output token: uniform in [0, 1) on the grid of 2^-53.
double TokenUniform(uint64_t seed, int32_t completion_index, int32_t output_position);

}  // namespace kvasir
