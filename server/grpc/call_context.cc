#include "server/grpc/call_context.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "base/steady_time.h"
#include "grpc/grpc_security_constants.h"
#include "server/frontend/request_id.h"
#include "server/grpc/wire_message.h"

namespace kvasir {

absl::string_view RequestIdOf(const grpc::ServerContextBase& context) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find(kRequestIdKey);
  if (found == metadata.end()) return {};
  return {found->second.data(), found->second.size()};
}

std::string RequestIdOf(const grpc::ByteBuffer& wire, int field_number,
                        const grpc::ServerContextBase& context) {
  std::string own = PeekString(wire, field_number);
  return own.empty() ? std::string(RequestIdOf(context)) : own;
}

absl::Time DeadlineOf(const grpc::ServerContextBase& context) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return SteadyTimeOf(absl::FromChrono(deadline));
}

std::vector<absl::string_view> CallCredentials::Values(absl::string_view header) const {
  std::vector<absl::string_view> values;
  const auto [begin, end] =
      context_.client_metadata().equal_range(grpc::string_ref(header.data(), header.size()));
  for (auto entry = begin; entry != end; ++entry) {
    values.emplace_back(entry->second.data(), entry->second.size());
  }
  return values;
}

std::optional<IpAddress> CallCredentials::Peer() const { return PeerAddress(context_.peer()); }

std::vector<std::string> CallCredentials::CertificateNames() const {
  const std::shared_ptr<const grpc::AuthContext> auth = context_.auth_context();
  std::vector<std::string> names;
  if (auth == nullptr || !auth->IsPeerAuthenticated()) return names;
  const auto add = [&](const char* property, absl::string_view prefix) {
    for (const grpc::string_ref& value : auth->FindPropertyValues(property)) {
      names.push_back(absl::StrCat(prefix, absl::string_view(value.data(), value.size())));
    }
  };
  add(GRPC_X509_SUBJECT_PROPERTY_NAME, "");
  add(GRPC_PEER_DNS_PROPERTY_NAME, "DNS:");
  add(GRPC_PEER_URI_PROPERTY_NAME, "URI:");
  return names;
}

}  // namespace kvasir
