// What glibc's malloc holds now, in bytes: 0 elsewhere. Thread safe; each costs a walk over
// malloc's free lists.
#pragma once

#include <cstdint>

namespace kvasir {

// Given out and not freed yet.
int64_t HeapUsedBytes();
// Freed, and kept for later; trimmed pages count too.
int64_t HeapUnusedBytes();

}  // namespace kvasir
