// Which values the `tenant` label may take. Tenants named in the configuration keep their name and
// all others share one value, so that clients cannot grow /metrics. Constant after construction;
// thread safe.
#pragma once

#include <string>
#include <vector>

namespace kvasir {

class TenantLabels {
 public:
  // `known`: tenants of the configuration.
  explicit TenantLabels(const std::vector<std::string>& known) : labels_{"anonymous", "other"} {
    labels_.insert(labels_.end(), known.begin(), known.end());
  }

  // Index of the label in all(): "anonymous" for the empty tenant, "other" for unknown ones.
  size_t IndexOf(const std::string& tenant) const {
    if (tenant.empty()) return 0;
    for (size_t i = 2; i < labels_.size(); ++i) {
      if (labels_[i] == tenant) return i;
    }
    return 1;
  }

  const std::string& LabelOf(const std::string& tenant) const { return labels_[IndexOf(tenant)]; }
  const std::vector<std::string>& all() const { return labels_; }

 private:
  std::vector<std::string> labels_;
};

}  // namespace kvasir
