// The gRPC port's credentials: plain text, TLS, or TLS with client certificates, as TlsConfig says.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "grpcpp/security/server_credentials.h"
#include "server/config/tenant_config.h"
#include "server/grpc/tls_mirror.h"

namespace kvasir {

// TLS 1.2 and 1.3. The files are read and checked at once: FailedPrecondition says which of them
// cannot be read, is no PEM of its kind, or does not belong to the other. Later they are looked at
// every config.reload, by `mirror`, which must outlive the server and is left alone without TLS:
// new connections use what is there, open ones go on; while the files are broken, half-written or
// do not match, the last good ones stay in use.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsConfig& config, CallObserver* observer, std::unique_ptr<TlsMirror>* mirror);

}  // namespace kvasir
