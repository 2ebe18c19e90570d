// The name under which a session is spilled: KvSpill's id for a tenant's session.
#pragma once

#include <string>

#include "absl/strings/str_cat.h"

namespace kvasir {

// Session ids hold no control characters, so the last separator splits tenant and id whatever the
// tenant holds.
inline constexpr char kSpillIdSeparator = '\x1f';

inline std::string SpillIdOf(const std::string& tenant, const std::string& session_id) {
  return absl::StrCat(tenant, std::string(1, kSpillIdSeparator), session_id);
}

}  // namespace kvasir
