// The nine small trained models against figures of an independent implementation (golden.json of
// each folder). With KVASIR_CPU_TARGET=avx2, avx512 or avx512_bf16 in the environment, computed
// with those instructions only.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/model/model.h"
#include "runtime/ops/cpu_target.h"
#include "runtime/ops/matmul.h"
#include "runtime/tokenizer/tokenizer.h"
#include "tests/model/test_decoder.h"
#include "tests/test_models.h"

namespace kvasir::testing {
namespace {

// Before any test, for the limit holds for the process.
class ForcedCpuTarget : public ::testing::Environment {
 public:
  void SetUp() override {
    const char* const name = std::getenv("KVASIR_CPU_TARGET");
    if (name == nullptr) return;
    struct Target {
      CpuTarget target;
      const char* description;
      ComputeType bf16_computes_in;
    };
    const std::map<std::string, Target> targets = {
        {"avx2", {CpuTarget::kAvx2, "kernels AVX2, products avx2", ComputeType::kF32}},
        {"avx512", {CpuTarget::kAvx512, "kernels AVX3, products avx512_core", ComputeType::kF32}},
        {"avx512_bf16",
         {CpuTarget::kAvx512Bf16, "products avx512_core_bf16, bf16 attention", ComputeType::kBf16}},
    };
    ASSERT_EQ(targets.count(name), 1) << name;
    const Target& forced = targets.at(name);
    const absl::Status limited = LimitCpuTarget(forced.target);
    if (absl::IsFailedPrecondition(limited)) GTEST_SKIP() << limited.message();
    EXPECT_THAT(DescribeCpuTarget(), ::testing::EndsWith(forced.description));
    EXPECT_EQ(EffectiveComputeType(ComputeType::kBf16), forced.bf16_computes_in);
    if (forced.target == CpuTarget::kAvx2) {
      EXPECT_FALSE(LimitCpuTarget(CpuTarget::kAvx512).ok()) << "raised again";
    }
  }
};
const auto* const kForcedCpuTarget = ::testing::AddGlobalTestEnvironment(new ForcedCpuTarget);

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

std::unique_ptr<Model> LoadModel(const std::string& folder, ComputeType compute_type) {
  Model::Options options;
  options.compute_type = compute_type;
  auto model = Model::Load(folder, options);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

// The first `count` tokens of the held-out text behind a leading 0, as golden.json's NLL uses them.
std::vector<TokenId> CorpusTokens(const std::string& folder, size_t count) {
  auto tokenizer = Tokenizer::Load(folder);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  if (!tokenizer.ok()) return {};
  const std::string text = ReadFile(CorpusFile("test.txt"));
  Tokenizer::EncodeOptions options;
  options.add_special_tokens = false;
  options.parse_special_tokens = true;
  auto ids = (*tokenizer)->Encode(text, options);
  EXPECT_TRUE(ids.ok()) << ids.status();
  if (!ids.ok()) return {};
  std::vector<TokenId> tokens = {0};
  tokens.insert(tokens.end(), ids->begin(), ids->end());
  tokens.resize(std::min(tokens.size(), count));
  return tokens;
}

// Mean negative log-likelihood over `num_tokens` predictions in windows that do not overlap,
// computed in chunks.
double MeanNll(const Model& model, const std::vector<TokenId>& tokens, int window, int num_tokens,
               int chunk = 512, std::optional<KvElementType> kv_type = std::nullopt) {
  TestDecoder decoder(&model, window, chunk, KvColumns::kOff, kv_type);
  double sum = 0;
  for (int begin = 0; begin + window <= num_tokens; begin += window) {
    TestSequence sequence = decoder.NewSequence();
    const auto logits =
        decoder.Append(&sequence, absl::MakeConstSpan(tokens).subspan(begin, window), chunk,
                       /*all_logits=*/true);
    for (int i = 0; i < window; ++i) sum += NegativeLogLikelihood(logits[i], tokens[begin + i + 1]);
  }
  return sum / num_tokens;
}

class GoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    folder_ = ModelFolder(GetParam());
    if (folder_.empty()) {
      GTEST_SKIP() << "MODEL " << GetParam()
                   << " IS NOT ON THIS MACHINE; set KVASIR_MODELS to the golden models";
    }
    const std::string golden = ReadFile(folder_ + "/golden.json");
    if (golden.empty())
      GTEST_SKIP() << folder_ << " HAS NO golden.json; set KVASIR_MODELS to the golden models";
    golden_ = nlohmann::json::parse(golden);
  }

  // NLL at both windows; the difference to the goldens must stay below the tolerance.
  void CheckNll(const Model& model, double tolerance) {
    if (CorpusFile("test.txt").empty())
      GTEST_SKIP() << "corpus/test.txt IS NOT ON THIS MACHINE, NLL NOT CHECKED";
    const nlohmann::json& nll = golden_["nll"];
    const int num_tokens = nll["tokens"];
    const std::vector<TokenId> tokens = CorpusTokens(folder_, num_tokens + 1);
    ASSERT_EQ(tokens.size(), static_cast<size_t>(num_tokens) + 1);
    const std::vector<TokenId> first = nll["first_16_ids"];
    ASSERT_EQ(std::vector<TokenId>(tokens.begin(), tokens.begin() + 16), first);
    for (const int window : {512, 2048}) {
      const double expected = nll["window_" + std::to_string(window)];
      const absl::Time start = absl::Now();
      const double actual = MeanNll(model, tokens, window, num_tokens);
      std::printf("%-20s window %4d: NLL %.6f, golden %.6f, difference %+.2e, %.0f tokens/s\n",
                  GetParam().c_str(), window, actual, expected, actual - expected,
                  num_tokens / absl::ToDoubleSeconds(absl::Now() - start));
      EXPECT_NEAR(actual, expected, tolerance) << "window " << window;
    }
  }

  std::string folder_;
  nlohmann::json golden_;
};

TEST_P(GoldenTest, F32MeetsLogitsAndGreedyTokens) {
  const std::unique_ptr<Model> model = LoadModel(folder_, ComputeType::kF32);
  ASSERT_NE(model, nullptr);
  for (const nlohmann::json& prompt : golden_["prompts"]) {
    SCOPED_TRACE(prompt["name"].get<std::string>());
    const std::vector<TokenId> ids = prompt["ids"];
    TestDecoder decoder(model.get(), static_cast<int>(ids.size()) + 64,
                        static_cast<int>(ids.size()));
    TestSequence sequence = decoder.NewSequence();
    const std::vector<float> logits =
        decoder.Append(&sequence, ids, static_cast<int>(ids.size()), false)[0];
    for (size_t i = 0; i < prompt["top10_ids"].size(); ++i) {
      EXPECT_NEAR(logits[prompt["top10_ids"][i].get<int>()], prompt["top10_logits"][i].get<float>(),
                  1e-3);
    }
    sequence.table.Clear();
    const std::vector<TokenId> greedy = prompt["greedy_ids"];
    EXPECT_EQ(decoder.Generate(ids, static_cast<int>(greedy.size())), greedy);
  }
}

TEST_P(GoldenTest, F32MeetsNll) {
  const std::unique_ptr<Model> model = LoadModel(folder_, ComputeType::kF32);
  ASSERT_NE(model, nullptr);
  CheckNll(*model, 1e-4);
}

// bf16 rounds in an order that the CPU's kernels choose: a step whose two best logits are nearer
// than that rounding may go either way. So each step is judged behind the reference's own tokens.
TEST_P(GoldenTest, Bf16MeetsNllAndEachClearGreedyToken) {
  constexpr float kClearMargin = 0.1f;
  const std::unique_ptr<Model> model = LoadModel(folder_, ComputeType::kBf16);
  ASSERT_NE(model, nullptr);
  size_t clear = 0, steps = 0;
  for (const nlohmann::json& prompt : golden_["prompts"]) {
    SCOPED_TRACE(prompt["name"].get<std::string>());
    std::vector<TokenId> ids = prompt["ids"];
    const std::vector<TokenId> greedy = prompt["greedy_ids"];
    const std::vector<float> margins = prompt["greedy_margin"];
    ASSERT_EQ(margins.size(), greedy.size());
    const size_t first = ids.size() - 1;
    ids.insert(ids.end(), greedy.begin(), greedy.end() - 1);
    TestDecoder decoder(model.get(), static_cast<int>(ids.size()), static_cast<int>(ids.size()));
    TestSequence sequence = decoder.NewSequence();
    const auto logits =
        decoder.Append(&sequence, ids, static_cast<int>(ids.size()), /*all_logits=*/true);
    for (size_t i = 0; i < greedy.size(); ++i) {
      ++steps;
      if (margins[i] < kClearMargin) continue;
      ++clear;
      EXPECT_EQ(ArgMax(logits[first + i]), greedy[i]) << "step " << i << ", margin " << margins[i];
    }
  }
  EXPECT_GT(clear, steps / 2);  // most are, or this tests little
  CheckNll(*model, 0.05);
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTest, ::testing::ValuesIn(AllModelNames()),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

// Quantising weights and activations to 8 bits must not cost more than a hundredth of a nat.
TEST(Int8GoldenTest, BundledModelStaysWithinAHundredthOfANat) {
  const std::string folder = ModelFolder(kBundledModel);
  if (folder.empty() || CorpusFile("test.txt").empty())
    GTEST_SKIP() << "BUNDLED MODEL OR CORPUS MISSING";
  constexpr int kTokens = 16384;
  const std::vector<TokenId> tokens = CorpusTokens(folder, kTokens + 1);
  ASSERT_EQ(tokens.size(), static_cast<size_t>(kTokens) + 1);
  const std::unique_ptr<Model> f32 = LoadModel(folder, ComputeType::kF32);
  const std::unique_ptr<Model> int8 = LoadModel(folder, ComputeType::kInt8);
  ASSERT_NE(f32, nullptr);
  ASSERT_NE(int8, nullptr);
  const double expected = MeanNll(*f32, tokens, 512, kTokens);
  const double actual = MeanNll(*int8, tokens, 512, kTokens);
  std::printf("%s int8: NLL %.6f, f32 %.6f, difference %+.2e\n", kBundledModel, actual, expected,
              actual - expected);
  EXPECT_NEAR(actual, expected, 0.01);
}

// So must K and V of 8 bits: read by many rows at once, and by one after the other.
TEST(Int8GoldenTest, Int8KvStaysWithinAHundredthOfANat) {
  for (const char* name : {kBundledModel, "tale-7m-mha", "tale-7m-mqa"}) {
    const std::string folder = ModelFolder(name);
    if (folder.empty() || CorpusFile("test.txt").empty()) {
      std::printf("*** MODEL %s OR CORPUS MISSING\n", name);
      continue;
    }
    for (const int chunk : {512, 1}) {
      const int num_tokens = chunk == 1 ? 1536 : 8192;
      const std::vector<TokenId> tokens = CorpusTokens(folder, num_tokens + 1);
      const std::unique_ptr<Model> model = LoadModel(folder, ComputeType::kBf16);
      ASSERT_NE(model, nullptr);
      const double expected = MeanNll(*model, tokens, 512, num_tokens, chunk, KvElementType::kBf16);
      const double actual = MeanNll(*model, tokens, 512, num_tokens, chunk, KvElementType::kInt8);
      std::printf("%s, chunks of %d, int8 K/V: NLL %.6f, bf16 K/V %.6f, difference %+.2e\n", name,
                  chunk, actual, expected, actual - expected);
      EXPECT_NEAR(actual, expected, 0.01) << name << ", chunks of " << chunk;
      EXPECT_NE(actual, expected);  // or it was not int8
    }
  }
}

}  // namespace
}  // namespace kvasir::testing
