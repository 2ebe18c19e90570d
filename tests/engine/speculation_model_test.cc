// Speculation on real models, through the real engine and its thread: the tokens are those of plain
// decoding, greedy and drawn, in f32 and int8 (whose rows do not depend on the batch), with K/V in
// int8 and bf16, with SparQ and with a draft model; in bf16 until two candidates are too close. One
// case per model, so per sharing scheme; and one for each of some architectures whose layers keep
// something else: windows, latent rows, un-rotated keys, states.
#include <algorithm>
#include <cctype>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/engine/engine.h"
#include "runtime/ops/sparse/sparq_method.h"
#include "tests/engine/awaited_answer.h"
#include "tests/test_models.h"

namespace kvasir {
namespace {

Answer RunRequest(Engine* engine, const std::vector<TokenId>& prompt, SpeculationMode mode,
                  float temperature, std::optional<SparqRequest> sparq = std::nullopt) {
  GenerationRequest request;
  request.id = "law";
  request.prompt = prompt;
  request.sampling.temperature = temperature;
  request.sampling.top_p = 0.9f;
  request.sampling.seed = 11;
  request.stopping.max_tokens = 60;
  request.stopping.ignore_eos = true;
  request.logprobs = 0;  // of the tokens drawn
  request.n = temperature > 0 ? 2 : 1;
  if (sparq) request.attention = std::make_shared<SparqMethod>(*sparq);
  request.speculation = {mode, 6};
  request.arrival = absl::Now();
  auto ticket =
      engine->Admit({.prompt_tokens = static_cast<int64_t>(request.prompt.size())}).value();
  return WaitFor(engine->Submit(std::move(ticket), std::move(request)).value().get());
}

class SpeculationModelTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    folder_ = testing::ModelFolder(GetParam());
    if (folder_.empty()) {
      GTEST_SKIP() << "model " << GetParam()
                   << " is not on this machine: set KVASIR_MODELS to the folder that holds it";
    }
    tokenizer_ = Tokenizer::Load(folder_).value();
    const auto json = nlohmann::json::parse(std::ifstream(folder_ + "/golden.json"));
    for (const auto& prompt : json["prompts"]) {
      auto ids = prompt["ids"].get<std::vector<TokenId>>();
      if (ids.size() <= prompt_.size()) continue;
      prompt_ = std::move(ids);
      greedy_ = prompt["greedy_ids"].get<std::vector<TokenId>>();
    }
    // The text once, and its beginning again: there is much to quote.
    quoting_ = prompt_;
    quoting_.insert(quoting_.end(), greedy_.begin(), greedy_.end());
    quoting_.insert(quoting_.end(), prompt_.begin(), prompt_.end());
    quoting_.insert(quoting_.end(), greedy_.begin(), greedy_.begin() + 8);
  }

  void Load(ComputeType type) {
    model_ = Model::Load(folder_, {.compute_type = type, .progress = {}}).value();
    config_.model_name = GetParam();
    config_.block_tokens = 16;
    config_.poison_free_blocks = true;
    config_.kv_element_type = KvElementType::kF32;
    config_.kv_capacity_bytes = int64_t{256} << 20;
    config_.prefill_chunk_tokens = 64;
  }

  std::unique_ptr<Engine> MakeEngine(const Model* draft_model = nullptr) {
    return Engine::Create(config_, model_.get(), tokenizer_.get(), &observer_, Clock::Real(),
                          draft_model)
        .value();
  }

  Answer Run(Engine* engine, const std::vector<TokenId>& prompt, SpeculationMode mode,
             float temperature, std::optional<SparqRequest> sparq = std::nullopt) {
    return RunRequest(engine, prompt, mode, temperature, sparq);
  }

  EngineConfig config_;
  EngineObserver observer_;
  std::string folder_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<TokenId> prompt_, greedy_, quoting_;
};
INSTANTIATE_TEST_SUITE_P(Models, SpeculationModelTest,
                         ::testing::ValuesIn(testing::AllModelNames()), [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_P(SpeculationModelTest, NgramsChangeNoToken) {
  for (const ComputeType type : {ComputeType::kF32, ComputeType::kInt8}) {
    Load(type);
    auto engine = MakeEngine();
    int64_t accepted = 0;
    for (const float temperature : {0.0f, 0.7f}) {
      for (const auto* prompt : {&prompt_, &quoting_}) {
        const Answer plain = Run(engine.get(), *prompt, SpeculationMode::kOff, temperature);
        const Answer drafted = Run(engine.get(), *prompt, SpeculationMode::kNgram, temperature);
        ASSERT_TRUE(drafted.finished.status.ok()) << drafted.finished.status;
        EXPECT_EQ(drafted.tokens, plain.tokens) << temperature;
        EXPECT_EQ(plain.finished.usage.drafted_tokens, 0);
        accepted += drafted.finished.usage.accepted_tokens;
        if (type == ComputeType::kF32 && temperature == 0 && prompt == &prompt_) {
          EXPECT_EQ(std::vector<TokenId>(drafted.tokens[0].begin(),
                                         drafted.tokens[0].begin() + greedy_.size()),
                    greedy_);
        }
      }
    }
    EXPECT_GT(accepted, 0);
  }
}

// What docs/api.md says of "the same seed": logits to the bit where products are of integers,
// whatever K and V are kept in, and elsewhere to rounding, so that a text may go another way where
// two candidates are that close.
TEST_P(SpeculationModelTest, DraftsKeepWhatTheComputeTypePromises) {
  struct Case {
    ComputeType compute;
    KvElementType kv;
  };
  for (const auto& [compute, kv] : {Case{ComputeType::kInt8, KvElementType::kInt8},
                                    Case{ComputeType::kInt8, KvElementType::kBf16},
                                    Case{ComputeType::kF32, KvElementType::kInt8},
                                    Case{ComputeType::kBf16, KvElementType::kInt8},
                                    Case{ComputeType::kBf16, KvElementType::kBf16}}) {
    Load(compute);
    config_.kv_element_type = kv;
    auto engine = MakeEngine();
    int64_t accepted = 0;
    int same = 0, compared = 0;
    for (const float temperature : {0.0f, 0.7f}) {
      for (const auto* prompt : {&prompt_, &quoting_}) {
        const Answer plain = Run(engine.get(), *prompt, SpeculationMode::kOff, temperature);
        const Answer drafted = Run(engine.get(), *prompt, SpeculationMode::kNgram, temperature);
        ASSERT_TRUE(drafted.finished.status.ok()) << drafted.finished.status;
        accepted += drafted.finished.usage.accepted_tokens;
        ASSERT_EQ(drafted.tokens.size(), plain.tokens.size());
        for (size_t n = 0; n < plain.tokens.size(); ++n) {
          ASSERT_EQ(drafted.tokens[n].size(), plain.tokens[n].size());
          ++compared;
          same += drafted.tokens[n] == plain.tokens[n] ? 1 : 0;
          if (compute == ComputeType::kInt8) {
            EXPECT_EQ(drafted.tokens[n], plain.tokens[n]) << temperature;
            EXPECT_EQ(drafted.logprobs[n], plain.logprobs[n]) << temperature << ": to the bit";
          }
          for (size_t i = 0; i < plain.tokens[n].size(); ++i) {
            if (drafted.tokens[n][i] != plain.tokens[n][i]) break;
            ASSERT_NEAR(drafted.logprobs[n][i], plain.logprobs[n][i], 0.1f) << "token " << i;
          }
        }
      }
    }
    EXPECT_GT(accepted, 0);
    std::printf("%d of %d same\n", same, compared);
  }
}

TEST_P(SpeculationModelTest, SparqIsUndoneToo) {
  Load(ComputeType::kF32);
  config_.k_columns = KvColumns::kSame;
  auto engine = MakeEngine();
  SparqRequest sparq;
  sparq.rank = 8;
  sparq.top_k = 48;
  sparq.min_tokens = 0;
  for (const float temperature : {0.0f, 0.7f}) {
    const Answer plain = Run(engine.get(), quoting_, SpeculationMode::kOff, temperature, sparq);
    const Answer drafted = Run(engine.get(), quoting_, SpeculationMode::kNgram, temperature, sparq);
    EXPECT_EQ(drafted.tokens, plain.tokens) << temperature;
    EXPECT_EQ(drafted.finished.usage.sparse_tokens, plain.finished.usage.sparse_tokens);
    EXPECT_GT(drafted.finished.usage.sparse_tokens, 0);
  }
}

// The model as its own draft model, and another one of the same vocabulary.
TEST_P(SpeculationModelTest, ADraftModelChangesNoToken) {
  Load(ComputeType::kF32);
  const std::string other =
      testing::ModelFolder(GetParam() == "tale-7m-mqa" ? "tale-7m-mha" : "tale-7m-mqa");
  auto stranger =
      other.empty()
          ? nullptr
          : Model::Load(other, {.compute_type = ComputeType::kF32, .progress = {}}).value();
  for (const Model* draft :
       {static_cast<const Model*>(model_.get()), static_cast<const Model*>(stranger.get())}) {
    if (draft == nullptr) continue;
    auto engine = MakeEngine(draft);
    for (const float temperature : {0.0f, 1.0f}) {
      const Answer plain = Run(engine.get(), prompt_, SpeculationMode::kOff, temperature);
      const Answer drafted = Run(engine.get(), prompt_, SpeculationMode::kDraft, temperature);
      ASSERT_TRUE(drafted.finished.status.ok()) << drafted.finished.status;
      EXPECT_EQ(drafted.tokens, plain.tokens) << temperature;
      // It draws with the same random numbers, so it is never wrong about itself.
      const RequestUsage& usage = drafted.finished.usage;
      if (draft == model_.get()) {
        EXPECT_EQ(usage.accepted_tokens, usage.drafted_tokens);
      }
      EXPECT_GT(usage.drafted_tokens, 0);
    }
  }
}

class SpeculationArchitectureTest : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Architectures, SpeculationArchitectureTest,
                         ::testing::Values("mistral-window", "gemma3", "gpt-oss", "deepseek-v3",
                                           "hunyuan-cla2", "phi3-longrope", "mixtral", "bloom",
                                           "qwen3-next", "lfm2"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) {
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           }
                           return name;
                         });

TEST_P(SpeculationArchitectureTest, ChangesNoToken) {
  const char* const shared = std::getenv("KVASIR_SHARED");
  const std::filesystem::path folder =
      (shared != nullptr ? std::filesystem::path(shared) : testing::SourceRoot() / "../shared") /
      "arch" / GetParam();
  if (!std::filesystem::exists(folder / "model.safetensors")) {
    GTEST_SKIP() << "no checkpoint in " << folder
                 << ": set KVASIR_SHARED to the folder that holds arch/";
  }
  const auto model =
      Model::Load(folder.string(), {.compute_type = ComputeType::kF32, .progress = {}}).value();
  // Only its decoding of ids is used, and any tokenizer can do that.
  const auto tokenizer =
      Tokenizer::Load((testing::SourceRoot() / "deploy/models" / testing::kBundledModel).string())
          .value();
  EngineConfig config;
  config.model_name = GetParam();
  config.block_tokens = 16;
  config.poison_free_blocks = true;
  config.kv_element_type = KvElementType::kF32;
  config.kv_capacity_bytes = int64_t{256} << 20;
  config.max_context_tokens = 256;
  EngineObserver observer;
  const KvLayout layout =
      model->spec().MakeKvLayout(config.kv_element_type, config.block_tokens).value();
  auto engine = Engine::Create(config, model.get(), tokenizer.get(), &observer, Clock::Real(),
                               layout.has_state() ? nullptr : model.get())
                    .value();

  // Twice the same, so that random weights have something to repeat too.
  std::mt19937 random(7);
  std::vector<TokenId> prompt;
  for (int i = 0; i < 25; ++i)
    prompt.push_back(static_cast<TokenId>(random() % model->spec().vocab_size));
  prompt.insert(prompt.end(), prompt.begin(), prompt.begin() + 25);
  for (const float temperature : {0.0f, 0.6f}) {
    const Answer plain = RunRequest(engine.get(), prompt, SpeculationMode::kOff, temperature);
    for (const SpeculationMode mode : {SpeculationMode::kNgram, SpeculationMode::kDraft}) {
      const Answer drafted = RunRequest(engine.get(), prompt, mode, temperature);
      ASSERT_TRUE(drafted.finished.status.ok()) << drafted.finished.status;
      EXPECT_EQ(drafted.tokens, plain.tokens) << SpeculationModeName(mode) << " " << temperature;
      const RequestUsage& usage = drafted.finished.usage;
      if (layout.has_state()) {
        EXPECT_EQ(usage.drafted_tokens, 0);
      } else if (mode == SpeculationMode::kDraft) {
        EXPECT_GT(usage.accepted_tokens, 0);
      }
    }
  }
}

}  // namespace
}  // namespace kvasir
