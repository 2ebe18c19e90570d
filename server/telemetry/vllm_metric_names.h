// The main families once more, under the names and labels that vLLM gives them, so that what was
// made for vLLM (the Kubernetes inference gateway's picker, stock dashboards, SLO queries) reads
// kvasird unchanged.
//
// Only figures that mean the same are repeated. vLLM knows no tenants: counts are summed over them.
#pragma once

#include <vector>

#include "prometheus/metric_family.h"

namespace kvasir {

// Pure; `families` may hold others, which are ignored.
std::vector<prometheus::MetricFamily> UnderVllmNames(
    const std::vector<prometheus::MetricFamily>& families);

}  // namespace kvasir
