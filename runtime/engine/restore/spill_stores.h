// Opens what an engine keeps on disk, as its configuration says: sessions, and prefix blocks.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "kvcache/spill/kv_spill.h"
#include "kvcache/spill/prefix_spill.h"
#include "runtime/engine/engine_config.h"

namespace kvasir {

struct SpillStores {
  std::unique_ptr<KvSpill> sessions;      // null without a spill directory
  std::unique_ptr<PrefixSpill> prefixes;  // null unless prefix blocks go to disk
};

// `wake` is called from any thread when something was lost that the engine has to take note of.
// Errors of KvSpill::Open and PrefixSpill::Open.
absl::StatusOr<SpillStores> OpenSpillStores(const EngineConfig& config, uint64_t layout_fingerprint,
                                            std::function<void()> wake);

}  // namespace kvasir
