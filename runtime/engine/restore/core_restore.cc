// What the engine core does with sessions that come back from disk: turns that wait for them, and
// forks.
#include <utility>

#include "runtime/engine/engine_core.h"

namespace kvasir {

SpilledBlocks EngineCore::Spilled(const Sequence& sequence) const {
  const RequestState& request = *sequence.request;
  // Whatever the turn computes takes its place in the session, which a read under way still fills.
  if (request.session != nullptr && request.session->restore != nullptr) return {.later = true};
  if (request.request.prompt_logprobs.has_value()) return {};
  if (GoesOnFromSession(request)) {
    if (const SpilledBlocks spilled = SpilledSession(sequence); spilled.bytes > 0) return spilled;
    if (!request.session->table.empty()) return {};
  }
  if (!config_.prefix_cache) return {};
  return prefixes_.Stored(ScopeOf(request), sequence, sequence.num_tokens() - 1);
}

SpilledBlocks EngineCore::SpilledSession(const Sequence& sequence) const {
  const RequestState& request = *sequence.request;
  if (sequence.restore_failed || !GoesOnFromSession(request)) return {};
  return sessions_.Spilled(*request.session, sequence.tokens);
}

bool EngineCore::StartRestore(Sequence* sequence) {
  RequestState& request = *sequence->request;
  Begin(&request);  // its blocks are taken before it is scheduled
  if (SpilledSession(*sequence).bytes > 0) return sessions_.StartRestore(request.session, sequence);
  absl::Status failed;
  if (prefixes_.Start(ScopeOf(request), sequence, sequence->num_tokens() - 1, &failed)) return true;
  if (!failed.ok()) observer_->OnPrefixSpillFault(std::string(failed.message()));
  return false;
}

void EngineCore::EndRestores() {
  if (restorer_ == nullptr) return;
  for (const std::shared_ptr<RestoreJob>& job : restorer_->TakeDone()) {
    Sequence* reader = nullptr;
    bool restored = true;
    const bool of_prefix = prefixes_.End(job.get(), &reader);
    if (!of_prefix) {
      const SessionStore::EndedRestore ended = sessions_.EndRestore(job);
      reader = ended.reader;
      restored = ended.restored;
    }
    if (reader == nullptr) continue;
    if (restored) AttachCached(reader);
    // Of layers that forget, blocks of a history that was edited are of no use: once is enough.
    if (!of_prefix) reader->restore_failed = reader->table.empty();
    scheduler_.EndRestore(reader);
  }
  std::erase_if(forks_, [this](PendingFork& fork) { return TryFork(&fork); });
}

void EngineCore::NoticePrefixFaults() {
  if (prefix_spill_ == nullptr || !prefix_spill_->has_faults()) return;
  for (const std::string& message : prefix_spill_->TakeFaults())
    observer_->OnPrefixSpillFault(message);
}

void EngineCore::ForkSession(const std::string& tenant, const std::string& id,
                             const std::string& new_id, ForkDone done, Claims claims) {
  const absl::Time now = clock_->Now();
  for (size_t i = 0; i < claims.size(); ++i) {  // of the source, of the new one
    const absl::Status status =
        sessions_.Adopt(tenants_.Get(tenant), i == 0 ? id : new_id, claims[i].get(), i > 0, now);
    if (!status.ok()) return done(status);
  }
  PendingFork fork{tenant, id, new_id, std::move(done), std::move(claims)};
  if (!TryFork(&fork)) forks_.push_back(std::move(fork));
}

bool EngineCore::TryFork(PendingFork* fork) {
  TenantState* const tenant = tenants_.Get(fork->tenant);
  if (!fork->restored) {
    switch (sessions_.PrepareFork(tenant, fork->id, fork->new_id)) {
      case SessionStore::ForkSource::kLater:
        return false;
      case SessionStore::ForkSource::kRestoring:
        fork->restored = true;
        return false;
      case SessionStore::ForkSource::kReady:
        break;
    }
  } else if (sessions_.forking(fork->tenant, fork->id)) {
    return false;
  }
  absl::StatusOr<SessionSnapshot> made =
      sessions_.Fork(tenant, fork->id, fork->new_id, clock_->Now(),
                     fork->claims.empty() ? nullptr : fork->claims.back());
  fork->claims.clear();  // before the answer: whoever has it may go on at another replica
  fork->done(std::move(made));
  return true;
}

}  // namespace kvasir
