// What the process holds of memory now, in bytes. Thread safe; malloc's figures are 0 where it is
// not glibc's, and cost a walk over its free lists.
#pragma once

#include <cstdint>

namespace kvasir {

int64_t ResidentBytes();
// Given out by malloc and not freed yet.
int64_t HeapUsedBytes();
// Freed, and kept by malloc for later; trimmed pages count too.
int64_t HeapUnusedBytes();

}  // namespace kvasir
