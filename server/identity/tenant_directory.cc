#include "server/identity/tenant_directory.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/regular_file.h"

namespace kvasir {
namespace {

constexpr size_t kMaxFaults = 20;
// kMaxKeys of the greatest length, with room for comments.
constexpr size_t kMaxKeyFileBytes = 8 << 20;
constexpr char kDigestPrefix[] = "sha256:";

bool HasKeyForm(absl::string_view key) {
  return key.size() >= kMinKeyBytes && key.size() <= kMaxKeyBytes &&
         std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c < 0x7F; });
}

// Collects the keys of all tenants.
class KeyRing {
 public:
  void Add(const Sha256Digest& digest, size_t tenant, const std::string& where) {
    const auto [first, is_new] = owners_.emplace(digest, Use{tenant, where});
    if (!is_new && first->second.tenant != tenant) {
      Fault(absl::StrCat(where, ": this key is another tenant's as well (", first->second.where,
                         "); give each its own"));
    }
  }

  void AddFile(const std::string& path, size_t tenant) {
    absl::StatusOr<std::string> text = ReadRegularFile(path, kMaxKeyFileBytes);
    if (!text.ok()) {
      Fault(absl::StrCat("key file: ", text.status().message()));
      return;
    }
    int line_number = 0;
    bool any = false;
    for (absl::string_view line : absl::StrSplit(*text, '\n')) {
      ++line_number;
      line = absl::StripAsciiWhitespace(line);
      if (line.empty() || line[0] == '#') continue;
      AddLine(line, tenant, absl::StrCat(path, ":", line_number));
      any = true;
    }
    // An empty file is what a rotation leaves behind for a moment. Nobody means it.
    if (!any) Fault(absl::StrCat("key file ", path, " holds no key; write one per line"));
    OPENSSL_cleanse(text->data(), text->size());
  }

  void Fault(std::string what) {
    if (faults_.size() < kMaxFaults) faults_.push_back(std::move(what));
  }

  absl::Status status() const {
    if (faults_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrJoin(faults_, "\n"));
  }

  void MoveTo(std::vector<Sha256Digest>* digests, std::vector<size_t>* owners) const {
    for (const auto& [digest, use] : owners_) {
      digests->push_back(digest);
      owners->push_back(use.tenant);
    }
  }
  size_t size() const { return owners_.size(); }

 private:
  struct Use {
    size_t tenant;
    std::string where;
  };

  void AddLine(absl::string_view line, size_t tenant, const std::string& where) {
    if (absl::ConsumePrefix(&line, kDigestPrefix)) {
      const std::optional<Sha256Digest> digest = ParseSha256(line);
      if (digest.has_value()) {
        Add(*digest, tenant, where);
      } else {
        Fault(absl::StrCat(where, ": after '", kDigestPrefix, "' stand ", line.size(),
                           " characters, but must stand 64 hex digits"));
      }
    } else if (HasKeyForm(line)) {
      Add(Sha256(line), tenant, where);
    } else {
      Fault(absl::StrCat(where, ": a key of ", line.size(), " bytes; a key has ", kMinKeyBytes,
                         " to ", kMaxKeyBytes,
                         " printable ASCII characters without blanks, as openssl rand -hex 32 "
                         "prints them"));
    }
  }

  std::map<Sha256Digest, Use> owners_;
  std::vector<std::string> faults_;
};

}  // namespace

Sha256Digest Sha256(absl::string_view bytes) {
  Sha256Digest digest;
  unsigned int size = 0;
  KVASIR_CHECK(
      EVP_Digest(bytes.data(), bytes.size(), digest.data(), &size, EVP_sha256(), nullptr) == 1);
  KVASIR_CHECK(size == digest.size());
  return digest;
}

absl::StatusOr<std::shared_ptr<const TenantDirectory>> TenantDirectory::Load(
    std::vector<TenantConfig> tenants) {
  KeyRing keys;
  for (size_t i = 0; i < tenants.size(); ++i) {
    for (const Sha256Digest& digest : tenants[i].key_digests) {
      keys.Add(digest, i, absl::StrCat("key_sha256 of tenant ", tenants[i].id));
    }
    if (!tenants[i].key_file.empty()) keys.AddFile(tenants[i].key_file, i);
  }
  if (keys.size() > kMaxKeys) {
    keys.Fault(absl::StrCat("the tenants have ", keys.size(), " keys, but may have ", kMaxKeys,
                            " together; remove those that are no longer used"));
  }
  if (absl::Status status = keys.status(); !status.ok()) return status;
  std::shared_ptr<TenantDirectory> directory(new TenantDirectory);
  directory->tenants_ = std::move(tenants);
  keys.MoveTo(&directory->digests_, &directory->owners_);
  return directory;
}

std::vector<std::string> TenantDirectory::Ids() const {
  std::vector<std::string> ids;
  for (const TenantConfig& tenant : tenants_) ids.push_back(tenant.id);
  return ids;
}

const TenantConfig* TenantDirectory::FindByKey(absl::string_view key) const {
  if (!HasKeyForm(key)) return nullptr;
  const Sha256Digest digest = Sha256(key);
  // No early end and no branch on a secret: who measures the time learns nothing about the keys.
  size_t found = tenants_.size();
  for (size_t i = 0; i < digests_.size(); ++i) {
    const size_t equal = CRYPTO_memcmp(digest.data(), digests_[i].data(), digest.size()) == 0;
    const size_t mask = size_t{0} - equal;  // all ones when equal
    found = (found & ~mask) | (owners_[i] & mask);
  }
  return found == tenants_.size() ? nullptr : &tenants_[found];
}

const TenantConfig* TenantDirectory::FindBySubject(absl::string_view subject) const {
  for (const TenantConfig& tenant : tenants_) {
    for (const std::string& known : tenant.certificate_subjects) {
      if (known == subject) return &tenant;
    }
  }
  return nullptr;
}

const TenantConfig* TenantDirectory::FindById(absl::string_view id) const {
  for (const TenantConfig& tenant : tenants_) {
    if (tenant.id == id) return &tenant;
  }
  return nullptr;
}

}  // namespace kvasir
