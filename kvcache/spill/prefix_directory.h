// The folder that stored prefix blocks stand in, `prefix-<16 hex digits>` in the spill directory,
// one per model and block format: what its files are called, what is in it, and the secret of the
// names (KvCacheConfig::hash_key), without which a restart would find nothing.
//
//   key                       32 random bytes, of whoever came first
//   <32 hex>-<group>.kvp      a block (prefix_spill.h): its digest, and of which group it is
//   <32 hex>-<group>.<8 hex>.tmp   the same on its way there; the digits are one process's
//
// One process alone holds the folder by an exclusive lock, replicas that share it by shared ones
// (spill_directory.h). Folders that nobody holds are of models that are not served any more.
//
// Move-only. Thread safe: it does not change. All calls but the names do I/O.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "kvcache/block_hash.h"
#include "kvcache/spill/spill_directory.h"

namespace kvasir {

// A block's group and digest.
struct StoredBlockName {
  int group = 0;
  BlockDigest digest;

  friend bool operator==(const StoredBlockName& a, const StoredBlockName& b) {
    return a.group == b.group && a.digest == b.digest;
  }
  template <typename H>
  friend H AbslHashValue(H state, const StoredBlockName& name) {
    return H::combine(std::move(state), name.digest, name.group);
  }
};

std::string StoredBlockFileName(const StoredBlockName& name);
// False when that is no such file's name.
bool ParseStoredBlockFileName(absl::string_view file, StoredBlockName* name);

class PrefixDirectory {
 public:
  // Makes the folder and the key if they are not there. `contents` tells models and block formats
  // apart. SpillDirectory::Open's errors; or the system's.
  static absl::StatusOr<PrefixDirectory> Open(const std::string& spill_directory, uint64_t contents,
                                              bool shared);

  // Removes those folders in the spill directory that nobody holds. Returns the files removed.
  static int64_t RemoveUnused(const std::string& spill_directory);

  int fd() const { return directory_.fd(); }
  const std::array<uint8_t, BlockHasher::kKeyBytes>& key() const { return key_; }
  std::string TemporaryName(const StoredBlockName& name) const;

  struct File {
    StoredBlockName name;
    int64_t bytes = 0;
    absl::Time used;  // last: written or read
  };
  // The blocks' files, at most `most`, in no order. Removes temporaries that nobody writes any
  // more: whether one is that, `is_stale` says by its name and stamp.
  absl::StatusOr<std::vector<File>> Scan(
      size_t most, absl::FunctionRef<bool(const std::string&, absl::Time)> is_stale) const;

 private:
  PrefixDirectory(SpillDirectory directory, std::string process)
      : directory_(std::move(directory)), process_(std::move(process)) {}
  absl::Status ReadOrMakeKey();

  SpillDirectory directory_;
  std::string process_;  // in temporary names
  std::array<uint8_t, BlockHasher::kKeyBytes> key_{};
};

}  // namespace kvasir
