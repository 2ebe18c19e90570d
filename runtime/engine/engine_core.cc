#include "runtime/engine/engine_core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "runtime/engine/context_limit.h"
#include "runtime/engine/output_processor.h"
#include "runtime/engine/refusal.h"

namespace kvasir {
namespace {

// Logits of prompt tokens are wanted for prompt_logprobs only; this bounds their buffer.
constexpr int64_t kMaxLogitBytes = int64_t{32} << 20;

// While nothing runs, idle sessions' byte-seconds are told this often: below the period of a
// scrape.
constexpr absl::Duration kAccountPeriod = absl::Seconds(5);

SchedulerLimits LimitsOf(const EngineConfig& config, int32_t vocab_size) {
  SchedulerLimits limits;
  limits.max_step_tokens = config.max_step_tokens;
  limits.prefill_chunk_tokens = config.prefill_chunk_tokens;
  limits.max_running = config.max_running;
  limits.prices = config.token_prices;
  const int64_t affordable = kMaxLogitBytes / (int64_t{4} * vocab_size);
  limits.max_logit_rows = static_cast<int32_t>(
      std::max<int64_t>(config.max_running, std::min<int64_t>(affordable, config.max_step_tokens)));
  return limits;
}

}  // namespace

EngineCore::EngineCore(Parts parts)
    : config_(*parts.config),
      tokenizer_(parts.tokenizer),
      kv_(parts.kv),
      observer_(parts.observer),
      clock_(parts.clock),
      vocab_size_(parts.vocab_size),
      plain_query_heads_(std::move(parts.plain_query_heads)),
      short_context_tokens_(parts.short_context_tokens),
      eos_token_ids_(parts.eos_token_ids),
      tenants_(config_.tenants),
      prefix_spill_(parts.prefix_spill),
      restorer_(parts.spill == nullptr
                    ? nullptr
                    : std::make_unique<RestoreWorker>(parts.spill, parts.prefix_spill,
                                                      parts.forward, std::move(parts.wake))),
      sessions_(config_, parts.kv, parts.spill, restorer_.get(), &tenants_, parts.observer),
      prefixes_(parts.kv, parts.prefix_spill, restorer_.get()),
      scheduler_(LimitsOf(config_, parts.vocab_size), parts.kv, this),
      runner_(parts.forward, parts.vocab_size),
      speculator_(CanSpeculate(parts.kv->layout()), parts.draft_model, parts.clock),
      tenants_accounted_at_(clock_->Now()) {
  sessions_.LoadSpilled(clock_->Now());
}

EngineCore::~EngineCore() { Shutdown(); }

void EngineCore::Start(GenerationRequest request, std::shared_ptr<TokenStream> stream,
                       AdmissionTicket ticket) {
  const absl::Time now = clock_->Now();
  auto state = std::make_unique<RequestState>();
  RequestState* const added = state.get();
  added->request = std::move(request);
  added->stream = std::move(stream);
  added->ticket = std::move(ticket);
  added->order = next_order_++;
  added->tenant = tenants_.Get(added->request.tenant);
  ++added->tenant->requests;
  ++added->tenant->waiting_requests;
  added->kv_accounted_at = now;
  added->stream->CountCancel(cancels_);
  earliest_deadline_ = std::min(earliest_deadline_, added->request.deadline);
  requests_.push_back(std::move(state));

  if (absl::Status status = Prepare(added, now); !status.ok()) {
    FinishRequest(added, std::move(status));
    ForgetFinished();
    return;
  }
  scheduler_.Enqueue(added->sequences.front().get());
}

absl::Status EngineCore::Prepare(RequestState* request, absl::Time now) {
  std::vector<TokenId> tokens;
  if (!request->request.session_id.empty()) {
    KVASIR_ASSIGN_OR_RETURN(request->session,
                            sessions_.BeginTurn(request->tenant, request->request.session_id, now,
                                                std::move(request->request.session_claim),
                                                request->request.session_full_history));
    if (!request->request.session_full_history) tokens = request->session->tokens;
  }
  const int64_t history_tokens = static_cast<int64_t>(tokens.size());
  const int32_t skipped = tokens.empty() ? 0 : request->request.automatic_prefix_tokens;
  tokens.insert(tokens.end(), request->request.prompt.begin() + skipped,
                request->request.prompt.end());

  const int64_t prompt_tokens = static_cast<int64_t>(tokens.size());
  request->usage.prompt_tokens = static_cast<int32_t>(prompt_tokens);
  if (const auto violation = ContextViolation(history_tokens, prompt_tokens - history_tokens,
                                              config_.max_context_tokens)) {
    return absl::InvalidArgumentError(*violation);
  }
  request->max_tokens = static_cast<int32_t>(std::min<int64_t>(
      request->request.stopping.max_tokens, OutputRoom(prompt_tokens, config_.max_context_tokens)));
  request->long_context = prompt_tokens + request->max_tokens - 1 > short_context_tokens_;
  KVASIR_RETURN_IF_ERROR(CheckCanFit(*request));
  if (const AttentionMethod* asked = request->request.attention.get()) {
    request->method =
        asked->Resolve(kv_->layout(), plain_query_heads_, static_cast<int32_t>(prompt_tokens),
                       static_cast<int32_t>(prompt_tokens) + request->max_tokens);
  }
  request->sequences.push_back(MakeSequence(request, 0, std::move(tokens)));
  return absl::OkStatus();
}

absl::Status EngineCore::CheckCanFit(const RequestState& request) const {
  const KvLayout& layout = kv_->layout();
  // Completions of one request can run one after another, so one has to fit.
  const int64_t bytes = layout.PeakBytes(request.usage.prompt_tokens + request.max_tokens - 1,
                                         config_.max_step_tokens);
  const std::string needs =
      absl::StrCat("the request could never fit: ", request.usage.prompt_tokens,
                   " tokens of history and prompt and ", request.max_tokens, " of output need ",
                   bytes, " bytes of KV cache");
  if (const int64_t capacity_bytes = kv_->stats().capacity_bytes; bytes > capacity_bytes) {
    return RefusalError({.reason = RefusalReason::kKvPool},
                        absl::StrCat(needs, ", the pool has ", capacity_bytes,
                                     "; lower max_tokens or start a new session"));
  }
  const int64_t quota = request.tenant->policy.limits.max_kv_bytes;
  if (bytes > quota) {
    return RefusalError({RefusalReason::kKvQuota, "max_kv_bytes", request.tenant->id, std::nullopt},
                        absl::StrCat(needs, ", the limit is ", quota));
  }
  return absl::OkStatus();
}

KvBytesRead EngineCore::BytesRead(const ScheduledSequence& item) const {
  const KvLayout& layout = kv_->layout();
  const RequestState& request = *item.sequence->request;
  const int32_t end = item.first_position + item.num_tokens;
  KvBytesRead bytes;
  // Dense rows of a chunk share one pass over the cache; sparse rows read each their own picks.
  const int32_t dense_end = std::clamp(request.sparse_from(), item.first_position, end);
  if (dense_end > item.first_position)
    bytes.dense = bytes.if_dense = layout.ReadBytes(item.first_position, dense_end);
  for (int32_t position = dense_end; position < end; ++position) {
    bytes.if_dense += layout.ReadBytes(position, position + 1);
    ++bytes.sparse_tokens;
  }
  return bytes;
}

std::unique_ptr<Sequence> EngineCore::MakeSequence(RequestState* request, int32_t index,
                                                   std::vector<TokenId> tokens) const {
  auto sequence = std::make_unique<Sequence>(
      request, index,
      TokenCounts::Needed(request->request.sampling) ? TokenCounts(tokens) : TokenCounts(),
      IncrementalDetokenizer(tokenizer_, request->request.skip_special_tokens,
                             request->request.visible_special_tokens),
      StopChecker(&request->request.stopping, eos_token_ids_, request->max_tokens));
  sequence->detokenizer.Seed(tokens);
  sequence->prompt_tokens = static_cast<int32_t>(tokens.size());
  sequence->tokens = std::move(tokens);
  sequence->table = kv_->NewTable(request->tenant->scope);
  if (request->request.grammar != nullptr) sequence->matcher = request->request.grammar->Clone();
  return sequence;
}

bool EngineCore::Step() {
  const absl::Time begin = clock_->Now();
  EndCancelled(begin);
  sessions_.NoticeLosses();
  NoticePrefixFaults();
  EndRestores();
  sessions_.Expire(begin);

  StepPlan plan = scheduler_.Plan();
  speculator_.AddDrafts(&scheduler_, &plan);
  NotePlan(plan, begin);
  const absl::Time planned = clock_->Now();
  foreground_.Set(!plan.empty());
  if (plan.empty()) {
    return !plan.preempted.empty();  // whoever made room may find it taken back in the next step
  }

  const int64_t weight_bytes_before = runner_.weight_bytes_read();
  const absl::Span<const float> logits = runner_.Run(plan);
  const absl::Time computed = clock_->Now();

  speculator_.NoteStep(plan, computed - planned);
  CountReads(plan);
  CommitComputed(plan);
  SendPromptLogprobs(plan, logits);
  std::vector<DrawnToken>* const drawn = runner_.Draw(plan, logits);
  const absl::Time sampled = clock_->Now();

  const int64_t accepted_before = accepted_tokens_total_;
  ProcessDrawn(drawn, sampled);
  const absl::Time end = clock_->Now();
  ForgetFinished();
  AccountKv(end);

  StepSummary step;
  step.prefill_tokens = plan.prefill_tokens;
  step.decode_tokens = plan.decode_tokens;
  step.draft_tokens = plan.draft_tokens;
  step.accepted_tokens = static_cast<int32_t>(accepted_tokens_total_ - accepted_before);
  step.running = scheduler_.num_running();
  step.waiting = scheduler_.num_waiting();
  step.schedule_time = planned - begin;
  step.model_time = computed - planned;
  step.sample_time = sampled - computed;
  step.output_time = end - sampled;
  step.kv_bytes_read = step_bytes_read_;
  step.weight_bytes_read = runner_.weight_bytes_read() - weight_bytes_before;
  ++steps_total_;
  observer_->OnStep(step);
  return true;
}

void EngineCore::NotePlan(const StepPlan& plan, absl::Time now) {
  for (Sequence* victim : plan.preempted) {
    ++preemptions_total_;
    ++victim->request->usage.preemptions;
    observer_->OnPreemption(victim->request->request, PreemptionReason::kKvExhausted);
  }
  for (RequestState* request : begun_) {
    if (!request->accepted_sent) continue;  // nothing was sent yet, so nothing can stall
    if (request->stream->HasRoom(request->events_per_step())) {
      request->stalled_since = absl::InfiniteFuture();
    } else if (request->stalled_since == absl::InfiniteFuture()) {
      request->stalled_since = now;
      observer_->OnSlowReaderPause(request->request);
    }
  }
  for (const ScheduledSequence& item : plan.scheduled) {
    RequestState* const request = item.sequence->request;
    if (request->accepted_sent) continue;
    Begin(request);
    request->accepted_sent = true;
    request->first_scheduled = now;
    request->ticket.LeaveQueue();
    --request->tenant->waiting_requests;
    request->usage.queue_time = now - request->request.arrival;
    request->usage.cached_tokens = item.first_position;
    prompt_tokens_total_ += request->usage.prompt_tokens;
    cached_tokens_total_ += item.first_position;
    observer_->OnScheduled(request->request, item.first_position, request->usage.queue_time);
    request->stream->Push(AcceptedEvent{request->usage.prompt_tokens, item.first_position});
  }
  AccountKv(now);
}

void EngineCore::Begin(RequestState* request) {
  if (!std::exchange(request->begun, true)) begun_.push_back(request);
}

void EngineCore::CountReads(const StepPlan& plan) {
  step_bytes_read_ = 0;
  const auto state_bytes = static_cast<int64_t>(kv_->layout().state_bytes_per_sequence());
  for (size_t i = 0; i < plan.scheduled.size(); ++i) {
    const KvBytesRead bytes = BytesRead(plan.scheduled[i]);
    const int64_t sparse = runner_.sparse_bytes_read()[i];
    step_bytes_read_ += bytes.dense + sparse;
    kv_bytes_read_dense_total_ += bytes.dense;
    kv_bytes_read_sparse_total_ += sparse;
    kv_bytes_read_if_dense_total_ += bytes.if_dense;
    RequestUsage& usage = plan.scheduled[i].sequence->request->usage;
    usage.kv_bytes_read += bytes.dense + sparse;
    usage.state_bytes_read += state_bytes;
    state_bytes_read_total_ += state_bytes;
    usage.kv_bytes_read_if_dense += bytes.if_dense;
    // Those of a draft count once they are accepted.
    usage.sparse_tokens += std::max(0, bytes.sparse_tokens - plan.scheduled[i].num_drafted());
  }
}

void EngineCore::CommitComputed(const StepPlan& plan) {
  for (const ScheduledSequence& item : plan.scheduled) {
    Sequence* const sequence = item.sequence;
    kv_->Commit(ScopeOf(*sequence->request),
                absl::MakeConstSpan(sequence->tokens).subspan(0, item.end_known()),
                &sequence->table, sequence->request->sparse_from());
  }
}

PrefixScope EngineCore::ScopeOf(const RequestState& request) const {
  return kvasir::ScopeOf(*request.tenant, request.long_context, request.request.cache_salt);
}

void EngineCore::KeepAccepted(const DrawnToken& drawn, int32_t num_known) {
  Sequence* const sequence = drawn.sequence;
  RequestState* const request = sequence->request;
  // The newest token's K/V are never there.
  const int32_t computed = sequence->num_tokens() - 1;
  const int32_t accepted = computed - num_known;
  kv_->Commit(ScopeOf(*request), absl::MakeConstSpan(sequence->tokens).subspan(0, computed),
              &sequence->table, request->sparse_from());
  kv_->Truncate(&sequence->table, computed);
  scheduler_.ChargeAccepted(*sequence, accepted);
  request->usage.drafted_tokens += drawn.num_drafted;
  request->usage.accepted_tokens += accepted;
  if (request->sparse_from() < computed) {
    request->usage.sparse_tokens += computed - std::max(num_known, request->sparse_from());
  }
  drafted_tokens_total_ += drawn.num_drafted;
  accepted_tokens_total_ += accepted;
  speculator_.NoteVerified(sequence, drawn.num_drafted, static_cast<int32_t>(drawn.more.size()));
}

void EngineCore::SendPromptLogprobs(const StepPlan& plan, absl::Span<const float> logits) {
  for (size_t i = 0; i < plan.scheduled.size(); ++i) {
    std::vector<TokenLogprob> tokens = runner_.PromptLogprobs(plan, i, logits);
    if (tokens.empty()) continue;
    RequestState* const request = plan.scheduled[i].sequence->request;
    PromptLogprobsEvent event;
    event.first_position = request->prompt_logprobs_done;
    event.tokens = std::move(tokens);
    request->prompt_logprobs_done += static_cast<int32_t>(event.tokens.size());
    request->stream->Push(std::move(event));
  }
}

absl::Status EngineCore::NothingDrawn(const Sequence& sequence) {
  if (!sequence.grammar_status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("the constraint failed after ",
                                                   sequence.num_generated(),
                                                   " tokens: ", sequence.grammar_status.message()));
  }
  if (sequence.matcher != nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "after ", sequence.num_generated(),
        " tokens the constraint allows none but those that min_tokens forbids, or the model gives "
        "no finite logit; lower min_tokens"));
  }
  return absl::InternalError(absl::StrCat(
      "request ", sequence.request->request.id,
      ": the model computed no finite logit; its weights or its KV cache are damaged"));
}

void EngineCore::ProcessDrawn(std::vector<DrawnToken>* drawn, absl::Time now) {
  for (DrawnToken& token : *drawn) {
    RequestState* const request = token.sequence->request;
    if (request->finished) continue;  // another of its completions failed in this step
    if (!token.result.valid) {
      FinishRequest(request, NothingDrawn(*token.sequence));
      continue;
    }
    if (static_cast<int32_t>(request->sequences.size()) < request->request.n) MakeForks(request);
    Sequence* const sequence = request->sequences[token.completion_index].get();
    const int32_t num_known = sequence->num_tokens();
    // An invalid one behind a draft is met again, as the first of the next step.
    std::vector<SampleResult> run;
    run.push_back(std::move(token.result));
    for (SampleResult& result : token.more) {
      if (!result.valid) break;
      run.push_back(std::move(result));
    }
    std::optional<CompletionResult> ended =
        AppendTokens(sequence, absl::MakeSpan(run), now, observer_);
    const int32_t num_new = sequence->num_tokens() - num_known;
    generated_tokens_total_ += num_new;
    if (sequence->matcher != nullptr && num_new > 1) {  // then nothing was drafted
      forced_tokens_total_ += num_new - 1;
      scheduler_.ChargeForced(*sequence, num_new - 1);
    }
    if (!sequence->grammar_status.ok()) {
      FinishRequest(request, NothingDrawn(*sequence));
      continue;
    }
    if (token.num_drafted > 0) KeepAccepted(token, num_known);
    if (ended.has_value()) FinishSequence(sequence, *std::move(ended));
  }
}

void EngineCore::MakeForks(RequestState* request) {
  const Sequence& first = *request->sequences.front();
  for (int32_t index = 1; index < request->request.n; ++index) {
    std::unique_ptr<Sequence> fork = MakeSequence(request, index, first.tokens);
    fork->table = kv_->Fork(first.table);
    fork->charged_tokens = first.charged_tokens;
    scheduler_.AddRunning(fork.get());
    request->sequences.push_back(std::move(fork));
  }
}

absl::Time EngineCore::next_timer() const {
  absl::Time next = sessions_.next_expiry();
  if (kv_->stats().live_bytes > 0) next = std::min(next, tenants_accounted_at_ + kAccountPeriod);
  for (const auto& request : requests_) {
    next =
        std::min({next, request->request.deadline, request->stalled_since + config_.stall_limit});
  }
  return next;
}

bool EngineCore::GoesOnFromSession(const RequestState& request) {
  return request.session != nullptr && request.session->long_context == request.long_context &&
         request.session->cache_salt == request.request.cache_salt;
}

void EngineCore::AttachCached(Sequence* sequence) {
  const RequestState& request = *sequence->request;
  const int most = sequence->num_tokens() - 1;  // one is left to compute, for its logits
  if (request.request.prompt_logprobs.has_value()) return;  // wants the logits of every position
  if (GoesOnFromSession(request)) {
    sessions_.Lend(request.session, sequence->tokens, most, &sequence->table);
  }
  if (sequence->table.num_tokens() == 0 && config_.prefix_cache) {
    sequence->table.Clear();
    kv_->AttachPrefix(ScopeOf(request), sequence->tokens, most, &sequence->table);
  }
}

void EngineCore::Detach(Sequence* sequence) {
  RequestState* const request = sequence->request;
  if (GoesOnFromSession(*request) && !request->accepted_sent && !sequence->table.empty()) {
    sessions_.GiveBack(request->session, std::move(sequence->table));
    sequence->table = kv_->NewTable(request->tenant->scope);
  } else {
    sequence->table.Clear();
  }
}

bool EngineCore::Reclaim(const TenantState& asking, BlockDonors donors,
                         absl::FunctionRef<bool()> enough) {
  return sessions_.Reclaim(asking, donors, enough);
}

std::vector<SessionSnapshot> EngineCore::ListSessions(const TenantScope& scope) const {
  return sessions_.List(scope, clock_->Now());
}

absl::StatusOr<SessionSnapshot> EngineCore::GetSession(const std::string& tenant,
                                                       const std::string& id,
                                                       const Claims& claims) {
  const absl::Time now = clock_->Now();
  if (!claims.empty()) {
    KVASIR_RETURN_IF_ERROR(
        sessions_.Adopt(tenants_.Get(tenant), id, claims.front().get(), false, now));
  }
  return sessions_.Get(tenant, id, now);
}

absl::Status EngineCore::DeleteSession(const std::string& tenant, const std::string& id,
                                       const Claims& claims) {
  return sessions_.DeleteClaimed(tenants_.Get(tenant), id,
                                 claims.empty() ? nullptr : claims.front().get(), clock_->Now());
}

void EngineCore::UpdateTenants(TenantPolicies policies) {
  tenants_.Update(std::move(policies));
  sessions_.KeepQuotas();
}

}  // namespace kvasir
