// GenerateRequest.cache_salt to what the engine knows of it. Pure, thread safe.
#pragma once

#include <cstddef>
#include <string>

#include "kvcache/block_hash.h"
#include "server/frontend/validation/field_violations.h"

namespace kvasir {

inline constexpr size_t kMaxCacheSaltBytes = 256;

// Its digest; zero when it is empty, or too long, which is a violation.
CacheSalt CheckCacheSalt(const std::string& text, Violations* violations);

}  // namespace kvasir
