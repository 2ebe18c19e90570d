// Whether the system gives the threads, and the room for them, that are wanted. Libraries end the
// process when they cannot start one (RLIMIT_NPROC, a control group's pids.max, RLIMIT_AS,
// RLIMIT_DATA): libgomp those of a compute team, gRPC those that it begins with. So they are asked
// only after this has tried. What is free may be taken a moment later, by whoever shares the limit.
//
// Thread safe.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace kvasir {

// Starts so many threads, all at once, and ends them. Unavailable, with the remedy, when the system
// does not give them.
absl::Status CheckThreads(int count);

// Whether RLIMIT_AS and RLIMIT_DATA leave room for so many bytes more. ResourceExhausted, with the
// remedy, where they do not.
absl::Status CheckAddressSpace(int64_t bytes);

// CheckThreads of a team: ComputeThreads(), the caller included.
absl::Status CheckComputeTeam();

// The same, and then has the calling thread form its team, which stays until that thread ends.
absl::Status FormComputeTeam();

}  // namespace kvasir
