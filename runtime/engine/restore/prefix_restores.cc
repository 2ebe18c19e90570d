#include "runtime/engine/restore/prefix_restores.h"

#include <algorithm>
#include <utility>

#include "runtime/engine/sequence.h"
#include "runtime/engine/tenants/tenant_table.h"

namespace kvasir {

SpilledBlocks PrefixRestores::Stored(const PrefixScope& scope, const Sequence& sequence,
                                     int max_tokens) const {
  if (store_ == nullptr || sequence.prefix_restored) return {};
  // Many may wait, and their prompts are long.
  if (sequence.restores_seen == ended_ && worker_->jobs() > 0) return {.later = true};
  sequence.restores_seen = kNoRestoresSeen;
  SpilledBlocks stored;
  stored.bytes = kv_->PeekStored(scope, sequence.tokens, max_tokens,
                                 [&](int group, const BlockDigest& digest) {
                                   if (!store_->Has(group, digest)) return false;
                                   stored.later |= coming_.contains({group, digest});
                                   return true;
                                 });
  if (stored.bytes == 0) return {};
  stored.later |= !worker_->has_room();
  if (stored.later) sequence.restores_seen = ended_;
  return stored;
}

bool PrefixRestores::Start(const PrefixScope& scope, Sequence* sequence, int max_tokens,
                           absl::Status* failed) {
  sequence->prefix_restored = true;  // once is enough, whatever comes of it
  BlockTable table = kv_->NewTable(sequence->request->tenant->scope);
  auto job = std::make_shared<RestoreJob>();
  job->blocks = kv_->ReserveStored(
      scope, sequence->tokens, max_tokens,
      [&](int group, const BlockDigest& digest) { return store_->Has(group, digest); }, &table);
  if (job->blocks.empty()) return false;
  if (kv_->layout().has_full_group()) job->column_group = 0;
  if (*failed = worker_->Start(job); !failed->ok()) return false;
  for (const KvCacheManager::StoredBlock& block : job->blocks)
    coming_.insert({block.group, block.digest});
  restores_.push_back({sequence, std::move(table), std::move(job)});
  return true;
}

bool PrefixRestores::End(const RestoreJob* job, Sequence** reader) {
  ++ended_;
  const auto restore = std::find_if(restores_.begin(), restores_.end(),
                                    [&](const Restore& other) { return other.job.get() == job; });
  if (restore == restores_.end()) return false;
  *reader = restore->reader;
  const absl::Span<const KvCacheManager::StoredBlock> blocks = job->blocks;
  for (const KvCacheManager::StoredBlock& block : blocks)
    coming_.erase({block.group, block.digest});
  kv_->FileStored(blocks.first(job->blocks_read), &restore->table);
  restores_.erase(restore);
  return true;
}

void PrefixRestores::Abandon(const Sequence* sequence) {
  for (Restore& restore : restores_) {
    if (restore.reader != sequence) continue;
    restore.reader = nullptr;
    worker_->Abandon(restore.job.get());
  }
}

const BlockTable* PrefixRestores::TableOf(const Sequence* sequence) const {
  for (const Restore& restore : restores_) {
    if (restore.reader == sequence) return &restore.table;
  }
  return nullptr;
}

}  // namespace kvasir
