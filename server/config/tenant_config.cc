#include "server/config/tenant_config.h"

#include <algorithm>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "server/config/attention_policy.h"

namespace kvasir {
namespace {

constexpr size_t kMaxTenantIdBytes = 63;
// Every tenant costs some metrics in each model; more belong to several daemons.
constexpr int kMaxTenants = 1000;
constexpr size_t kMaxHeaderBytes = 64;

bool IsMetadataKey(absl::string_view key) {
  return !key.empty() && key.size() <= kMaxHeaderBytes &&
         std::all_of(key.begin(), key.end(), [](char c) {
           return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '-' || c == '_' ||
                  c == '.';
         });
}

// What stands in `first_use` already belongs to another tenant.
void CheckUnique(const std::string& path, absl::string_view what, const std::string& value,
                 const std::string& tenant_path, std::map<std::string, std::string>* first_use,
                 ConfigChecker* check) {
  const auto [first, is_new] = first_use->emplace(value, tenant_path);
  if (!is_new && first->second != tenant_path) {
    check->Fault(path, absl::StrCat("is the ", what, " of ", first->second,
                                    " as well; it must name one tenant only"));
  }
}

TenantLimits LimitsOf(const config::v1::TenantLimits& limits) {
  TenantLimits given;
  const auto read = [](bool has, int64_t value, int64_t* limit) {
    if (has) *limit = value;
  };
  read(limits.has_max_requests(), limits.max_requests(), &given.max_requests);
  read(limits.has_max_waiting(), limits.max_waiting(), &given.max_waiting);
  read(limits.has_max_waiting_tokens(), limits.max_waiting_tokens(), &given.max_waiting_tokens);
  read(limits.has_tokens_per_minute(), limits.tokens_per_minute(), &given.tokens_per_minute);
  read(limits.has_max_kv_bytes(), limits.max_kv_bytes(), &given.max_kv_bytes);
  read(limits.has_max_sessions(), limits.max_sessions(), &given.max_sessions);
  read(limits.has_max_session_bytes(), limits.max_session_bytes(), &given.max_session_bytes);
  read(limits.has_max_spill_bytes(), limits.max_spill_bytes(), &given.max_spill_bytes);
  return given;
}

struct Seen {
  std::map<std::string, std::string> ids, keys, subjects;  // value -> path of the tenant
};

TenantConfig CheckTenant(const config::v1::TenantConfig& tenant, const std::string& path,
                         bool has_client_ca, const std::vector<std::string>& model_names,
                         Seen* seen, ConfigChecker* check) {
  TenantConfig checked;
  checked.id = tenant.id();
  checked.key_file = tenant.key_file();
  checked.admin = tenant.admin();
  if (!IsTenantId(tenant.id()) || tenant.id() == "anonymous" || tenant.id() == "other") {
    check->Fault(path + ".id",
                 absl::StrCat("is '", tenant.id().substr(0, kMaxTenantIdBytes),
                              "', but must be 1 to ", kMaxTenantIdBytes,
                              " characters of [a-z0-9._-], begin with a letter or digit, and be "
                              "neither 'anonymous' nor 'other'; choose such a name"));
  }
  CheckUnique(path + ".id", "id", tenant.id(), path, &seen->ids, check);
  for (int i = 0; i < tenant.key_sha256_size(); ++i) {
    const std::string field = absl::StrCat(path, ".key_sha256[", i, "]");
    const std::optional<Sha256Digest> digest = ParseSha256(tenant.key_sha256(i));
    if (!digest.has_value()) {
      // The value is not repeated: it may be the key itself.
      check->Fault(field, absl::StrCat("has ", tenant.key_sha256(i).size(),
                                       " characters, but must be 64 hex digits; printf %s \"$KEY\" "
                                       "| sha256sum prints them"));
      continue;
    }
    checked.key_digests.push_back(*digest);
    CheckUnique(field, "key", absl::AsciiStrToLower(tenant.key_sha256(i)), path, &seen->keys,
                check);
  }
  for (int i = 0; i < tenant.certificate_subjects_size(); ++i) {
    const std::string& subject = tenant.certificate_subjects(i);
    const std::string field = absl::StrCat(path, ".certificate_subjects[", i, "]");
    if (!absl::StrContains(subject, '=') && !absl::StartsWith(subject, "DNS:") &&
        !absl::StartsWith(subject, "URI:")) {
      check->Fault(field, absl::StrCat("is '", subject.substr(0, 128),
                                       "', but must be a subject such as CN=team-a,O=Example, or "
                                       "DNS:name, or URI:...; openssl x509 -noout -subject "
                                       "-nameopt RFC2253 prints the subject"));
    }
    if (!has_client_ca) {
      check->Fault(field,
                   "can be met by nobody, for server.tls.client_ca_file is empty; name the "
                   "authorities whose client certificates count");
    }
    CheckUnique(field, "certificate", subject, path, &seen->subjects, check);
    checked.certificate_subjects.push_back(subject);
  }
  checked.weight = tenant.weight();
  checked.limits = LimitsOf(tenant.limits());
  for (int i = 0; i < tenant.models_size(); ++i) {
    const std::string& model = tenant.models(i);
    if (std::find(model_names.begin(), model_names.end(), model) == model_names.end()) {
      check->Fault(absl::StrCat(path, ".models[", i, "]"),
                   absl::StrCat("is '", model.substr(0, 128), "', which is not served; served: ",
                                absl::StrJoin(model_names, ", "), DidYouMean(model, model_names)));
    }
    checked.models.push_back(model);
  }
  checked.attention = tenant.attention();
  CheckTenantAttention(tenant.attention(), path + ".attention", check);
  return checked;
}

}  // namespace

std::optional<Sha256Digest> ParseSha256(absl::string_view hex) {
  Sha256Digest digest;
  if (hex.size() != 2 * digest.size() ||
      !std::all_of(hex.begin(), hex.end(), [](unsigned char c) { return absl::ascii_isxdigit(c); }))
    return std::nullopt;
  const std::string bytes = absl::HexStringToBytes(hex);
  std::copy(bytes.begin(), bytes.end(), digest.begin());
  return digest;
}

bool IsTenantId(absl::string_view id) {
  const auto is_alphanumeric = [](char c) {
    return absl::ascii_islower(c) || absl::ascii_isdigit(c);
  };
  return !id.empty() && id.size() <= kMaxTenantIdBytes && is_alphanumeric(id[0]) &&
         std::all_of(id.begin(), id.end(), [&](char c) {
           return is_alphanumeric(c) || c == '.' || c == '_' || c == '-';
         });
}

std::vector<TenantConfig> CheckTenants(const config::v1::Config& config,
                                       const std::vector<std::string>& model_names,
                                       ConfigChecker* check) {
  if (config.tenants_size() > kMaxTenants) {
    check->Fault("tenants", absl::StrCat("has ", config.tenants_size(), " entries, but may have ",
                                         kMaxTenants, "; divide them between daemons"));
  }
  const bool has_client_ca = !config.server().tls().client_ca_file().empty();
  Seen seen;
  std::vector<TenantConfig> tenants;
  for (int i = 0; i < config.tenants_size(); ++i) {
    tenants.push_back(CheckTenant(config.tenants(i), absl::StrCat("tenants[", i, "]"),
                                  has_client_ca, model_names, &seen, check));
  }
  return tenants;
}

TlsConfig CheckTls(const config::v1::TlsConfig& tls, ConfigChecker* check) {
  TlsConfig checked;
  checked.certificate_file = tls.certificate_file();
  checked.private_key_file = tls.private_key_file();
  checked.client_ca_file = tls.client_ca_file();
  checked.client_certificate_required =
      check->OneOf<bool>("server.tls.client_certificates", tls.client_certificates(),
                         {{"optional", false}, {"required", true}});
  checked.reload = absl::Seconds(tls.reload_seconds());
  if (tls.certificate_file().empty() != tls.private_key_file().empty()) {
    check->Fault(
        "server.tls",
        absl::StrCat("has a ", tls.certificate_file().empty() ? "private_key" : "certificate",
                     "_file but no ",
                     tls.certificate_file().empty() ? "certificate" : "private_key",
                     "_file; TLS needs both"));
  }
  if (tls.certificate_file().empty() && !tls.client_ca_file().empty()) {
    check->Fault("server.tls.client_ca_file",
                 "is given, but client certificates need TLS; give certificate_file and "
                 "private_key_file as well");
  }
  if (checked.client_certificate_required && tls.client_ca_file().empty()) {
    check->Fault("server.tls.client_certificates",
                 "is 'required', but client_ca_file is empty; name the authorities whose "
                 "certificates count");
  }
  return checked;
}

AuthenticationConfig CheckAuthentication(const config::v1::Config& config, bool loopback,
                                         ConfigChecker* check) {
  const config::v1::AuthenticationConfig& authentication = config.server().authentication();
  AuthenticationConfig checked;
  checked.allow_anonymous = check->OneOf<bool>(
      "server.authentication.anonymous", authentication.anonymous(),
      {{"auto", config.tenants().empty() && loopback}, {"allow", true}, {"refuse", false}});
  if (config.tenants().empty() && !checked.allow_anonymous) {
    check->Fault("server.authentication.anonymous",
                 absl::StrCat("is '", authentication.anonymous().substr(0, 64),
                              "' and there are no tenants, so ",
                              loopback ? ""
                                       : absl::StrCat("on server.listen ", config.server().listen(),
                                                      " or http.listen ", config.http().listen(),
                                                      ", which others can reach, "),
                              "nobody could call; configure tenants, or set it to 'allow' (flag "
                              "--anonymous allow) to let everyone in who reaches the port"));
  }

  checked.anonymous_limits = LimitsOf(authentication.anonymous_limits());
  checked.trusted_header = authentication.trusted_header();
  const bool has_header = !checked.trusted_header.empty();
  if (has_header &&
      (!IsMetadataKey(checked.trusted_header) || absl::EndsWith(checked.trusted_header, "-bin") ||
       absl::StartsWith(checked.trusted_header, "grpc-") ||
       checked.trusted_header == "authorization" || checked.trusted_header == "x-api-key")) {
    check->Fault("server.authentication.trusted_header",
                 absl::StrCat("is '", checked.trusted_header.substr(0, kMaxHeaderBytes),
                              "', but must be 1 to ", kMaxHeaderBytes,
                              " characters of [a-z0-9-_.], not begin with grpc-, not end in -bin, "
                              "and not be authorization; x-kvasir-tenant is a good one"));
  }
  for (int i = 0; i < authentication.trusted_addresses_size(); ++i) {
    absl::StatusOr<IpNetwork> network = ParseIpNetwork(authentication.trusted_addresses(i));
    if (network.ok()) {
      checked.trusted_networks.push_back(*network);
    } else {
      check->Fault(absl::StrCat("server.authentication.trusted_addresses[", i, "]"),
                   network.status().message());
    }
  }
  if (has_header != (authentication.trusted_addresses_size() > 0)) {
    check->Fault("server.authentication",
                 absl::StrCat("has ", has_header ? "a trusted_header" : "trusted_addresses",
                              " but no ", has_header ? "trusted_addresses" : "trusted_header",
                              "; a proxy is believed only when both say so"));
  }
  return checked;
}

TenantPolicies PoliciesOf(const std::vector<TenantConfig>& tenants,
                          const AuthenticationConfig& authentication) {
  TenantPolicies policies;
  policies.others.limits = authentication.anonymous_limits;
  for (const TenantConfig& tenant : tenants) {
    TenantPolicy policy;
    policy.id = tenant.id;
    policy.weight = tenant.weight;
    policy.limits = tenant.limits;
    policies.named.push_back(std::move(policy));
  }
  return policies;
}

}  // namespace kvasir
