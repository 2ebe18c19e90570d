// How requests end in the engine core: done, failed, cancelled by whoever may, or with the daemon.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "runtime/engine/engine_core.h"

namespace kvasir {
namespace {

// What the request cost: prompt tokens, but for those found cached, and generated ones. Tokens
// computed again after a preemption count once.
int64_t TokensComputed(const RequestState& request) {
  int64_t tokens = request.usage.completion_tokens;
  if (request.accepted_sent) {
    const Sequence& first = *request.sequences.front();
    tokens += std::max(
        0, std::min(first.charged_tokens, first.prompt_tokens) - request.usage.cached_tokens);
  }
  return tokens;
}

}  // namespace

void EngineCore::EndCancelled(absl::Time now) {
  const int64_t cancels = cancels_->load(std::memory_order_acquire);
  if (cancels != cancels_seen_ || now >= earliest_deadline_) {
    cancels_seen_ = cancels;
    earliest_deadline_ = absl::InfiniteFuture();
    for (const auto& request : requests_) {
      if (request->stream->cancelled()) {
        Cancel(request.get(), absl::CancelledError("the client closed the stream"),
               CancelCause::kClient);
      } else if (now >= request->request.deadline) {
        Cancel(
            request.get(),
            absl::DeadlineExceededError(absl::StrCat(
                "the deadline passed after ", absl::FormatDuration(now - request->request.arrival),
                " with ", request->usage.completion_tokens, " tokens generated")),
            CancelCause::kDeadline);
      } else {
        earliest_deadline_ = std::min(earliest_deadline_, request->request.deadline);
      }
    }
  }
  EndStalled(now);
  ForgetFinished();
}

void EngineCore::EndStalled(absl::Time now) {
  for (RequestState* request : begun_) {
    if (request->finished || now - request->stalled_since < config_.stall_limit) continue;
    Cancel(
        request,
        absl::ResourceExhaustedError(absl::StrCat(
            "the reader did not take its messages for ", absl::FormatDuration(config_.stall_limit),
            " (scheduler.stall_limit_seconds); read the stream faster or ask for fewer tokens")),
        CancelCause::kSlowReader);
  }
}

void EngineCore::FinishSequence(Sequence* sequence, CompletionResult result) {
  RequestState* const request = sequence->request;
  scheduler_.Remove(sequence);
  if (request->session == nullptr) sequence->table.Clear();
  request->completions.push_back(std::move(result));
  ++request->num_finished;
  if (request->num_finished == request->request.n) FinishRequest(request, absl::OkStatus());
}

void EngineCore::Cancel(RequestState* request, absl::Status status, CancelCause cause) {
  observer_->OnCancelled(request->request, cause);
  FinishRequest(request, std::move(status));
}

void EngineCore::FinishRequest(RequestState* request, absl::Status status) {
  const absl::Time now = clock_->Now();
  request->usage.kv_byte_seconds += static_cast<double>(request->kv_bytes_held) *
                                    absl::ToDoubleSeconds(now - request->kv_accounted_at);
  request->usage.total_time = now - request->request.arrival;
  if (request->first_scheduled == absl::InfinitePast())
    request->usage.queue_time = request->usage.total_time;

  if (request->session != nullptr) {
    KVASIR_CHECK(request->sequences.size() <= 1);
    if (request->sequences.empty()) {
      sessions_.Rollback(request->session, {}, BlockTable(), now);
    } else if (Sequence* const turn = request->sequences.front().get(); status.ok()) {
      request->session->findable_tokens =
          std::min(request->session->findable_tokens, request->sparse_from());
      request->session->long_context = request->long_context;
      request->session->cache_salt = request->request.cache_salt;
      sessions_.Commit(request->session, std::move(turn->tokens), std::move(turn->table), now);
    } else {
      if (!GoesOnFromSession(*request)) turn->table.Clear();
      sessions_.Rollback(request->session, turn->tokens, std::move(turn->table), now);
    }
  }
  for (const auto& sequence : request->sequences) {
    prefixes_.Abandon(sequence.get());
    if (sequence->state != SequenceState::kFinished) {
      scheduler_.Remove(sequence.get());
      CompletionResult cancelled;
      cancelled.index = sequence->index;
      cancelled.completion_tokens = sequence->num_generated();
      request->completions.push_back(std::move(cancelled));
    }
    sequence->table.Clear();
  }
  std::sort(request->completions.begin(), request->completions.end(),
            [](const CompletionResult& a, const CompletionResult& b) { return a.index < b.index; });

  FinishedEvent outcome{std::move(status), std::move(request->completions), request->usage};
  RequestSummary summary;
  summary.request = &request->request;
  summary.outcome = &outcome;
  if (request->first_token != absl::InfinitePast()) {
    summary.prefill_time = request->first_token - request->first_scheduled;
    summary.decode_time = now - request->first_token;
  }
  observer_->OnFinished(summary);
  // Before the client can know, so that its next request finds the place free.
  request->ticket.Settle(TokensComputed(*request));
  request->ticket = AdmissionTicket();
  request->stream->Push(std::move(outcome));
  request->finished = true;
  finished_.push_back(request);
}

void EngineCore::ForgetFinished() {
  if (finished_.empty()) return;
  for (RequestState* request : finished_) {
    --request->tenant->requests;
    if (!request->accepted_sent) --request->tenant->waiting_requests;
  }
  std::erase_if(begun_, [](const RequestState* request) { return request->finished; });
  std::erase_if(requests_, [](const auto& request) { return request->finished; });
  finished_.clear();
}

absl::Status EngineCore::Abort(const std::string& tenant, const std::string& request_id) {
  bool found = false;
  for (const auto& request : requests_) {
    if (request->request.tenant != tenant || request->request.id != request_id) continue;
    Cancel(request.get(), absl::CancelledError("aborted by request"), CancelCause::kAbort);
    found = true;
  }
  ForgetFinished();
  if (found) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(
      "no request \"", request_id, "\" is waiting or running; it may have finished already"));
}

void EngineCore::Shutdown(absl::string_view why) {
  if (std::exchange(ended_, true)) return;
  foreground_.Set(false);
  for (const auto& request : requests_) {
    Cancel(request.get(),
           absl::CancelledError(absl::StrCat(why, "; send the request to another replica")),
           CancelCause::kShutdown);
  }
  ForgetFinished();
  // Before their reads end: a fork without K/V would be gone after the next start.
  for (const PendingFork& fork : std::exchange(forks_, {})) {
    fork.done(absl::CancelledError(why));
  }
  if (restorer_ != nullptr) restorer_->Stop();
  EndRestores();
  sessions_.SpillAll();
  if (prefix_spill_ != nullptr) {
    prefix_spill_->BePatient();
    kv_->EvictCache(prefix_spill_->max_bytes());
    prefix_spill_->Flush();
    NoticePrefixFaults();
  }
  AccountKv(clock_->Now());
}

}  // namespace kvasir
