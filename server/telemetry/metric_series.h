// Series that somebody adds to the families of a registry and that end with it: a model that is
// unloaded leaves nothing in /metrics. Used by one thread at a time; the registry may be scraped
// meanwhile, and outlives this.
#pragma once

#include <functional>
#include <set>
#include <utility>
#include <vector>

#include "prometheus/family.h"
#include "prometheus/labels.h"

namespace kvasir {

class MetricSeries {
 public:
  MetricSeries() = default;
  // Takes all of them out of their families; whoever uses one must have ended.
  ~MetricSeries() {
    for (const auto& remove : removals_) remove();
  }
  MetricSeries(const MetricSeries&) = delete;
  MetricSeries& operator=(const MetricSeries&) = delete;

  // The series of `family` with these labels, now this one's to end.
  template <typename Metric, typename... Arguments>
  Metric& Add(prometheus::Family<Metric>& family, const prometheus::Labels& labels,
              Arguments&&... arguments) {
    Metric& metric = family.Add(labels, std::forward<Arguments>(arguments)...);
    if (known_.insert(&metric).second) {
      removals_.push_back([&family, &metric] { family.Remove(&metric); });
    }
    return metric;
  }

 private:
  std::set<const void*> known_;
  std::vector<std::function<void()>> removals_;
};

}  // namespace kvasir
