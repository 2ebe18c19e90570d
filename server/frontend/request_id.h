// Under which id a request runs: the client's, or one made here. Stateless functions, thread safe.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace kvasir {

// The metadata key or header by which clients give one, and get it back.
inline constexpr char kRequestIdKey[] = "x-request-id";
inline constexpr size_t kMaxRequestIdBytes = 128;

// 1 to 128 printable ASCII characters without blanks: safe in metadata, logs and command lines.
bool IsRequestId(absl::string_view id);

// A new id, unique for practical purposes: 128 random bits in hex.
std::string NewRequestId();

// `wanted` if it is an id, else a new one.
std::string RequestIdOrNew(absl::string_view wanted);

}  // namespace kvasir
