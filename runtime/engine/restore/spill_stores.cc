#include "runtime/engine/restore/spill_stores.h"

#include <utility>

#include "base/status_macros.h"
#include "kvcache/spill/prefix_directory.h"

namespace kvasir {

absl::StatusOr<SpillStores> OpenSpillStores(const EngineConfig& config, uint64_t layout_fingerprint,
                                            std::function<void()> wake) {
  SpillStores stores;
  if (config.spill_directory.empty()) return stores;
  KvSpillConfig sessions;
  sessions.directory = config.spill_directory;
  sessions.max_directory_bytes = config.max_spill_bytes;
  sessions.max_queue_bytes = config.max_spill_queue_bytes;
  sessions.layout_fingerprint = layout_fingerprint;
  sessions.model_fingerprint = config.model_fingerprint;
  sessions.shared = config.share_spill_directory;
  sessions.max_age = config.session_ttl;
  sessions.on_write_error = [wake](const std::string&, const absl::Status&) { wake(); };
  KVASIR_ASSIGN_OR_RETURN(stores.sessions, KvSpill::Open(std::move(sessions)));

  if (config.max_prefix_spill_bytes == 0 || !config.prefix_cache) {
    // Of a time when it was switched on.
    (void)PrefixDirectory::RemoveUnused(config.spill_directory);
    return stores;
  }
  PrefixSpillConfig prefixes;
  prefixes.spill_directory = config.spill_directory;
  prefixes.max_bytes = config.max_prefix_spill_bytes;
  prefixes.max_queue_bytes = config.max_spill_queue_bytes;
  prefixes.layout_fingerprint = layout_fingerprint;
  prefixes.model_fingerprint = config.model_fingerprint;
  prefixes.shared = config.share_spill_directory;
  prefixes.on_fault = std::move(wake);
  KVASIR_ASSIGN_OR_RETURN(stores.prefixes, PrefixSpill::Open(std::move(prefixes)));
  return stores;
}

}  // namespace kvasir
