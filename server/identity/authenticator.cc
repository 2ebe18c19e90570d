#include "server/identity/authenticator.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "grpc/grpc_security_constants.h"
#include "server/grpc/status_mapping.h"

namespace kvasir {
namespace {

constexpr char kAuthorizationKey[] = "authorization";
constexpr char kBearer[] = "bearer ";
constexpr char kHowToAuthenticate[] = "send the metadata 'authorization: Bearer KEY'";

std::vector<absl::string_view> ValuesOf(const grpc::ServerContextBase& context,
                                        const std::string& key) {
  std::vector<absl::string_view> values;
  const auto [begin, end] = context.client_metadata().equal_range(key);
  for (auto entry = begin; entry != end; ++entry) {
    values.emplace_back(entry->second.data(), entry->second.size());
  }
  return values;
}

std::vector<std::string> CertificateNames(const grpc::AuthContext& context) {
  std::vector<std::string> names;
  const auto add = [&](const char* property, absl::string_view prefix) {
    for (const grpc::string_ref& value : context.FindPropertyValues(property)) {
      names.push_back(absl::StrCat(prefix, absl::string_view(value.data(), value.size())));
    }
  };
  add(GRPC_X509_SUBJECT_PROPERTY_NAME, "");
  add(GRPC_PEER_DNS_PROPERTY_NAME, "DNS:");
  add(GRPC_PEER_URI_PROPERTY_NAME, "URI:");
  return names;
}

bool IsTrustedProxy(const AuthenticationConfig& config, const std::string& peer) {
  const std::optional<IpAddress> address = PeerAddress(peer);
  return address.has_value() &&
         std::any_of(config.trusted_networks.begin(), config.trusted_networks.end(),
                     [&](const IpNetwork& network) { return network.Contains(*address); });
}

// Shares the ownership of the whole directory.
Caller CallerOf(const TenantConfig* tenant, std::shared_ptr<const TenantDirectory> directory) {
  return Caller(std::shared_ptr<const TenantConfig>(std::move(directory), tenant));
}

}  // namespace

Authenticator::Authenticator(AuthenticationConfig config,
                             std::shared_ptr<const TenantDirectory> tenants) {
  Replace(std::move(config), std::move(tenants));
}

void Authenticator::Replace(AuthenticationConfig config,
                            std::shared_ptr<const TenantDirectory> tenants) {
  auto rules = std::make_shared<const Rules>(Rules{std::move(config), std::move(tenants)});
  absl::MutexLock lock(&mutex_);
  rules_.swap(rules);
}

std::shared_ptr<const Authenticator::Rules> Authenticator::rules() const {
  absl::ReaderMutexLock lock(&mutex_);
  return rules_;
}

absl::StatusOr<Caller> Authenticator::Identify(const grpc::ServerContextBase& context) const {
  const std::shared_ptr<const Rules> current = rules();
  Credentials credentials;
  credentials.authorization = ValuesOf(context, kAuthorizationKey);
  if (!current->config.trusted_header.empty()) {
    credentials.trusted_header = ValuesOf(context, current->config.trusted_header);
    // peer() asks gRPC for a copy: only where it matters.
    if (!credentials.trusted_header.empty()) credentials.peer = context.peer();
  }
  const std::shared_ptr<const grpc::AuthContext> auth_context = context.auth_context();
  if (auth_context != nullptr && auth_context->IsPeerAuthenticated()) {
    credentials.certificate_names = CertificateNames(*auth_context);
  }
  return Judge(*current, credentials);
}

absl::StatusOr<Caller> Authenticator::Identify(const Credentials& credentials) const {
  return Judge(*rules(), credentials);
}

absl::StatusOr<Caller> Authenticator::Judge(const Rules& rules, const Credentials& credentials) {
  const TenantDirectory& tenants = *rules.tenants;
  if (!credentials.trusted_header.empty()) {
    const std::string& header = rules.config.trusted_header;
    if (!IsTrustedProxy(rules.config, credentials.peer)) {
      return absl::UnauthenticatedError(
          absl::StrCat("the metadata '", header,
                       "' is believed from trusted proxies only; remove "
                       "it, and ",
                       kHowToAuthenticate));
    }
    if (credentials.trusted_header.size() > 1) {
      return absl::UnauthenticatedError(
          absl::StrCat("the metadata '", header, "' came ", credentials.trusted_header.size(),
                       " times; the proxy must set it once and remove what its clients send"));
    }
    const absl::string_view id = credentials.trusted_header[0];
    if (const TenantConfig* tenant = tenants.FindById(id)) return CallerOf(tenant, rules.tenants);
    return absl::UnauthenticatedError(absl::StrCat("the metadata '", header, "' names ", Quoted(id),
                                                   ", which is no tenant here"));
  }

  if (!credentials.authorization.empty() && !tenants.empty()) {
    absl::string_view value = credentials.authorization[0];
    if (credentials.authorization.size() > 1 || !absl::StartsWithIgnoreCase(value, kBearer)) {
      return absl::UnauthenticatedError(absl::StrCat(
          "the metadata 'authorization' must come once, as 'Bearer KEY'; ", kHowToAuthenticate));
    }
    value.remove_prefix(sizeof kBearer - 1);
    if (const TenantConfig* tenant = tenants.FindByKey(absl::StripAsciiWhitespace(value))) {
      return CallerOf(tenant, rules.tenants);
    }
    return absl::UnauthenticatedError(
        "the key in 'authorization' is not known; it may be mistyped, cut off or revoked: ask the "
        "operator for a valid one");
  }

  for (const std::string& name : credentials.certificate_names) {
    if (const TenantConfig* tenant = tenants.FindBySubject(name)) {
      return CallerOf(tenant, rules.tenants);
    }
  }
  if (rules.config.allow_anonymous) return Caller::Anonymous(/*admin=*/tenants.empty());
  if (!credentials.certificate_names.empty()) {
    return absl::UnauthenticatedError(absl::StrCat("the client certificate of ",
                                                   Quoted(credentials.certificate_names[0], 256),
                                                   " belongs to no tenant; ", kHowToAuthenticate));
  }
  return absl::UnauthenticatedError(
      absl::StrCat("the call brings no credential; ", kHowToAuthenticate));
}

}  // namespace kvasir
