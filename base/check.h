// KVASIR_CHECK: aborts with file, line and condition when one of our own invariants is broken.
// Never for input, files or the machine: those return absl::Status. The lowest header of the tree,
// so every layer may include it.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace kvasir::internal {

[[noreturn]] inline void CheckFailed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "%s:%d: invariant broken: %s\n", file, line, condition);
  std::fflush(stderr);
  std::abort();
}

}  // namespace kvasir::internal

#define KVASIR_CHECK(condition)                                                        \
  do {                                                                                 \
    if (!(condition)) ::kvasir::internal::CheckFailed(__FILE__, __LINE__, #condition); \
  } while (false)
