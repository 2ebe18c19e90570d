// Loading folders: what is read, and how every way a folder can be wrong is told.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/hf_config.h"
#include "runtime/model/model.h"
#include "runtime/model/weights.h"
#include "tests/model/checkpoint_writer.h"
#include "tests/model/test_decoder.h"

namespace kvasir::testing {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::FloatNear;
using ::testing::HasSubstr;
using ::testing::Pointwise;
using Json = nlohmann::json;

ModelSpec SpecOf(const Json& config) { return *ParseHfConfig(config.dump(), ""); }

FileTensors TinyTensors(const Json& config, const std::string& dtype = "BF16") {
  return Stored(RandomTensors(SpecOf(config), 1), dtype);
}

absl::StatusOr<std::unique_ptr<Model>> Load(const TempFolder& folder) {
  Model::Options options;
  options.compute_type = ComputeType::kF32;
  return Model::Load(folder.path(), options);
}

template <typename Matcher>
void ExpectError(const absl::StatusOr<std::unique_ptr<Model>>& model, absl::StatusCode code,
                 const Matcher& message) {
  ASSERT_FALSE(model.ok());
  EXPECT_EQ(model.status().code(), code) << model.status();
  EXPECT_THAT(std::string(model.status().message()), message);
}

std::vector<float> LogitsOf(const Model& model) {
  TestDecoder decoder(&model, 64, 16);
  TestSequence sequence = decoder.NewSequence();
  return decoder.Append(&sequence, {3, 1, 4, 1, 5, 9, 2, 6}, 16, false)[0];
}

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST(ModelLoadTest, ReportsProgressAndBytes) {
  TempFolder folder;
  WriteModel(folder, TinyConfig(), TinyTensors(TinyConfig()));
  std::vector<double> progress;
  Model::Options options;
  options.compute_type = ComputeType::kF32;
  options.progress = [&](double share) {
    progress.push_back(share);
    return true;
  };
  const auto model = Model::Load(folder.path(), options);
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_FALSE(progress.empty());
  EXPECT_TRUE(std::is_sorted(progress.begin(), progress.end()));
  EXPECT_DOUBLE_EQ(progress.back(), 1.0);
  // Counted by hand: embeddings and head 2 * 50 * 24, norms 9 * 24, per layer q and o 2 * 32 * 24,
  // k and v 2 * 16 * 24, MLP 3 * 40 * 24.
  EXPECT_EQ((*model)->spec().num_parameters(),
            2 * 1200 + 9 * 24 + 4 * (2 * 768 + 2 * 384 + 3 * 960));
  EXPECT_GE((*model)->weight_bytes(), EstimateWeightBytes((*model)->spec(), ComputeType::kF32));
}

TEST(ModelLoadTest, EndsWhenWhoWatchesSaysSo) {
  TempFolder folder;
  WriteModel(folder, TinyConfig(), TinyTensors(TinyConfig()));
  int calls = 0;
  Model::Options options;
  options.progress = [&](double) { return ++calls < 3; };
  EXPECT_TRUE(absl::IsCancelled(Model::Load(folder.path(), options).status()));
  EXPECT_EQ(calls, 3);
}

// A window that no sequence leaves is full attention, in the same group as layers without one.
TEST(ModelLoadTest, AContextInsideTheWindowOpensIt) {
  TempFolder folder;
  nlohmann::json config = TinyConfig();
  config["architectures"] = {"MistralForCausalLM"};
  config["sliding_window"] = 8;
  WriteModel(folder, config, TinyTensors(config));
  const auto load = [&](int32_t max_context_tokens) {
    Model::Options options;
    options.compute_type = ComputeType::kF32;
    options.max_context_tokens = max_context_tokens;
    auto model = Model::Load(folder.path(), options);
    KVASIR_CHECK(model.ok());
    return *std::move(model);
  };
  const auto windows = [](const Model& model) {
    std::vector<int> windows;
    for (const LayerSpec& layer : model.spec().layers) windows.push_back(layer.attention()->window);
    return windows;
  };
  const auto windowed = load(0);
  EXPECT_THAT(windows(*windowed), Each(8));
  EXPECT_THAT(windows(*load(9)), Each(8));
  const auto full = load(8);
  EXPECT_THAT(windows(*full), Each(0));
  EXPECT_FALSE(windowed->spec().attention(0).has_plain_scores());
  EXPECT_TRUE(full->spec().attention(0).has_plain_scores());
  EXPECT_THAT(LogitsOf(*full), Pointwise(FloatNear(1e-5f), LogitsOf(*windowed)));
}

// The same bf16-representable values, stored in each type and over shards: the same logits.
TEST(ModelLoadTest, StoredTypesAndShardsGiveTheSameModel) {
  TempFolder folder;
  const FloatTensors values = RandomTensors(SpecOf(TinyConfig()), 1);
  WriteModel(folder, TinyConfig(), Stored(values, "F32"));
  auto model = Load(folder);
  ASSERT_TRUE(model.ok()) << model.status();
  const std::vector<float> expected = LogitsOf(**model);

  WriteModel(folder, TinyConfig(), Stored(values, "BF16"));
  model = Load(folder);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(LogitsOf(**model), expected);

  folder.Remove("model.safetensors");
  FileTensors shards[3];
  Json weight_map;
  int i = 0;
  for (const auto& [name, tensor] : Stored(values, "BF16")) {
    weight_map[name] = absl::StrCat("part-", i % 3, ".safetensors");
    shards[i++ % 3][name] = tensor;
  }
  for (int s = 0; s < 3; ++s)
    folder.Write(absl::StrCat("part-", s, ".safetensors"), SafetensorsBytes(shards[s]));
  folder.Write("model.safetensors.index.json", Json{{"weight_map", weight_map}}.dump());
  model = Load(folder);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(LogitsOf(**model), expected);

  // F16 rounds the smallest values differently, by at most 2^-25.
  folder.Remove("model.safetensors.index.json");
  WriteModel(folder, TinyConfig(), Stored(values, "F16"));
  model = Load(folder);
  ASSERT_TRUE(model.ok()) << model.status();
  const std::vector<float> f16 = LogitsOf(**model);
  for (size_t k = 0; k < f16.size(); ++k) EXPECT_NEAR(f16[k], expected[k], 1e-4);
}

TEST(ModelLoadTest, BadShardIndexes) {
  TempFolder folder;
  const FileTensors tensors = TinyTensors(TinyConfig());
  folder.Write("config.json", TinyConfig().dump());
  ExpectError(Load(folder), absl::StatusCode::kNotFound,
              HasSubstr("neither model.safetensors nor"));

  folder.Write("part-0.safetensors", SafetensorsBytes(tensors));
  Json map;
  for (const auto& [name, tensor] : tensors) map[name] = "part-0.safetensors";
  const auto load_with = [&](const std::string& tensor, const Json& file) {
    Json changed = map;
    changed[tensor] = file;
    folder.Write("model.safetensors.index.json", Json{{"weight_map", changed}}.dump());
    return Load(folder);
  };
  EXPECT_TRUE(load_with("lm_head.weight", "part-0.safetensors").ok());
  ExpectError(
      load_with("lm_head.weight", "part-1.safetensors"), absl::StatusCode::kNotFound,
      AllOf(HasSubstr("part-1.safetensors"), HasSubstr("lm_head.weight"), HasSubstr("missing")));
  for (const Json& path :
       {Json("../part-0.safetensors"), Json("/etc/x.safetensors"), Json("a/../part-0.safetensors"),
        Json("..safetensors"), Json("config.json"), Json(""), Json(7), Json(nullptr)}) {
    ExpectError(load_with("lm_head.weight", path), kInvalid, HasSubstr("in the same folder"));
  }
  folder.Write("part-2.safetensors",
               SafetensorsBytes(FileTensors{{"extra", {"F32", {1}, "abcd"}}}));
  ExpectError(load_with("lm_head.weight", "part-2.safetensors"), kInvalid,
              HasSubstr("part-0.safetensors"));
  ExpectError(load_with("model.nothing", "part-0.safetensors"), kInvalid, HasSubstr("nowhere"));
  folder.Write("part-3.safetensors",
               SafetensorsBytes(FileTensors{{"lm_head.weight", tensors.at("lm_head.weight")}}));
  ExpectError(load_with("lm_head.weight", "part-3.safetensors"), kInvalid,
              HasSubstr("stands in both"));
  for (const char* text : {"{}", "[]", "{\"weight_map\": {}}", "{\"weight_map\": 3}", "nonsense"}) {
    folder.Write("model.safetensors.index.json", text);
    ExpectError(Load(folder), kInvalid, HasSubstr("model.safetensors.index.json"));
  }
}

TEST(ModelLoadTest, MissingCrookedAndForeignTensors) {
  TempFolder folder;
  const FileTensors good = TinyTensors(TinyConfig());
  const auto load_changed = [&](const std::function<void(FileTensors&)>& change) {
    FileTensors tensors = good;
    change(tensors);
    WriteModel(folder, TinyConfig(), tensors);
    return Load(folder);
  };
  for (const auto& [name, shape] : MapTensors(SpecOf(TinyConfig()), nullptr)->StoredShapes()) {
    const auto model =
        load_changed([&missing = name](FileTensors& tensors) { tensors.erase(missing); });
    ASSERT_FALSE(model.ok()) << "loaded without " << name;
    EXPECT_THAT(std::string(model.status().message()), HasSubstr(name));
  }
  ExpectError(load_changed([](FileTensors& t) {
                t["model.norm.weight"].shape = {12, 2};
              }),
              kInvalid,
              AllOf(HasSubstr("model.norm.weight"), HasSubstr("[12, 2]"), HasSubstr("[24]")));
  ExpectError(load_changed([](FileTensors& t) {
                t["lm_head.weight"].shape = {24, 50};
              }),
              kInvalid,
              AllOf(HasSubstr("lm_head.weight"), HasSubstr("[24, 50]"), HasSubstr("[50, 24]")));
  ExpectError(load_changed([](FileTensors& t) { t["lm_head.weight"].dtype = "I16"; }),
              absl::StatusCode::kUnimplemented,
              AllOf(HasSubstr("lm_head.weight"), HasSubstr("I16"), HasSubstr("BF16, F16 and F32")));
  // A norm that this decoder would not apply, and a layer that config.json does not know.
  ExpectError(load_changed([](FileTensors& t) {
                t["model.layers.0.self_attn.q_norm.weight"] = t["model.norm.weight"];
              }),
              kInvalid, HasSubstr("q_norm"));
  ExpectError(load_changed([](FileTensors& t) {
                t["model.layers.4.input_layernorm.weight"] = t["model.norm.weight"];
              }),
              kInvalid, HasSubstr("model.layers.4.input_layernorm.weight"));
  EXPECT_TRUE(load_changed([](FileTensors& t) {
                t["model.layers.0.self_attn.rotary_emb.inv_freq"] = {"F32", {1}, "abcd"};
              }).ok());
}

TEST(ModelLoadTest, DamagedFiles) {
  TempFolder folder;
  WriteModel(folder, TinyConfig(), TinyTensors(TinyConfig()));
  const std::string good = SafetensorsBytes(TinyTensors(TinyConfig()));
  folder.Write("model.safetensors", good.substr(0, good.size() - 1));
  ExpectError(Load(folder), kInvalid, HasSubstr("truncated"));
  folder.Write("model.safetensors", good + "x");
  ExpectError(Load(folder), kInvalid, HasSubstr("trail"));
  folder.Write("model.safetensors", "");
  ExpectError(Load(folder), kInvalid, HasSubstr("0 bytes"));
  folder.Write("model.safetensors", good);
  folder.Write("config.json", "{");
  ExpectError(Load(folder), kInvalid, HasSubstr("config.json"));
  folder.Remove("config.json");
  ExpectError(Load(folder), absl::StatusCode::kNotFound, HasSubstr("config.json"));
}

// The owner table of config.json against the k_proj and v_proj tensors that are there: both are
// named.
TEST(ModelLoadTest, OwnerContradictions) {
  const Json plain = TinyConfig();
  Json cla = TinyConfig();
  cla["use_cla"] = true;
  cla["cla_share_factor"] = 2;
  Json mlkv = TinyConfig();
  mlkv["num_key_value_layers"] = 1;

  TempFolder folder;
  WriteModel(folder, cla, TinyTensors(cla));
  EXPECT_TRUE(Load(folder).ok()) << Load(folder).status();
  // Config shares, tensors do not.
  WriteModel(folder, cla, TinyTensors(plain));
  ExpectError(Load(folder), kInvalid,
              AllOf(HasSubstr("cla_share_factor 2"), HasSubstr("layer 1 reads the K/V of layer 0"),
                    HasSubstr("has model.layers.1.self_attn.k_proj.weight")));
  // Tensors share, config does not.
  WriteModel(folder, plain, TinyTensors(cla));
  ExpectError(Load(folder), kInvalid,
              AllOf(HasSubstr("no sharing"), HasSubstr("layer 1 has its own K/V"),
                    HasSubstr("lacks model.layers.1.self_attn.k_proj.weight")));
  // Both share, differently.
  WriteModel(folder, mlkv, TinyTensors(cla));
  ExpectError(
      Load(folder), kInvalid,
      AllOf(HasSubstr("num_key_value_layers 1"), HasSubstr("layer 2 reads the K/V of layer 0"),
            HasSubstr("has model.layers.2.self_attn.k_proj.weight")));
  // Half an owner.
  FileTensors half = TinyTensors(plain);
  half.erase("model.layers.3.self_attn.v_proj.weight");
  WriteModel(folder, plain, half);
  ExpectError(Load(folder), kInvalid, HasSubstr("lacks model.layers.3.self_attn.v_proj.weight"));
}

TEST(ModelLoadTest, BiasesAreFoundByTheirTensors) {
  ModelSpec spec = SpecOf(TinyConfig());
  for (LayerSpec& layer : spec.layers) {
    AttentionSpec& attention = std::get<AttentionSpec>(layer.mixer);
    attention.q_bias = attention.k_bias = attention.v_bias = true;
    layer.feed_forward.dense.bias = true;
  }
  TempFolder folder;
  WriteModel(folder, TinyConfig(), Stored(RandomTensors(spec, 1), "BF16"));
  const auto model = Load(folder);
  ASSERT_TRUE(model.ok()) << model.status();
  for (const LayerSpec& layer : (*model)->spec().layers) {
    EXPECT_TRUE(layer.attention()->q_bias);
    EXPECT_TRUE(layer.attention()->k_bias);
    EXPECT_TRUE(layer.attention()->v_bias);
    EXPECT_FALSE(layer.attention()->o_bias);
    EXPECT_TRUE(layer.feed_forward.dense.bias);
  }
  Json biased = TinyConfig();
  biased["attention_bias"] = true;  // promises o_proj.bias too
  folder.Write("config.json", biased.dump());
  ExpectError(Load(folder), absl::StatusCode::kNotFound, HasSubstr("o_proj.bias"));
}

TEST(ModelLoadTest, TiedHeadMayStandInTheFile) {
  Json config = TinyConfig();
  const FileTensors tensors = TinyTensors(config);  // has lm_head.weight
  config["tie_word_embeddings"] = true;
  TempFolder folder;
  WriteModel(folder, config, tensors);
  EXPECT_TRUE(Load(folder).ok());
}

TEST(ModelLoadTest, RandomModelsAreRepeatableAndFinite) {
  ModelSpec spec = SpecOf(TinyConfig());
  Model::Options options;
  options.compute_type = ComputeType::kF32;
  const auto a = Model::Random(spec, options, 7);
  const auto b = Model::Random(spec, options, 7);
  const auto c = Model::Random(spec, options, 8);
  ASSERT_TRUE(a.ok() && b.ok() && c.ok());
  const std::vector<float> logits = LogitsOf(**a);
  EXPECT_EQ(logits, LogitsOf(**b));
  EXPECT_NE(logits, LogitsOf(**c));
  double squares = 0;
  for (const float logit : logits) squares += logit * logit;
  EXPECT_GT(squares / logits.size(), 0.1);
  EXPECT_LT(squares / logits.size(), 10.0);
  std::get<AttentionSpec>(spec.layers[1].mixer).kv_owner = 2;
  EXPECT_EQ(Model::Random(spec, options, 7).status().code(), kInvalid);
}

TEST(ModelLoadTest, RefusesWhatCannotFitIntoMemory) {
  ModelSpec spec = SpecOf(TinyConfig());
  spec.hidden_size = 1 << 17;
  spec.layers[0].feed_forward.dense.width = 1 << 20;
  std::get<AttentionSpec>(spec.layers[0].mixer).kv_owner = 0;
  spec.layers.assign(64, spec.layers[0]);
  const auto model = Model::Random(spec, Model::Options(), 1);
  ExpectError(model, absl::StatusCode::kResourceExhausted,
              AllOf(HasSubstr("MiB"), HasSubstr("int8")));
}

}  // namespace
}  // namespace kvasir::testing
