#include "server/grpc/call_metadata.h"

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"

namespace kvasir {

absl::string_view RequestIdOf(const grpc::ServerContextBase& context) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find(kRequestIdKey);
  if (found == metadata.end()) return {};
  return {found->second.data(), found->second.size()};
}

bool IsRequestId(absl::string_view id) {
  return !id.empty() && id.size() <= kMaxRequestIdBytes &&
         std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c < 0x7F; });
}

std::string NewRequestId() {
  thread_local absl::BitGen random;
  const auto bits = [] { return absl::Hex(absl::Uniform<uint64_t>(random), absl::kZeroPad16); };
  return absl::StrCat(bits(), bits());
}

absl::Time DeadlineOf(const grpc::ServerContextBase& context) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

}  // namespace kvasir
