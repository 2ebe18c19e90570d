// What a KvSpill knows of its files, without touching any: which session has one, how old it is,
// and what all of them come to.
//
// Owned by KvSpill and guarded by its lock. O(1) and O(log files).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "kvcache/spill/kv_spill_file.h"

namespace kvasir {

class SpillIndex {
 public:
  struct Entry {
    std::string metadata;
    int num_tokens = 0;
    int64_t bytes = 0;  // of the file
    absl::Time time;
    SpillChecksum identity{};  // SpillFileReader::identity
    uint64_t order = 0;        // age, the index's own: smaller is older
  };

  // Null when there is none; good until the next change.
  const Entry* Find(absl::string_view id) const {
    const auto found = files_.find(id);
    return found == files_.end() ? nullptr : &found->second;
  }
  // A newest entry, in place of one under the same id.
  void Put(const std::string& id, Entry entry) {
    Erase(id);
    entry.order = next_order_++;
    bytes_ += entry.bytes;
    by_age_[entry.order] = id;
    files_[id] = std::move(entry);
  }
  // False if there was none.
  bool Erase(absl::string_view id) {
    const auto found = files_.find(id);
    if (found == files_.end()) return false;
    bytes_ -= found->second.bytes;
    by_age_.erase(found->second.order);
    files_.erase(found);
    return true;
  }

  // Entries put later have at least this order.
  uint64_t next_order() const { return next_order_; }
  int64_t files() const { return static_cast<int64_t>(files_.size()); }
  int64_t bytes() const { return bytes_; }
  // Oldest first.
  const std::map<uint64_t, std::string>& by_age() const { return by_age_; }

 private:
  absl::flat_hash_map<std::string, Entry> files_;
  std::map<uint64_t, std::string> by_age_;  // Entry::order -> id
  int64_t bytes_ = 0;
  uint64_t next_order_ = 0;
};

}  // namespace kvasir
