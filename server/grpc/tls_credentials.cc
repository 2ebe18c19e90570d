#include "server/grpc/tls_credentials.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"

namespace kvasir {
namespace {

template <typename T, void (*Free)(T*)>
struct OpenSslDeleter {
  void operator()(T* object) const { Free(object); }
};
using Certificate = std::unique_ptr<X509, OpenSslDeleter<X509, X509_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, OpenSslDeleter<EVP_PKEY, EVP_PKEY_free>>;

// A daemon has no terminal to ask for a passphrase: an encrypted key is refused.
int RefusePassphrase(char*, int, int, void*) { return -1; }

// The first object that `read` (PEM_read_X509, PEM_read_PrivateKey) finds in the file.
template <typename Owner, typename Read>
absl::StatusOr<Owner> ReadPem(const char* field, const std::string& path, const char* what,
                              Read read) {
  std::FILE* const file = std::fopen(path.c_str(), "re");
  if (file == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot read server.tls.", field, " ", path, ": ", std::strerror(errno)));
  }
  Owner object(read(file, nullptr, RefusePassphrase, nullptr));
  std::fclose(file);
  if (object == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("server.tls.", field, " ", path, " holds no ",
                                                      what, " in PEM; give it as -----BEGIN ..."));
  }
  return object;
}

absl::Status CheckFiles(const TlsConfig& config) {
  const auto certificate = ReadPem<Certificate>("certificate_file", config.certificate_file,
                                                "certificate", PEM_read_X509);
  if (!certificate.ok()) return certificate.status();
  const auto key = ReadPem<PrivateKey>("private_key_file", config.private_key_file,
                                       "private key without a passphrase", PEM_read_PrivateKey);
  if (!key.ok()) return key.status();
  if (X509_check_private_key(certificate->get(), key->get()) != 1) {
    return absl::FailedPreconditionError(
        absl::StrCat("the private key ", config.private_key_file,
                     " does not belong to the first certificate of ", config.certificate_file,
                     "; the server's own certificate must come first"));
  }
  if (config.client_ca_file.empty()) return absl::OkStatus();
  return ReadPem<Certificate>("client_ca_file", config.client_ca_file, "certificate", PEM_read_X509)
      .status();
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsConfig& config) {
  if (!config.enabled()) return grpc::InsecureServerCredentials();
  if (absl::Status status = CheckFiles(config); !status.ok()) return status;

  const auto seconds =
      static_cast<unsigned int>(std::max<int64_t>(1, absl::ToInt64Seconds(config.reload)));
  grpc::experimental::TlsServerCredentialsOptions options(
      std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
          config.private_key_file, config.certificate_file, config.client_ca_file, seconds));
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
