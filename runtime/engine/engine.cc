#include "runtime/engine/engine.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "base/annotated_mutex.h"
#include "base/compute_team.h"
#include "base/parallel.h"
#include "base/status_macros.h"
#include "base/thread_placement.h"
#include "kvcache/kv_cache_manager.h"
#include "kvcache/spill/kv_spill.h"
#include "runtime/engine/context_limit.h"
#include "runtime/engine/engine_computing.h"
#include "runtime/engine/model_runner.h"
#include "runtime/engine/published_stats.h"
#include "runtime/engine/refusal.h"
#include "runtime/engine/restore/spill_stores.h"

namespace kvasir {
namespace {

using Command = std::function<void(EngineCore&)>;

// Where commands and wake-ups for the engine thread arrive. Shared with every stream, which may
// outlive the engine.
struct Door {
  AnnotatedMutex mutex;
  AnnotatedCondVar news;
  std::vector<Command> commands ABSL_GUARDED_BY(mutex);
  bool woken ABSL_GUARDED_BY(mutex) = false;
  bool stop ABSL_GUARDED_BY(mutex) = false;
  bool thread_is_idle ABSL_GUARDED_BY(mutex) =
      true;  // no request in the core, no command taken and not done

  void Wake() {
    AnnotatedLock lock(&mutex);
    woken = true;
    news.NotifyAll();
  }
  void Push(Command command) {
    AnnotatedLock lock(&mutex);
    commands.push_back(std::move(command));
    news.NotifyAll();
  }
  bool HasNews() const ABSL_SHARED_LOCKS_REQUIRED(mutex) {
    return woken || stop || !commands.empty();
  }
};

}  // namespace

class Engine::Impl {
 public:
  Impl(EngineConfig config, const Model* model, const Model* draft_model,
       const Tokenizer* tokenizer, EngineObserver* observer, const Clock* clock)
      : config_(std::move(config)),
        model_(model),
        draft_model_(draft_model),
        tokenizer_(tokenizer),
        observer_(observer),
        clock_(clock),
        limiter_(config_.max_waiting, config_.max_waiting_tokens, config_.tenants, clock) {}

  ~Impl() { Shutdown(kDaemonShutsDown); }

  absl::Status Open();
  absl::StatusOr<std::shared_ptr<TokenStream>> Submit(Ticket ticket, GenerationRequest request);
  // With a shared spill directory; else none. Reads headers of files. KvSpill::Claim's errors.
  absl::StatusOr<EngineCore::Claims> ClaimSessions(const std::string& tenant,
                                                   const std::vector<std::string>& ids);
  void Shutdown(absl::string_view why);

  // The core's figures with those of the queue bound and the spill folder, which count themselves.
  EngineStats WithGates(EngineStats stats) const {
    stats.waiting_tokens = limiter_.waiting_tokens();
    if (spill_.sessions != nullptr) stats.spill_bytes = spill_.sessions->stats().bytes;
    if (spill_.prefixes == nullptr) return stats;
    const PrefixSpillStats blocks = spill_.prefixes->stats();
    stats.prefix_spill_files = blocks.files;
    stats.prefix_spill_bytes = blocks.bytes;
    stats.prefix_spill_written_total = blocks.written_total;
    stats.prefix_spill_read_total = blocks.read_total;
    stats.prefix_spill_pushed_out_total = blocks.pushed_out_total;
    stats.prefix_spill_dropped_total = blocks.dropped_total;
    stats.prefix_spill_failed_total = blocks.failed_total;
    return stats;
  }

  // Runs `query` on the engine thread between two steps and waits for it. Default-constructed
  // result after Shutdown.
  template <typename Query>
  auto Ask(Query query) -> decltype(query(std::declval<EngineCore&>())) {
    using Result = decltype(query(std::declval<EngineCore&>()));
    return AskLater<Result>(
        [query = std::move(query)](EngineCore& core, const auto& answer) { answer(query(core)); });
  }

  // The same, but `query` gets whom to answer, in a later step if need be, and once.
  template <typename Result, typename Query>
  Result AskLater(Query query) {
    struct Waiting {
      absl::Notification done;
      Result result{};
    };
    const auto waiting = std::make_shared<Waiting>();
    {
      AnnotatedLock lock(&door_->mutex);
      if (door_->stop) return Result(absl::UnavailableError("the daemon is shutting down"));
      door_->commands.push_back([waiting, query = std::move(query)](EngineCore& core) {
        query(core, [waiting](Result result) {
          waiting->result = std::move(result);
          waiting->done.Notify();
        });
      });
      door_->news.NotifyAll();
    }
    waiting->done.WaitForNotification();
    return std::move(waiting->result);
  }

  const EngineConfig config_;
  const Model* const model_;
  const Model* const draft_model_;  // may be null
  const Tokenizer* const tokenizer_;
  EngineObserver* const observer_;
  const Clock* const clock_;
  AdmissionLimiter limiter_;
  std::atomic<bool> draining_{false};
  PublishedStats stats_;
  const std::shared_ptr<Door> door_ = std::make_shared<Door>();
  PrefixEventLog prefix_events_;
  SpillStores spill_;  // kv_ evicts into it
  std::unique_ptr<KvCacheManager> kv_;
  std::unique_ptr<KvCacheManager> draft_kv_;  // null without draft_model_

 private:
  absl::Status OpenDraftPool();
  // `started`: whether it runs, by the time of `ready`.
  void ThreadLoop(absl::Notification* ready, absl::Status* started);
  // Throws std::bad_alloc.
  void Prepare(EngineComputing* computing);

  std::thread thread_;
};

absl::Status Engine::Impl::Open() {
  KVASIR_ASSIGN_OR_RETURN(KvLayout layout,
                          model_->spec().MakeKvLayout(config_.kv_element_type, config_.block_tokens,
                                                      config_.k_columns));
  if (const int64_t least_bytes = layout.PeakBytes(1, 1); config_.kv_capacity_bytes < least_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "model ", config_.model_name, ": a KV pool of ", config_.kv_capacity_bytes,
        " bytes cannot hold the ", least_bytes,
        " bytes of one token's blocks: change kv_cache.capacity_bytes or kv_cache.block_tokens"));
  }
  if (config_.max_step_tokens < config_.max_running) {
    return absl::InvalidArgumentError(
        absl::StrCat("model ", config_.model_name, ": scheduler.max_step_tokens (",
                     config_.max_step_tokens, ") must be at least scheduler.max_running (",
                     config_.max_running, "), or not every stream gets its token"));
  }
  // The core takes note of a loss in its next step, which an idle engine would not make.
  KVASIR_ASSIGN_OR_RETURN(
      spill_, OpenSpillStores(config_, layout.fingerprint(), [door = door_] { door->Wake(); }));
  KvCacheConfig kv;
  if (spill_.prefixes != nullptr) {
    kv.hash_key = spill_.prefixes->hash_key();
    kv.evicted = spill_.prefixes.get();
  }
  kv.capacity_bytes = config_.kv_capacity_bytes;
  if (layout.num_groups() == 1)
    kv.capacity_bytes -= kv.capacity_bytes % static_cast<int64_t>(layout.block_bytes());
  kv.snapshot_interval_tokens = config_.snapshot_interval_tokens;
  kv.max_snapshots = config_.max_snapshots;
  kv.enable_prefix_cache = config_.prefix_cache;
  kv.poison_free_blocks = config_.poison_free_blocks;
  kv.scrub_freed_blocks = config_.scrub_freed_blocks;
  kv.prefix_events = &prefix_events_;
  KVASIR_ASSIGN_OR_RETURN(kv_, KvCacheManager::Create(std::move(layout), kv));

  if (draft_model_ != nullptr) KVASIR_RETURN_IF_ERROR(OpenDraftPool());

  absl::Notification ready;
  absl::Status started;
  try {
    thread_ = std::thread([&] { ThreadLoop(&ready, &started); });
  } catch (const std::system_error& error) {
    return absl::UnavailableError(absl::StrCat("model ", config_.model_name,
                                               ": cannot start the engine's thread: ", error.what(),
                                               "; raise the limit of processes"));
  }
  ready.WaitForNotification();
  if (started.ok()) return started;
  thread_.join();
  return absl::Status(started.code(),
                      absl::StrCat("model ", config_.model_name, ": ", started.message()));
}

absl::Status Engine::Impl::OpenDraftPool() {
  KVASIR_ASSIGN_OR_RETURN(KvLayout layout,
                          draft_model_->spec().MakeKvLayout(config_.kv_element_type,
                                                            config_.block_tokens, KvColumns::kOff));
  if (layout.has_state()) {
    return absl::InvalidArgumentError(
        absl::StrCat("model ", config_.model_name,
                     ": its draft model has layers with a recurrent state, which cannot take a "
                     "guess back; use one without (speculation.draft)"));
  }
  KvCacheConfig kv;
  kv.enable_prefix_cache = false;
  kv.scrub_freed_blocks = config_.scrub_freed_blocks;
  kv.poison_free_blocks = config_.poison_free_blocks;
  kv.capacity_bytes = config_.draft_kv_capacity_bytes;
  if (layout.num_groups() == 1)
    kv.capacity_bytes -= kv.capacity_bytes % static_cast<int64_t>(layout.block_bytes());
  if (kv.capacity_bytes < layout.PeakBytes(1, 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("model ", config_.model_name, ": a draft model's KV pool of ",
                     config_.draft_kv_capacity_bytes,
                     " bytes cannot hold one token's blocks: raise speculation.draft_kv_bytes"));
  }
  KVASIR_ASSIGN_OR_RETURN(draft_kv_, KvCacheManager::Create(std::move(layout), kv));
  return absl::OkStatus();
}

void Engine::Impl::ThreadLoop(absl::Notification* ready, absl::Status* started) {
  SetComputeThreads(config_.threads);  // OpenMP remembers it per thread, so this one has to say it
  if (*started = FormComputeTeam(); !started->ok()) return ready->Notify();
  EngineComputing computing;
  try {
    Prepare(&computing);
  } catch (const std::bad_alloc&) {
    *started = absl::ResourceExhaustedError("the system gives no memory for its steps");
    return ready->Notify();
  }
  EngineCore& core = *computing.core;
  stats_.Set(core.stats());
  ready->Notify();

  bool ran = false;
  while (true) {
    std::vector<Command> commands;
    {
      AnnotatedLock lock(&door_->mutex);
      door_->thread_is_idle = core.idle();
      if (!ran) {
        const auto has_news = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(door_->mutex) {
          return door_->HasNews();
        };
        door_->news.Await(&door_->mutex, core.next_timer() - clock_->Now(), has_news);
      }
      if (door_->stop && door_->commands.empty()) break;
      door_->woken = false;
      commands.swap(door_->commands);
      door_->thread_is_idle = false;
    }
    for (const Command& command : commands) command(core);
    ran = core.Step();
    stats_.Set(core.stats());
  }
}

void Engine::Impl::Prepare(EngineComputing* computing) {
  const ModelSpec& spec = model_->spec();
  computing->forward.emplace(model_, kv_->arena(), config_.max_step_tokens);

  EngineCore::Parts parts;
  if (draft_model_ != nullptr) {
    const ModelSpec& draft = draft_model_->spec();
    computing->draft_forward.emplace(draft_model_, draft_kv_->arena(), config_.max_step_tokens);
    computing->drafter.emplace(DraftModel{.forward = &*computing->draft_forward,
                                          .kv = draft_kv_.get(),
                                          .vocab_size = draft.vocab_size,
                                          .target_vocab_size = spec.vocab_size,
                                          .max_context_tokens = draft.max_positions,
                                          .short_context_tokens = draft.short_context_tokens(),
                                          .max_step_tokens = config_.max_step_tokens});
    parts.draft_model = &*computing->drafter;
  }
  parts.config = &config_;
  parts.tokenizer = tokenizer_;
  parts.kv = kv_.get();
  parts.spill = spill_.sessions.get();
  parts.prefix_spill = spill_.prefixes.get();
  parts.forward = &*computing->forward;
  parts.vocab_size = spec.vocab_size;
  parts.plain_query_heads = spec.PlainQueryHeads();
  parts.short_context_tokens = spec.short_context_tokens();
  parts.eos_token_ids.assign(spec.eos_token_ids.begin(), spec.eos_token_ids.end());
  parts.observer = observer_;
  parts.clock = clock_;
  parts.wake = [door = door_] { door->Wake(); };
  computing->core.emplace(std::move(parts));
}

absl::StatusOr<std::shared_ptr<TokenStream>> Engine::Impl::Submit(Ticket ticket,
                                                                  GenerationRequest request) {
  if (draining_) return DrainingError();
  const int64_t prompt_tokens = static_cast<int64_t>(request.prompt.size());
  if (request.n > config_.max_running) {
    return absl::InvalidArgumentError(
        absl::StrCat("n is ", request.n, ", this daemon runs ", config_.max_running,
                     " sequences at once (scheduler.max_running); ask for fewer"));
  }
  const int64_t most_tokens =
      std::min<int64_t>(prompt_tokens + request.stopping.max_tokens, config_.max_context_tokens);
  const KvLayout& layout = kv_->layout();
  const int64_t needed_bytes = layout.PeakBytes(most_tokens, config_.max_step_tokens);
  // Of kv_, the rest is the engine thread's.
  const int64_t capacity_bytes = kv_->arena()->capacity_bytes();
  if (needed_bytes > capacity_bytes) {
    return RefusalError(
        {.reason = RefusalReason::kKvPool},
        absl::StrCat("the request could never fit: prompt and output of ", most_tokens,
                     " tokens need ", needed_bytes, " bytes of KV cache, the pool has ",
                     capacity_bytes, "; lower max_tokens, shorten the prompt, or give the pool ",
                     "more memory (kv_cache.capacity_bytes)"));
  }
  if (!request.session_id.empty()) {
    KVASIR_ASSIGN_OR_RETURN(EngineCore::Claims claims,
                            ClaimSessions(request.tenant, {request.session_id}));
    if (!claims.empty()) request.session_claim = std::move(claims.front());
  }
  ticket.SetPromptTokens(prompt_tokens);
  const size_t outbox =
      std::max<size_t>(config_.stream_outbox_events, 2 * (static_cast<size_t>(request.n) + 1));
  auto stream = std::make_shared<TokenStream>(outbox, [door = door_] { door->Wake(); });
  {
    AnnotatedLock lock(&door_->mutex);
    if (door_->stop) return DrainingError();
    // std::function must be copyable; the ticket and the request travel in a shared holder.
    struct Held {
      GenerationRequest request;
      Ticket ticket;
    };
    auto held = std::make_shared<Held>(Held{std::move(request), std::move(ticket)});
    door_->commands.push_back([held, stream](EngineCore& core) {
      core.Start(std::move(held->request), stream, std::move(held->ticket));
    });
    door_->news.NotifyAll();
  }
  return stream;
}

absl::StatusOr<EngineCore::Claims> Engine::Impl::ClaimSessions(
    const std::string& tenant, const std::vector<std::string>& ids) {
  EngineCore::Claims claims;
  if (spill_.sessions == nullptr || !spill_.sessions->shared()) return claims;
  for (const std::string& id : ids) {
    KVASIR_ASSIGN_OR_RETURN(std::shared_ptr<SessionClaim> claim,
                            spill_.sessions->Claim(SpillIdOf(tenant, id)));
    claims.push_back(std::move(claim));
  }
  return claims;
}

void Engine::Impl::Shutdown(absl::string_view why) {
  draining_ = true;
  if (!thread_.joinable()) return;
  door_->Push([why = std::string(why)](EngineCore& core) { core.Shutdown(why); });
  {
    AnnotatedLock lock(&door_->mutex);
    door_->stop = true;
    door_->news.NotifyAll();
  }
  thread_.join();
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineConfig& config,
                                                       const Model* model,
                                                       const Tokenizer* tokenizer,
                                                       EngineObserver* observer, const Clock* clock,
                                                       const Model* draft_model) {
  EngineConfig complete = config;
  const int32_t model_context = model->spec().max_positions;
  complete.max_context_tokens = config.max_context_tokens > 0
                                    ? std::min(config.max_context_tokens, model_context)
                                    : model_context;
  if (complete.threads <= 0) complete.threads = PlanThreads().threads;
  if (complete.max_idle_session_bytes <= 0)
    complete.max_idle_session_bytes = complete.kv_capacity_bytes / 2;
  auto impl =
      std::make_unique<Impl>(std::move(complete), model, draft_model, tokenizer, observer, clock);
  KVASIR_RETURN_IF_ERROR(impl->Open());
  return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;

absl::StatusOr<Engine::Ticket> Engine::Admit(AdmissionRequest request) {
  if (impl_->draining_) return DrainingError();
  // Clients that want all they can get say more than the context holds.
  request.max_tokens = std::clamp<int64_t>(
      request.max_tokens, 0, OutputRoom(request.prompt_tokens, impl_->config_.max_context_tokens));
  return impl_->limiter_.Admit(request);
}

absl::StatusOr<std::shared_ptr<TokenStream>> Engine::Submit(Ticket ticket,
                                                            GenerationRequest request) {
  return impl_->Submit(std::move(ticket), std::move(request));
}

absl::Status Engine::Abort(const std::string& tenant, const std::string& request_id) {
  return impl_->Ask([=](EngineCore& core) { return core.Abort(tenant, request_id); });
}

void Engine::UpdateTenants(TenantPolicies policies) {
  impl_->limiter_.UpdateTenants(policies);
  impl_->door_->Push(
      [policies = std::move(policies)](EngineCore& core) { core.UpdateTenants(policies); });
}

void Engine::StartDrain() { impl_->draining_ = true; }

bool Engine::idle() const {
  AnnotatedLock lock(&impl_->door_->mutex);
  return impl_->door_->commands.empty() && impl_->door_->thread_is_idle;
}

void Engine::Shutdown(absl::string_view why) { impl_->Shutdown(why); }

EngineStats Engine::stats() const { return impl_->WithGates(impl_->stats_.Get()); }

EngineAccounts Engine::TakeAccounts() {
  absl::StatusOr<EngineAccounts> accounts = impl_->Ask([](EngineCore& core) {
    return absl::StatusOr<EngineAccounts>(
        EngineAccounts{core.stats(), core.ListRequests(std::nullopt),
                       core.ListSessions(std::nullopt), core.ListGroups()});
  });
  if (!accounts.ok()) return EngineAccounts{stats(), {}, {}, {}};
  accounts->stats = impl_->WithGates(accounts->stats);
  return *std::move(accounts);
}

namespace {

template <typename Row>
std::vector<Row> FirstRows(absl::StatusOr<std::vector<Row>> rows, size_t limit, int* total) {
  if (!rows.ok()) rows = std::vector<Row>();
  *total = static_cast<int>(rows->size());
  if (rows->size() > limit)
    rows->erase(rows->begin() + static_cast<std::ptrdiff_t>(limit), rows->end());
  return *std::move(rows);
}

}  // namespace

std::vector<RequestSnapshot> Engine::ListRequests(const TenantScope& scope, size_t limit,
                                                  int* total) {
  using Rows = absl::StatusOr<std::vector<RequestSnapshot>>;
  return FirstRows(impl_->Ask([=](EngineCore& core) { return Rows(core.ListRequests(scope)); }),
                   limit, total);
}

std::vector<SessionSnapshot> Engine::ListSessions(const TenantScope& scope, size_t limit,
                                                  int* total) {
  using Rows = absl::StatusOr<std::vector<SessionSnapshot>>;
  return FirstRows(impl_->Ask([=](EngineCore& core) { return Rows(core.ListSessions(scope)); }),
                   limit, total);
}

absl::StatusOr<SessionSnapshot> Engine::GetSession(const std::string& tenant,
                                                   const std::string& id) {
  KVASIR_ASSIGN_OR_RETURN(const EngineCore::Claims claims, impl_->ClaimSessions(tenant, {id}));
  return impl_->Ask([&](EngineCore& core) { return core.GetSession(tenant, id, claims); });
}

absl::StatusOr<SessionSnapshot> Engine::ForkSession(const std::string& tenant,
                                                    const std::string& id,
                                                    const std::string& new_id) {
  KVASIR_ASSIGN_OR_RETURN(EngineCore::Claims claims, impl_->ClaimSessions(tenant, {id, new_id}));
  return impl_->AskLater<absl::StatusOr<SessionSnapshot>>([&](EngineCore& core, auto answer) {
    core.ForkSession(tenant, id, new_id, std::move(answer), std::move(claims));
  });
}

absl::Status Engine::DeleteSession(const std::string& tenant, const std::string& id) {
  KVASIR_ASSIGN_OR_RETURN(const EngineCore::Claims claims, impl_->ClaimSessions(tenant, {id}));
  return impl_->Ask([&](EngineCore& core) { return core.DeleteSession(tenant, id, claims); });
}

void Engine::AwaitTurn() {
  (void)impl_->Ask([](EngineCore&) { return absl::OkStatus(); });
}

const PrefixEventLog& Engine::prefix_events() const { return impl_->prefix_events_; }
const EngineConfig& Engine::config() const { return impl_->config_; }
const KvLayout& Engine::kv_layout() const { return impl_->kv_->layout(); }
const Model& Engine::model() const { return *impl_->model_; }
const Tokenizer& Engine::tokenizer() const { return *impl_->tokenizer_; }

}  // namespace kvasir
