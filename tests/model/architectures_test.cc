// Every architecture against its tiny checkpoint: the config becomes a spec, every stored tensor
// has a place in it, the weights build, and the logits are those of the reference (golden.json of
// each folder: ten best logits after each prompt, greedy tokens up to the first close decision).

#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/hf_config.h"
#include "runtime/model/loading/checkpoint.h"
#include "runtime/model/loading/tensor_inventory.h"
#include "runtime/model/model.h"
#include "runtime/model/weights.h"
#include "tests/model/test_decoder.h"
#include "tests/test_models.h"

namespace kvasir::testing {
namespace {

const char* const kFolders[] = {"bloom",        "cohere",
                                "cohere2",      "deepseek-v2",
                                "deepseek-v3",  "exaone4",
                                "falcon-40b",   "falcon-7b",
                                "gemma",        "gemma2",
                                "gemma3",       "gemma3n",
                                "gemma4",       "glm4",
                                "glm4-moe",     "gpt-bigcode",
                                "gpt-neox",     "gpt-neox-sequential",
                                "gpt-oss",      "gpt2",
                                "gptj",         "granite",
                                "granite-moe",  "hunyuan-cla2",
                                "hunyuan-cla3", "hunyuan-dense",
                                "lfm2",         "llama-linear",
                                "llama-yarn",   "llama3-rope",
                                "ministral3",   "mistral-window",
                                "mixtral",      "nemotron",
                                "olmo2",        "olmo3",
                                "opt",          "phi",
                                "phi3",         "phi3-longrope",
                                "pythia-mlkv1", "pythia-mlkv2",
                                "pythia-mlkv3", "qwen2",
                                "qwen3",        "qwen3-moe",
                                "qwen3-next",   "qwen3.5",
                                "qwen3.5-moe",  "smollm3",
                                "stablelm",     "starcoder2"};

nlohmann::json ReadGolden(const std::string& folder) {
  std::ifstream file(folder + "/golden.json");
  return nlohmann::json::parse(file);
}

class ArchitectureTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    folder_ = ArchitectureFolder(GetParam());
    if (folder_.empty())
      GTEST_SKIP() << "NO FOLDER OF " << GetParam() << " HERE; set KVASIR_SHARED";
  }

  std::unique_ptr<Model> Load(ComputeType compute_type) {
    Model::Options options;
    options.compute_type = compute_type;
    auto model = Model::Load(folder_, options);
    if (!absl::IsUnimplemented(model.status())) {
      EXPECT_TRUE(model.ok()) << model.status();
    } else {
      refusal_ = std::string(model.status().message());
    }
    return model.ok() ? *std::move(model) : nullptr;
  }

  std::string folder_;
  std::string refusal_;  // why the decoder cannot compute it yet
};

TEST_P(ArchitectureTest, EveryTensorHasItsPlace) {
  const absl::StatusOr<ModelSpec> read = LoadHfConfig(folder_);
  ASSERT_TRUE(read.ok()) << read.status();
  ModelSpec spec = *read;
  const auto checkpoint = Checkpoint::Open(folder_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto has = [&](const std::string& name) { return (*checkpoint)->Has(name); };
  const auto map = MapTensors(spec, has);
  ASSERT_TRUE(map.ok()) << map.status();
  // The config alone says which biases there are.
  AdoptBiases(**checkpoint, *map, &spec);
  EXPECT_EQ(spec.num_parameters(), read->num_parameters());
  ASSERT_TRUE(CheckTensors(**checkpoint, *map, spec).ok())
      << CheckTensors(**checkpoint, *map, spec);
  const auto weights = BuildWeights(spec, *map, ComputeType::kF32, checkpoint->get(), nullptr);
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_GT((*weights)->bytes(), 0u);
}

TEST_P(ArchitectureTest, F32MeetsLogitsAndGreedyTokens) {
  const std::unique_ptr<Model> model = Load(ComputeType::kF32);
  if (!refusal_.empty()) GTEST_SKIP() << refusal_;
  ASSERT_NE(model, nullptr);
  const nlohmann::json golden = ReadGolden(folder_);
  ASSERT_EQ(golden["prompts"].size(), 3u);
  for (const nlohmann::json& prompt : golden["prompts"]) {
    ASSERT_EQ(prompt["last_logits_top"].size(), 10u);
    const std::vector<TokenId> ids = prompt["ids"].get<std::vector<TokenId>>();
    SCOPED_TRACE(ids.size());
    TestDecoder decoder(model.get(), 160, 128);
    TestSequence sequence = decoder.NewSequence();
    sequence.long_context = static_cast<int>(ids.size() + prompt["greedy_ids"].size()) - 1 >
                            model->spec().short_context_tokens();
    const std::vector<float> logits = decoder.Append(&sequence, ids, 128, false)[0];
    for (const nlohmann::json& top : prompt["last_logits_top"]) {
      EXPECT_NEAR(logits[top[0].get<int>()], top[1].get<float>(), 1e-3) << "token " << top[0];
    }
    TestDecoder again(model.get(), 160, 128);
    const std::vector<TokenId> expected = prompt["greedy_ids"].get<std::vector<TokenId>>();
    const std::vector<TokenId> got = again.Generate(ids, static_cast<int>(expected.size()));
    for (size_t i = 0; i < expected.size(); ++i) {
      if (prompt["margins"][i].get<double>() < 2e-3) break;
      ASSERT_EQ(got[i], expected[i]) << "step " << i;
    }
  }
}

// The other compute types run, and their best logits stay near the reference's.
TEST_P(ArchitectureTest, Bf16AndInt8Run) {
  for (const ComputeType type : {ComputeType::kBf16, ComputeType::kInt8}) {
    const std::unique_ptr<Model> model = Load(type);
    if (!refusal_.empty()) GTEST_SKIP() << refusal_;
    ASSERT_NE(model, nullptr);
    const nlohmann::json golden = ReadGolden(folder_);
    const nlohmann::json& prompt = golden["prompts"][1];
    const std::vector<TokenId> ids = prompt["ids"].get<std::vector<TokenId>>();
    TestDecoder decoder(model.get(), 160, 128);
    TestSequence sequence = decoder.NewSequence();
    const std::vector<float> logits = decoder.Append(&sequence, ids, 128, false)[0];
    double expected_squares = 0, difference_squares = 0;
    for (const nlohmann::json& top : prompt["last_logits_top"]) {
      const double expected = top[1].get<double>();
      const double difference = logits[top[0].get<int>()] - expected;
      ASSERT_TRUE(std::isfinite(difference));
      expected_squares += expected * expected;
      difference_squares += difference * difference;
    }
    EXPECT_LT(difference_squares, 0.1 * expected_squares)
        << (type == ComputeType::kBf16 ? "bf16" : "int8");
  }
}

INSTANTIATE_TEST_SUITE_P(Folders, ArchitectureTest, ::testing::ValuesIn(kFolders),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' || c == '.' ? '_' : c;
                           return name;
                         });

TEST(ArchitectureListTest, NamesAreUnique) {
  std::vector<std::string> names;
  for (const Architecture& architecture : Architectures()) names.push_back(architecture.name);
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::adjacent_find(names.begin(), names.end()), names.end());
  EXPECT_GE(names.size(), 50u);
}

}  // namespace
}  // namespace kvasir::testing
