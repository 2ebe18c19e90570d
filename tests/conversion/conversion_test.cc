// Conversions of whole folders: each recipe against a loop over the source's tensors, biases and
// norms of q and k, what is copied, what the result loads as, and that heads which were equal
// already change nothing.

#include "runtime/conversion/conversion.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "gmock/gmock.h"
#include "runtime/formats/dequantize.h"
#include "runtime/model/model.h"
#include "tests/conversion/conversion_fixture.h"
#include "tests/model/test_decoder.h"

namespace kvasir::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Not;

std::string Name(int layer, const std::string& rest) {
  return "model.layers." + std::to_string(layer) + ".self_attn." + rest;
}

nlohmann::json ReadConfig(const std::string& folder) {
  std::ifstream file(folder + "/config.json");
  return nlohmann::json::parse(file);
}

// 4 heads of 8, MHA.
nlohmann::json MhaConfig() {
  nlohmann::json config = TinyConfig();
  config["num_key_value_heads"] = 4;
  return config;
}

class ConversionTest : public ConversionFixture {
 protected:
  // The mean over heads and layers, in the plainest way: `weights[i]` counts layer layers[i].
  std::vector<float> Expected(const std::string& rest, const std::vector<int>& layers,
                              const std::vector<double>& weights, int heads, int groups) {
    const FloatTensor& first = tensors_.at(Name(layers[0], rest));
    const int64_t head = first.rows() / heads * first.cols();
    std::vector<float> expected(groups * head);
    const int group_heads = heads / groups;
    for (int g = 0; g < groups; ++g) {
      for (int64_t i = 0; i < head; ++i) {
        double sum = 0;
        for (size_t l = 0; l < layers.size(); ++l) {
          double pooled = 0;
          for (int h = 0; h < group_heads; ++h) {
            pooled += tensors_.at(Name(layers[l], rest)).values[(g * group_heads + h) * head + i];
          }
          sum += weights[l] * pooled / group_heads;
        }
        expected[g * head + i] = static_cast<float>(sum);
      }
    }
    return expected;
  }

  void ExpectTensor(const std::string& name, const std::vector<float>& expected) {
    const std::vector<float> got = Values(output(), name);
    ASSERT_EQ(got.size(), expected.size()) << name;
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_NEAR(got[i], expected[i], 1e-6) << name << " " << i;
    }
  }

  void ExpectCopied(const std::string& name) {
    EXPECT_EQ(Values(output(), name), tensors_.at(name).values) << name;
  }
};

TEST_F(ConversionTest, PoolsHeadsOfEveryLayerWithTheirBiases) {
  nlohmann::json config = MhaConfig();
  config["attention_bias"] = true;
  WriteSource(config);
  for (const int groups : {2, 1}) {
    SCOPED_TRACE(groups);
    ConversionRequest request = Request();
    request.sharing.kv_heads = groups;
    request.force = true;
    const auto report = Run(request);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->source.sharing, "mha");
    EXPECT_EQ(report->result.sharing, groups == 2 ? "gqa" : "mqa");
    EXPECT_EQ(report->source.kv_bytes_per_token_resident, 4 * 4 * 8 * 2 * 2);
    EXPECT_EQ(report->result.kv_bytes_per_token_resident, 4 * groups * 8 * 2 * 2);
    EXPECT_EQ(report->result.kv_bytes_per_token_read, 4 * groups * 8 * 2 * 2);
    for (int layer = 0; layer < 4; ++layer) {
      for (const char* rest : {"k_proj.weight", "v_proj.weight", "k_proj.bias", "v_proj.bias"}) {
        ExpectTensor(Name(layer, rest), Expected(rest, {layer}, {1}, 4, groups));
      }
      for (const char* rest : {"q_proj.weight", "q_proj.bias", "o_proj.weight", "o_proj.bias"}) {
        ExpectCopied(Name(layer, rest));
      }
    }
    ExpectCopied("model.embed_tokens.weight");
    ExpectCopied("lm_head.weight");
    EXPECT_EQ(ReadConfig(output())["num_key_value_heads"], groups);
    EXPECT_THAT(Leftovers(), ElementsAre("result"));
  }
}

TEST_F(ConversionTest, KeepsTheOrderOfTheConfigAndTheFilesBesideIt) {
  WriteSource(MhaConfig());
  source_.Write("config.json", R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"],
    "vocab_size": 50, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 4,
    "num_attention_heads": 4, "head_dim": 8, "max_position_embeddings": 96, "rms_norm_eps": 1e-5,
    "a_key_of_somebody_else": [1, {"b": null}]})");
  ConversionRequest request = Request();
  request.sharing.kv_heads = 2;
  ASSERT_TRUE(Run(request).ok());
  std::ifstream file(output() + "/config.json");
  const auto config = nlohmann::ordered_json::parse(file);
  EXPECT_EQ(config.begin().key(), "model_type");
  EXPECT_EQ(config["num_key_value_heads"], 2);
  EXPECT_EQ(config["a_key_of_somebody_else"], (nlohmann::ordered_json{1, {{"b", nullptr}}}));
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(output())) {
    names.push_back(entry.path().filename().string());
  }
  EXPECT_THAT(names,
              ::testing::UnorderedElementsAre("LICENSE", "chat_template.jinja", "config.json",
                                              "model.safetensors", "tokenizer.json"));
}

TEST_F(ConversionTest, FirstAndRandomHeads) {
  WriteSource(MhaConfig());
  ConversionRequest request = Request();
  request.sharing.kv_heads = 2;
  request.sharing.heads = HeadRecipe::kFirst;
  ASSERT_TRUE(Run(request).ok());
  const std::vector<float>& k = tensors_.at(Name(1, "k_proj.weight")).values;
  const auto head = static_cast<int64_t>(k.size()) / 4;
  std::vector<float> expected(k.begin(), k.begin() + head);
  expected.insert(expected.end(), k.begin() + 2 * head, k.begin() + 3 * head);
  EXPECT_EQ(Values(output(), Name(1, "k_proj.weight")), expected);

  request.sharing.heads = HeadRecipe::kRandom;
  request.force = true;
  const auto drawn = [&](uint64_t seed) {
    request.sharing.seed = seed;
    EXPECT_TRUE(Run(request).ok());
    return Values(output(), Name(1, "k_proj.weight"));
  };
  const std::vector<float> one = drawn(1), two = drawn(2);
  EXPECT_EQ(one, drawn(1));
  EXPECT_NE(one, two);
  double squares = 0;
  for (const float value : one) squares += value * value;
  EXPECT_NEAR(squares / static_cast<double>(one.size()), 1.0 / 24, 0.01);  // 1 / hidden_size
  ExpectCopied(Name(1, "q_proj.weight"));
}

TEST_F(ConversionTest, ClaKeepsTheFirstLayerOfEachGroup) {
  WriteSource(MhaConfig());
  ConversionRequest request = Request();
  request.sharing.cla_factor = 3;  // groups {0, 1, 2} and {3}
  const auto report = Run(request);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->result.sharing, "mha+cla");
  EXPECT_EQ(report->result.kv_layers, 2);
  EXPECT_EQ(report->result.kv_bytes_per_token_resident, 2 * 4 * 8 * 2 * 2);
  EXPECT_EQ(report->result.kv_bytes_per_token_read, 4 * 4 * 8 * 2 * 2);
  for (const int owner : {0, 3}) {
    ExpectCopied(Name(owner, "k_proj.weight"));
    ExpectCopied(Name(owner, "v_proj.weight"));
  }
  for (const int borrower : {1, 2}) {
    EXPECT_FALSE(Has(output(), Name(borrower, "k_proj.weight")));
    EXPECT_FALSE(Has(output(), Name(borrower, "v_proj.weight")));
    ExpectCopied(Name(borrower, "q_proj.weight"));
  }
  const nlohmann::json config = ReadConfig(output());
  EXPECT_EQ(config["use_cla"], true);
  EXPECT_EQ(config["cla_share_factor"], 3);
}

TEST_F(ConversionTest, MlkvTakesTheTrueMeanOrTheOfficialRunningOne) {
  nlohmann::json config = MhaConfig();
  config["num_hidden_layers"] = 6;
  config["attention_bias"] = true;
  WriteSource(config);
  ConversionRequest request = Request();
  request.sharing.kv_heads = 1;
  request.sharing.mlkv_layers = 2;
  const auto report = Run(request);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->result.sharing, "mqa+mlkv");
  for (const char* rest : {"k_proj.weight", "v_proj.weight", "k_proj.bias", "v_proj.bias"}) {
    const double third = 1.0 / 3;
    ExpectTensor(Name(0, rest), Expected(rest, {0, 1, 2}, {third, third, third}, 4, 1));
    ExpectTensor(Name(3, rest), Expected(rest, {3, 4, 5}, {third, third, third}, 4, 1));
  }
  for (const int borrower : {1, 2, 4, 5}) {
    EXPECT_FALSE(Has(output(), Name(borrower, "k_proj.bias")));
  }
  EXPECT_EQ(ReadConfig(output())["num_key_value_layers"], 2);

  request.sharing.layers = LayerRecipe::kRunningMean;
  request.force = true;
  ASSERT_TRUE(Run(request).ok());
  for (const char* rest : {"k_proj.weight", "v_proj.bias"}) {
    ExpectTensor(Name(3, rest), Expected(rest, {3, 4, 5}, {0.25, 0.25, 0.5}, 4, 1));
  }
}

TEST_F(ConversionTest, MlkvGroupsThatDoNotDivideGoByThePublishedCode) {
  nlohmann::json config = MhaConfig();
  config["num_hidden_layers"] = 12;
  WriteSource(config);
  ConversionRequest request = Request();
  request.sharing.mlkv_layers = 5;
  ASSERT_TRUE(Run(request).ok());
  std::vector<int> owners;
  for (int layer = 0; layer < 12; ++layer) {
    if (Has(output(), Name(layer, "k_proj.weight"))) owners.push_back(layer);
  }
  EXPECT_THAT(owners, ElementsAre(0, 2, 4, 7, 9));
}

TEST_F(ConversionTest, SharesFurtherWhatSharesAlready) {
  nlohmann::json config = TinyConfig();  // GQA, 2 of 4 heads
  config["use_cla"] = true;
  config["cla_share_factor"] = 2;
  WriteSource(config);
  ConversionRequest request = Request();
  request.sharing.kv_heads = 1;
  request.sharing.mlkv_layers = 1;
  const auto report = Run(request);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->source.sharing, "gqa+cla");
  EXPECT_EQ(report->result.sharing, "mqa+mlkv");
  // Layers 1 and 3 have no K/V to merge.
  ExpectTensor(Name(0, "v_proj.weight"), Expected("v_proj.weight", {0, 2}, {0.5, 0.5}, 2, 1));
  EXPECT_FALSE(ReadConfig(output()).contains("use_cla"));
}

TEST_F(ConversionTest, QkNormsStay) {
  nlohmann::json config = MhaConfig();
  config["architectures"] = {"Qwen3ForCausalLM"};
  config["model_type"] = "qwen3";
  WriteSource(config);
  ConversionRequest request = Request();
  request.sharing.kv_heads = 1;
  request.sharing.cla_factor = 2;
  request.sharing.layers = LayerRecipe::kMean;
  const auto report = Run(request);
  ASSERT_TRUE(report.ok()) << report.status();
  ExpectTensor(Name(2, "k_proj.weight"), Expected("k_proj.weight", {2, 3}, {0.5, 0.5}, 4, 1));
  for (int layer = 0; layer < 4; ++layer) ExpectCopied(Name(layer, "q_norm.weight"));
  for (const int owner : {0, 2}) ExpectCopied(Name(owner, "k_norm.weight"));
  for (const int borrower : {1, 3}) EXPECT_FALSE(Has(output(), Name(borrower, "k_norm.weight")));
}

// Rows that the loader reads in another order than they stand in: pairs side by side.
TEST_F(ConversionTest, RowsOfInterleavedHeadsKeepTheirPlaces) {
  WriteSource({{"architectures", {"CohereForCausalLM"}},
               {"model_type", "cohere"},
               {"hidden_size", 32},
               {"intermediate_size", 40},
               {"num_hidden_layers", 2},
               {"num_attention_heads", 4},
               {"num_key_value_heads", 4},
               {"max_position_embeddings", 96},
               {"layer_norm_eps", 1e-5},
               {"logit_scale", 0.0625},
               {"use_qk_norm", false},
               {"vocab_size", 50},
               {"tie_word_embeddings", true}});
  ConversionRequest request = Request();
  request.sharing.kv_heads = 2;
  const auto report = Run(request);
  ASSERT_TRUE(report.ok()) << report.status();
  ExpectTensor(Name(0, "k_proj.weight"), Expected("k_proj.weight", {0}, {1}, 4, 2));
  ExpectTensor(Name(1, "v_proj.weight"), Expected("v_proj.weight", {1}, {1}, 4, 2));
}

TEST_F(ConversionTest, WritesAnyTypeFromAny) {
  for (const char* dtype : {"F32", "BF16", "F16"}) {
    WriteSource(MhaConfig(), dtype);
    for (const WeightFormat type : {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kF16}) {
      SCOPED_TRACE(std::string(dtype) + " to " + std::string(Info(type).name));
      ConversionRequest request = Request();
      request.weights = type;
      request.force = true;
      const auto report = Run(request);
      ASSERT_TRUE(report.ok()) << report.status();
      EXPECT_EQ(report->result.weight_bytes,
                report->result.parameters * static_cast<int64_t>(ElementBytes(type)));
      // The random values are bf16's, and large enough for f16.
      ExpectCopied(Name(2, "q_proj.weight"));
      ExpectCopied(Name(2, "k_proj.weight"));
      EXPECT_EQ(ReadConfig(output())["torch_dtype"], type == WeightFormat::kF32   ? "float32"
                                                     : type == WeightFormat::kF16 ? "float16"
                                                                                  : "bfloat16");
    }
  }
}

TEST_F(ConversionTest, SplitsIntoShardsThatLoadAsOneModel) {
  WriteSource(MhaConfig());
  ConversionRequest request = Request();
  request.sharing.kv_heads = 2;
  ASSERT_TRUE(Run(request).ok());
  const std::string whole = output();
  request.output = outputs_.path() + "/shards";
  request.shard_bytes = 9000;  // the embeddings have 4800, gate_proj 3840
  const auto report = Run(request);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_GT(report->files, 5);
  const auto one = Checkpoint::Open(whole), many = Checkpoint::Open(request.output);
  ASSERT_TRUE(one.ok() && many.ok()) << many.status();
  EXPECT_EQ((*one)->Names(), (*many)->Names());
  for (const std::string& name : (*one)->Names()) {
    EXPECT_EQ(Values(whole, name), Values(request.output, name)) << name;
  }
  for (const auto& entry : std::filesystem::directory_iterator(request.output)) {
    if (entry.path().extension() == ".safetensors") {
      EXPECT_LT(entry.file_size(), 9000 + 4096) << entry.path();  // and the header
    }
  }
  // A tensor above the limit has a file of its own.
  request.shard_bytes = 1;
  request.force = true;
  const auto each = Run(request);
  ASSERT_TRUE(each.ok()) << each.status();
  EXPECT_EQ(each->files, each->tensors);
  // And a source of so many files is converted as the one file.
  ConversionRequest again = Request();
  again.sharing.kv_heads = 1;
  std::string results[2];
  for (const bool in_shards : {false, true}) {
    again.source = in_shards ? request.output : whole;
    again.output = results[in_shards] = outputs_.path() + (in_shards ? "/of_many" : "/of_one");
    ASSERT_TRUE(Run(again).ok()) << again.source;
  }
  const auto of_one = Checkpoint::Open(results[0]);
  ASSERT_TRUE(of_one.ok()) << of_one.status();
  for (const std::string& name : (*of_one)->Names()) {
    EXPECT_EQ(Values(results[0], name), Values(results[1], name)) << name;
  }
}

// Folders of compressed-tensors: smaller, loadable, and nearly the same model.
TEST_F(ConversionTest, MatricesBecomeIntegers) {
  nlohmann::json config = TinyConfig();
  config["hidden_size"] = 64;
  config["intermediate_size"] = 192;
  WriteSource(config);
  const std::vector<TokenId> tokens = {1, 7, 3, 44, 12, 5, 30, 2, 19};
  const auto logits = [&](const std::string& folder) {
    Model::Options options;
    options.compute_type = ComputeType::kF32;
    const auto model = Model::Load(folder, options);
    EXPECT_TRUE(model.ok()) << model.status();
    if (!model.ok()) return std::vector<float>();
    TestDecoder decoder(model->get(), 64, 64);
    TestSequence sequence = decoder.NewSequence();
    return decoder.Append(&sequence, tokens, 9, false).back();
  };
  const std::vector<float> before = logits(source_.path());
  double size = 0;
  for (const float value : before) size += value * value;
  for (const int bits : {8, 4}) {
    SCOPED_TRACE(bits);
    ConversionRequest request = Request();
    request.integer_bits = bits;
    request.force = true;
    request.shard_bytes = 30000;
    const auto report = Run(request);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_GT(report->files, 1);
    EXPECT_LT(report->result.weight_bytes, report->source.weight_bytes / (bits == 8 ? 3 : 4));
    EXPECT_TRUE(Has(output(), Name(0, bits == 8 ? "k_proj.weight" : "k_proj.weight_packed")));
    ExpectCopied("model.embed_tokens.weight");
    ExpectCopied("lm_head.weight");
    const std::vector<float> after = logits(output());
    ASSERT_EQ(after.size(), before.size());
    double error = 0;
    for (size_t i = 0; i < after.size(); ++i) {
      error += (after[i] - before[i]) * static_cast<double>(after[i] - before[i]);
    }
    EXPECT_LT(std::sqrt(error / size), bits == 8 ? 0.03 : 0.4);
    EXPECT_GT(error, 0);
  }
}

// T4: where the heads of a group are equal, pooling them changes nothing: not one logit.
TEST_F(ConversionTest, EqualHeadsGiveTheSameModel) {
  nlohmann::json config = MhaConfig();
  config["attention_bias"] = true;
  WriteSource(config);
  for (auto& [name, tensor] : tensors_) {
    if (name.find("k_proj") == std::string::npos && name.find("v_proj") == std::string::npos) {
      continue;
    }
    const auto head = static_cast<int64_t>(tensor.values.size()) / 4;
    for (int h : {1, 3}) {
      std::copy_n(tensor.values.begin() + (h - 1) * head, head, tensor.values.begin() + h * head);
    }
  }
  WriteModel(source_, config, Stored(tensors_, "F32"));
  ConversionRequest request = Request();
  request.sharing.kv_heads = 2;
  ASSERT_TRUE(Run(request).ok());
  const std::vector<TokenId> tokens = {1, 7, 3, 44, 12, 5, 30, 2, 19};
  std::vector<std::vector<std::vector<float>>> logits;
  for (const std::string& folder : {source_.path(), output()}) {
    Model::Options options;
    options.compute_type = ComputeType::kF32;
    const auto model = Model::Load(folder, options);
    ASSERT_TRUE(model.ok()) << model.status();
    TestDecoder decoder(model->get(), 64, 64);
    TestSequence sequence = decoder.NewSequence();
    logits.push_back(decoder.Append(&sequence, tokens, 4, true));
  }
  ASSERT_EQ(logits[0].size(), tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    for (size_t v = 0; v < logits[0][i].size(); ++v) {
      ASSERT_NEAR(logits[0][i][v], logits[1][i][v], 1e-5) << i << " " << v;
    }
  }
}

TEST_F(ConversionTest, ProgressCountsEveryByteAndMayStop) {
  WriteSource(MhaConfig());
  ConversionRequest request = Request();
  request.sharing.kv_heads = 1;
  int64_t last = 0, all = 0;
  const auto report = Convert(request, [&](int64_t done, int64_t total) {
    EXPECT_GT(done, last);
    last = done;
    all = total;
    return true;
  });
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(last, all);
  EXPECT_EQ(all, report->result.weight_bytes);

  request.output = outputs_.path() + "/stopped";
  const auto stopped =
      Convert(request, [&](int64_t done, int64_t total) { return done < total / 2; });
  EXPECT_TRUE(absl::IsCancelled(stopped.status())) << stopped.status();
  EXPECT_THAT(Leftovers(), ElementsAre("result"));
}

}  // namespace
}  // namespace kvasir::testing
