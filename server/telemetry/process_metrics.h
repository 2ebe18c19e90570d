// The process_* metrics that every Prometheus dashboard knows, and their limits, read from /proc at
// scrape time. Pure function over /proc, thread safe.
#pragma once

#include <vector>

#include "prometheus/metric_family.h"

namespace kvasir {

// Resident and virtual bytes, CPU seconds, open and allowed descriptors, threads, start time; and
// what the process may use: memory and CPUs. A figure that /proc does not give is left out.
std::vector<prometheus::MetricFamily> CollectProcessMetrics();

}  // namespace kvasir
