// Memory of mapped files, for who has a pointer into one and not its MmapFile: a matrix that is
// packed while a model is loaded. Thread safe.
#pragma once

#include <cstddef>

namespace kvasir {

// Bytes that will be read soon: the kernel begins to bring them from the disk. Does not wait.
// Memory that is no mapped file is left alone.
void PrefetchMapped(const void* data, size_t bytes);

// Bytes that have been read: of a living MmapFile, whole pages inside the range leave this
// process's memory, and the kernel's cache may drop them. Reading them again is allowed. Memory of
// any other kind is left alone.
void ReleaseMapped(const void* data, size_t bytes);

// For MmapFile: the mapping begins and ends to exist.
void AddMapping(const void* data, size_t bytes);
void RemoveMapping(const void* data);

}  // namespace kvasir
