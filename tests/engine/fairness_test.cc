// Fairness between tenants, with the dummy model and a fake clock: who is served, who gives places,
// blocks and sessions, and that it changes nobody's output.
#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/engine/engine_core.h"
#include "tests/fakes/engine_fixture.h"

namespace kvasir {
namespace {

using testing::EngineFixture;
using testing::Transcript;

GenerationRequest Of(const std::string& tenant, GenerationRequest request) {
  request.tenant = tenant;
  return request;
}

TenantPolicies Weights(const std::map<std::string, double>& weights) {
  TenantPolicies policies;
  for (const auto& [id, weight] : weights) {
    policies.named.emplace_back();
    policies.named.back().id = id;
    policies.named.back().weight = weight;
  }
  return policies;
}

// Keeps some requests of each tenant waiting at all times; nobody reads what they generate.
class Backlog {
 public:
  explicit Backlog(EngineFixture* fixture) : fixture_(fixture) {}

  void Add(const std::string& tenant, int prompt_tokens, int max_tokens, int depth) {
    sources_.push_back({tenant, prompt_tokens, max_tokens, depth, {}});
  }

  void Step() {
    for (Source& source : sources_) {
      std::erase_if(source.streams, [](const std::shared_ptr<TokenStream>& stream) {
        while (const std::optional<StreamEvent> event = stream->TryPop()) {
          if (std::holds_alternative<FinishedEvent>(*event)) return true;
        }
        return false;
      });
      while (static_cast<int>(source.streams.size()) < source.depth) {
        source.streams.push_back(fixture_->Submit(Of(
            source.tenant, fixture_->Request(EngineFixture::Prompt(source.prompt_tokens, ++seed_),
                                             source.max_tokens))));
      }
    }
    fixture_->core->Step();
    fixture_->clock.Advance(absl::Milliseconds(1));
  }

 private:
  struct Source {
    std::string tenant;
    int prompt_tokens, max_tokens, depth;
    std::vector<std::shared_ptr<TokenStream>> streams;
  };
  EngineFixture* const fixture_;
  std::vector<Source> sources_;
  int seed_ = 0;
};

// In the prices of the default configuration.
double Service(const EngineFixture& f, const std::string& tenant) {
  const auto count = [&](const std::map<std::string, int64_t>& tokens) {
    const auto found = tokens.find(tenant);
    return found == tokens.end() ? 0.0 : static_cast<double>(found->second);
  };
  return f.config.token_prices.input * count(f.observer.prompt_tokens) +
         f.config.token_prices.output * count(f.observer.generated_tokens);
}

double JainIndex(const std::vector<double>& x) {
  double sum = 0, squares = 0;
  for (double value : x) sum += value, squares += value * value;
  return sum * sum / (static_cast<double>(x.size()) * squares);
}

// "flood" sends ten times as many requests, of another shape.
TEST(FairnessTest, TwoBackloggedTenantsGetTheSame) {
  EngineFixture f(400);
  f.Start();
  Backlog backlog(&f);
  backlog.Add("flood", 20, 30, 100);
  backlog.Add("other", 70, 12, 10);
  for (int i = 0; i < 1500; ++i) backlog.Step();
  EXPECT_GE(JainIndex({Service(f, "flood"), Service(f, "other")}), 0.99);
}

TEST(FairnessTest, WeightsOneToThreeGiveOneToThree) {
  EngineFixture f(400);
  f.config.tenants = Weights({{"one", 1}, {"three", 3}});
  f.Start();
  Backlog backlog(&f);
  backlog.Add("one", 30, 20, 40);
  backlog.Add("three", 30, 20, 40);
  for (int i = 0; i < 1500; ++i) backlog.Step();
  EXPECT_NEAR(Service(f, "three") / Service(f, "one"), 3.0, 0.15);
}

// Alone for 800 steps, "early" is not made to wait for what "late" did not ask for.
TEST(FairnessTest, WhoComesBackFromIdlingHasNoCredit) {
  EngineFixture f(400);
  f.Start();
  Backlog both(&f);
  both.Add("early", 30, 20, 20);
  for (int i = 0; i < 800; ++i) both.Step();
  const double before = Service(f, "early");
  both.Add("late", 30, 20, 20);
  for (int i = 0; i < 800; ++i) both.Step();
  EXPECT_GE(JainIndex({Service(f, "early") - before, Service(f, "late")}), 0.98);
}

// However little its weight, a tenant alone is served as if there were no tenants.
TEST(FairnessTest, ATenantAloneUsesEverything) {
  const auto served_in_200_steps = [](const TenantPolicies& policies, const std::string& tenant) {
    EngineFixture f(400);
    f.config.tenants = policies;
    f.Start();
    Backlog backlog(&f);
    backlog.Add(tenant, 16, 40, 20);
    for (int i = 0; i < 200; ++i) backlog.Step();
    return Service(f, tenant);
  };
  EXPECT_EQ(served_in_200_steps(Weights({{"alone", 0.01}, {"absent", 100}}), "alone"),
            served_in_200_steps({}, ""));
}

// The bound of theorem 4.4 in Sheng et al., over every interval in which two tenants both wait,
// with random shapes: 2 max(input price x longest prompt, output price x tokens of the running).
TEST(FairnessTest, UnfairnessStaysWithinTheBoundOfThePaper) {
  for (unsigned seed = 0; seed < 3; ++seed) {
    std::mt19937 random(seed);
    EngineFixture f(120);
    f.Start();
    Backlog backlog(&f);
    constexpr int kMaxPrompt = 90, kMaxTokens = 40;
    const std::vector<std::string> tenants = {"a", "b", "c"};
    for (const std::string& tenant : tenants) {
      // Two shapes each; more waiting than there are places, so each is backlogged always.
      for (int shape = 0; shape < 2; ++shape)
        backlog.Add(tenant, 1 + random() % kMaxPrompt, 1 + random() % kMaxTokens, 12);
    }
    for (int i = 0; i < 50; ++i) backlog.Step();
    const double bound =
        2 * std::max(1.0 * kMaxPrompt, 2.0 * f.config.max_running * (kMaxPrompt + kMaxTokens));
    // Any interval's difference is at most largest minus smallest difference since the start.
    std::map<std::pair<int, int>, std::pair<double, double>> range;
    for (int i = 0; i < 1500; ++i) {
      backlog.Step();
      for (int x = 0; x < 3; ++x) {
        for (int y = 0; y < x; ++y) {
          const double difference = Service(f, tenants[x]) - Service(f, tenants[y]);
          auto [known, is_new] = range.try_emplace({x, y}, difference, difference);
          known->second.first = std::min(known->second.first, difference);
          known->second.second = std::max(known->second.second, difference);
        }
      }
    }
    for (const auto& [pair, extremes] : range)
      EXPECT_LE(extremes.second - extremes.first, bound) << "seed " << seed;
    // The bound says something: what was served is many times as much.
    EXPECT_GT(Service(f, "a") + Service(f, "b") + Service(f, "c"), 10 * bound);
  }
}

// "a" holds all 8 places for long; "b" comes.
TEST(FairnessTest, ANewTenantGetsAPlaceAtOnceAndTheDonorLosesNothing) {
  EngineFixture f(400);
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < 8; ++i)
    streams.push_back(f.Submit(Of("a", f.Request(EngineFixture::Prompt(20, i), 60))));
  for (int i = 0; i < 20; ++i) f.core->Step();
  EXPECT_EQ(f.core->stats().running, 8);
  const int64_t computed = f.model->tokens_computed;
  auto quick = f.Submit(Of("b", f.Request(EngineFixture::Prompt(20, 100), 3)));
  f.core->Step();
  EXPECT_EQ(f.observer.scheduled.back(), "r9");
  EXPECT_EQ(f.observer.steps.back().running, 8);
  EXPECT_EQ(f.core->stats().waiting, 1);  // the newest of "a", with its blocks
  EXPECT_EQ(f.model->tokens_computed, computed + 7 + 20);
  f.RunUntilIdle();
  EXPECT_TRUE(f.observer.preempted.empty());
  EXPECT_EQ(f.model->tokens_computed, 8 * (20 + 59) + 20 + 2);  // nothing twice
  for (int i = 0; i < 8; ++i) {
    Transcript t;
    t.Drain(streams[i].get());
    EXPECT_EQ(t.tokens.at(0), EngineFixture::Expected(EngineFixture::Prompt(20, i), 60)) << i;
  }
}

// "a" decodes with 6 sequences when it sends two more prompts and "b" its only one.
TEST(FairnessTest, APromptOfWhoRunsLittleIsNotComputedTogetherWithThoseOfWhoRunsMuch) {
  EngineFixture f(400);
  f.Start();
  for (int i = 0; i < 6; ++i) f.Submit(Of("a", f.Request(EngineFixture::Prompt(8, i), 100)));
  for (int i = 0; i < 10; ++i) f.core->Step();
  for (int i = 0; i < 2; ++i) f.Submit(Of("a", f.Request(EngineFixture::Prompt(12, 10 + i), 100)));
  f.Submit(Of("b", f.Request(EngineFixture::Prompt(8, 20), 100)));
  int64_t computed = f.model->tokens_computed;
  f.core->Step();
  EXPECT_EQ(f.model->tokens_computed - computed, 6 + 8);
  computed = f.model->tokens_computed;
  f.core->Step();
  EXPECT_EQ(f.model->tokens_computed - computed, 6 + 1 + 12);  // and the 8 places are taken
}

TEST(FairnessTest, PlacesAreDividedByWeight) {
  EngineFixture f(400);
  f.config.tenants = Weights({{"one", 1}, {"three", 3}});
  f.Start();
  for (int i = 0; i < 8; ++i) f.Submit(Of("one", f.Request(EngineFixture::Prompt(8, i), 200)));
  for (int i = 0; i < 10; ++i) f.core->Step();
  for (int i = 0; i < 8; ++i)
    f.Submit(Of("three", f.Request(EngineFixture::Prompt(8, 50 + i), 200)));
  for (int i = 0; i < 10; ++i) f.core->Step();
  std::map<std::string, int> running;
  for (const RequestSnapshot& row : f.core->ListRequests(std::nullopt))
    running[row.tenant] += std::string(row.state) == "decode";
  EXPECT_EQ(running["one"], 2);
  EXPECT_EQ(running["three"], 6);
}

TEST(FairnessTest, PriorityOrdersInsideATenantOnly) {
  EngineFixture f(400);
  f.config.max_running = 1;
  f.Start();
  f.Submit(Of("a", f.Request(EngineFixture::Prompt(8, 0), 4)));  // r1
  f.core->Step();
  for (int priority : {0, 100}) {
    GenerationRequest request = Of("a", f.Request(EngineFixture::Prompt(8, priority), 4));
    request.priority = priority;
    f.Submit(std::move(request));  // r2, r3
  }
  GenerationRequest low = Of("b", f.Request(EngineFixture::Prompt(8, 7), 4));
  low.priority = -100;
  f.Submit(std::move(low));  // r4
  f.RunUntilIdle();
  // "a" was charged for r1 meanwhile, so "b" is next, low as its priority is.
  EXPECT_EQ(f.observer.scheduled, (std::vector<std::string>{"r1", "r4", "r3", "r2"}));
}

// 16 blocks; "a" fills 12 with three sequences, "b" grows to need more than the 4 left.
TEST(FairnessTest, BlocksComeFromWhoHoldsMost) {
  EngineFixture f(16);
  f.config.prefix_cache = false;
  std::vector<std::shared_ptr<TokenStream>> a;
  for (int i = 0; i < 3; ++i)
    a.push_back(f.Submit(Of("a", f.Request(EngineFixture::Prompt(40, i), 40))));
  auto b = f.Submit(Of("b", f.Request(EngineFixture::Prompt(40, 9), 60)));
  f.RunUntilIdle();
  ASSERT_FALSE(f.observer.preempted.empty());
  EXPECT_EQ(std::count(f.observer.preempted.begin(), f.observer.preempted.end(), "r4"), 0);
  Transcript t;
  t.Drain(b.get());
  EXPECT_EQ(t.tokens.at(0), EngineFixture::Expected(EngineFixture::Prompt(40, 9), 60));
}

// "a" fills the pool with working sequences; "b" joins within its half at their cost, at once.
TEST(FairnessTest, AJoiningTenantGetsBlocksUpToItsShare) {
  EngineFixture f(32);
  f.config.prefix_cache = false;
  f.Start();
  for (int i = 0; i < 7; ++i) f.Submit(Of("a", f.Request(EngineFixture::Prompt(48, i), 60)));
  for (int i = 0; i < 16; ++i) f.core->Step();
  ASSERT_LE(f.kv->available_bytes() / static_cast<int64_t>(f.kv->layout().block_bytes()),
            8);  // of which 7 are kept for "a" to grow
  auto b = f.Submit(Of("b", f.Request(EngineFixture::Prompt(60, 9), 20)));
  for (int i = 0; i < 2; ++i) f.core->Step();
  Transcript t;
  t.Drain(b.get());
  EXPECT_TRUE(t.accepted.has_value());
  f.RunUntilIdle();
  t.Drain(b.get());
  EXPECT_EQ(t.tokens.at(0), EngineFixture::Expected(EngineFixture::Prompt(60, 9), 20));
  EXPECT_EQ(std::count(f.observer.preempted.begin(), f.observer.preempted.end(), "r8"), 0);
}

// "quiet" keeps one idle session; "flood" fills the pool with its own and keeps asking.
TEST(FairnessTest, IdleSessionsOfTheTenantThatHoldsMostGoFirst) {
  EngineFixture f(32);
  f.config.prefix_cache = false;
  GenerationRequest quiet = Of("quiet", f.Request(EngineFixture::Prompt(60, 1), 4));
  quiet.session_id = "s";
  f.Complete(std::move(quiet));
  for (int i = 0; i < 20; ++i) {
    GenerationRequest flood = Of("flood", f.Request(EngineFixture::Prompt(100, 10 + i), 4));
    flood.session_id = "s" + std::to_string(i);
    f.Complete(std::move(flood));
  }
  EXPECT_EQ(f.core->GetSession("quiet", "s")->state, SessionSnapshot::State::kIdle);
  EXPECT_FALSE(f.observer.session_evictions.empty());
}

TEST(FairnessTest, KnownSessionsAreSharedToo) {
  EngineFixture f(64);
  f.config.max_sessions = 4;
  GenerationRequest quiet = Of("quiet", f.Request(EngineFixture::Prompt(10, 1), 2));
  quiet.session_id = "s";
  f.Complete(std::move(quiet));
  for (int i = 0; i < 10; ++i) {
    GenerationRequest flood = Of("flood", f.Request(EngineFixture::Prompt(10, 10 + i), 2));
    flood.session_id = "s" + std::to_string(i);
    f.Complete(std::move(flood));
  }
  EXPECT_TRUE(f.core->GetSession("quiet", "s").ok());
  EXPECT_EQ(f.core->ListSessions("flood").size(), 3u);
}

// Tenants, priorities, sessions, forks and cancellations at random in a pool that is too small:
// whatever was suspended or preempted, each stream that ends well holds what it would hold alone.
TEST(FairnessTest, NobodysOutputDependsOnWhoElseIsThere) {
  for (unsigned seed = 0; seed < 4; ++seed) {
    std::mt19937 random(seed);
    EngineFixture f(16 + static_cast<int>(seed) * 3);
    f.config.max_running = 6;
    f.config.tenants = Weights({{"t0", 1}, {"t1", 4}});
    f.Start();
    struct Live {
      std::vector<TokenId> prompt;
      int max_tokens;
      std::shared_ptr<TokenStream> stream;
      Transcript transcript;
    };
    std::vector<Live> live;
    int done = 0;
    for (int step = 0; done < 400; ++step) {
      ASSERT_LT(step, 200000) << "somebody starves";
      if (live.size() < 16) {
        const int seed_of_prompt = static_cast<int>(random() % 12);
        auto prompt = EngineFixture::Prompt(1 + static_cast<int>(random() % 90), seed_of_prompt);
        GenerationRequest request = f.Request(prompt, 1 + static_cast<int>(random() % 40));
        request.tenant = "t" + std::to_string(random() % 4);
        request.priority = static_cast<int>(random() % 3);
        if (random() % 6 == 0) request.n = 3;
        const int max_tokens = request.stopping.max_tokens;
        live.push_back({prompt, max_tokens, f.Submit(std::move(request)), {}});
      }
      if (random() % 50 == 0) live[random() % live.size()].stream->Cancel();
      f.core->Step();
      f.clock.Advance(absl::Milliseconds(1));
      for (Live& request : live) {
        request.transcript.Drain(request.stream.get());
        if (!request.transcript.finished.has_value()) continue;
        ++done;
        if (!request.transcript.finished->status.ok()) continue;
        for (const auto& tokens : request.transcript.tokens)
          EXPECT_EQ(tokens, EngineFixture::Expected(request.prompt, request.max_tokens));
      }
      std::erase_if(live,
                    [](const Live& request) { return request.transcript.finished.has_value(); });
    }
    for (Live& request : live) request.stream->Cancel();
    f.core->Step();
    EXPECT_TRUE(f.core->idle());
    EXPECT_EQ(f.core->stats().kv_live_bytes, 0);
    EXPECT_FALSE(f.observer.preempted.empty());
  }
}

TEST(TenantTableTest, InventedTenantsDoNotGrowTheTable) {
  TenantTable table(Weights({{"named", 2}}));
  TenantState* const busy = table.Get("busy stranger");
  busy->requests = 1;
  uint64_t last_scope = 0;
  for (int i = 0; i < 100000; ++i) {
    TenantState* const state = table.Get("stranger " + std::to_string(i));
    EXPECT_GT(state->scope, last_scope);  // nobody inherits another's cached prefixes
    last_scope = state->scope;
    ASSERT_LE(table.size(), 2u * TenantTable::kMaxIdleUnnamed + 3);
  }
  EXPECT_EQ(table.Get("busy stranger"), busy);
  EXPECT_EQ(table.Get("named")->policy.weight, 2);
}

TEST(TenantTableTest, NewPoliciesReachEverybody) {
  TenantTable table(Weights({{"a", 2}}));
  TenantState* const a = table.Get("a");
  a->requests = 1;  // or it would be forgotten
  table.Update(Weights({{"b", 5}}));
  EXPECT_EQ(table.Get("b")->policy.weight, 5);
  EXPECT_EQ(a->policy.weight, 1);
  EXPECT_FALSE(a->named);
  EXPECT_EQ(a->policy.id, "a");
}

}  // namespace
}  // namespace kvasir
