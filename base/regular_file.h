// Files that operators name: opened so that nothing a path may be (a pipe without a writer, a
// device, a folder) can block or be taken for a file. Thread safe.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace kvasir {

// A descriptor for reading, close-on-exec, that the caller closes. NotFound, PermissionDenied and
// the like with the path and the system's reason; FailedPrecondition when there is something else
// than a regular file under the name.
absl::StatusOr<int> OpenRegularFile(const std::string& path);

// All bytes of a regular file. Errors: those of OpenRegularFile; InvalidArgument when the file has
// more than `max_bytes`, of which no more than one is read.
absl::StatusOr<std::string> ReadRegularFile(const std::string& path, size_t max_bytes);

}  // namespace kvasir
