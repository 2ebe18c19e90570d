// Sessions' way to disk and back. What a file holds beside K/V and states is known here alone.
#include <algorithm>
#include <new>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "runtime/engine/sessions/session_store.h"

namespace kvasir {
namespace {

// A spill file's metadata: "<turns> <findable tokens> <kind of context> <token>,<token>,...", the
// last being those of the history behind the ones whose K/V it holds. A salt follows the kind:
// "short:<two words, a comma between>".
constexpr char kShort[] = "short", kLong[] = "long";

std::string KindName(const Session& session) {
  std::string name = session.long_context ? kLong : kShort;
  if (session.cache_salt == CacheSalt{}) return name;
  return absl::StrCat(name, ":", absl::StrJoin(session.cache_salt, ","));
}

bool ParseKind(absl::string_view text, Session* session) {
  const std::pair<absl::string_view, absl::string_view> kind_and_salt =
      absl::StrSplit(text, absl::MaxSplits(':', 1));
  const auto& [kind, salt] = kind_and_salt;
  if (kind != kShort && kind != kLong) return false;
  session->long_context = kind == kLong;
  if (salt.empty()) return kind.size() == text.size();
  const std::vector<absl::string_view> words = absl::StrSplit(salt, ',');
  return words.size() == session->cache_salt.size() &&
         absl::SimpleAtoi(words[0], &session->cache_salt[0]) &&
         absl::SimpleAtoi(words[1], &session->cache_salt[1]);
}

std::string MakeMetadata(const Session& session) {
  return absl::StrCat(session.turns, " ", session.findable_tokens, " ", KindName(session), " ",
                      absl::StrJoin(session.tokens.begin() + session.table.num_tokens(),
                                    session.tokens.end(), ","));
}

}  // namespace

bool SessionStore::ParseMetadata(const std::string& metadata, Session* session,
                                 std::vector<TokenId>* tail) {
  const std::vector<std::string> parts = absl::StrSplit(metadata, ' ');
  if (parts.size() != 4 || !absl::SimpleAtoi(parts[0], &session->turns) || session->turns < 1 ||
      !absl::SimpleAtoi(parts[1], &session->findable_tokens) || !ParseKind(parts[2], session)) {
    return false;
  }
  for (absl::string_view text : absl::StrSplit(parts[3], ',', absl::SkipEmpty())) {
    if (!absl::SimpleAtoi(text, &tail->emplace_back())) return false;
  }
  return true;
}

std::string SessionStore::SpillId(const Session& session) {
  return SpillIdOf(session.tenant->id, session.id);
}

void SessionStore::LoadSpilled(absl::Time now) {
  // Shared ones are found when they are asked for.
  if (spill_ == nullptr || spill_->shared()) return;
  std::vector<SpilledInfo> files = spill_->List();
  std::reverse(files.begin(), files.end());  // newest first, for the bound may cut the rest
  for (const SpilledInfo& file : files) {
    const size_t split = file.id.rfind(kSpillIdSeparator);
    auto session = std::make_unique<Session>();
    std::vector<TokenId> tail;
    if (split == std::string::npos ||
        static_cast<int32_t>(sessions_.size()) >= config_.max_sessions ||
        !ParseMetadata(file.metadata, session.get(), &tail)) {
      spill_->Remove(file.id);
      if (static_cast<int32_t>(sessions_.size()) >= config_.max_sessions) {
        observer_->OnSessionEvicted("capacity");
      } else {
        observer_->OnSpillDamaged("a spill file of a session holds no history; it is removed");
      }
      continue;
    }
    // Reads the header only: the history is wanted in memory, the blocks stay on disk.
    const absl::StatusOr<SpilledSequence> read =
        spill_->Restore(file.id, [&](const SpilledSequence& spilled) {
          session->tokens.assign(spilled.tokens.begin(), spilled.tokens.end());
          return absl::StatusOr<std::vector<absl::Span<uint8_t>>>(
              absl::CancelledError("header only"));
        });
    if (session->tokens.empty()) {
      observer_->OnSpillDamaged(
          absl::StrCat("a spilled session cannot be read: ", read.status().message()));
      continue;
    }
    session->tokens.insert(session->tokens.end(), tail.begin(), tail.end());
    session->tenant = tenants_->Get(file.id.substr(0, split));
    ++session->tenant->sessions;
    session->id = file.id.substr(split + 1);
    session->spilled = true;
    session->spilled_bytes = file.bytes;
    session->spilled_tokens = file.num_tokens;
    session->table = kv_->NewTable(session->tenant->scope);
    session->last_used = now;
    Key key(session->tenant->id, session->id);
    index_.Update(sessions_.emplace(std::move(key), std::move(session)).first->second.get());
  }
  NoticeLosses();
}

void SessionStore::SpillAll() {
  if (spill_ == nullptr) return;
  NoticeLosses();
  for (auto& [key, session] : sessions_) {
    if (session->busy || session->table.empty()) continue;
    spill_->Flush();  // one at a time: nothing may be refused for a full queue now
    if (!Spill(session.get())) {
      ReportLoss(*session, "there is no room for it in the spill directory or its tenant's share");
    }
  }
  spill_->Flush();
  NoticeLosses();
  // What is on the disk is counted there, and only there.
  for (auto& [key, session] : sessions_) {
    if (session->busy || !session->spilled || session->table.empty()) continue;
    session->table = kv_->NewTable(session->tenant->scope);
    index_.Update(session.get());
  }
}

void SessionStore::NoticeLosses() {
  if (spill_ == nullptr || !spill_->has_losses()) return;
  for (const SpillLoss& loss : spill_->TakeLosses()) {
    const size_t split = loss.id.rfind(kSpillIdSeparator);
    const auto known = split == std::string::npos
                           ? sessions_.end()
                           : sessions_.find({loss.id.substr(0, split), loss.id.substr(split + 1)});
    if (known == sessions_.end()) {
      // A file that does not tell its session, one that the start found no room for, or a session
      // that is forgotten: then nothing is lost by it.
      if (loss.id.empty()) observer_->OnSpillDamaged(loss.message);
      if (loss.cause == SpillLoss::Cause::kPushedOut) observer_->OnSessionEvicted("spill_limit");
      continue;
    }
    Session& session = *known->second;
    if (!session.spilled || spill_->Contains(loss.id)) continue;  // written again since
    session.spilled = false;
    session.spilled_bytes = 0;
    index_.Update(&session);
    if (loss.cause == SpillLoss::Cause::kPushedOut) {
      observer_->OnSessionEvicted("spill_limit");
    } else {
      ReportLoss(session, loss.message);
    }
  }
}

void SessionStore::ReportLoss(const Session& session, absl::string_view why) {
  observer_->OnSpillDamaged(
      absl::StrCat("session \"", session.id, "\" of tenant \"", session.tenant->id, "\": ", why));
}

bool SessionStore::Spill(Session* session) {
  if (spill_ == nullptr) return false;
  if (session->spilled) return true;  // restored and not changed since: the file still says it all
  const int64_t bytes = kv_->layout().ExportBytes(session->table.num_tokens());
  if (!MakeSpillRoom(session->tenant, bytes)) return false;
  std::vector<uint8_t> payload;
  try {
    payload = kv_->ExportBlocks(session->table);
  } catch (const std::bad_alloc&) {
    return false;  // as if the queue were full, whose bytes it would have counted against
  }
  session->spilled_bytes = static_cast<int64_t>(payload.size());
  session->spilled_tokens = session->table.num_tokens();
  session->spilled = spill_->SpillAsync(
      SpillId(*session), MakeMetadata(*session),
      absl::MakeConstSpan(session->tokens).subspan(0, session->table.num_tokens()),
      std::move(payload));
  index_.Update(session);
  return session->spilled;
}

void SessionStore::DropSpillFile(Session* session) {
  if (session->spilled) {
    if (spill_->shared()) {
      spill_->PushOut(SpillId(*session));
    } else {
      spill_->Remove(SpillId(*session));
    }
  }
  session->spilled = false;
  session->spilled_bytes = 0;
  index_.Update(session);
}

}  // namespace kvasir
