#include "server/identity/tls_files.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

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

using Context = std::unique_ptr<SSL_CTX, OpenSslDeleter<SSL_CTX, SSL_CTX_free>>;

// Of what the client offers, the one protocol that is spoken; without it none is agreed on, and old
// clients that offer nothing speak it anyway.
int ChooseHttp11(SSL*, const unsigned char** chosen, unsigned char* chosen_size,
                 const unsigned char* offered, unsigned int offered_size, void*) {
  static constexpr unsigned char kHttp11[] = "\x08http/1.1";
  unsigned char* found = nullptr;
  if (SSL_select_next_proto(&found, chosen_size, kHttp11, sizeof kHttp11 - 1, offered,
                            offered_size) != OPENSSL_NPN_NEGOTIATED) {
    return SSL_TLSEXT_ERR_NOACK;
  }
  *chosen = found;
  return SSL_TLSEXT_ERR_OK;
}

}  // namespace

absl::Status CheckTlsFiles(const TlsConfig& config) {
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

absl::StatusOr<SSL_CTX*> MakeTlsServerContext(const TlsConfig& config) {
  KVASIR_RETURN_IF_ERROR(CheckTlsFiles(config));
  const auto fault = [](absl::string_view what) {
    char reason[256];
    ERR_error_string_n(ERR_get_error(), reason, sizeof reason);
    return absl::FailedPreconditionError(absl::StrCat("server.tls: ", what, ": ", reason));
  };
  Context context(SSL_CTX_new(TLS_server_method()));
  if (context == nullptr) return fault("no TLS context");
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  // An idle connection then holds no record buffers.
  SSL_CTX_set_mode(context.get(), SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_alpn_select_cb(context.get(), ChooseHttp11, nullptr);
  if (SSL_CTX_use_certificate_chain_file(context.get(), config.certificate_file.c_str()) != 1) {
    return fault("the certificate chain cannot be used");
  }
  if (SSL_CTX_use_PrivateKey_file(context.get(), config.private_key_file.c_str(),
                                  SSL_FILETYPE_PEM) != 1) {
    return fault("the private key cannot be used");
  }
  if (!config.client_ca_file.empty()) {
    if (SSL_CTX_load_verify_locations(context.get(), config.client_ca_file.c_str(), nullptr) != 1) {
      return fault("the client authorities cannot be used");
    }
    SSL_CTX_set_client_CA_list(context.get(),
                               SSL_load_client_CA_file(config.client_ca_file.c_str()));
    SSL_CTX_set_verify(
        context.get(),
        SSL_VERIFY_PEER |
            (config.client_certificate_required ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0),
        nullptr);
    // Resumed sessions are verified under a name of their own.
    static constexpr unsigned char kSessionContext[] = "kvasird";
    SSL_CTX_set_session_id_context(context.get(), kSessionContext, sizeof kSessionContext - 1);
  }
  return context.release();
}

}  // namespace kvasir
