#include "server/frontend/request_id.h"

#include <algorithm>
#include <cstdint>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"

namespace kvasir {

bool IsRequestId(absl::string_view id) {
  return !id.empty() && id.size() <= kMaxRequestIdBytes &&
         std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c < 0x7F; });
}

std::string NewRequestId() {
  thread_local absl::BitGen random;
  const auto bits = [] { return absl::Hex(absl::Uniform<uint64_t>(random), absl::kZeroPad16); };
  return absl::StrCat(bits(), bits());
}

std::string RequestIdOrNew(absl::string_view wanted) {
  return IsRequestId(wanted) ? std::string(wanted) : NewRequestId();
}

}  // namespace kvasir
