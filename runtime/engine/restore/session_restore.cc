// Sessions' way back from disk, beside the steps.
#include <algorithm>
#include <utility>

#include "runtime/engine/sessions/session_store.h"

namespace kvasir {

SpilledBlocks SessionStore::Spilled(const Session& session,
                                    const std::vector<TokenId>& tokens) const {
  if (session.restore != nullptr) return {.later = true};
  if (!session.spilled || !session.table.empty() || session.spilled_tokens < 1) return {};
  if (tokens.empty() || tokens.front() != session.tokens.front()) return {};
  return {.bytes = kv_->layout().HeldBytes(session.spilled_tokens),
          .later = !restorer_->has_room()};
}

bool SessionStore::StartRestore(Session* session, Sequence* reader) {
  const int tokens = session->spilled_tokens;
  const int64_t bytes = kv_->layout().HeldBytes(tokens);
  Reclaim(*session->tenant, BlockDonors::kFair, [&] { return kv_->available_bytes() >= bytes; });
  if (!session->spilled) return false;  // its file made room for theirs
  BlockTable table = kv_->NewTable(session->tenant->scope);
  auto memory = kv_->ReserveForImport(&table, tokens);
  if (!memory.ok()) return false;

  auto job = std::make_shared<RestoreJob>();
  job->id = SpillId(*session);
  job->num_tokens = tokens;
  job->memory = *std::move(memory);
  if (kv_->layout().has_full_group()) {
    const auto full_blocks = table.blocks(0).first(tokens / kv_->layout().block_tokens());
    job->full_blocks.assign(full_blocks.begin(), full_blocks.end());
  }
  if (absl::Status status = restorer_->Start(job); !status.ok()) {
    ReportLoss(*session, status.message());
    return false;
  }
  session->table = std::move(table);
  session->restore = std::move(job);
  session->reader = reader;
  restoring_.push_back(session);
  index_.Update(session);
  return true;
}

SessionStore::ForkSource SessionStore::PrepareFork(TenantState* tenant, const std::string& id,
                                                   const std::string& new_id) {
  const absl::StatusOr<Session*> source = FindIdle(tenant->id, id);
  if (!source.ok() || sessions_.contains({tenant->id, new_id})) return ForkSource::kReady;
  const SpilledBlocks spilled = Spilled(**source, (*source)->tokens);
  if (spilled.bytes == 0) return ForkSource::kReady;
  if (spilled.later) return ForkSource::kLater;
  if (!StartRestore(*source, nullptr)) return ForkSource::kReady;
  (*source)->busy = (*source)->forking = true;
  index_.Update(*source);
  return ForkSource::kRestoring;
}

SessionStore::EndedRestore SessionStore::EndRestore(const std::shared_ptr<RestoreJob>& job) {
  const auto found = std::find_if(restoring_.begin(), restoring_.end(),
                                  [&](const Session* s) { return s->restore == job; });
  Session* const session = *found;
  restoring_.erase(found);
  session->restore = nullptr;
  EndedRestore end{session, std::exchange(session->reader, nullptr), job->restored.ok()};
  if (std::exchange(session->forking, false)) session->busy = false;
  if (end.restored) {
    kv_->Commit(ScopeOf(*session->tenant, session->long_context, session->cache_salt),
                job->restored->tokens, &session->table, session->findable_tokens);
  } else {
    session->table = kv_->NewTable(session->tenant->scope);
    const absl::Status& status = job->restored.status();
    // What was pushed out or could not be written meanwhile is told by NoticeLosses.
    if (!absl::IsCancelled(status) && session->spilled) {
      ReportLoss(*session, status.message());
      // A file that is there and only cannot be read now stays, and so does the account of it:
      // the end of a turn removes both.
      if (absl::IsDataLoss(status) || absl::IsNotFound(status)) DropSpillFile(session);
    }
  }
  index_.Update(session);
  return end;
}

}  // namespace kvasir
