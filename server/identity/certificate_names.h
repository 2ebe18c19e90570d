// Whom a client certificate names, in the words of TenantConfig::certificate_subjects. Stateless.
#pragma once

#include <string>
#include <vector>

typedef struct ssl_st SSL;
typedef struct x509_st X509;

namespace kvasir {

// The subject as in RFC 2253, then "DNS:..." and "URI:..." of the alternative names: what gRPC
// reports of its peers too.
std::vector<std::string> CertificateNamesOf(X509* certificate);

// Those of the peer; empty when it showed no certificate or one that was not verified.
std::vector<std::string> VerifiedCertificateNames(const SSL* connection);

}  // namespace kvasir
