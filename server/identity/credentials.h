// What a call brings to prove who calls, whatever transport it came by.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/config/ip_network.h"

namespace kvasir {

// Asked only for what the configuration wants to know, for some answers cost a copy. Views live as
// long as the call.
class CredentialSource {
 public:
  virtual ~CredentialSource() = default;
  // All values of a header (gRPC: metadata key), whose name is in lower case.
  virtual std::vector<absl::string_view> Values(absl::string_view header) const = 0;
  // Who is at the other end of the connection; none when that is no IP address.
  virtual std::optional<IpAddress> Peer() const = 0;
  // Of a verified client certificate, as in TenantConfig::certificate_subjects: the subject first,
  // then "DNS:..." and "URI:..." names. Empty without one.
  virtual std::vector<std::string> CertificateNames() const = 0;
};

// The answers.
struct Credentials {
  std::vector<absl::string_view> authorization = {};  // values of the header
  std::vector<absl::string_view> api_key = {};        // of x-api-key
  std::vector<absl::string_view> trusted_header = {};
  std::optional<IpAddress> peer = {};  // only looked at with a trusted_header
  std::vector<std::string> certificate_names = {};
};

}  // namespace kvasir
