// The laws of batching and caching on real models, through the real engine and its thread: whatever
// happens to a sequence's blocks, the greedy tokens are the golden ones (f32). One case per model,
// so per sharing scheme.
#include <filesystem>
#include <fstream>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/engine/engine.h"
#include "runtime/ops/sparse/sparq_method.h"
#include "tests/engine/awaited_answer.h"
#include "tests/test_models.h"

namespace kvasir {
namespace {

struct Golden {
  std::vector<TokenId> prompt;
  std::vector<TokenId> greedy;
};

class ModelLawTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const std::string folder = testing::ModelFolder(GetParam());
    if (folder.empty()) {
      GTEST_SKIP() << "model " << GetParam()
                   << " is not on this machine: set KVASIR_MODELS to the folder that holds it";
    }
    model_ = Model::Load(folder, {.compute_type = ComputeType::kF32, .progress = {}}).value();
    tokenizer_ = Tokenizer::Load(folder).value();
    const auto json = nlohmann::json::parse(std::ifstream(folder + "/golden.json"));
    for (const auto& prompt : json["prompts"]) {
      golden_.push_back({prompt["ids"].get<std::vector<TokenId>>(),
                         prompt["greedy_ids"].get<std::vector<TokenId>>()});
    }
    ASSERT_FALSE(golden_.empty());
    spill_ = std::filesystem::path(::testing::TempDir()) /
             ("kvasir_model_law_" + std::to_string(::getpid()) + GetParam());
    std::filesystem::remove_all(spill_);
    config_.model_name = GetParam();
    config_.block_tokens = 16;
    config_.poison_free_blocks = true;
    config_.kv_element_type = KvElementType::kF32;
  }
  void TearDown() override { std::filesystem::remove_all(spill_); }

  // An engine whose pool holds `tokens` positions.
  std::unique_ptr<Engine> MakeEngine(int tokens) {
    const KvLayout layout =
        model_->spec()
            .MakeKvLayout(config_.kv_element_type, config_.block_tokens, config_.k_columns)
            .value();
    config_.kv_capacity_bytes =
        static_cast<int64_t>(layout.block_bytes()) * layout.BlocksFor(tokens);
    return Engine::Create(config_, model_.get(), tokenizer_.get(), &observer_).value();
  }

  std::shared_ptr<TokenStream> Submit(Engine* engine, std::vector<TokenId> prompt, int max_tokens,
                                      const std::string& session = "", int n = 1,
                                      std::optional<SparqRequest> sparq = std::nullopt) {
    GenerationRequest request;
    request.id = "law";
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0;
    request.stopping.max_tokens = max_tokens;
    request.stopping.ignore_eos = true;
    request.n = n;
    request.session_id = session;
    if (sparq) request.attention = std::make_shared<SparqMethod>(*sparq);
    request.arrival = absl::Now();
    auto ticket =
        engine->Admit({.prompt_tokens = static_cast<int64_t>(request.prompt.size())}).value();
    return engine->Submit(std::move(ticket), std::move(request)).value();
  }

  const Golden& Longest() const {
    return *std::max_element(golden_.begin(), golden_.end(), [](const Golden& a, const Golden& b) {
      return a.prompt.size() < b.prompt.size();
    });
  }

  EngineConfig config_;
  EngineObserver observer_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<Golden> golden_;
  std::filesystem::path spill_;
};
INSTANTIATE_TEST_SUITE_P(Models, ModelLawTest, ::testing::ValuesIn(testing::AllModelNames()),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_P(ModelLawTest, TogetherUnderPreemptionEqualsAlone) {
  config_.prefix_cache = false;
  config_.max_step_tokens = 64;
  config_.max_running = 16;
  config_.prefill_chunk_tokens = 23;
  const int longest = static_cast<int>(Longest().prompt.size());
  auto engine = MakeEngine(longest + 48 + 96);
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int copy = 0; copy < 4; ++copy) {
    for (const Golden& golden : golden_) streams.push_back(Submit(engine.get(), golden.prompt, 48));
  }
  for (size_t i = 0; i < streams.size(); ++i) {
    const Answer answer = WaitFor(streams[i].get());
    ASSERT_TRUE(answer.finished.status.ok()) << answer.finished.status;
    EXPECT_EQ(answer.tokens[0], golden_[i % golden_.size()].greedy) << "request " << i;
  }
  EXPECT_GT(engine->stats().preemptions_total, 0);
}

SparqRequest Sparq(int rank, int top_k) {
  SparqRequest sparq;
  sparq.rank = rank;
  sparq.top_k = top_k;
  sparq.min_tokens = 0;
  return sparq;
}

TEST_P(ModelLawTest, SparqIsCountedAndKeptFromOthers) {
  config_.k_columns = KvColumns::kSame;
  auto engine = MakeEngine(4096);
  const Golden& golden = Longest();
  const int length = static_cast<int>(golden.prompt.size()), picks = 20, made = 48;
  ASSERT_GT(length, picks);

  const Answer sparse =
      WaitFor(Submit(engine.get(), golden.prompt, made, "", 1, Sparq(4, picks)).get());
  ASSERT_TRUE(sparse.finished.status.ok()) << sparse.finished.status;
  const RequestUsage& usage = sparse.finished.usage;
  EXPECT_EQ(usage.sparse_tokens, made - 1);  // the first comes from the prompt's dense pass
  EXPECT_EQ(sparse.tokens[0][0], golden.greedy[0]);

  // Prefill is dense; then each step reads what the byte model says, in every layer.
  const KvLayout& layout = engine->kv_layout();
  const ModelSpec& spec = model_->spec();
  const auto method =
      SparqMethod(Sparq(4, picks)).Resolve(layout, spec.PlainQueryHeads(), length, length + made);
  int64_t dense = 0, sparq = 0;
  for (int position = length; position < length + made - 1; ++position) {
    dense += (position + 1) * static_cast<int64_t>(layout.read_bytes_per_token());
    for (int layer = 0; layer < spec.num_layers(); ++layer) {
      sparq += method->BytesRead(layout, layer, position + 1);
    }
  }
  EXPECT_EQ(usage.kv_bytes_read_if_dense - usage.kv_bytes_read, dense - sparq);

  // The prompt's blocks are everybody's, those of sparsely computed tokens are nobody's.
  std::vector<TokenId> longer = golden.prompt;
  longer.insert(longer.end(), sparse.tokens[0].begin(), sparse.tokens[0].end());
  const Answer dense_after = WaitFor(Submit(engine.get(), longer, 1).get());
  EXPECT_EQ(dense_after.cached_tokens, length / 16 * 16);
  // Published between steps, so that those of the first request are there by now.
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.kv_bytes_read_sparse_total, sparq);
  EXPECT_EQ(stats.kv_bytes_read_if_dense_total - stats.kv_bytes_read_dense_total,
            usage.kv_bytes_read_if_dense - (usage.kv_bytes_read - sparq));

  // Everything picked: dense attention's tokens.
  EXPECT_EQ(
      WaitFor(Submit(engine.get(), golden.prompt, made, "", 1, Sparq(4, 1 << 20)).get()).tokens[0],
      golden.greedy);
}

// Positions computed again after a preemption are computed as they were: sparsely.
TEST_P(ModelLawTest, SparqUnderPreemptionEqualsAlone) {
  config_.k_columns = KvColumns::kInt8;
  config_.prefix_cache = false;
  config_.max_step_tokens = 64;
  config_.prefill_chunk_tokens = 23;
  const Golden& golden = Longest();
  const int length = static_cast<int>(golden.prompt.size());
  const auto alone = [&] {
    auto engine = MakeEngine(4096);
    return WaitFor(Submit(engine.get(), golden.prompt, 48, "", 1, Sparq(8, 24)).get()).tokens[0];
  }();
  auto engine = MakeEngine(2 * length + 48);
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < 3; ++i) {
    streams.push_back(Submit(engine.get(), golden.prompt, 48, "", 1, Sparq(8, 24)));
  }
  for (auto& stream : streams) EXPECT_EQ(WaitFor(stream.get()).tokens[0], alone);
  EXPECT_GT(engine->stats().preemptions_total, 0);
}

TEST_P(ModelLawTest, PrefixHitsAndForksEqualTheFirstRun) {
  auto engine = MakeEngine(4096);
  const Golden& golden = Longest();
  const int length = static_cast<int>(golden.prompt.size());
  EXPECT_EQ(WaitFor(Submit(engine.get(), golden.prompt, 48).get()).tokens[0], golden.greedy);
  const Answer again = WaitFor(Submit(engine.get(), golden.prompt, 48, "", 3).get());
  EXPECT_EQ(again.cached_tokens, (length - 1) / 16 * 16);
  ASSERT_EQ(again.tokens.size(), 3u);
  for (const auto& tokens : again.tokens) EXPECT_EQ(tokens, golden.greedy);
  // The generated part is cached too: its 30 first tokens as a prompt, the rest must follow.
  std::vector<TokenId> prompt = golden.prompt;
  prompt.insert(prompt.end(), golden.greedy.begin(), golden.greedy.begin() + 30);
  const Answer deeper = WaitFor(Submit(engine.get(), prompt, 18).get());
  EXPECT_EQ(deeper.cached_tokens, (length + 29) / 16 * 16);
  EXPECT_EQ(deeper.tokens[0],
            std::vector<TokenId>(golden.greedy.begin() + 30, golden.greedy.end()));
}

// One generation cut into four turns: kept in the pool, spilled and restored, and restored by a new
// process.
TEST_P(ModelLawTest, SessionsSpilledAndRestartedEqualOneGeneration) {
  config_.prefix_cache = false;  // cached tokens can only be the session's
  config_.spill_directory = spill_.string();
  config_.model_fingerprint = GetParam();
  const Golden& golden = Longest();
  const int length = static_cast<int>(golden.prompt.size());
  const auto expect_turn = [&](Engine* engine, std::vector<TokenId> prompt, int from, int to) {
    const Answer answer = WaitFor(Submit(engine, std::move(prompt), to - from, "s").get());
    ASSERT_TRUE(answer.finished.status.ok()) << answer.finished.status;
    EXPECT_EQ(answer.tokens[0],
              std::vector<TokenId>(golden.greedy.begin() + from, golden.greedy.begin() + to));
    // Everything known before this turn but its last generated token and the new one.
    EXPECT_EQ(answer.cached_tokens, from == 0 ? 0 : length + from - 2);
  };
  {
    auto engine = MakeEngine(length + 64);
    expect_turn(engine.get(), golden.prompt, 0, 10);
    expect_turn(engine.get(), {golden.greedy[10]}, 11, 20);
    // Somebody else needs the whole pool.
    EXPECT_TRUE(WaitFor(Submit(engine.get(), golden.prompt, 60).get()).finished.status.ok());
    EXPECT_EQ(engine->GetSession("", "s")->state, SessionSnapshot::State::kSpilled);
    expect_turn(engine.get(), {golden.greedy[20]}, 21, 30);
    engine->Shutdown();
  }
  auto engine = MakeEngine(length + 64);
  EXPECT_EQ(engine->GetSession("", "s")->state, SessionSnapshot::State::kSpilled);
  expect_turn(engine.get(), {golden.greedy[30]}, 31, 48);
}

// Files hold K and V alone: what SparQ keeps beside them is made again, whatever keys the process
// that wrote the file kept. And what came from sparse attention stays the session's own.
TEST_P(ModelLawTest, SparseSessionsContinueAfterARestart) {
  config_.spill_directory = spill_.string();
  config_.model_fingerprint = GetParam();
  const Golden& golden = Longest();
  const std::vector<TokenId> next(golden.prompt.begin(), golden.prompt.begin() + 20);
  for (const KvColumns keys : {KvColumns::kSame, KvColumns::kInt8}) {
    for (const bool written_without : {false, true}) {
      const auto first_turn = [&](Engine* engine) {
        const auto sparq = written_without ? std::nullopt : std::make_optional(Sparq(4, 20));
        return WaitFor(Submit(engine, golden.prompt, 40, "s", 1, sparq).get());
      };
      const auto second_turn = [&](Engine* engine) {
        return WaitFor(Submit(engine, next, 30, "s", 1, Sparq(4, 20)).get());
      };
      config_.k_columns = keys;
      Answer kept_first, kept_second;
      {
        std::string folder;
        config_.spill_directory.swap(folder);
        auto engine = MakeEngine(2048);
        kept_first = first_turn(engine.get());
        kept_second = second_turn(engine.get());
        config_.spill_directory.swap(folder);
      }
      if (written_without) config_.k_columns = KvColumns::kOff;
      {
        auto engine = MakeEngine(2048);
        const Answer first = first_turn(engine.get());
        ASSERT_EQ(first.tokens, kept_first.tokens);
        engine->Shutdown();
      }
      config_.k_columns = keys;
      auto engine = MakeEngine(2048);
      const SessionSnapshot session = engine->GetSession("", "s").value();
      ASSERT_EQ(session.state, SessionSnapshot::State::kSpilled);
      const Answer second = second_turn(engine.get());
      ASSERT_TRUE(second.finished.status.ok()) << second.finished.status;
      EXPECT_EQ(second.cached_tokens, kept_second.cached_tokens);
      EXPECT_EQ(second.tokens, kept_second.tokens);
      EXPECT_GT(second.finished.usage.sparse_tokens, 0);

      std::vector<TokenId> known = golden.prompt;
      known.insert(known.end(), kept_first.tokens[0].begin(), kept_first.tokens[0].end());
      const int findable =
          static_cast<int>(written_without ? known.size() - 1 : golden.prompt.size());
      EXPECT_EQ(WaitFor(Submit(engine.get(), known, 1).get()).cached_tokens, findable / 16 * 16);
      EXPECT_TRUE(engine->DeleteSession("", "s").ok());
    }
  }
}

}  // namespace
}  // namespace kvasir
