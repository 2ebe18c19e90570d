// Which values the `tenant` label may take. Tenants named in the configuration keep their name and
// all others share one value, so that clients cannot grow /metrics. Thread safe. Labels are added
// (by a reload of the configuration) and never removed: their counters have a past.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace kvasir {

class TenantLabels {
 public:
  // `known`: tenants of the configuration.
  explicit TenantLabels(const std::vector<std::string>& known) { Add(known); }

  // Names that are known already stay as they are. Beyond kMaxLabels the rest stays "other".
  void Add(const std::vector<std::string>& known) {
    absl::MutexLock lock(&mutex_);
    for (const std::string& tenant : known) {
      if (labels_.size() < kMaxLabels && indices_.emplace(tenant, labels_.size()).second) {
        labels_.push_back(tenant);
      }
    }
  }

  // Index of the label in all(): "anonymous" for the empty tenant, "other" for unknown ones. Never
  // changes for a known tenant.
  size_t IndexOf(const std::string& tenant) const {
    absl::ReaderMutexLock lock(&mutex_);
    return IndexLocked(tenant);
  }

  std::string LabelOf(const std::string& tenant) const {
    absl::ReaderMutexLock lock(&mutex_);
    return labels_[IndexLocked(tenant)];
  }

  std::vector<std::string> all() const {
    absl::ReaderMutexLock lock(&mutex_);
    return labels_;
  }

 private:
  size_t IndexLocked(const std::string& tenant) const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    if (tenant.empty()) return 0;
    const auto known = indices_.find(tenant);
    return known == indices_.end() ? 1 : known->second;
  }

  // Twice the tenants that a configuration may have: room for those that come by reloads.
  static constexpr size_t kMaxLabels = 2000;

  mutable absl::Mutex mutex_;
  std::vector<std::string> labels_ ABSL_GUARDED_BY(mutex_) = {"anonymous", "other"};
  std::map<std::string, size_t> indices_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvasir
