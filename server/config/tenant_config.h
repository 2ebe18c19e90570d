// Who may call and how that is proven: the checked form of `tenants`, `server.tls` and
// `server.authentication`. Plain values; pure functions, thread safe. Key files are not read here:
// see tenant_directory.h.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "kvasir/config/v1/config.pb.h"
#include "runtime/engine/tenants/tenant_policy.h"
#include "server/config/config_checker.h"
#include "server/config/ip_network.h"

namespace kvasir {

using Sha256Digest = std::array<uint8_t, 32>;

// 64 hex digits; nullopt for anything else.
std::optional<Sha256Digest> ParseSha256(absl::string_view hex);

struct TenantConfig {
  std::string id;  // unique
  std::vector<Sha256Digest> key_digests;
  std::string key_file;  // empty = none
  std::vector<std::string> certificate_subjects;
  double weight = 1;
  TenantLimits limits;
  std::vector<std::string> models;  // served names; empty = all
  bool admin = false;
  config::v1::AttentionConfig attention;  // narrows that of each model: see ForTenant
};

// 1 to 63 characters of [a-z0-9._-], the first a letter or digit.
bool IsTenantId(absl::string_view id);

struct TlsConfig {
  std::string certificate_file;  // empty = no TLS
  std::string private_key_file;
  std::string client_ca_file;  // empty = client certificates are not asked for
  bool client_certificate_required = false;
  absl::Duration reload;

  bool enabled() const { return !certificate_file.empty(); }
};

struct AuthenticationConfig {
  bool allow_anonymous = true;
  std::string trusted_header;  // lower case; empty = none
  std::vector<IpNetwork> trusted_networks;
  TenantLimits anonymous_limits;
};

// The checks of Validate (server_config.h) for these parts. `model_names`: those served.
std::vector<TenantConfig> CheckTenants(const config::v1::Config& config,
                                       const std::vector<std::string>& model_names,
                                       ConfigChecker* check);
TlsConfig CheckTls(const config::v1::TlsConfig& tls, ConfigChecker* check);
// `loopback`: only this machine reaches the listener. Where it cannot be told who calls over a
// network, that is a fault: nothing is open unless the operator says so.
AuthenticationConfig CheckAuthentication(const config::v1::Config& config, bool loopback,
                                         ConfigChecker* check);

// On which terms they and the anonymous callers share each engine (EngineConfig::tenants).
TenantPolicies PoliciesOf(const std::vector<TenantConfig>& tenants,
                          const AuthenticationConfig& authentication);

}  // namespace kvasir
