// The engine's policy, step by step: batching, chunks, preemption, prefix reuse, forks, limits.
// Contents are checked through the dummy model (tests/fakes/dummy_model.h), for every sharing
// scheme where blocks are moved or shared.
#include "runtime/engine/engine_core.h"

#include <algorithm>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/engine_fixture.h"

namespace kvasir {
namespace {

using testing::AllSchemes;
using testing::EngineFixture;
using testing::Scheme;
using testing::Transcript;

std::string SchemeName(const ::testing::TestParamInfo<Scheme>& info) { return info.param.name; }

class EverySchemeTest : public ::testing::TestWithParam<Scheme> {};
INSTANTIATE_TEST_SUITE_P(Schemes, EverySchemeTest, ::testing::ValuesIn(AllSchemes()), SchemeName);

TEST(EngineCoreTest, OneRequestFromAcceptedToFinished) {
  EngineFixture f(64);
  const auto prompt = EngineFixture::Prompt(40, 1);
  const Transcript t = f.Complete(f.Request(prompt, 10));
  ASSERT_TRUE(t.accepted && t.finished);
  EXPECT_EQ(t.accepted->prompt_tokens, 40);
  EXPECT_EQ(t.accepted->cached_tokens, 0);
  ASSERT_EQ(t.tokens.size(), 1u);
  EXPECT_EQ(t.tokens[0], EngineFixture::Expected(prompt, 10));
  EXPECT_TRUE(t.finished->status.ok());
  ASSERT_EQ(t.finished->completions.size(), 1u);
  EXPECT_EQ(t.finished->completions[0].reason, FinishReason::kLength);
  EXPECT_EQ(t.finished->usage.prompt_tokens, 40);
  EXPECT_EQ(t.finished->usage.completion_tokens, 10);
  // 40 + 10 tokens, of which the last needs no K/V: 49 positions, 4 blocks of 16.
  EXPECT_EQ(t.finished->usage.kv_bytes_peak,
            4 * static_cast<int64_t>(f.kv->layout().block_bytes()));
  EXPECT_EQ(t.text[0], EngineFixture::BundledTokenizer()->Decode(t.tokens[0], true).value());
  EXPECT_EQ(f.core->stats().kv_live_bytes, 0);
  EXPECT_TRUE(f.core->idle());
}

// A 200-token prompt joins while another sequence decodes. Chunk 32:
//   step     1        2 .. 7          8
//   stream   decode   decode x 6      decode
//   prompt   32       32 x 5, 8       decode
TEST(EngineCoreTest, LongPromptIsChunkedAndNeverStallsAStream) {
  EngineFixture f(64);
  auto stream = f.Submit(f.Request(EngineFixture::Prompt(16, 1), 50));
  f.core->Step();
  const auto prompt = EngineFixture::Prompt(200, 2);
  auto late = f.Submit(f.Request(prompt, 5));
  f.observer.steps.clear();
  f.RunUntilIdle();
  for (const StepSummary& step : f.observer.steps) {
    if (step.decode_tokens > 0) EXPECT_LE(step.prefill_tokens, 32);
  }
  // Every step until the stream ended gave it a token.
  for (int i = 0; i < 7; ++i) {
    EXPECT_EQ(f.observer.steps[i].prefill_tokens, i < 6 ? 32 : 8);
    EXPECT_EQ(f.observer.steps[i].decode_tokens, 1);
  }
  EXPECT_EQ(f.observer.steps[7].decode_tokens, 2);
  Transcript t;
  t.Drain(late.get());
  EXPECT_EQ(t.tokens[0], EngineFixture::Expected(prompt, 5));
}

TEST(EngineCoreTest, WithoutStreamsAPromptTakesTheWholeBudget) {
  EngineFixture f(64);
  f.Submit(f.Request(EngineFixture::Prompt(130, 1), 2));
  f.RunUntilIdle();
  ASSERT_GE(f.observer.steps.size(), 3u);
  EXPECT_EQ(f.observer.steps[0].prefill_tokens, 64);
  EXPECT_EQ(f.observer.steps[1].prefill_tokens, 64);
  EXPECT_EQ(f.observer.steps[2].prefill_tokens, 2);
}

TEST(EngineCoreTest, AnyChunkSizeGivesTheSameOutput) {
  const auto prompt = EngineFixture::Prompt(100, 3);
  for (int chunk : {1, 2, 7, 15, 16, 17, 64}) {
    EngineFixture f(64);
    f.config.max_running = 1;
    f.config.max_step_tokens = chunk;
    f.config.prefill_chunk_tokens = chunk;
    EXPECT_EQ(f.Complete(f.Request(prompt, 8)).tokens[0], EngineFixture::Expected(prompt, 8))
        << chunk;
  }
}

TEST(EngineCoreTest, NewRequestsJoinAtTheNextStepAndFinishedOnesLeaveAtOnce) {
  EngineFixture f(64);
  f.Submit(f.Request(EngineFixture::Prompt(10, 1), 3));
  f.core->Step();
  f.Submit(f.Request(EngineFixture::Prompt(10, 2), 5));
  f.core->Step();  // the first decodes, the second prefills
  EXPECT_EQ(f.observer.steps.back().decode_tokens, 1);
  EXPECT_EQ(f.observer.steps.back().prefill_tokens, 10);
  f.core->Step();  // the first's third and last token
  EXPECT_EQ(f.observer.finished, 1);
  EXPECT_EQ(f.observer.steps.back().running, 1);
}

// 8 sequences of 60 + 60 tokens want 8 x 8 blocks; the pool has 20.
TEST_P(EverySchemeTest, PreemptionChangesNoOutput) {
  EngineFixture f(20, GetParam());
  f.config.prefix_cache = false;
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < 8; ++i)
    streams.push_back(f.Submit(f.Request(EngineFixture::Prompt(60, i), 60)));
  f.RunUntilIdle();
  EXPECT_GT(f.observer.preempted.size(), 0u);
  int preemptions = 0;
  for (int i = 0; i < 8; ++i) {
    Transcript t;
    t.Drain(streams[i].get());
    ASSERT_TRUE(t.finished.has_value());
    EXPECT_TRUE(t.finished->status.ok()) << t.finished->status;
    EXPECT_EQ(t.tokens[0], EngineFixture::Expected(EngineFixture::Prompt(60, i), 60)) << i;
    preemptions += t.finished->usage.preemptions;
  }
  EXPECT_EQ(preemptions, static_cast<int>(f.observer.preempted.size()));
  EXPECT_EQ(f.core->stats().kv_live_bytes, 0);
}

// Two sequences fill the pool; the newer one gives way, the older never does.
TEST(EngineCoreTest, TheNewestOfTheLowestPriorityIsPreempted) {
  EngineFixture f(8);
  GenerationRequest old_low = f.Request(EngineFixture::Prompt(30, 1), 90);
  GenerationRequest new_high = f.Request(EngineFixture::Prompt(30, 2), 90);
  new_high.priority = 5;
  const std::string low = old_low.id;
  f.Submit(std::move(old_low));
  f.Submit(std::move(new_high));
  f.RunUntilIdle();
  ASSERT_FALSE(f.observer.preempted.empty());
  for (const std::string& id : f.observer.preempted) EXPECT_EQ(id, low);
  EXPECT_EQ(f.observer.order_of_ends, (std::vector<std::string>{"r2", "r1"}));
}

TEST_P(EverySchemeTest, PrefixHitAtEverySplitPointGivesTheSameOutput) {
  const auto prompt = EngineFixture::Prompt(70, 4);
  for (int split = 1; split <= 70; ++split) {
    EngineFixture f(64, GetParam());
    auto other = std::vector<TokenId>(prompt.begin(), prompt.begin() + split);
    const auto tail = EngineFixture::Prompt(20, 99);
    other.insert(other.end(), tail.begin(), tail.end());
    f.Complete(f.Request(other, 3));
    const Transcript t = f.Complete(f.Request(prompt, 6));
    EXPECT_EQ(t.tokens[0], EngineFixture::Expected(prompt, 6)) << split;
    EXPECT_EQ(t.accepted->cached_tokens, split / 16 * 16) << split;  // whole blocks
    EXPECT_EQ(t.finished->usage.cached_tokens, t.accepted->cached_tokens);
  }
}

TEST(EngineCoreTest, TenantsDoNotShareThePrefixCache) {
  EngineFixture f(64);
  const auto prompt = EngineFixture::Prompt(64, 4);
  GenerationRequest a = f.Request(prompt, 2), b = f.Request(prompt, 2), c = f.Request(prompt, 2);
  a.tenant = c.tenant = "a";
  b.tenant = "b";
  f.Complete(std::move(a));
  EXPECT_EQ(f.Complete(std::move(b)).accepted->cached_tokens, 0);
  EXPECT_EQ(f.Complete(std::move(c)).accepted->cached_tokens,
            48);  // 63 at most: the last token is computed
}

TEST_P(EverySchemeTest, ForksShareThePromptAndDiverge) {
  EngineFixture f(64, GetParam());
  const auto prompt = EngineFixture::Prompt(40, 5);
  GenerationRequest request = f.Request(prompt, 20);
  request.n = 4;
  request.sampling.temperature = 1000.0f;  // all but uniform: the completions differ
  request.sampling.seed = 3;
  const Transcript t = f.Complete(std::move(request));
  ASSERT_EQ(t.tokens.size(), 4u);
  EXPECT_NE(t.tokens[0], t.tokens[1]);
  for (const auto& tokens : t.tokens) EXPECT_EQ(tokens.size(), 20u);
  // 2 shared blocks of the prompt, and per completion the copied third and a fourth: 2 + 4 x 2.
  EXPECT_EQ(t.finished->usage.kv_bytes_peak,
            10 * static_cast<int64_t>(f.kv->layout().block_bytes()));
  EXPECT_EQ(f.model->tokens_computed, 40 + 4 * 19);  // the prompt once
  EXPECT_EQ(f.core->stats().kv_live_bytes, 0);

  // The same draws under memory pressure, forks preempted one by one.
  EngineFixture tight(8, GetParam());
  GenerationRequest again = tight.Request(prompt, 20);
  again.n = 4;
  again.sampling.temperature = 1000.0f;
  again.sampling.seed = 3;
  EXPECT_EQ(tight.Complete(std::move(again)).tokens, t.tokens);
  EXPECT_FALSE(tight.observer.preempted.empty());

  // Greedy forks read each other's blocks correctly: all equal the oracle.
  EngineFixture greedy(64, GetParam());
  GenerationRequest same = greedy.Request(prompt, 20);
  same.n = 3;
  for (const auto& tokens : greedy.Complete(std::move(same)).tokens) {
    EXPECT_EQ(tokens, EngineFixture::Expected(prompt, 20));
  }
}

TEST(EngineCoreTest, RunningPlacesAreBounded) {
  EngineFixture f(200);
  for (int i = 0; i < 20; ++i) f.Submit(f.Request(EngineFixture::Prompt(5, i), 10));
  GenerationRequest wide = f.Request(EngineFixture::Prompt(5, 50), 10);
  wide.n = 8;
  f.Submit(std::move(wide));
  f.RunUntilIdle();
  for (const StepSummary& step : f.observer.steps) EXPECT_LE(step.running, 8);
  EXPECT_EQ(f.observer.finished, 21);
}

TEST(EngineCoreTest, PriorityGoesFirstThenArrival) {
  EngineFixture f(64);
  f.config.max_running = 1;
  for (int priority : {0, 0, 5, -5}) {
    GenerationRequest request = f.Request(EngineFixture::Prompt(8, priority + 10), 2);
    request.priority = priority;
    f.Submit(std::move(request));
  }
  f.RunUntilIdle();
  EXPECT_EQ(f.observer.order_of_ends, (std::vector<std::string>{"r3", "r1", "r2", "r4"}));
}

TEST(EngineCoreTest, EndOfContextEndsACompletion) {
  EngineFixture f(64);
  f.config.max_context_tokens = 40;
  const auto prompt = EngineFixture::Prompt(38, 1);
  const Transcript t = f.Complete(f.Request(prompt, 100));
  EXPECT_EQ(t.finished->completions[0].reason, FinishReason::kContextFull);
  EXPECT_EQ(t.tokens[0],
            EngineFixture::Expected(prompt, 3));  // positions 38, 39, and one without K/V
}

TEST(EngineCoreTest, DeadlineEndsWaitingAndRunningRequests) {
  EngineFixture f(64);
  f.config.max_running = 1;
  GenerationRequest running = f.Request(EngineFixture::Prompt(8, 1), 100);
  running.deadline = f.clock.Now() + absl::Milliseconds(10);
  GenerationRequest waiting = f.Request(EngineFixture::Prompt(8, 2), 100);
  waiting.deadline = f.clock.Now() + absl::Milliseconds(5);
  auto first = f.Submit(std::move(running));
  auto second = f.Submit(std::move(waiting));
  EXPECT_EQ(f.core->next_timer(), f.clock.Now() + absl::Milliseconds(5));
  f.RunUntilIdle();
  Transcript a, b;
  a.Drain(first.get());
  b.Drain(second.get());
  EXPECT_TRUE(absl::IsDeadlineExceeded(a.finished->status));
  EXPECT_EQ(a.tokens[0].size(), 10u);
  EXPECT_EQ(a.finished->usage.completion_tokens, 10);
  EXPECT_TRUE(absl::IsDeadlineExceeded(b.finished->status));
  EXPECT_FALSE(b.accepted.has_value());
  EXPECT_EQ(f.core->stats().kv_live_bytes, 0);
}

TEST(EngineCoreTest, CancellationFreesBlocksWithinOneStep) {
  EngineFixture f(64);
  auto stream = f.Submit(f.Request(EngineFixture::Prompt(100, 1), 100));
  f.core->Step();
  f.core->Step();
  EXPECT_GT(f.core->stats().kv_live_bytes, 0);
  stream->Cancel();
  f.core->Step();
  EXPECT_EQ(f.core->stats().kv_live_bytes, 0);
  EXPECT_EQ(f.observer.cancelled, (std::vector<CancelCause>{CancelCause::kClient}));
  EXPECT_TRUE(f.core->idle());
}

TEST(EngineCoreTest, AbortIsScopedByTenant) {
  EngineFixture f(64);
  GenerationRequest request = f.Request(EngineFixture::Prompt(10, 1), 100);
  request.tenant = "a";
  request.id = "job";
  auto stream = f.Submit(std::move(request));
  f.core->Step();
  EXPECT_TRUE(absl::IsNotFound(f.core->Abort("b", "job")));
  EXPECT_TRUE(f.core->Abort("a", "job").ok());
  Transcript t;
  t.Drain(stream.get());
  EXPECT_TRUE(absl::IsCancelled(t.finished->status));
  EXPECT_TRUE(absl::IsNotFound(f.core->Abort("a", "job")));
}

TEST(EngineCoreTest, SlowReaderPausesAloneAndIsAbortedAfterTheStallLimit) {
  EngineFixture f(64);
  f.config.stream_outbox_events = 6;
  f.config.stall_limit = absl::Seconds(1);
  auto slow = f.Submit(f.Request(EngineFixture::Prompt(10, 1), 100));
  auto quick = f.Submit(f.Request(EngineFixture::Prompt(10, 2), 50));
  Transcript quick_reader;
  for (int i = 0; i < 60; ++i) {
    f.core->Step();
    f.clock.Advance(absl::Milliseconds(1));
    quick_reader.Drain(quick.get());
  }
  EXPECT_EQ(quick_reader.tokens[0].size(), 50u);  // did not notice
  EXPECT_EQ(f.observer.pauses, 1);
  EXPECT_FALSE(f.core->Step());  // nothing can run; the timer says when to look again
  const absl::Time timer = f.core->next_timer();
  EXPECT_LT(timer, absl::InfiniteFuture());
  f.clock.Advance(timer - f.clock.Now());
  f.core->Step();
  Transcript slow_reader;
  slow_reader.Drain(slow.get());
  EXPECT_TRUE(absl::IsResourceExhausted(slow_reader.finished->status));
  EXPECT_EQ(f.core->stats().kv_live_bytes, 0);
}

TEST(EngineCoreTest, APausedReaderThatComesBackGetsEverything) {
  EngineFixture f(64);
  f.config.stream_outbox_events = 6;
  const auto prompt = EngineFixture::Prompt(10, 1);
  auto stream = f.Submit(f.Request(prompt, 40));
  Transcript t;
  for (int round = 0; round < 100 && !t.finished.has_value(); ++round) {
    f.RunUntilIdle();
    t.Drain(stream.get());
  }
  EXPECT_EQ(t.tokens[0], EngineFixture::Expected(prompt, 40));
}

// The paused sequence holds half of the pool; the waiting one needs it.
TEST(EngineCoreTest, APausedSequenceGivesItsBlocksToWhoCanRun) {
  EngineFixture f(8);
  f.config.stream_outbox_events = 4;
  const auto slow_prompt = EngineFixture::Prompt(60, 1),
             quick_prompt = EngineFixture::Prompt(90, 2);
  auto slow = f.Submit(f.Request(slow_prompt, 20));
  f.RunUntilIdle();
  EXPECT_EQ(f.observer.pauses, 1);
  auto quick = f.Submit(f.Request(quick_prompt, 2));
  f.RunUntilIdle();
  Transcript q, s;
  q.Drain(quick.get());
  ASSERT_TRUE(q.finished.has_value());
  EXPECT_EQ(q.tokens[0], EngineFixture::Expected(quick_prompt, 2));
  for (int round = 0; round < 100 && !s.finished.has_value(); ++round) {
    s.Drain(slow.get());
    f.RunUntilIdle();
  }
  EXPECT_EQ(s.tokens[0], EngineFixture::Expected(slow_prompt, 20));
}

TEST(EngineCoreTest, PromptLogprobsComeOnceAndInOrderUnderAnyChunking) {
  const auto prompt = EngineFixture::Prompt(50, 6);
  for (int chunk : {3, 16, 64}) {
    EngineFixture f(64);
    f.config.max_running = 2;
    f.config.max_step_tokens = f.config.prefill_chunk_tokens = chunk;
    f.Complete(f.Request(prompt, 1));  // cached now, but not to be used
    GenerationRequest request = f.Request(prompt, 2);
    request.prompt_logprobs = 1;
    const Transcript t = f.Complete(std::move(request));
    ASSERT_EQ(t.prompt_logprobs.size(), 49u) << chunk;
    for (int i = 0; i < 49; ++i) {
      EXPECT_EQ(t.prompt_logprobs[i].token, prompt[i + 1]);
      // The dummy's likeliest token is the hash of what stands before.
      ASSERT_EQ(t.prompt_logprobs[i].alternatives.size(), 1u);
      EXPECT_EQ(
          t.prompt_logprobs[i].alternatives[0].first,
          testing::DummyModel::Next(f.kv->layout(), absl::MakeConstSpan(prompt).subspan(0, i + 1),
                                    EngineFixture::kVocab));
    }
    EXPECT_EQ(t.accepted->cached_tokens, 0);
    EXPECT_EQ(t.tokens[0], EngineFixture::Expected(prompt, 2));
  }
}

TEST(EngineCoreTest, AccountingSumsAreExact) {
  EngineFixture f(64);
  const auto prompt = EngineFixture::Prompt(48, 7);
  f.Complete(f.Request(prompt, 1));
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < 3; ++i)
    streams.push_back(f.Submit(f.Request(prompt, 30)));  // share two cached blocks
  GenerationRequest forked = f.Request(EngineFixture::Prompt(40, 8), 30);
  forked.n = 3;
  streams.push_back(f.Submit(std::move(forked)));
  for (int i = 0; i < 12; ++i) {
    f.core->Step();
    double proportional = 0;
    for (const RequestSnapshot& row : f.core->ListRequests(std::nullopt)) {
      proportional += row.kv_bytes_proportional;
      EXPECT_LE(row.kv_bytes_exclusive, row.kv_bytes_physical);
    }
    const EngineStats stats = f.core->stats();
    EXPECT_NEAR(proportional, static_cast<double>(stats.kv_live_bytes), 1e-6 * (1 + proportional));
    EXPECT_EQ(stats.kv_live_bytes + stats.kv_cached_bytes + stats.kv_free_bytes,
              stats.kv_capacity_bytes);
  }
  f.RunUntilIdle();
  EXPECT_EQ(f.core->stats().kv_live_bytes, 0);
}

TEST(EngineCoreTest, KvByteSecondsIntegrateBytesHeld) {
  EngineFixture f(64);
  auto stream = f.Submit(f.Request(EngineFixture::Prompt(10, 1), 4));
  f.core->Step();  // one block held from now on
  f.clock.Advance(absl::Seconds(2));
  f.core->Step();
  f.clock.Advance(absl::Seconds(3));
  f.core->Step();
  f.core->Step();
  Transcript t;
  t.Drain(stream.get());
  EXPECT_DOUBLE_EQ(t.finished->usage.kv_byte_seconds,
                   5.0 * static_cast<double>(f.kv->layout().block_bytes()));
}

// Random requests cancelled at random phases, through every state a sequence can be in.
TEST(EngineCoreTest, TenThousandCancelsLeaveNothingBehind) {
  EngineFixture f(24);
  f.config.stream_outbox_events = 6;
  f.config.max_sessions = 5;
  std::mt19937 random(11);
  struct Live {
    std::shared_ptr<TokenStream> stream;
    Transcript transcript;
    bool reads;
  };
  std::vector<Live> live;
  int started = 0, cancelled = 0;
  while (cancelled < 10000) {
    if (live.size() < 14) {
      GenerationRequest request =
          f.Request(EngineFixture::Prompt(1 + random() % 100, random() % 6), 1 + random() % 40);
      request.n = random() % 5 == 0 ? 3 : 1;
      request.priority = static_cast<int>(random() % 3);
      if (request.n == 1 && random() % 3 == 0)
        request.session_id = "s" + std::to_string(random() % 8);
      if (random() % 7 == 0) request.prompt_logprobs = 0;
      if (!request.session_id.empty()) request.prompt_logprobs.reset();
      live.push_back({f.Submit(std::move(request)), {}, random() % 4 != 0});
      ++started;
    }
    for (Live& request : live) {
      if (request.reads) request.transcript.Drain(request.stream.get());
      if (random() % 6 == 0) request.stream->Cancel(), ++cancelled;
    }
    f.core->Step();
    f.clock.Advance(absl::Milliseconds(1));
    for (Live& request : live) request.transcript.Drain(request.stream.get());
    std::erase_if(live,
                  [](const Live& request) { return request.transcript.finished.has_value(); });
  }
  for (Live& request : live) request.stream->Cancel();
  f.core->Step();
  EXPECT_TRUE(f.core->idle());
  EXPECT_EQ(f.observer.finished, started);
  for (const SessionSnapshot& session : f.core->ListSessions(std::nullopt)) {
    EXPECT_TRUE(f.core->DeleteSession("", session.id).ok());
  }
  const EngineStats stats = f.core->stats();
  EXPECT_EQ(stats.kv_live_bytes, 0);
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.waiting, 0);
  EXPECT_EQ(stats.sessions_busy + stats.sessions_idle + stats.sessions_evicted, 0);
}

}  // namespace
}  // namespace kvasir
