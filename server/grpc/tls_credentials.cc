#include "server/grpc/tls_credentials.h"

#include "base/status_macros.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"

namespace kvasir {

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsConfig& config, CallObserver* observer, std::unique_ptr<TlsMirror>* mirror) {
  if (!config.enabled()) return grpc::InsecureServerCredentials();
  KVASIR_ASSIGN_OR_RETURN(*mirror, TlsMirror::Start(config, observer));

  // The mirror looks at the files as often as the configuration says, gRPC at the mirror.
  constexpr unsigned int kSeconds = 1;
  grpc::experimental::TlsServerCredentialsOptions options(
      std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
          (*mirror)->identity_path(), (*mirror)->identity_path(), (*mirror)->authorities_path(),
          kSeconds));
  options.watch_identity_key_cert_pairs();
  if (!config.client_ca_file.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(config.client_certificate_required
                                      ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                      : GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

}  // namespace kvasir
