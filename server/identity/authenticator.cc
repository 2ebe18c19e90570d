#include "server/identity/authenticator.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/quoted.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

constexpr char kAuthorizationKey[] = "authorization";
constexpr char kBearer[] = "bearer ";
constexpr char kApiKey[] = "x-api-key";
constexpr char kHowToAuthenticate[] = "send the metadata 'authorization: Bearer KEY'";

bool IsTrustedProxy(const AuthenticationConfig& config, const std::optional<IpAddress>& peer) {
  return peer.has_value() &&
         std::any_of(config.trusted_networks.begin(), config.trusted_networks.end(),
                     [&](const IpNetwork& network) { return network.Contains(*peer); });
}

// The key of a call that brings one; Unauthenticated when it is malformed or there are several.
absl::StatusOr<absl::string_view> TheKey(const Credentials& credentials) {
  std::vector<absl::string_view> keys;
  for (const absl::string_view value : credentials.authorization) {
    if (!absl::StartsWithIgnoreCase(value, kBearer)) {
      keys.clear();
      break;
    }
    keys.push_back(absl::StripAsciiWhitespace(value.substr(sizeof kBearer - 1)));
  }
  if (!credentials.authorization.empty() && keys.size() != 1) {
    return absl::UnauthenticatedError(absl::StrCat(
        "the metadata 'authorization' must come once, as 'Bearer KEY'; ", kHowToAuthenticate));
  }
  for (const absl::string_view value : credentials.api_key) {
    keys.push_back(absl::StripAsciiWhitespace(value));
  }
  // Some clients send one key in both.
  if (std::any_of(keys.begin(), keys.end(), [&](const auto& key) { return key != keys[0]; })) {
    return absl::UnauthenticatedError(
        absl::StrCat("the call brings several different keys; ", kHowToAuthenticate));
  }
  return keys[0];
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

absl::StatusOr<Caller> Authenticator::Identify(const CredentialSource& source) const {
  const std::shared_ptr<const Rules> current = rules();
  Credentials credentials;
  credentials.authorization = source.Values(kAuthorizationKey);
  credentials.api_key = source.Values(kApiKey);
  if (!current->config.trusted_header.empty()) {
    credentials.trusted_header = source.Values(current->config.trusted_header);
    if (!credentials.trusted_header.empty()) credentials.peer = source.Peer();
  }
  credentials.certificate_names = source.CertificateNames();
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

  const bool has_key = !credentials.authorization.empty() || !credentials.api_key.empty();
  if (has_key && !tenants.empty()) {
    KVASIR_ASSIGN_OR_RETURN(const absl::string_view key, TheKey(credentials));
    if (const TenantConfig* tenant = tenants.FindByKey(key)) {
      return CallerOf(tenant, rules.tenants);
    }
    return absl::UnauthenticatedError(absl::StrCat(
        "the key in '", credentials.authorization.empty() ? kApiKey : kAuthorizationKey,
        "' is not known; it may be mistyped, cut off or revoked: ask the operator for a valid "
        "one"));
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
