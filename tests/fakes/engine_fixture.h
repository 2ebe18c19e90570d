// An EngineCore over the dummy model, a fake clock and a tiny pool: the whole engine but for
// threads and arithmetic.
#pragma once

#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/annotated_mutex.h"
#include "gtest/gtest.h"
#include "runtime/engine/engine_core.h"
#include "tests/fakes/dummy_model.h"
#include "tests/fakes/fake_clock.h"
#include "tests/test_models.h"

namespace kvasir::testing {

// The sharing schemes in miniature: 4 layers.
struct Scheme {
  const char* name;
  std::vector<int> owner;
  int kv_heads;
  std::vector<int> windows = {};  // by layer; -1: a state layer
};

inline std::vector<Scheme> AllSchemes() {
  return {{"mha", {0, 1, 2, 3}, 4}, {"gqa", {0, 1, 2, 3}, 2},  {"mqa", {0, 1, 2, 3}, 1},
          {"cla", {0, 0, 2, 2}, 2}, {"mlkv", {0, 0, 0, 0}, 1}, {"irregular", {0, 1, 1, 0}, 2}};
}

// Layers that forget: windows beside full attention, shared and not, windows only, states.
inline std::vector<Scheme> ForgetfulSchemes() {
  return {{"window", {0, 1, 2, 3}, 2, {24, 24, 24, 0}},
          {"shared_windows", {0, 0, 2, 2}, 1, {7, 7, 40, 33}},
          {"windows_only", {0, 1, 2, 3}, 1, {48, 48, 48, 48}},
          {"state", {0, 1, 2, 3}, 2, {-1, -1, -1, 0}},
          {"state_window", {0, 1, 2, 3}, 1, {-1, 20, -1, 0}}};
}

inline std::vector<Scheme> EveryScheme() {
  std::vector<Scheme> schemes = AllSchemes();
  for (Scheme& scheme : ForgetfulSchemes()) schemes.push_back(std::move(scheme));
  return schemes;
}

inline KvLayout TinyLayout(const Scheme& scheme) {
  KvLayoutSpec spec;
  spec.layers = UniformKvLayers(scheme.owner, scheme.kv_heads, 8, 8);
  for (size_t layer = 0; layer < scheme.windows.size(); ++layer) {
    spec.layers[layer].window = std::max(0, scheme.windows[layer]);
    if (scheme.windows[layer] < 0)
      spec.layers[layer] = {.kind = KvLayerKind::kState, .state_bytes = 8};
  }
  spec.block_tokens = 16;
  return KvLayout::Create(spec).value();
}

// What a stream's reader saw.
struct Transcript {
  std::optional<AcceptedEvent> accepted;
  std::vector<TokenLogprob> prompt_logprobs;
  std::vector<std::vector<TokenId>> tokens;  // by completion index
  std::vector<std::string> text;
  // By completion index: id, log-probability and alternatives of each token, in order.
  std::vector<std::vector<float>> logprobs;
  std::optional<FinishedEvent> finished;

  // Takes every event that waits.
  void Drain(TokenStream* stream) {
    while (std::optional<StreamEvent> event = stream->TryPop()) {
      EXPECT_FALSE(finished.has_value()) << "an event behind Finished";
      if (auto* a = std::get_if<AcceptedEvent>(&*event)) {
        EXPECT_FALSE(accepted.has_value()) << "Accepted twice";
        accepted = *a;
      } else if (auto* p = std::get_if<PromptLogprobsEvent>(&*event)) {
        EXPECT_EQ(p->first_position, static_cast<int>(prompt_logprobs.size()) + 1);
        prompt_logprobs.insert(prompt_logprobs.end(), p->tokens.begin(), p->tokens.end());
      } else if (auto* d = std::get_if<DeltaEvent>(&*event)) {
        EXPECT_TRUE(accepted.has_value()) << "a delta before Accepted";
        if (static_cast<int>(tokens.size()) <= d->index)
          tokens.resize(d->index + 1), text.resize(d->index + 1);
        tokens[d->index].insert(tokens[d->index].end(), d->tokens.begin(), d->tokens.end());
        text[d->index] += d->text;
        logprobs.resize(tokens.size());
        for (const TokenLogprob& logprob : d->logprobs) {
          logprobs[d->index].push_back(static_cast<float>(logprob.token));
          logprobs[d->index].push_back(logprob.logprob);
          for (const auto& [token, value] : logprob.alternatives) {
            logprobs[d->index].push_back(static_cast<float>(token));
            logprobs[d->index].push_back(value);
          }
        }
      } else {
        finished = std::get<FinishedEvent>(std::move(*event));
      }
    }
  }
};

class RecordingObserver : public EngineObserver {
 public:
  void OnStep(const StepSummary& step) override { steps.push_back(step); }
  void OnPreemption(const GenerationRequest& request, PreemptionReason) override {
    preempted.push_back(request.id);
  }
  void OnCancelled(const GenerationRequest&, CancelCause cause) override {
    cancelled.push_back(cause);
  }
  void OnSlowReaderPause(const GenerationRequest&) override { ++pauses; }
  void OnFinished(const RequestSummary& summary) override {
    ++finished;
    order_of_ends.push_back(summary.request->id);
  }
  void OnScheduled(const GenerationRequest& request, int32_t cached_tokens,
                   absl::Duration) override {
    scheduled.push_back(request.id);
    prompt_tokens[request.tenant] += static_cast<int64_t>(request.prompt.size()) - cached_tokens;
  }
  void OnTokens(const GenerationRequest& request, int32_t tokens, absl::Duration) override {
    generated_tokens[request.tenant] += tokens;
  }
  void OnTenantUsage(const std::string& tenant, const TenantUsage& before,
                     const TenantUsage& now) override {
    EXPECT_EQ(before, usage[tenant]) << tenant;
    usage[tenant] = now;
  }
  void OnSessionEvicted(const char* reason) override { session_evictions.push_back(reason); }
  void OnSpillDamaged(const std::string& message) override { damaged.push_back(message); }
  void OnPrefixSpillFault(const std::string& message) override { prefix_faults.push_back(message); }

  std::vector<StepSummary> steps;
  std::vector<std::string> scheduled;
  std::map<std::string, int64_t> prompt_tokens;  // by tenant: of scheduled requests, computed ones
  std::map<std::string, int64_t> generated_tokens;
  std::map<std::string, TenantUsage> usage;
  std::vector<std::string> preempted;
  std::vector<CancelCause> cancelled;
  int pauses = 0;
  int finished = 0;
  std::vector<std::string> order_of_ends;
  std::vector<std::string> session_evictions;
  std::vector<std::string> damaged;
  std::vector<std::string> prefix_faults;
};

class EngineFixture {
 public:
  static constexpr int32_t kVocab = 4096;

  // Empty when the bundled model's tokenizer is not there (it always is in a checkout).
  static const Tokenizer* BundledTokenizer() {
    static const Tokenizer* const tokenizer =
        Tokenizer::Load((SourceRoot() / "deploy/models" / kBundledModel).string())
            .value()
            .release();
    return tokenizer;
  }

  // With `prefixes`, blocks that leave the prefix cache go to disk, and sessions too.
  explicit EngineFixture(int num_blocks, Scheme scheme = AllSchemes()[1],
                         std::optional<PrefixSpillConfig> prefixes = std::nullopt) {
    config.max_context_tokens = 512;
    config.max_step_tokens = 64;
    config.prefill_chunk_tokens = 32;
    config.max_running = 8;
    config.stream_outbox_events = 1000;
    config.max_idle_session_bytes = int64_t{1} << 40;
    KvCacheConfig kv_config;
    kv_config.capacity_bytes = num_blocks * static_cast<int64_t>(TinyLayout(scheme).block_bytes());
    kv_config.poison_free_blocks = true;
    kv_config.snapshot_interval_tokens = 32;
    kv_config.max_snapshots = 10;
    kv_config.hash_key.fill(7);
    if (prefixes.has_value()) {
      prefixes->layout_fingerprint = TinyLayout(scheme).fingerprint();
      prefix_spill = PrefixSpill::Open(*prefixes).value();
      kv_config.hash_key = prefix_spill->hash_key();
      kv_config.evicted = prefix_spill.get();
    }
    kv = KvCacheManager::Create(TinyLayout(scheme), kv_config).value();
    model = std::make_unique<DummyModel>(kv.get(), kVocab);
    if (prefixes.has_value()) OpenSpill(prefixes->spill_directory);
  }
  ~EngineFixture() { core.reset(); }

  // `read`: KvSpillConfig's.
  void OpenSpill(const std::string& directory, SpillRead read = nullptr) {
    KvSpillConfig spill_config;
    spill_config.directory = directory;
    spill_config.max_directory_bytes = 64 << 20;
    spill_config.layout_fingerprint = kv->layout().fingerprint();
    spill_config.model_fingerprint = "dummy";
    spill_config.read = std::move(read);
    spill = KvSpill::Open(spill_config).value();
  }

  // Call after changing `config`; Submit does it otherwise.
  EngineCore* Start() {
    if (core == nullptr) {
      EngineCore::Parts parts;
      parts.config = &config;
      parts.tokenizer = BundledTokenizer();
      parts.kv = kv.get();
      parts.spill = spill.get();
      parts.prefix_spill = prefix_spill.get();
      parts.forward = model.get();
      parts.vocab_size = kVocab;
      parts.short_context_tokens = short_context_tokens;
      parts.eos_token_ids = {0};
      parts.draft_model = draft_model.get();
      parts.observer = &observer;
      parts.clock = &clock;
      parts.wake = [this] { NoteWake(); };
      core = std::make_unique<EngineCore>(parts);
    }
    return core.get();
  }

  // A greedy request.
  GenerationRequest Request(std::vector<TokenId> prompt, int max_tokens) {
    GenerationRequest request;
    request.id = "r" + std::to_string(++made_);
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0;
    request.stopping.max_tokens = max_tokens;
    request.arrival = clock.Now();
    return request;
  }

  std::shared_ptr<TokenStream> Submit(GenerationRequest request) {
    Start();
    const size_t outbox = std::max<size_t>(config.stream_outbox_events, 2 * (request.n + 1));
    auto stream = std::make_shared<TokenStream>(outbox, [] {});
    core->Start(std::move(request), stream, AdmissionTicket());
    return stream;
  }

  // Steps until nothing can run and nothing is being read from disk. The bound turns a livelock
  // into a failure.
  void RunUntilIdle(int most_steps = 100000) {
    while (true) {
      while (core->Step()) {
        ASSERT_GT(--most_steps, 0) << "the engine does not come to rest";
        clock.Advance(absl::Milliseconds(1));
      }
      const EngineStats stats = core->stats();
      if (stats.sessions_restoring == 0 && stats.prefix_restores == 0) return;
      ASSERT_GT(--most_steps, 0) << "a restore does not end";
      AwaitWake();
    }
  }

  // Returns once the core was woken since the last call.
  void AwaitWake() {
    AnnotatedLock lock(&wake_mutex_);
    while (!woken_) wake_changed_.Wait(&wake_mutex_);
    woken_ = false;
  }

  absl::StatusOr<SessionSnapshot> Fork(const std::string& tenant, const std::string& id,
                                       const std::string& new_id) {
    std::optional<absl::StatusOr<SessionSnapshot>> answer;
    core->ForkSession(tenant, id, new_id,
                      [&](absl::StatusOr<SessionSnapshot> fork) { answer = std::move(fork); });
    if (!answer.has_value()) RunUntilIdle();
    return *std::move(answer);
  }

  Transcript Complete(GenerationRequest request) {
    auto stream = Submit(std::move(request));
    RunUntilIdle();
    Transcript transcript;
    transcript.Drain(stream.get());
    return transcript;
  }

  static std::vector<TokenId> Prompt(int length, int seed) {
    std::vector<TokenId> prompt;
    for (int i = 0; i < length; ++i)
      prompt.push_back(4 + (i * 37 + seed * 1009 + i * i * seed) % (kVocab - 4));
    return prompt;
  }

  // What the dummy model writes after `prompt`, where no layer forgets; with the layout at hand.
  static std::vector<TokenId> Expected(const std::vector<TokenId>& prompt, int count) {
    return Expected(TinyLayout(AllSchemes().front()), prompt, count);
  }
  std::vector<TokenId> ExpectedHere(const std::vector<TokenId>& prompt, int count,
                                    bool long_context = false) const {
    return Expected(kv->layout(), prompt, count, long_context);
  }
  static std::vector<TokenId> Expected(const KvLayout& layout, const std::vector<TokenId>& prompt,
                                       int count, bool long_context = false) {
    std::vector<TokenId> all = DummyModel::Greedy(layout, prompt, count, kVocab, long_context);
    return std::vector<TokenId>(all.begin() + static_cast<std::ptrdiff_t>(prompt.size()),
                                all.end());
  }

  EngineConfig config;
  int32_t short_context_tokens = std::numeric_limits<int32_t>::max();
  FakeClock clock;
  RecordingObserver observer;
  std::unique_ptr<PrefixSpill> prefix_spill;
  std::unique_ptr<KvCacheManager> kv;
  std::unique_ptr<KvSpill> spill;
  std::unique_ptr<DummyModel> model;
  std::unique_ptr<Drafter> draft_model;
  std::unique_ptr<EngineCore> core;

 private:
  void NoteWake() {
    AnnotatedLock lock(&wake_mutex_);
    woken_ = true;
    wake_changed_.NotifyAll();
  }

  int made_ = 0;
  AnnotatedMutex wake_mutex_;
  AnnotatedCondVar wake_changed_;
  bool woken_ ABSL_GUARDED_BY(wake_mutex_) = false;
};

}  // namespace kvasir::testing
