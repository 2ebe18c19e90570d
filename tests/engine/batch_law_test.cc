// "Same seed, same tokens", as GenerateRequest.sampling.seed promises it for each compute type: a
// request alone, with another n, and in one batch with strangers, its prompt in other chunks.
#include <algorithm>
#include <cstdio>

#include "gtest/gtest.h"
#include "runtime/engine/engine.h"
#include "tests/engine/awaited_answer.h"
#include "tests/test_models.h"

namespace kvasir {
namespace {

const char* NameOf(ComputeType type) {
  return type == ComputeType::kInt8 ? "int8" : type == ComputeType::kBf16 ? "bf16" : "f32";
}

class BatchLawTest : public ::testing::TestWithParam<std::tuple<std::string, ComputeType>> {
 protected:
  static constexpr int kTokens = 40;

  void SetUp() override {
    const auto& [name, type] = GetParam();
    const std::string folder = testing::ModelFolder(name);
    if (folder.empty()) {
      GTEST_SKIP() << "model " << name
                   << " is not on this machine: set KVASIR_MODELS to the folder that holds it";
    }
    model_ = Model::Load(folder, {.compute_type = type, .progress = {}}).value();
    tokenizer_ = Tokenizer::Load(folder).value();
    config_.model_name = name;
    config_.kv_capacity_bytes = int64_t{64} << 20;
    config_.prefix_cache = false;
    // In bf16, K and V that differ by f32's rounding may differ by their own.
    if (type == ComputeType::kF32) config_.kv_element_type = KvElementType::kF32;
    config_.max_step_tokens = 96;
    config_.prefill_chunk_tokens = 23;
    engine_ = Engine::Create(config_, model_.get(), tokenizer_.get(), &observer_).value();
  }

  static std::vector<TokenId> Prompt(int length, int seed) {
    std::vector<TokenId> prompt;
    for (int i = 0; i < length; ++i) prompt.push_back(10 + (i * 37 + seed * 101 + i * i) % 1500);
    return prompt;
  }

  std::shared_ptr<TokenStream> Submit(std::vector<TokenId> prompt, uint64_t seed, int n = 1) {
    GenerationRequest request;
    request.id = "law";
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0.8f;
    request.sampling.seed = seed;
    request.logprobs = 0;  // of the tokens drawn
    request.stopping.max_tokens = kTokens;
    request.stopping.ignore_eos = true;
    request.n = n;
    request.arrival = absl::Now();
    auto ticket =
        engine_->Admit({.prompt_tokens = static_cast<int64_t>(request.prompt.size())}).value();
    return engine_->Submit(std::move(ticket), std::move(request)).value();
  }

  // Tokens that are the same before the first that is not.
  void Compare(const Answer& alone, const Answer& other, const char* what) {
    const ComputeType type = std::get<1>(GetParam());
    ASSERT_TRUE(other.finished.status.ok()) << other.finished.status;
    ASSERT_EQ(other.tokens[0].size(), alone.tokens[0].size());
    ASSERT_EQ(other.logprobs[0].size(), alone.logprobs[0].size());
    ++compared_;
    const bool same = other.tokens[0] == alone.tokens[0];
    if (same) ++same_;
    if (type == ComputeType::kInt8) {
      EXPECT_EQ(other.logprobs[0], alone.logprobs[0]) << what << ": to the bit";
    }
    if (type != ComputeType::kBf16) EXPECT_TRUE(same) << what;
    // Rounding alone: sums of f32 in another order, of inputs rounded to 8 bits with bf16.
    const float tolerance = type == ComputeType::kBf16 ? 0.1f : 1e-3f;
    for (size_t i = 0; i < alone.tokens[0].size(); ++i) {
      if (other.tokens[0][i] != alone.tokens[0][i]) break;
      ASSERT_NEAR(other.logprobs[0][i], alone.logprobs[0][i], tolerance) << what << ", token " << i;
    }
  }

  EngineConfig config_;
  EngineObserver observer_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Engine> engine_;
  int compared_ = 0, same_ = 0;
};
INSTANTIATE_TEST_SUITE_P(Models, BatchLawTest,
                         ::testing::Combine(::testing::Values("tale-7m-gqa4", "tale-7m-mqa-cla2",
                                                              "tale-7m-mlkv2"),
                                            ::testing::Values(ComputeType::kF32, ComputeType::kBf16,
                                                              ComputeType::kInt8)),
                         [](const auto& info) {
                           std::string name =
                               std::get<0>(info.param) + "_" + NameOf(std::get<1>(info.param));
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_P(BatchLawTest, TheSameSeedGivesWhatItsComputeTypePromises) {
  for (int round = 0; round < 3; ++round) {
    const std::vector<TokenId> prompt = Prompt(50 + 31 * round, round);
    const uint64_t seed = 7 + round;
    const Answer alone = WaitFor(Submit(prompt, seed).get());
    ASSERT_TRUE(alone.finished.status.ok()) << alone.finished.status;
    Compare(alone, WaitFor(Submit(prompt, seed).get()), "again");
    Compare(alone, WaitFor(Submit(prompt, seed, 2).get()), "n = 2");
    Compare(alone, WaitFor(Submit(prompt, seed, 5).get()), "n = 5");
    std::vector<std::shared_ptr<TokenStream>> strangers;
    for (int i = 0; i < 5; ++i) strangers.push_back(Submit(Prompt(11 + 29 * i, 50 + i), 90 + i));
    const auto batched = Submit(prompt, seed);
    for (int i = 0; i < 3; ++i) strangers.push_back(Submit(Prompt(7 + 43 * i, 70 + i), 95 + i));
    Compare(alone, WaitFor(batched.get()), "with strangers");
    for (auto& stranger : strangers) WaitFor(stranger.get());
  }
  RecordProperty("same", same_);
  RecordProperty("compared", compared_);
  std::printf("%d of %d same\n", same_, compared_);
}

}  // namespace
}  // namespace kvasir
