#include "kvcache/block_hash.h"

#include <openssl/evp.h>

#include "base/check.h"

namespace kvasir {

uint64_t PrefixScope::NumberOf(absl::string_view name) {
  uint8_t full[EVP_MAX_MD_SIZE];
  KVASIR_CHECK(EVP_Digest(name.data(), name.size(), full, nullptr, EVP_sha256(), nullptr) == 1);
  uint64_t number;
  std::memcpy(&number, full, sizeof(number));
  return number >> 1;
}

BlockHasher::BlockHasher(const std::array<uint8_t, kKeyBytes>& key)
    : key_(key), context_(EVP_MD_CTX_new()) {
  KVASIR_CHECK(context_ != nullptr);
  // The algorithm is looked up here once; later calls reset the context, which is an order of
  // magnitude cheaper.
  KVASIR_CHECK(EVP_DigestInit_ex2(context_, EVP_sha256(), nullptr) == 1);
}

BlockHasher::~BlockHasher() { EVP_MD_CTX_free(context_); }

BlockDigest BlockHasher::Root(const PrefixScope& scope) {
  if (scope.salt == CacheSalt{}) return Digest(&scope.number, sizeof(scope.number), nullptr, 0);
  // An odd number of bytes: a child's are a multiple of four.
  std::array<uint8_t, sizeof(scope.salt) + 1> salt = {};
  std::memcpy(salt.data(), scope.salt.data(), sizeof(scope.salt));
  return Digest(&scope.number, sizeof(scope.number), salt.data(), salt.size());
}

BlockDigest BlockHasher::Child(const BlockDigest& parent, absl::Span<const int32_t> tokens) {
  return Digest(parent.words.data(), sizeof(parent.words), tokens.data(),
                tokens.size() * sizeof(tokens[0]));
}

BlockDigest BlockHasher::Digest(const void* head, size_t head_bytes, const void* tail,
                                size_t tail_bytes) {
  uint8_t full[EVP_MAX_MD_SIZE];
  const bool ok = EVP_DigestInit_ex2(context_, nullptr, nullptr) == 1 &&
                  EVP_DigestUpdate(context_, key_.data(), key_.size()) == 1 &&
                  EVP_DigestUpdate(context_, head, head_bytes) == 1 &&
                  EVP_DigestUpdate(context_, tail, tail_bytes) == 1 &&
                  EVP_DigestFinal_ex(context_, full, nullptr) == 1;
  KVASIR_CHECK(ok);
  BlockDigest digest;
  std::memcpy(digest.words.data(), full, sizeof(digest.words));
  return digest;
}

}  // namespace kvasir
