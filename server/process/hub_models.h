// Models that the configuration names on a hub (hf:ORG/REPO, docs/hub.md) become files on this
// machine: models[].path and the draft models of speculation.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/config/server_config.h"

namespace kvasir {

// Whether there is any.
bool NamesHubModels(const DaemonConfig& config);

// Replaces the names that the cache has all files of by their paths; asks nobody. The others stay,
// and `missing` says of each what a start would do: one line with the cache's folder. Errors: those
// of ReadHubSettings; NotFound for a model that is not there while HF_HUB_OFFLINE is set.
absl::Status FindHubModels(DaemonConfig* config, std::vector<std::string>* missing);

// Replaces all of them, downloading what is not there: blocks, logs its progress, and calls
// `moving` now and then with a line about it. Errors: those of ReadHubSettings and PullModel, with
// the model's name; Cancelled soon after `cancelled`, which may be null.
absl::Status PullHubModels(DaemonConfig* config,
                           const std::function<void(const std::string& status)>& moving,
                           const std::atomic<bool>* cancelled = nullptr);

}  // namespace kvasir
