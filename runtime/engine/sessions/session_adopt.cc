// Sessions of a spill directory that several replicas share: what was found when one was claimed
// becomes what this replica knows of it.
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/engine/sessions/session_store.h"

namespace kvasir {

absl::Status SessionStore::Adopt(TenantState* tenant, const std::string& id, SessionClaim* claim,
                                 bool anew, absl::Time now) {
  const ClaimedState* const state = claim != nullptr ? claim->state() : nullptr;
  if (state == nullptr) return absl::OkStatus();  // what is known is the newest
  const auto found = sessions_.find({tenant->id, id});
  Session* const known = found == sessions_.end() ? nullptr : found->second.get();
  if (known != nullptr && (known->busy || known->restore != nullptr)) return BeingRead(id);
  const std::string spill_id = SpillIdOf(tenant->id, id);
  switch (state->kind) {
    case ClaimedState::Kind::kUnchanged:
    case ClaimedState::Kind::kPushedOut:
      if (known == nullptr) return BeingRead(id);  // forgotten since: the next look finds the file
      if (state->kind == ClaimedState::Kind::kPushedOut) {
        known->spilled = false;
        known->spilled_bytes = 0;
        index_.Update(known);
      }
      break;
    case ClaimedState::Kind::kNothing:
      if (known != nullptr) Forget(known, nullptr);
      break;
    case ClaimedState::Kind::kLost:
      if (known != nullptr) Forget(known, nullptr);
      if (!anew) return LostError(id);
      break;
    case ClaimedState::Kind::kFile: {
      if (known != nullptr) Forget(known, nullptr);
      Session read;
      std::vector<TokenId> tail;
      if (!ParseMetadata(state->header.metadata, &read, &tail)) {
        observer_->OnSpillDamaged(absl::StrCat("session \"", id, "\" of tenant \"", tenant->id,
                                               "\": its spill file holds no history"));
        if (!anew) return LostError(id);
        break;
      }
      absl::StatusOr<Session*> made = Create(tenant, id, 1, now);
      if (!made.ok()) return made.status();
      Session& session = **made;
      session.tokens.assign(state->header.tokens.begin(), state->header.tokens.end());
      session.tokens.insert(session.tokens.end(), tail.begin(), tail.end());
      session.turns = read.turns;
      session.findable_tokens = read.findable_tokens;
      session.long_context = read.long_context;
      session.spilled = true;
      session.spilled_bytes = state->header.payload_bytes;
      session.spilled_tokens = static_cast<int32_t>(state->header.tokens.size());
      index_.Update(&session);
      break;
    }
  }
  spill_->TakeNote(spill_id, claim);
  return absl::OkStatus();
}

absl::Status SessionStore::LostError(const std::string& id) {
  return absl::FailedPreconditionError(absl::StrCat(
      "session \"", id,
      "\" is lost: the replica that had its newest state ended before that was on the disk, or its "
      "file is damaged; send the whole history (SESSION_INPUT_FULL_HISTORY), or delete the session "
      "and begin anew"));
}

absl::Status SessionStore::DeleteClaimed(TenantState* tenant, const std::string& id,
                                         SessionClaim* claim, absl::Time now) {
  const ClaimedState* const state = claim != nullptr ? claim->state() : nullptr;
  const bool lost = state != nullptr && state->kind == ClaimedState::Kind::kLost;
  if (absl::Status status = Adopt(tenant, id, claim, true, now); !status.ok()) return status;
  absl::StatusOr<Session*> session = FindIdle(tenant->id, id);
  // A file that the start could not read is known to nobody, and the client's all the same.
  if (absl::IsNotFound(session.status()) && spill_ != nullptr && !spill_->shared() &&
      spill_->Remove(SpillIdOf(tenant->id, id))) {
    return absl::OkStatus();
  }
  if (!session.ok() && !(lost && absl::IsNotFound(session.status()))) return session.status();
  if (session.ok()) Forget(*session, nullptr);
  if (claim != nullptr) {
    spill_->Remove(SpillIdOf(tenant->id, id));
    claim->Settle();
  }
  return absl::OkStatus();
}

void SessionStore::WriteThrough(Session* session) {
  if (spill_ == nullptr || !spill_->shared()) return;
  if (!session->spilled && !session->table.empty()) Spill(session);
  session->claim = nullptr;
}

}  // namespace kvasir
