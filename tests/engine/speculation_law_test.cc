// The law of speculation, on a model whose every token depends on every cached position: with any
// drafter, good or bad, what comes out is what comes out without one; and what was taken back is
// gone, from the pool and from the accounts.
#include <algorithm>
#include <memory>

#include "gtest/gtest.h"
#include "runtime/engine/speculation/model_drafter.h"
#include "tests/fakes/engine_fixture.h"

namespace kvasir {
namespace {

using testing::DummyModel;
using testing::EngineFixture;
using testing::Scheme;
using testing::Transcript;

// Knows the greedy continuation, and errs at every `errs_at`-th position (0: never).
class Oracle : public Drafter {
 public:
  Oracle(const KvLayout* layout, int errs_at) : layout_(layout), errs_at_(errs_at) {}
  std::unique_ptr<DraftState> NewState(const Sequence&) override {
    return std::make_unique<DraftState>();
  }
  bool Propose(absl::Span<DraftAsk> asks) override {
    for (DraftAsk& ask : asks) {
      std::vector<TokenId> all(ask.history.begin(), ask.history.end());
      for (int32_t i = 0; i < ask.max_tokens; ++i) {
        TokenId next = DummyModel::Next(*layout_, all, EngineFixture::kVocab);
        if (errs_at_ > 0 && all.size() % static_cast<size_t>(errs_at_) == 0) next ^= 1;
        ask.draft.push_back(next);
        all.push_back(next);
      }
    }
    return true;
  }
  bool is_free() const override { return true; }

 private:
  const KvLayout* const layout_;
  const int errs_at_;
};

class SpeculationLawTest : public ::testing::TestWithParam<Scheme> {
 protected:
  // With an Oracle, which every request with kDraft then has.
  std::unique_ptr<EngineFixture> Engine(int blocks, int errs_at = 5) {
    auto f = std::make_unique<EngineFixture>(blocks, GetParam());
    const KvLayout* const layout = &f->kv->layout();
    f->draft_model = std::make_unique<Oracle>(layout, errs_at);
    return f;
  }
  static GenerationRequest Drafted(GenerationRequest request, int max_draft_tokens = 7) {
    request.speculation = {SpeculationMode::kDraft, max_draft_tokens};
    return request;
  }
  bool has_state() const { return testing::TinyLayout(GetParam()).has_state(); }
};
INSTANTIATE_TEST_SUITE_P(Schemes, SpeculationLawTest, ::testing::ValuesIn(testing::EveryScheme()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(SpeculationLawTest, AnyDraftGivesTheSameOutputInFewerSteps) {
  const auto prompt = EngineFixture::Prompt(40, 1);
  for (const int errs_at : {0, 1, 2, 5, 16}) {
    for (const int most : {1, 4, 20}) {
      auto f = Engine(64, errs_at);
      const Transcript t = f->Complete(Drafted(f->Request(prompt, 90), most));
      ASSERT_TRUE(t.finished->status.ok()) << t.finished->status;
      EXPECT_EQ(t.tokens[0], f->ExpectedHere(prompt, 90)) << errs_at << " " << most;
      const RequestUsage& usage = t.finished->usage;
      EXPECT_EQ(usage.completion_tokens, 90);
      EXPECT_LE(usage.accepted_tokens, usage.drafted_tokens);
      if (has_state()) {
        EXPECT_EQ(usage.drafted_tokens, 0);
      } else if (errs_at == 0) {
        EXPECT_EQ(usage.accepted_tokens, usage.drafted_tokens);
        EXPECT_LE(f->model->steps, 4 + 90 / (most + 1) + 2);
      } else if (errs_at == 1) {
        EXPECT_EQ(usage.accepted_tokens, 0);
        EXPECT_LT(usage.drafted_tokens, 60);  // it learns that they do not pay
      }
      const EngineStats stats = f->core->stats();
      EXPECT_EQ(stats.drafted_tokens_total, usage.drafted_tokens);
      EXPECT_EQ(stats.accepted_tokens_total, usage.accepted_tokens);
      EXPECT_EQ(stats.generated_tokens_total, 90);
      EXPECT_EQ(stats.kv_live_bytes, 0);
    }
  }
}

// What a step leaves in the pool is what plain decoding leaves there.
TEST_P(SpeculationLawTest, NothingOfADraftOutlivesItsStep) {
  auto f = Engine(64, 3);
  auto stream = f->Submit(Drafted(f->Request(EngineFixture::Prompt(30, 2), 100)));
  while (f->core->Step()) {
    for (const RequestSnapshot& row : f->core->ListRequests(std::nullopt)) {
      const int computed = row.computed_tokens;
      EXPECT_EQ(computed, 30 + row.generated_tokens - (row.generated_tokens > 0 ? 1 : 0));
      EXPECT_EQ(row.kv_bytes_physical, f->core->stats().kv_live_bytes);
      const KvLayout& layout = f->kv->layout();
      int64_t most = static_cast<int64_t>(layout.state_bytes_per_sequence());
      for (int group = 0; group < layout.num_block_groups(); ++group) {
        most += static_cast<int64_t>(layout.group(group).block_bytes) *
                (layout.BlocksFor(computed) - layout.FirstNeededBlock(group, computed));
      }
      EXPECT_LE(row.kv_bytes_physical, most);
    }
  }
  Transcript t;
  t.Drain(stream.get());
  EXPECT_EQ(t.tokens[0], f->ExpectedHere(EngineFixture::Prompt(30, 2), 100));
}

TEST_P(SpeculationLawTest, ManySequencesUnderPreemptionEqualAlone) {
  const KvLayout layout = testing::TinyLayout(GetParam());
  const int64_t units = 2 * layout.PeakBytes(120, 64) / static_cast<int64_t>(layout.block_bytes());
  auto f = Engine(static_cast<int>(units), 4);
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < 8; ++i) {
    GenerationRequest request = f->Request(EngineFixture::Prompt(60, i), 60);
    if (i % 4 != 3) request = Drafted(std::move(request), 3 + i);
    request.tenant = i < 4 ? "early" : "late";
    streams.push_back(f->Submit(std::move(request)));
    if (i == 3) {
      for (int step = 0; step < 8; ++step) f->core->Step();
    }
  }
  f->RunUntilIdle();
  EXPECT_GT(f->observer.preempted.size(), 0u);
  for (int i = 0; i < 8; ++i) {
    Transcript t;
    t.Drain(streams[i].get());
    ASSERT_TRUE(t.finished.has_value() && t.finished->status.ok()) << t.finished->status;
    EXPECT_EQ(t.tokens[0], f->ExpectedHere(EngineFixture::Prompt(60, i), 60)) << i;
  }
  for (const StepSummary& step : f->observer.steps) {
    EXPECT_LE(step.prefill_tokens + step.decode_tokens + step.draft_tokens,
              f->config.max_step_tokens);
  }
  EXPECT_EQ(f->core->stats().kv_live_bytes, 0);
}

// Draws at temperature 1 among a few tokens, which repeat so often that n-grams find them.
GenerationRequest Babble(EngineFixture* f, int max_tokens, uint64_t seed) {
  GenerationRequest request = f->Request(EngineFixture::Prompt(20, 3), max_tokens);
  request.sampling.temperature = 1;
  request.sampling.seed = seed;
  for (TokenId id = 100; id < 103; ++id) request.sampling.logit_bias.emplace_back(id, 40.0f);
  return request;
}

TEST_P(SpeculationLawTest, DrawsPenaltiesForksAndLogprobsDoNotChange) {
  for (const float frequency_penalty : {0.0f, 0.3f}) {
    for (uint64_t seed = 1; seed <= 6; ++seed) {
      const auto run = [&](SpeculationMode mode) {
        EngineFixture f(200, GetParam());
        GenerationRequest request = Babble(&f, 80, seed);
        request.sampling.frequency_penalty = frequency_penalty;
        request.sampling.repetition_penalty = frequency_penalty > 0 ? 1.3f : 1.0f;
        request.stopping.min_tokens = 70;
        request.stopping.stop_token_ids = {101};  // banned at first, then an end
        request.n = 3;
        request.logprobs = 2;
        request.speculation = {mode, 6};
        return f.Complete(std::move(request));
      };
      const Transcript plain = run(SpeculationMode::kOff);
      const Transcript drafted = run(SpeculationMode::kNgram);
      EXPECT_EQ(drafted.tokens, plain.tokens) << seed;
      EXPECT_EQ(drafted.text, plain.text) << seed;
      EXPECT_EQ(drafted.logprobs, plain.logprobs) << seed;
      ASSERT_EQ(drafted.finished->completions.size(), 3u);
      for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(drafted.finished->completions[i].reason, plain.finished->completions[i].reason);
        EXPECT_EQ(drafted.finished->completions[i].completion_tokens,
                  plain.finished->completions[i].completion_tokens);
      }
      if (!has_state()) EXPECT_GT(drafted.finished->usage.accepted_tokens, 0);
    }
  }
}

// Every place where an output can end, inside a run of accepted tokens or at its borders.
TEST_P(SpeculationLawTest, EndsInsideAnAcceptedRunAreEnds) {
  const auto prompt = EngineFixture::Prompt(40, 4);
  for (int length = 1; length <= 24; ++length) {
    for (const bool by_stop_id : {false, true}) {
      auto f = Engine(64, 0);
      const auto expected = f->ExpectedHere(prompt, 40);
      // A token that came before would end it there.
      if (by_stop_id &&
          std::count(expected.begin(), expected.begin() + length - 1, expected[length - 1]) > 0) {
        continue;
      }
      GenerationRequest request = Drafted(f->Request(prompt, by_stop_id ? 40 : length), 9);
      if (by_stop_id) request.stopping.stop_token_ids = {expected[length - 1]};
      request.session_id = "s";
      const Transcript t = f->Complete(std::move(request));
      ASSERT_TRUE(t.finished->status.ok());
      EXPECT_EQ(t.tokens[0], std::vector<TokenId>(expected.begin(), expected.begin() + length));
      EXPECT_EQ(t.finished->completions[0].reason,
                by_stop_id ? FinishReason::kStop : FinishReason::kLength);
      // The session goes on from exactly there, and holds no block more.
      EXPECT_EQ(f->core->GetSession("", "s")->tokens, 40 + length);
      std::vector<TokenId> history = prompt;
      history.insert(history.end(), expected.begin(), expected.begin() + length);
      history.push_back(77);
      GenerationRequest next = Drafted(f->Request({77}, 20), 9);
      next.session_id = "s";
      const Transcript turn = f->Complete(std::move(next));
      EXPECT_EQ(turn.tokens[0], f->ExpectedHere(history, 20)) << length;
      EXPECT_EQ(turn.accepted->cached_tokens, 40 + length - 1);
    }
  }
}

TEST_P(SpeculationLawTest, StopStringsCutInsideARun) {
  EngineFixture plain(64, GetParam());
  const auto prompt = EngineFixture::Prompt(40, 6);
  const std::string text = plain.Complete(plain.Request(prompt, 60)).text[0];
  ASSERT_GE(text.size(), 60u);
  for (size_t at = 10; at + 4 < text.size() && at < 80; at += 7) {
    const std::string stop = text.substr(at, 4);
    const auto run = [&](EngineFixture* f, bool drafted) {
      GenerationRequest request = f->Request(prompt, 60);
      request.stopping.stop = {stop};
      if (drafted) request = Drafted(std::move(request), 8);
      return f->Complete(std::move(request));
    };
    EngineFixture without(64, GetParam());
    const Transcript expected = run(&without, false);
    auto f = Engine(64, 6);
    const Transcript t = run(f.get(), true);
    EXPECT_EQ(t.text, expected.text);
    EXPECT_EQ(t.tokens, expected.tokens);
    EXPECT_EQ(t.finished->completions[0].stop_string,
              expected.finished->completions[0].stop_string);
  }
}

// The prefix cache finds what was accepted and nothing else.
TEST_P(SpeculationLawTest, PrefixHitsAreThoseOfPlainDecoding) {
  const auto prompt = EngineFixture::Prompt(40, 7);
  auto f = Engine(64, 3);
  const Transcript first = f->Complete(Drafted(f->Request(prompt, 61), 9));
  std::vector<TokenId> all = prompt;
  all.insert(all.end(), first.tokens[0].begin(), first.tokens[0].end());
  EngineFixture plain(64, GetParam());
  plain.Complete(plain.Request(prompt, 61));
  for (EngineFixture* const engine : {f.get(), &plain}) {
    const Transcript again = engine->Complete(engine->Request(all, 10));
    EXPECT_EQ(again.tokens[0], f->ExpectedHere(all, 10));
    if (!has_state()) EXPECT_EQ(again.accepted->cached_tokens, 96);
  }
}

// Drafts are nobody's reason to give up anything.
TEST_P(SpeculationLawTest, AFullPoolChecksNoDrafts) {
  const KvLayout layout = testing::TinyLayout(GetParam());
  const int64_t units =
      (layout.PeakBytes(64, 64) + static_cast<int64_t>(layout.block_bytes()) - 1) /
      static_cast<int64_t>(layout.block_bytes());
  auto f = Engine(static_cast<int>(units), 2);
  const auto prompt = EngineFixture::Prompt(30, 8);
  const Transcript t = f->Complete(Drafted(f->Request(prompt, 35), 30));
  ASSERT_TRUE(t.finished->status.ok()) << t.finished->status;
  EXPECT_EQ(t.tokens[0], f->ExpectedHere(prompt, 35));
  EXPECT_TRUE(f->observer.preempted.empty());
}

// A draft model with a pool of its own; it guesses right where the large model has one group too.
class SmallModel : public ForwardPass {
 public:
  SmallModel(EngineFixture* f, int num_blocks, const Scheme& scheme = testing::AllSchemes()[1])
      : max_step_tokens_(f->config.max_step_tokens) {
    KvCacheConfig config;
    config.capacity_bytes =
        num_blocks * static_cast<int64_t>(testing::TinyLayout(scheme).block_bytes());
    config.enable_prefix_cache = false;
    config.poison_free_blocks = true;
    kv_ = KvCacheManager::Create(testing::TinyLayout(scheme), config).value();
    model_ = std::make_unique<DummyModel>(kv_.get(), EngineFixture::kVocab);
    f->draft_model =
        std::make_unique<ModelDrafter>(DraftModel{.forward = this,
                                                  .kv = kv_.get(),
                                                  .vocab_size = EngineFixture::kVocab,
                                                  .target_vocab_size = EngineFixture::kVocab,
                                                  .max_context_tokens = 512,
                                                  .short_context_tokens = 512,
                                                  .max_step_tokens = max_step_tokens_});
  }
  absl::Span<const float> Forward(absl::Span<const BatchSequence> batch) override {
    int32_t tokens = 0;
    for (const BatchSequence& sequence : batch) {
      tokens += static_cast<int32_t>(sequence.tokens.size());
    }
    EXPECT_LE(tokens, max_step_tokens_);
    most_sequences = std::max(most_sequences, batch.size());
    return model_->Forward(batch);
  }
  void FillKeyColumns(absl::Span<const BlockId>) override {}
  int64_t weight_bytes_read() const override { return 0; }
  int64_t passes() const { return model_->steps; }
  int64_t tokens_computed() const { return model_->tokens_computed; }
  int64_t live_bytes() const { return kv_->stats().live_bytes; }

  size_t most_sequences = 0;

 private:
  const int32_t max_step_tokens_;
  std::unique_ptr<KvCacheManager> kv_;
  std::unique_ptr<DummyModel> model_;
};

TEST_P(SpeculationLawTest, ADraftModelServesTheSequencesOfAStepTogether) {
  constexpr int kMost = 5;
  EngineFixture f(400, GetParam());
  SmallModel small(&f, 400);
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < 6; ++i) {
    streams.push_back(f.Submit(Drafted(f.Request(EngineFixture::Prompt(20 + i, i), 80), kMost)));
  }
  f.RunUntilIdle();
  int64_t drafted = 0;
  for (int i = 0; i < 6; ++i) {
    Transcript t;
    t.Drain(streams[i].get());
    ASSERT_TRUE(t.finished.has_value() && t.finished->status.ok()) << t.finished->status;
    EXPECT_EQ(t.tokens[0], f.ExpectedHere(EngineFixture::Prompt(20 + i, i), 80)) << i;
    drafted += t.finished->usage.drafted_tokens;
  }
  if (has_state()) {
    EXPECT_EQ(small.passes(), 0);
    return;
  }
  EXPECT_GT(drafted, 0);
  EXPECT_EQ(small.most_sequences, 6u);
  // Each step has a pass for each guess of one sequence, however many sequences there are, and one
  // for each piece of a beginning.
  EXPECT_LE(small.passes(), f.model->steps * kMost);
  EXPECT_EQ(small.live_bytes(), 0);
}

// A prompt of eight steps beside one that decodes: no pass of the small model is longer than a
// step's, there is one of them a step until it has come through, and nothing is computed twice.
TEST_P(SpeculationLawTest, ALongPromptComesIntoTheDraftModelByPieces) {
  EngineFixture f(400, GetParam());
  SmallModel small(&f, 400);
  const auto prompt = EngineFixture::Prompt(400, 1);
  auto first = f.Submit(Drafted(f.Request(EngineFixture::Prompt(10, 2), 100), 3));
  auto second = f.Submit(Drafted(f.Request(prompt, 40), 3));
  f.RunUntilIdle();
  Transcript t, u;
  t.Drain(first.get());
  u.Drain(second.get());
  EXPECT_EQ(t.tokens[0], f.ExpectedHere(EngineFixture::Prompt(10, 2), 100));
  EXPECT_EQ(u.tokens[0], f.ExpectedHere(prompt, 40));
  EXPECT_EQ(u.finished->usage.drafted_tokens > 0, !has_state());
  EXPECT_LE(small.tokens_computed(),
            410 + 140 + t.finished->usage.drafted_tokens + u.finished->usage.drafted_tokens);
}

// Looks at what a drafter answers.
class Watched : public Drafter {
 public:
  explicit Watched(std::unique_ptr<Drafter> drafter) : drafter_(std::move(drafter)) {}
  std::unique_ptr<DraftState> NewState(const Sequence& sequence) override {
    return drafter_->NewState(sequence);
  }
  bool Propose(absl::Span<DraftAsk> asks) override {
    const bool is_price = drafter_->Propose(asks);
    size_t waiting = 0;
    for (const DraftAsk& ask : asks) {
      EXPECT_EQ(ask.state->reads_on, ask.draft.empty()) << ask.history.size();
      if (ask.state->reads_on) ++waiting;
    }
    most_waiting = std::max(most_waiting, waiting);
    return is_price;
  }
  bool is_free() const override { return drafter_->is_free(); }

  size_t most_waiting = 0;

 private:
  const std::unique_ptr<Drafter> drafter_;
};

// Two of the same length: the one that finds no room in the first one's passes asks on as well,
// rather than waiting for its next probe.
TEST_P(SpeculationLawTest, ASecondLongPromptWaitsForTheDraftModelNotForAProbe) {
  EngineFixture f(400, GetParam());
  SmallModel small(&f, 400);
  auto watched = std::make_unique<Watched>(std::move(f.draft_model));
  const Watched* const drafter = watched.get();
  f.draft_model = std::move(watched);
  GenerationRequest request = Drafted(f.Request(EngineFixture::Prompt(400, 1), 40), 3);
  request.n = 2;
  const Transcript t = f.Complete(std::move(request));
  ASSERT_TRUE(t.finished->status.ok()) << t.finished->status;
  EXPECT_EQ(t.tokens[1], f.ExpectedHere(EngineFixture::Prompt(400, 1), 40));
  EXPECT_EQ(drafter->most_waiting, has_state() ? 0u : 2u);
}

// Sequences that the draft model's pool cannot hold have no drafts, or have them computed anew.
TEST_P(SpeculationLawTest, AFullPoolOfTheDraftModelChangesNothing) {
  EngineFixture f(400, GetParam());
  SmallModel small(&f, 9);
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < 4; ++i) {
    streams.push_back(f.Submit(Drafted(f.Request(EngineFixture::Prompt(50, i), 60), 4)));
  }
  f.RunUntilIdle();
  for (int i = 0; i < 4; ++i) {
    Transcript t;
    t.Drain(streams[i].get());
    EXPECT_EQ(t.tokens[0], f.ExpectedHere(EngineFixture::Prompt(50, i), 60)) << i;
  }
  EXPECT_EQ(small.live_bytes(), 0);
}

}  // namespace
}  // namespace kvasir
