// Checks a file against the digest that the hub lists for it. Thread safe.
#pragma once

#include <atomic>
#include <string>

#include "absl/status/status.h"

namespace kvasir {

// `digest`: 64 hex digits, the SHA-256 of the content, or 40, Git's SHA-1 of it as a blob. DataLoss
// with both digests when the content is another; FailedPrecondition when it cannot be read;
// Cancelled.
absl::Status CheckDigest(const std::string& path, const std::string& digest,
                         const std::atomic<bool>* cancelled);

}  // namespace kvasir
