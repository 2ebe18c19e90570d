// config.json -> ModelSpec: what is understood, what is refused, and with which words.

#include "runtime/model/hf_config.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/model/json_fields.h"
#include "tests/model/checkpoint_writer.h"
#include "tests/test_models.h"

namespace kvasir::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

absl::StatusOr<ModelSpec> Parse(const Json& config,
                                const Json& generation_config = Json::object()) {
  return ParseHfConfig(config.dump(), generation_config.dump());
}

// TinyConfig with keys replaced; a null value removes the key.
Json With(Json changes) {
  Json config = TinyConfig();
  config.merge_patch(changes);
  return config;
}

std::vector<int> Owners(const ModelSpec& spec) {
  std::vector<int> owners;
  for (const LayerSpec& layer : spec.layers) owners.push_back(layer.attention()->kv_owner);
  return owners;
}

std::vector<int> KvHeads(const ModelSpec& spec) {
  std::vector<int> heads;
  for (const LayerSpec& layer : spec.layers) heads.push_back(layer.attention()->kv_heads);
  return heads;
}

ModelSpec MustParse(const Json& config) {
  auto spec = Parse(config);
  EXPECT_TRUE(spec.ok()) << spec.status();
  return spec.ok() ? *std::move(spec) : ModelSpec();
}

template <typename Matcher>
void ExpectError(const absl::StatusOr<ModelSpec>& spec, absl::StatusCode code,
                 const Matcher& message) {
  ASSERT_FALSE(spec.ok());
  EXPECT_EQ(spec.status().code(), code) << spec.status();
  EXPECT_THAT(std::string(spec.status().message()), message);
}

void ExpectInvalid(const Json& changes, const std::string& part) {
  SCOPED_TRACE(changes.dump(-1, ' ', false, Json::error_handler_t::replace));
  ExpectError(Parse(With(changes)), absl::StatusCode::kInvalidArgument, HasSubstr(part));
}

void ExpectUnimplemented(const Json& changes, const std::string& part) {
  SCOPED_TRACE(changes.dump());
  ExpectError(Parse(With(changes)), absl::StatusCode::kUnimplemented, HasSubstr(part));
}

TEST(HfConfigTest, ReadsLlama) {
  const ModelSpec spec = MustParse(With({{"rms_norm_eps", 1e-6}, {"tie_word_embeddings", true}}));
  EXPECT_EQ(spec.architecture, "LlamaForCausalLM");
  EXPECT_EQ(spec.hidden_size, 24);
  EXPECT_EQ(spec.num_layers(), 4);
  EXPECT_EQ(spec.query_heads(), 4);
  EXPECT_EQ(spec.head_dim(), 8);  // its own key, not 24 / 4
  EXPECT_EQ(spec.layers[0].feed_forward.dense.width, 40);
  EXPECT_EQ(spec.vocab_size, 50);
  EXPECT_EQ(spec.max_positions, 96);
  EXPECT_FLOAT_EQ(spec.layers[0].norm.eps, 1e-6f);
  EXPECT_TRUE(spec.head.tied);
  EXPECT_FALSE(spec.attention(0).q_bias);
  EXPECT_THAT(Owners(spec), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(KvHeads(spec), ElementsAre(2, 2, 2, 2));
  EXPECT_THAT(spec.eos_token_ids, ElementsAre(2));
  EXPECT_EQ(spec.bos_token_id, 1);
  EXPECT_EQ(spec.SharingName(), "gqa");
}

TEST(HfConfigTest, HeadDimDefaultsToHiddenOverHeads) {
  EXPECT_EQ(MustParse(With({{"head_dim", nullptr}})).head_dim(), 6);
  ExpectInvalid({{"head_dim", nullptr}, {"hidden_size", 26}}, "must divide hidden_size (26)");
  ExpectInvalid({{"head_dim", nullptr}, {"hidden_size", 20}}, "must be even");
  ExpectInvalid({{"head_dim", 7}}, "must be even");
}

TEST(HfConfigTest, BiasesOfTheFamilies) {
  const ModelSpec llama = MustParse(With({{"attention_bias", true}, {"mlp_bias", true}}));
  for (const LayerSpec& layer : llama.layers) {
    const AttentionSpec& attention = *layer.attention();
    EXPECT_TRUE(attention.q_bias && attention.k_bias && attention.v_bias && attention.o_bias);
    EXPECT_TRUE(layer.feed_forward.dense.bias);
  }
  const ModelSpec qwen =
      MustParse(With({{"architectures", {"Qwen2ForCausalLM"}}, {"model_type", "qwen2"}}));
  EXPECT_TRUE(qwen.attention(3).q_bias && qwen.attention(3).k_bias && qwen.attention(3).v_bias);
  EXPECT_FALSE(qwen.attention(3).o_bias);
  EXPECT_FALSE(MustParse(With({{"architectures", {"MistralForCausalLM"}}})).attention(0).q_bias);
  EXPECT_EQ(MustParse(With({{"architectures", nullptr}, {"model_type", "mistral"}})).architecture,
            "MistralForCausalLM");
}

TEST(HfConfigTest, EndTokensOfBothFilesTogether) {
  const auto spec =
      Parse(With({{"eos_token_id", {7, 8}}}),
            {{"eos_token_id", {8, 9}}, {"temperature", 0.6}, {"top_p", 0.9}, {"top_k", 40}});
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_THAT(spec->eos_token_ids, ElementsAre(7, 8, 9));
  EXPECT_FLOAT_EQ(*spec->default_temperature, 0.6f);
  EXPECT_FLOAT_EQ(*spec->default_top_p, 0.9f);
  EXPECT_EQ(spec->default_top_k, 40);
  EXPECT_TRUE(MustParse(With({{"eos_token_id", nullptr}})).eos_token_ids.empty());
  ExpectInvalid({{"eos_token_id", 50}}, "from -1 to 49");
  ExpectInvalid({{"eos_token_id", {1, "x"}}}, "eos_token_id");
  ExpectInvalid({{"bos_token_id", -2}}, "from -1 to 49");
  ExpectError(
      Parse(TinyConfig(), {{"top_p", 1.5}}), absl::StatusCode::kInvalidArgument,
      AllOf(HasSubstr("generation_config.json"), HasSubstr("1.5"), HasSubstr("from 0 to 1")));
}

TEST(HfConfigTest, SharingSchemes) {
  const auto spec_of = [](Json changes) { return MustParse(With(std::move(changes))); };
  ModelSpec spec = spec_of({{"num_key_value_heads", nullptr}});
  EXPECT_THAT(KvHeads(spec), ElementsAre(4, 4, 4, 4));
  EXPECT_EQ(spec.SharingName(), "mha");
  EXPECT_EQ(spec_of({{"num_key_value_heads", 1}}).SharingName(), "mqa");

  spec = spec_of({{"use_cla", true}, {"cla_share_factor", 2}});
  EXPECT_THAT(Owners(spec), ElementsAre(0, 0, 2, 2));
  EXPECT_EQ(spec.sharing_rule, LayerSharingRule::kCla);
  EXPECT_EQ(spec.SharingName(), "gqa+cla");
  // A remainder group is smaller.
  EXPECT_THAT(Owners(spec_of({{"use_cla", true}, {"cla_share_factor", 3}})),
              ElementsAre(0, 0, 0, 3));
  // Factor 1, or a factor left behind without use_cla, is no sharing.
  spec = spec_of({{"use_cla", true}, {"cla_share_factor", 1}});
  EXPECT_EQ(spec.sharing_rule, LayerSharingRule::kNone);
  EXPECT_EQ(spec_of({{"use_cla", false}, {"cla_share_factor", 2}}).SharingName(), "gqa");

  spec = spec_of({{"num_key_value_layers", 1}, {"num_key_value_heads", 1}});
  EXPECT_THAT(Owners(spec), ElementsAre(0, 0, 0, 0));
  EXPECT_EQ(spec.SharingName(), "mqa+mlkv");
  EXPECT_THAT(Owners(spec_of({{"num_key_value_layers", 3}})), ElementsAre(0, 1, 2, 2));

  spec = spec_of({{"sharing_pattern", {0, 1, 0, 1}}});
  EXPECT_THAT(Owners(spec), ElementsAre(0, 1, 0, 1));
  EXPECT_EQ(spec.sharing_rule, LayerSharingRule::kExplicit);
  spec = spec_of({{"num_key_value_heads", {4, 2, 1, 2}}});
  EXPECT_THAT(KvHeads(spec), ElementsAre(4, 2, 1, 2));
  EXPECT_THAT(KvHeads(spec_of({{"num_key_value_heads_per_layer", {1, 1, 2, 2}}})),
              ElementsAre(1, 1, 2, 2));
}

// 12 layers and 5 KV layers: the rule of the pythia-mlkv code, which differs from the paper's
// formula here.
TEST(HfConfigTest, MlkvFollowsTheCodeWhereLayersDoNotDivide) {
  const ModelSpec spec = MustParse(With({{"num_hidden_layers", 12}, {"num_key_value_layers", 5}}));
  EXPECT_THAT(Owners(spec), ElementsAre(0, 0, 2, 2, 4, 4, 4, 7, 7, 9, 9, 9));
}

TEST(HfConfigTest, SharingContradictions) {
  ExpectInvalid({{"use_cla", true}}, "cla_share_factor is missing");
  ExpectInvalid({{"use_cla", true}, {"cla_share_factor", 5}}, "from 1 to 4");
  ExpectInvalid({{"use_cla", "yes"}}, "true or false");
  ExpectInvalid({{"num_key_value_layers", 0}}, "from 1 to 4");
  ExpectInvalid({{"num_key_value_heads", 3}}, "must divide the 4 query heads");
  ExpectInvalid({{"num_key_value_heads", 8}}, "from 1 to 4");
  ExpectInvalid({{"num_key_value_heads", {2, 2}}}, "one number for each of the 4 layers");
  ExpectInvalid({{"sharing_pattern", {0, 0, 0}}}, "one owner for each of the 4 layers");
  ExpectInvalid({{"sharing_pattern", {0, 2, 2, 2}}}, "layer 1 cannot read the K/V of layer 2");
  ExpectInvalid({{"sharing_pattern", {0, 0, 1, 3}}}, "layer 2 cannot read the K/V of layer 1");
  ExpectInvalid({{"sharing_pattern", {0, -1, 1, 3}}}, "from 0 to 3");
  // Both keys, with different tables: the message holds both.
  ExpectError(
      Parse(With({{"use_cla", true}, {"cla_share_factor", 2}, {"num_key_value_layers", 1}})),
      absl::StatusCode::kInvalidArgument,
      AllOf(HasSubstr("[0, 0, 2, 2]"), HasSubstr("[0, 0, 0, 0]")));
  EXPECT_TRUE(
      Parse(With({{"use_cla", true}, {"cla_share_factor", 2}, {"num_key_value_layers", 2}})).ok());
  ExpectInvalid({{"use_cla", true}, {"cla_share_factor", 2}, {"num_key_value_heads", {2, 1, 2, 2}}},
                "layer 1 reads the K/V of layer 0");
  ExpectUnimplemented({{"num_kv_shared_layers", 2}}, "num_kv_shared_layers");
  ExpectUnimplemented({{"swiftkv", true}, {"num_key_value_layers", 2}}, "swiftkv");
  EXPECT_TRUE(Parse(With({{"num_kv_shared_layers", 0}})).ok());
}

TEST(HfConfigTest, RopeScaling) {
  RopeSpec rope =
      MustParse(With({{"rope_scaling", {{"type", "linear"}, {"factor", 4.0}}}})).ropes[0];
  EXPECT_EQ(rope.scaling, RopeSpec::Scaling::kLinear);
  EXPECT_FLOAT_EQ(rope.factor, 4.0f);
  const Json llama3 = {{"rope_type", "llama3"},
                       {"factor", 32.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  rope = MustParse(With({{"rope_theta", 500000.0}, {"rope_scaling", llama3}})).ropes[0];
  EXPECT_EQ(rope.scaling, RopeSpec::Scaling::kLlama3);
  EXPECT_FLOAT_EQ(rope.theta, 500000.0f);
  EXPECT_EQ(rope.original_max_positions, 8192);
  EXPECT_EQ(MustParse(With({{"rope_scaling", {{"rope_type", "default"}}}})).ropes[0].scaling,
            RopeSpec::Scaling::kNone);
  // Newer writers' form.
  rope = MustParse(With({{"rope_theta", nullptr},
                         {"rope_parameters", {{"rope_theta", 1e6}, {"rope_type", "default"}}}}))
             .ropes[0];
  EXPECT_FLOAT_EQ(rope.theta, 1e6f);

  rope = MustParse(With({{"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}}}})).ropes[0];
  EXPECT_EQ(rope.scaling, RopeSpec::Scaling::kYarn);
  EXPECT_EQ(rope.original_max_positions, 96);  // max_position_embeddings
  EXPECT_FLOAT_EQ(rope.attention_factor, 0.1f * std::log(4.0f) + 1);
  // Up to max_position_embeddings the reference leaves theta alone.
  rope = MustParse(With({{"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}})).ropes[0];
  EXPECT_EQ(rope.scaling, RopeSpec::Scaling::kNone);
  ExpectUnimplemented({{"rope_scaling", {{"rope_type", "spiral"}}}}, "spiral");
  ExpectInvalid({{"rope_scaling", {{"factor", 4.0}}}}, "rope_type");
  ExpectInvalid({{"rope_scaling", {{"type", "linear"}}}}, "factor is missing");
  ExpectInvalid({{"rope_scaling", {{"type", "linear"}, {"factor", 0.0}}}}, "factor is 0.0");
  ExpectInvalid({{"rope_scaling", "linear"}}, "must be an object");
  Json crossed = llama3;
  crossed["high_freq_factor"] = 1.0;
  ExpectInvalid({{"rope_scaling", crossed}}, "must be greater than low_freq_factor");
}

// A setting that is spelled twice follows the reference or is refused, never shadowed.
TEST(HfConfigTest, OneSettingUnderTwoNames) {
  const Json linear = {{"rope_type", "linear"}, {"factor", 2.0}};
  const Json plain = {{"rope_type", "default"}, {"rope_theta", 5000.0}};
  RopeSpec rope = MustParse(With({{"rope_scaling", linear}, {"rope_parameters", plain}})).ropes[0];
  EXPECT_EQ(rope.scaling, RopeSpec::Scaling::kLinear);
  EXPECT_FLOAT_EQ(rope.theta, 10000.0f);  // the config's own, not rope_parameters'
  rope = MustParse(With({{"rope_scaling", Json::object()}, {"rope_parameters", plain}})).ropes[0];
  EXPECT_FLOAT_EQ(rope.theta, 5000.0f);
  EXPECT_EQ(MustParse(With({{"rope_scaling", Json::object()}})).ropes[0].scaling,
            RopeSpec::Scaling::kNone);
  const Json both = {{"rope_type", "linear"}, {"type", "yarn"}, {"factor", 2.0}};
  EXPECT_EQ(MustParse(With({{"rope_scaling", both}})).ropes[0].scaling, RopeSpec::Scaling::kLinear);
  EXPECT_EQ(MustParse(With({{"n_embd", 24}})).hidden_size, 24);
  ExpectInvalid({{"n_embd", 32}}, "n_embd");
  ExpectInvalid({{"layer_norm_eps", 1e-3}}, "layer_norm_eps");
}

TEST(HfConfigTest, Windows) {
  const auto mistral = [](Json changes) {
    changes["architectures"] = {"MistralForCausalLM"};
    return MustParse(With(changes)).attention(2).window;
  };
  EXPECT_EQ(mistral({{"sliding_window", 64}}), 64);
  EXPECT_EQ(mistral({{"sliding_window", 0}}), 0);
  EXPECT_EQ(mistral({{"sliding_window", 96}}), 0);  // all of the context
  EXPECT_EQ(mistral({{"sliding_window", nullptr}}), 0);
  const auto qwen2 = [](Json changes) {
    changes["architectures"] = {"Qwen2ForCausalLM"};
    changes["sliding_window"] = 64;
    std::vector<int> windows;
    for (const LayerSpec& layer : MustParse(With(changes)).layers) {
      windows.push_back(layer.attention()->window);
    }
    return windows;
  };
  EXPECT_THAT(qwen2({}), ElementsAre(0, 0, 0, 0));
  EXPECT_THAT(qwen2({{"use_sliding_window", true}}), ElementsAre(0, 0, 0, 0));  // from layer 28 on
  EXPECT_THAT(qwen2({{"use_sliding_window", true}, {"max_window_layers", 1}}),
              ElementsAre(0, 64, 64, 64));
  ExpectInvalid({{"architectures", {"MistralForCausalLM"}}, {"sliding_window", -1}},
                "sliding_window is -1");
  const Json three = {"full_attention", "sliding_attention", "full_attention"};
  ExpectInvalid(
      {{"architectures", {"Gemma3ForCausalLM"}}, {"hidden_act", nullptr}, {"layer_types", three}},
      "one word for each of the 4 layers");
  const Json odd = {"full_attention", "sliding_attention", "full_attention", "spiral"};
  ExpectUnimplemented(
      {{"architectures", {"Gemma3ForCausalLM"}}, {"hidden_act", nullptr}, {"layer_types", odd}},
      "spiral");
}

TEST(HfConfigTest, NoTokenAndAllTokens) {
  const auto spec =
      Parse(With({{"eos_token_id", -1}, {"bos_token_id", nullptr}}), {{"top_k", -1},
                                                                      {"min_p", 0.1},
                                                                      {"repetition_penalty", 1.2},
                                                                      {"no_repeat_ngram_size", 3},
                                                                      {"num_beams", 1}});
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_TRUE(spec->eos_token_ids.empty());
  EXPECT_FALSE(spec->bos_token_id.has_value());
  EXPECT_EQ(spec->default_top_k, 0);
  EXPECT_FLOAT_EQ(*spec->default_min_p, 0.1f);
  EXPECT_FLOAT_EQ(*spec->default_repetition_penalty, 1.2f);
  EXPECT_THAT(spec->notes, ElementsAre(HasSubstr("no_repeat_ngram_size")));
}

TEST(HfConfigTest, LanguageModelInsideAnother) {
  Json text = TinyConfig();
  text.erase("architectures");
  const Json config = {{"architectures", {"Mistral3ForConditionalGeneration"}},
                       {"tie_word_embeddings", true},
                       {"eos_token_id", 3},
                       {"text_config", text},
                       {"vision_config", {{"hidden_size", 7}}}};
  const ModelSpec spec = MustParse(config);
  EXPECT_EQ(spec.hidden_size, 24);
  EXPECT_TRUE(spec.head.tied);
  EXPECT_THAT(spec.eos_token_ids, ElementsAre(2));
  EXPECT_THAT(spec.notes, ElementsAre(HasSubstr("text")));
  Json bad = config;
  bad["text_config"] = 3;
  ExpectError(Parse(bad), absl::StatusCode::kInvalidArgument, HasSubstr("text_config"));
}

TEST(HfConfigTest, RefusesWhatItWouldComputeWrongly) {
  ExpectUnimplemented({{"architectures", {"MambaForCausalLM"}}}, "MambaForCausalLM");
  ExpectUnimplemented({{"architectures", nullptr}, {"model_type", "mamba"}}, "mamba");
  ExpectUnimplemented({{"architectures", nullptr}, {"model_type", nullptr}}, "LlamaForCausalLM");
  ExpectUnimplemented({{"hidden_act", "quick_gelu"}}, "quick_gelu");
  ExpectUnimplemented({{"partial_rotary_factor", 0.5}}, "partial_rotary_factor");
  ExpectUnimplemented({{"use_qk_norm", true}}, "use_qk_norm");
  ExpectUnimplemented({{"num_local_experts", 8}}, "num_local_experts");
  ExpectUnimplemented({{"sliding_window", 64}}, "set max_position_embeddings (96) to at most 64");
  const Json mixed = {"full_attention", "sliding_attention", "full_attention", "full_attention"};
  ExpectUnimplemented({{"layer_types", mixed}}, "layer_types");
  EXPECT_TRUE(Parse(With({{"sliding_window", 96}})).ok());
  EXPECT_TRUE(Parse(With({{"sliding_window", 64}, {"use_sliding_window", false}})).ok());
  const Json full = {"full_attention", "full_attention", "full_attention", "full_attention"};
  EXPECT_TRUE(Parse(With({{"layer_types", full}})).ok());
}

TEST(HfConfigTest, BoundsEveryNumber) {
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads",
                          "intermediate_size", "vocab_size", "max_position_embeddings"}) {
    ExpectInvalid({{key, 0}}, std::string(key) + " is 0");
    ExpectInvalid({{key, -4}}, std::string(key) + " is -4");
    ExpectInvalid({{key, 2147483648u}}, std::string(key) + " is 2147483648");
    ExpectInvalid({{key, 1e300}}, key);
    ExpectInvalid({{key, 18446744073709551615u}}, key);
    ExpectInvalid({{key, "24"}}, key);
    ExpectInvalid({{key, 4.5}}, key);
    ExpectInvalid({{key, Json::array({4})}}, key);
    ExpectInvalid({{key, nullptr}}, std::string(key) + " is missing");
  }
  EXPECT_EQ(MustParse(With({{"vocab_size", 50.0}})).vocab_size, 50);
  ExpectInvalid({{"rms_norm_eps", 0.0}}, "rms_norm_eps");
  ExpectInvalid({{"rms_norm_eps", -1e-5}}, "rms_norm_eps");
  ExpectInvalid({{"rope_theta", 0.0}}, "rope_theta");
  ExpectInvalid({{"rope_theta", "many"}}, "rope_theta");
  ExpectInvalid({{"head_dim", 514}}, "from 2 to 512");
}

TEST(HfConfigTest, RefusesBrokenText) {
  const auto parse = [](const std::string& text) { return ParseHfConfig(text, ""); };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  ExpectError(parse(""), invalid, HasSubstr("config.json is not valid JSON"));
  ExpectError(parse("{"), invalid, HasSubstr("not valid JSON"));
  ExpectError(parse("[]"), invalid, HasSubstr("must hold a JSON object, but holds array"));
  ExpectError(parse("{\"rope_theta\": NaN}"), invalid, HasSubstr("not valid JSON"));
  ExpectError(parse("{\"rope_theta\": 1e999}"), invalid, HasSubstr("not valid JSON"));
  ExpectError(parse("{\"model_type\": \"\xff\"}"), invalid, HasSubstr("not valid JSON"));
  ExpectError(parse(std::string(100'000, '[')), invalid, HasSubstr("levels deep"));
  ExpectError(parse(std::string(kMaxConfigBytes + 1, ' ')), invalid,
              HasSubstr("more than the limit"));
  ExpectError(ParseHfConfig(TinyConfig().dump(), "nonsense"), invalid,
              HasSubstr("generation_config.json"));
}

TEST(HfConfigTest, MissingFolderIsNotFound) {
  ExpectError(LoadHfConfig("/nonexistent/model"), absl::StatusCode::kNotFound,
              HasSubstr("/nonexistent/model/config.json"));
}

// Resident and read KV bytes of the nine golden models at bf16: owner layers x heads x 32 x 2 x 2,
// and all layers.
TEST(HfConfigTest, KvBytesPerTokenOfTheGoldenModels) {
  struct Expected {
    const char* model;
    const char* sharing;
    size_t resident_bytes;
    size_t read_bytes;
  };
  const Expected table[] = {
      {"tale-7m-mha", "mha", 8192, 8192},           {"tale-7m-gqa4", "gqa", 4096, 4096},
      {"tale-7m-gqa2", "gqa", 2048, 2048},          {"tale-7m-mqa", "mqa", 1024, 1024},
      {"tale-7m-gqa2-cla2", "gqa+cla", 1024, 2048}, {"tale-7m-mqa-cla2", "mqa+cla", 512, 1024},
      {"tale-7m-mlkv4", "mqa+mlkv", 512, 1024},     {"tale-7m-mlkv2", "mqa+mlkv", 256, 1024},
      {"tale-7m-mlkv1", "mqa+mlkv", 128, 1024}};
  int checked = 0;
  for (const Expected& expected : table) {
    const std::string folder = ModelFolder(expected.model);
    if (folder.empty()) continue;
    const auto spec = LoadHfConfig(folder);
    ASSERT_TRUE(spec.ok()) << spec.status();
    const auto layout = spec->MakeKvLayout(KvElementType::kBf16, 32);
    ASSERT_TRUE(layout.ok()) << layout.status();
    EXPECT_EQ(layout->resident_bytes_per_token(), expected.resident_bytes) << expected.model;
    EXPECT_EQ(layout->read_bytes_per_token(), expected.read_bytes) << expected.model;
    EXPECT_EQ(spec->SharingName(), expected.sharing) << expected.model;
    ++checked;
  }
  if (checked < 9)
    GTEST_SKIP() << "ONLY " << checked << " OF 9 GOLDEN MODELS ARE HERE; set KVASIR_MODELS";
}

}  // namespace
}  // namespace kvasir::testing
