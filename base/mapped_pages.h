// Memory of mapped files, for who has a pointer into one and not its MmapFile: a matrix that is
// packed while a model is loaded. Thread safe.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace kvasir {

// Bytes that will be read soon: the kernel begins to bring them from the disk. Does not wait.
// Memory that is no mapped file is left alone.
void PrefetchMapped(const void* data, size_t bytes);

// Bytes that have been read: of a living MmapFile, whole pages inside the range leave this
// process's memory, and the kernel's cache may drop them. Reading them again is allowed. Memory of
// any other kind is left alone.
void ReleaseMapped(const void* data, size_t bytes);

// From now on a read of what a mapped file does not have any more, or its disk cannot give, finds
// zeros and counts, instead of ending the process (SIGBUS). Who asks for this has to make a
// ReadsCheck before it reads, and to look at it before what was read is used.
void SurviveLostReads();

// How often that happened, in any mapped file. Whoever reads a file sees its own before it ends.
int64_t LostReads();

// Whether reads of mapped files were lost since it was made.
class ReadsCheck {
 public:
  ReadsCheck() : before_(LostReads()) {}

  // FailedPrecondition if so: "`what` became shorter, or its disk failed, while it was
  // read`remedy`".
  absl::Status Status(absl::string_view what, absl::string_view remedy = "") const;

 private:
  int64_t before_;
};

// For MmapFile: the mapping begins and ends to exist.
void AddMapping(const void* data, size_t bytes);
void RemoveMapping(const void* data);

}  // namespace kvasir
