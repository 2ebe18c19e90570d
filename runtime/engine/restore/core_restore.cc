// What the engine core does with sessions that come back from disk: turns that wait for them, and
// forks.
#include <utility>

#include "runtime/engine/engine_core.h"

namespace kvasir {

SpilledBlocks EngineCore::Spilled(const Sequence& sequence) const {
  const RequestState& request = *sequence.request;
  if (request.session == nullptr) return {};
  // Whatever the turn computes takes its place in the session, which a read under way still fills.
  if (request.session->restore != nullptr) return {.later = true};
  if (sequence.restore_failed || request.request.prompt_logprobs.has_value() ||
      !GoesOnFromSession(request)) {
    return {};
  }
  return sessions_.Spilled(*request.session, sequence.tokens);
}

bool EngineCore::StartRestore(Sequence* sequence) {
  return sessions_.StartRestore(sequence->request->session, sequence);
}

void EngineCore::EndRestores() {
  for (const SessionStore::EndedRestore& ended : sessions_.EndRestores()) {
    if (ended.reader == nullptr) continue;
    if (ended.restored) AttachCached(ended.reader);
    // Of layers that forget, blocks of a history that was edited are of no use: once is enough.
    ended.reader->restore_failed = ended.reader->table.empty();
    scheduler_.EndRestore(ended.reader);
  }
  std::erase_if(forks_, [this](PendingFork& fork) { return TryFork(&fork); });
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
