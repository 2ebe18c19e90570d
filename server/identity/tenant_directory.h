// Whom a credential belongs to: an immutable snapshot of the configured tenants with their keys,
// key files included. Replaced as a whole on reload (see caller_identity.h), so that a call sees
// one state of it. Thread safe: constant after Load.
//
// Keys are kept as SHA-256 digests only. That is enough for keys drawn at random, which is why
// short ones are refused; it would not be for passwords.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/config/tenant_config.h"

namespace kvasir {

inline constexpr size_t kMinKeyBytes = 16;
inline constexpr size_t kMaxKeyBytes = 512;

// Keys of all tenants together. A call compares its key with each of them, some nanoseconds per
// key.
inline constexpr size_t kMaxKeys = 10'000;

Sha256Digest Sha256(absl::string_view bytes);

class TenantDirectory {
 public:
  // Reads the key files. InvalidArgument: every fault found, one per line, with file and line,
  // never with a key: an unreadable file, a key of the wrong form, one that two tenants have, too
  // many.
  static absl::StatusOr<std::shared_ptr<const TenantDirectory>> Load(
      std::vector<TenantConfig> tenants);

  // Nobody is configured: every caller is anonymous.
  bool empty() const { return tenants_.empty(); }
  const std::vector<TenantConfig>& tenants() const { return tenants_; }
  std::vector<std::string> Ids() const;

  // Null when it is nobody's. Results live as long as this.
  // Takes the same time whichever key it is, and whether it is one or not. Longer keys than
  // kMaxKeyBytes are nobody's and cost nothing.
  const TenantConfig* FindByKey(absl::string_view key) const;
  // As in TenantConfig::certificate_subjects.
  const TenantConfig* FindBySubject(absl::string_view subject) const;
  const TenantConfig* FindById(absl::string_view id) const;

 private:
  TenantDirectory() = default;

  std::vector<TenantConfig> tenants_;
  std::vector<Sha256Digest> digests_;  // [num_keys]
  std::vector<size_t> owners_;         // [num_keys], index into tenants_
};

}  // namespace kvasir
