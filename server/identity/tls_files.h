// The PEM files of TlsConfig, checked with words that help, and made an OpenSSL context. Stateless.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/config/tenant_config.h"

typedef struct ssl_ctx_st SSL_CTX;

namespace kvasir {

// What the files hold, in PEM.
struct TlsTexts {
  std::string chain, key,
      authorities;  // the last is empty when no client certificates are asked for
  bool operator==(const TlsTexts&) const = default;
};

// FailedPrecondition says which file cannot be read, is no PEM of its kind, is cut off, or does not
// belong to the other. Precondition: config.enabled().
absl::StatusOr<TlsTexts> ReadTlsFiles(const TlsConfig& config);

// Whether they can be read; the same errors.
absl::Status CheckTlsFiles(const TlsConfig& config);

// A server's context: TLS 1.2 and 1.3, ALPN "http/1.1", client certificates as the config says. The
// caller owns it (SSL_CTX_free). Errors: those of CheckTlsFiles.
absl::StatusOr<SSL_CTX*> MakeTlsServerContext(const TlsConfig& config);

}  // namespace kvasir
