#include "server/frontend/validation/cache_salt_validation.h"

#include <openssl/sha.h>

#include <array>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace kvasir {

CacheSalt CheckCacheSalt(const std::string& text, Violations* violations) {
  CacheSalt salt = {};
  if (text.empty()) return salt;
  if (text.size() > kMaxCacheSaltBytes) {
    violations->Add("cache_salt", absl::StrCat(text.size(), " bytes, the limit is ",
                                               kMaxCacheSaltBytes, "; send a digest of it"));
    return salt;
  }
  std::array<uint8_t, SHA256_DIGEST_LENGTH> digest;
  SHA256(reinterpret_cast<const uint8_t*>(text.data()), text.size(), digest.data());
  static_assert(sizeof(salt) <= sizeof(digest));
  std::memcpy(salt.data(), digest.data(), sizeof(salt));
  return salt;
}

}  // namespace kvasir
