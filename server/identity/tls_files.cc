#include "server/identity/tls_files.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/regular_file.h"
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

using Bio = std::unique_ptr<BIO, OpenSslDeleter<BIO, BIO_free_all>>;

// A chain of certificates with their text has some ten kilobytes, the authorities of a system 300.
constexpr size_t kMaxPemBytes = size_t{4} << 20;

struct TlsMaterial {
  std::vector<Certificate> chain;  // the server's own first
  PrivateKey key;
  std::vector<Certificate> authorities;  // of clients; empty = none are asked for
  TlsTexts texts;                        // that all of this was made from
};

absl::Status Fault(const char* field, const std::string& path, absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat("server.tls.", field, " ", path, " ", what));
}

int Count(absl::string_view text, absl::string_view what) {
  int count = 0;
  for (size_t at = text.find(what); at != absl::string_view::npos;
       at = text.find(what, at + what.size())) {
    ++count;
  }
  return count;
}

// The file's text, every block of which ends: one that is being written may be cut off.
absl::StatusOr<std::string> ReadPem(const char* field, const std::string& path) {
  absl::StatusOr<std::string> text = ReadRegularFile(path, kMaxPemBytes);
  if (!text.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("server.tls.", field, ": ", text.status().message()));
  }
  if (Count(*text, "-----BEGIN ") == Count(*text, "-----END ")) return text;
  OPENSSL_cleanse(text->data(), text->size());
  return Fault(field, path, "is cut off: a block that begins does not end");
}

Bio BioOf(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// All certificates of a file; at least one. `text`: set to the whole file.
absl::StatusOr<std::vector<Certificate>> ReadCertificates(const char* field,
                                                          const std::string& path,
                                                          std::string* text) {
  KVASIR_ASSIGN_OR_RETURN(*text, ReadPem(field, path));
  const Bio bio = BioOf(*text);
  std::vector<Certificate> certificates;
  ERR_clear_error();
  while (X509* certificate = PEM_read_bio_X509(bio.get(), nullptr, RefusePassphrase, nullptr)) {
    certificates.emplace_back(certificate);
  }
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  ERR_clear_error();
  if (certificates.empty()) {
    return Fault(field, path, "holds no certificate in PEM; give it as -----BEGIN ...");
  }
  if (!at_end) {
    return Fault(
        field, path,
        absl::StrCat("has a damaged certificate behind ", certificates.size(), " good ones"));
  }
  return certificates;
}

absl::StatusOr<PrivateKey> ReadPrivateKey(const std::string& path, std::string* text) {
  KVASIR_ASSIGN_OR_RETURN(*text, ReadPem("private_key_file", path));
  const Bio bio = BioOf(*text);
  PrivateKey key(PEM_read_bio_PrivateKey(bio.get(), nullptr, RefusePassphrase, nullptr));
  if (key != nullptr) return key;
  ERR_clear_error();
  return Fault("private_key_file", path,
               "holds no private key without a passphrase in PEM; give it as -----BEGIN ...");
}

absl::StatusOr<TlsMaterial> ReadWithMemory(const TlsConfig& config) {
  TlsMaterial material;
  KVASIR_ASSIGN_OR_RETURN(
      material.chain,
      ReadCertificates("certificate_file", config.certificate_file, &material.texts.chain));
  KVASIR_ASSIGN_OR_RETURN(material.key,
                          ReadPrivateKey(config.private_key_file, &material.texts.key));
  if (X509_check_private_key(material.chain.front().get(), material.key.get()) != 1) {
    ERR_clear_error();
    return absl::FailedPreconditionError(
        absl::StrCat("the private key ", config.private_key_file,
                     " does not belong to the first certificate of ", config.certificate_file,
                     "; the server's own certificate must come first"));
  }
  if (!config.client_ca_file.empty()) {
    KVASIR_ASSIGN_OR_RETURN(
        material.authorities,
        ReadCertificates("client_ca_file", config.client_ca_file, &material.texts.authorities));
  }
  return material;
}

absl::StatusOr<TlsMaterial> ReadMaterial(const TlsConfig& config) {
  try {
    return ReadWithMemory(config);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("server.tls: the system gives no memory to read its files");
  }
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

absl::StatusOr<TlsTexts> ReadTlsFiles(const TlsConfig& config) {
  KVASIR_ASSIGN_OR_RETURN(TlsMaterial material, ReadMaterial(config));
  return std::move(material.texts);
}

absl::Status CheckTlsFiles(const TlsConfig& config) { return ReadMaterial(config).status(); }

absl::StatusOr<SSL_CTX*> MakeTlsServerContext(const TlsConfig& config) {
  // Read once: what was checked is what is used.
  KVASIR_ASSIGN_OR_RETURN(const TlsMaterial material, ReadMaterial(config));
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
  if (SSL_CTX_use_certificate(context.get(), material.chain.front().get()) != 1) {
    return fault("the certificate cannot be used");
  }
  for (size_t i = 1; i < material.chain.size(); ++i) {
    if (SSL_CTX_add1_chain_cert(context.get(), material.chain[i].get()) != 1) {
      return fault("the certificate chain cannot be used");
    }
  }
  if (SSL_CTX_use_PrivateKey(context.get(), material.key.get()) != 1) {
    return fault("the private key cannot be used");
  }
  if (!material.authorities.empty()) {
    X509_STORE* const store = SSL_CTX_get_cert_store(context.get());
    for (const Certificate& authority : material.authorities) {
      if (X509_STORE_add_cert(store, authority.get()) != 1 ||
          SSL_CTX_add_client_CA(context.get(), authority.get()) != 1) {
        return fault("the client authorities cannot be used");
      }
    }
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
