#include "server/identity/certificate_names.h"

#include <openssl/bio.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <memory>

#include "absl/strings/str_cat.h"

namespace kvasir {
namespace {

std::string SubjectOf(X509* certificate) {
  const std::unique_ptr<BIO, int (*)(BIO*)> text(BIO_new(BIO_s_mem()), BIO_free);
  if (text == nullptr ||
      X509_NAME_print_ex(text.get(), X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253) < 0) {
    return "";
  }
  char* data = nullptr;
  const long size = BIO_get_mem_data(text.get(), &data);
  return size > 0 ? std::string(data, static_cast<size_t>(size)) : "";
}

}  // namespace

std::vector<std::string> CertificateNamesOf(X509* certificate) {
  std::vector<std::string> dns, uris;
  const std::unique_ptr<GENERAL_NAMES, void (*)(GENERAL_NAMES*)> alternatives(
      static_cast<GENERAL_NAMES*>(
          X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)),
      GENERAL_NAMES_free);
  const int count = alternatives == nullptr ? 0 : sk_GENERAL_NAME_num(alternatives.get());
  for (int i = 0; i < count; ++i) {
    int type = 0;
    const auto* value = static_cast<const ASN1_STRING*>(
        GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(alternatives.get(), i), &type));
    if (type != GEN_DNS && type != GEN_URI) continue;
    const std::string text(reinterpret_cast<const char*>(ASN1_STRING_get0_data(value)),
                           static_cast<size_t>(ASN1_STRING_length(value)));
    (type == GEN_DNS ? dns : uris).push_back(absl::StrCat(type == GEN_DNS ? "DNS:" : "URI:", text));
  }
  std::vector<std::string> names = {SubjectOf(certificate)};
  names.insert(names.end(), dns.begin(), dns.end());
  names.insert(names.end(), uris.begin(), uris.end());
  return names;
}

std::vector<std::string> VerifiedCertificateNames(const SSL* connection) {
  const std::unique_ptr<X509, void (*)(X509*)> certificate(SSL_get1_peer_certificate(connection),
                                                           X509_free);
  if (certificate == nullptr || SSL_get_verify_result(connection) != X509_V_OK) return {};
  return CertificateNamesOf(certificate.get());
}

}  // namespace kvasir
