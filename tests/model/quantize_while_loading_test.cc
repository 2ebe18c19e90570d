// Plain checkpoints whose weights become blocks while they are loaded.

#include <cmath>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/formats/dequantize.h"
#include "runtime/formats/quantize.h"
#include "runtime/model/hf_config.h"
#include "runtime/model/model.h"
#include "runtime/model/weights.h"
#include "tests/model/quantized_folder.h"
#include "tests/model/test_decoder.h"
#include "tests/test_models.h"

namespace kvasir::testing {
namespace {

using enum WeightFormat;
using Json = nlohmann::json;

std::unique_ptr<Model> Load(const std::string& folder, ComputeType type,
                            std::optional<WeightFormat> format) {
  Model::Options options;
  options.compute_type = type;
  options.quantize_to = format;
  auto model = Model::Load(folder, options);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

// The weights of a model of blocks are what quantising the checkpoint's gives: a folder of those
// values, plain, is the same model.
TEST(QuantizeWhileLoadingTest, EqualsACheckpointOfTheRoundedValues) {
  for (const bool tied : {false, true}) {
    Json config = SmallConfig();
    config["tie_word_embeddings"] = tied;
    const FloatTensors plain = RandomTensors(*ParseHfConfig(config.dump(), ""), 1);
    FloatTensors rounded = plain;
    for (auto& [name, tensor] : rounded) {
      if (tensor.shape.size() != 2) continue;
      const bool eight_bits = name == "lm_head.weight" || name == "model.embed_tokens.weight";
      if (name == "model.embed_tokens.weight" && !tied) continue;
      const WeightFormat format = eight_bits ? kQ8_0 : kInt4Group32;
      std::vector<uint8_t> blocks(static_cast<size_t>(RowBytes(format, tensor.cols())));
      for (int64_t r = 0; r < tensor.rows(); ++r) {
        float* row = tensor.values.data() + r * tensor.cols();
        QuantizeRow(format, row, tensor.cols(), blocks.data());
        Dequantize(format, blocks.data(), tensor.cols(), row);
      }
    }
    TempFolder folder, twin;
    WriteModel(folder, config, Stored(plain, "F32"));
    WriteModel(twin, config, Stored(rounded, "F32"));
    const auto model = Load(folder.path(), ComputeType::kF32, kInt4Group32);
    const auto expected = Load(twin.path(), ComputeType::kF32, std::nullopt);
    ASSERT_TRUE(model != nullptr && expected != nullptr);
    const std::vector<float> want = LogitsOf(*expected, 40);
    for (const int chunk : {40, 3}) {
      const std::vector<float> got = LogitsOf(*model, chunk);
      for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 2e-4) << i;
    }
    // Embeddings that are multiplied with are held once.
    const auto bytes = model->weight_bytes_by_format();
    EXPECT_EQ(bytes.count("int4_32"), 1u);
    const int64_t panels = (50 + 15) / 16 * 16;
    EXPECT_LE(bytes.at("q8_0"), panels * 64 * 34 / 32 * 11 / 10);
    int64_t sum = 0;
    for (const auto& [format, count] : bytes) sum += count;
    EXPECT_EQ(sum, static_cast<int64_t>(model->weight_bytes()));
    EXPECT_LE(sum, static_cast<int64_t>(
                       EstimateWeightBytes(model->spec(), ComputeType::kF32, kInt4Group32)) *
                       12 / 10);
  }
}

TEST(QuantizeWhileLoadingTest, LeavesWhatIsQuantisedAlone) {
  const Twins twins = MakeTwins(FormNamed("gptq_64"));
  TempFolder folder;
  WriteModel(folder, twins.config, twins.quantized);
  const auto bytes = Load(folder.path(), ComputeType::kBf16, kQ4_0)->weight_bytes_by_format();
  EXPECT_EQ(bytes.count("int4_64"), 1u);
  EXPECT_EQ(bytes.count("q4_0"), 0u);
  EXPECT_EQ(bytes.count("q8_0"), 1u);  // the head was plain
}

// A trained model loses little: each format's loss over a text against that of f32.
TEST(QuantizeWhileLoadingTest, ATrainedModelLosesLittle) {
  const std::string folder = ModelFolder(kBundledModel);
  if (folder.empty()) GTEST_SKIP() << "NO " << kBundledModel << " ON THIS MACHINE";
  // The text that the model itself writes is text that it knows well.
  const auto exact = Load(folder, ComputeType::kF32, std::nullopt);
  ASSERT_TRUE(exact != nullptr);
  TestDecoder writer(exact.get(), 512, 64);
  std::vector<TokenId> tokens = {1, 300, 400};
  const std::vector<TokenId> written = writer.Generate(tokens, 200);
  tokens.insert(tokens.end(), written.begin(), written.end());
  const auto mean = [&](const Model& model) {
    TestDecoder decoder(&model, 512, 64);
    TestSequence sequence = decoder.NewSequence();
    const auto logits = decoder.Append(&sequence, tokens, 64, /*all_logits=*/true);
    double sum = 0;
    for (size_t i = 3; i + 1 < tokens.size(); ++i) {
      sum += NegativeLogLikelihood(logits[i], tokens[i + 1]);
    }
    return sum / static_cast<double>(tokens.size() - 4);
  };
  const double expected = mean(*exact);
  const struct {
    WeightFormat format;
    double allowed;
  } cases[] = {{kQ8_0, 0.02}, {kInt4Group32, 0.2}, {kInt4Zero32, 0.2}, {kQ4_0, 0.2}, {kQ4_K, 0.2}};
  for (const auto& c : cases) {
    const auto model = Load(folder, ComputeType::kBf16, c.format);
    ASSERT_TRUE(model != nullptr);
    const double got = mean(*model);
    std::printf("%s: loss %.4f, f32 %.4f\n", std::string(Info(c.format).name).c_str(), got,
                expected);
    EXPECT_NEAR(got, expected, c.allowed) << Info(c.format).name;
  }
}

}  // namespace
}  // namespace kvasir::testing
