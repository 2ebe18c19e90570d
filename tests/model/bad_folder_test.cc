// Folders that contradict themselves or ask for what their class does not do: each is refused with
// the file, the key, the value and what is allowed, whatever the architecture. Settings that can be
// spelled twice follow the reference, or are refused where the two differ.
//
// The folders are those committed (tests/golden/arch).
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/model/hf_config.h"
#include "runtime/model/model.h"
#include "tests/model/checkpoint_writer.h"
#include "tests/test_models.h"

namespace kvasir::testing {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

std::filesystem::path FolderOf(const std::string& name) {
  return SourceRoot() / "tests/golden/arch" / name;
}

Json ConfigOf(const std::string& name) {
  std::ifstream file(FolderOf(name) / "config.json");
  return Json::parse(file);
}

// A null in `changes` removes the key.
Json Changed(const std::string& name, const Json& changes) {
  Json config = ConfigOf(name);
  config.merge_patch(changes);
  return config;
}

struct Refusal {
  const char* folder;
  Json changes;
  std::vector<std::string> says;  // beside "config.json"
};

const std::vector<Refusal>& Refusals() {
  static const auto& all = *new std::vector<Refusal>{
      // Windows and layer types.
      {"gemma3", {{"sliding_window", -1}}, {"sliding_window", "-1", "from 0"}},
      {"gemma3", {{"sliding_window", "16"}}, {"sliding_window", "16", "integer"}},
      {"gemma3", {{"sliding_window", 16.5}}, {"sliding_window", "16.5", "integer"}},
      {"cohere2", {{"sliding_window", -1}}, {"sliding_window", "-1"}},
      {"gemma3n", {{"sliding_window", -1}}, {"sliding_window", "-1"}},
      {"phi3-longrope", {{"sliding_window", -1}}, {"sliding_window", "-1"}},
      {"gemma3",
       {{"layer_types", {"full_attention", "sliding_attention"}}},
       {"layer_types", "each of the 4 layers"}},
      {"gemma3", {{"layer_types", "full_attention"}}, {"layer_types", "each of the 4 layers"}},
      {"gemma3",
       {{"layer_types", {"full_attention", "conv", "full_attention", "full_attention"}}},
       {"layer_types", "conv", "full_attention, attention, sliding_attention"}},
      {"gemma3",
       {{"layer_types", {"full_attention", 7, "full_attention", "full_attention"}}},
       {"layer_types", "7"}},
      {"qwen3.5",
       {{"layer_types", {"linear_attention", "full_attention", "linear_attention"}}},
       {"layer_types", "each of the 4 layers"}},
      {"qwen3.5",
       {{"layer_types", {"conv", "full_attention", "conv", "full_attention"}}},
       {"layer_types", "conv", "linear_attention"}},
      {"lfm2",
       {{"layer_types", {"conv", "full_attention", "conv"}}},
       {"layer_types", "each of the 4 layers"}},
      {"gemma3n", {{"layer_types", {"full_attention"}}}, {"layer_types", "each of the 4 layers"}},
      // Groups of heads.
      {"gemma3", {{"num_key_value_heads", 3}}, {"num_key_value_heads", "3"}},
      {"gemma3", {{"num_key_value_heads", 0}}, {"num_key_value_heads", "0"}},
      {"gemma3", {{"num_key_value_heads", 8}}, {"num_key_value_heads", "8"}},
      {"qwen3.5", {{"num_key_value_heads", 3}}, {"num_key_value_heads", "3"}},
      {"phi3-longrope", {{"num_key_value_heads", 3}}, {"num_key_value_heads", "3"}},
      {"hunyuan-cla2", {{"cla_share_factor", 0}}, {"cla_share_factor", "0"}},
      {"hunyuan-cla2", {{"cla_share_factor", -2}}, {"cla_share_factor", "-2"}},
      {"hunyuan-cla2", {{"cla_share_factor", "2"}}, {"cla_share_factor", "2"}},
      {"gemma3n", {{"num_kv_shared_layers", 5}}, {"num_kv_shared_layers", "5"}},
      {"gemma3n", {{"num_kv_shared_layers", -1}}, {"num_kv_shared_layers", "-1"}},
      {"qwen3.5", {{"linear_num_value_heads", 3}}, {"linear_num_value_heads", "3"}},
      {"qwen3.5", {{"linear_conv_kernel_dim", 0}}, {"linear_conv_kernel_dim", "0"}},
      {"lfm2", {{"conv_L_cache", 0}}, {"conv_L_cache", "0"}},
      // Sizes.
      {"gemma3", {{"head_dim", 15}}, {"head_dim", "15", "even"}},
      {"gemma3", {{"head_dim", 1024}}, {"head_dim", "1024", "512"}},
      {"bloom", {{"n_head", 0}}, {"n_head", "0", "from 1"}},
      {"bloom", {{"n_layer", -1}}, {"n_layer", "-1", "from 1"}},
      {"falcon-7b", {{"num_attention_heads", 0}}, {"num_attention_heads", "0"}},
      {"deepseek-v3", {{"kv_lora_rank", 0}}, {"kv_lora_rank", "0"}},
      {"deepseek-v3", {{"qk_rope_head_dim", 7}}, {"qk_rope_head_dim", "7", "even"}},
      {"deepseek-v3", {{"v_head_dim", -8}}, {"v_head_dim", "-8"}},
      {"gemma3n", {{"altup_num_inputs", 0}}, {"altup_num_inputs", "0"}},
      {"gemma3n", {{"laurel_rank", 0}}, {"laurel_rank", "0"}},
      // Experts.
      {"deepseek-v3", {{"n_routed_experts", 0}}, {"n_routed_experts", "0", "from 1"}},
      {"deepseek-v3", {{"n_routed_experts", nullptr}}, {"experts"}},
      {"deepseek-v3", {{"num_experts_per_tok", 5}}, {"num_experts_per_tok", "5", "from 1 to 4"}},
      {"deepseek-v3", {{"num_experts_per_tok", 0}}, {"num_experts_per_tok", "0"}},
      {"deepseek-v3", {{"n_group", 3}}, {"n_group", "3", "4 experts"}},
      {"deepseek-v3", {{"topk_group", 3}}, {"topk_group", "3", "from 1 to 2"}},
      {"deepseek-v3",
       {{"num_experts_per_tok", 3}},
       {"num_experts_per_tok", "3", "have only 2 experts"}},
      {"deepseek-v3", {{"moe_intermediate_size", 0}}, {"moe_intermediate_size", "0"}},
      {"deepseek-v3", {{"moe_layer_freq", 2}}, {"moe_layer_freq", "2", "1 is"}},
      {"hunyuan-cla2", {{"num_experts", 8}}, {"num_experts", "8"}},
      // RoPE: the kind, its numbers, and dictionaries of the wrong shape.
      {"phi3-longrope",
       {{"rope_parameters", {{"rope_type", "spiral"}}}},
       {"rope_type", "spiral", "default, linear, llama3, dynamic, yarn, longrope"}},
      {"phi3-longrope", {{"rope_parameters", 3}}, {"rope_parameters", "3", "object"}},
      {"phi3-longrope",
       {{"rope_parameters", {{"long_factor", {1.0, 2.0}}}}},
       {"long_factor", "each of the 8 rotated pairs"}},
      {"phi3-longrope",
       {{"rope_parameters", {{"short_factor", {1, 1, 1, 1, 1, 1, 1, 0}}}}},
       {"short_factor", "numbers from"}},
      {"phi3-longrope",
       {{"rope_parameters", {{"short_factor", nullptr}}}},
       {"short_factor", "missing"}},
      {"phi3-longrope",
       {{"original_max_position_embeddings", 0}},
       {"original_max_position_embeddings", "0", "from 1"}},
      {"gemma3",
       {{"rope_parameters", {{"full_attention", nullptr}}}},
       {"rope_parameters", "lacks full_attention"}},
      {"gemma3",
       {{"rope_parameters", {{"full_attention", {{"factor", 0.5}}}}}},
       {"full_attention", "factor", "0.5", "from 1"}},
      {"gemma3",
       {{"rope_parameters", {{"full_attention", {{"rope_type", nullptr}}}}}},
       {"full_attention", "rope_type", "must name the kind of scaling"}},
      {"gemma3",
       {{"rope_parameters", {{"sliding_attention", {{"rope_theta", "wide"}}}}}},
       {"sliding_attention", "rope_theta", "wide"}},
      {"deepseek-v3",
       {{"rope_parameters", {{"full_attention", {{"rope_theta", 1e4}}}}}},
       {"rope_parameters", "one dictionary for all layers"}},
      // rope_scaling wins where both stand, so it is what is checked.
      {"phi3-longrope", {{"rope_scaling", {{"type", "spiral"}}}}, {"rope_scaling", "spiral"}},
      {"deepseek-v3",
       {{"rope_scaling", {{"rope_type", "linear"}, {"factor", 0.1}}}},
       {"rope_scaling", "factor", "0.1"}},
      // One setting under two names.
      {"gemma3", {{"n_embd", 65}}, {"n_embd", "65", "hidden_size", "keep one of them"}},
      {"gemma3", {{"n_head", 8}}, {"n_head", "8", "num_attention_heads", "keep one of them"}},
      {"gemma3", {{"n_layer", 5}}, {"n_layer", "5", "num_hidden_layers", "keep one of them"}},
      {"phi3-longrope", {{"n_inner", 5}}, {"n_inner", "5", "intermediate_size"}},
      {"lfm2", {{"n_positions", 5}}, {"n_positions", "5", "max_position_embeddings"}},
      {"phi3-longrope",
       {{"layer_norm_eps", 1e-3}},
       {"layer_norm_eps", "0.001", "rms_norm_eps", "keep one of them"}},
      {"deepseek-v3",
       {{"num_experts", 8}},
       {"num_experts", "n_routed_experts", "keep one of them"}},
      {"phi3-longrope",
       {{"hidden_activation", "gelu"}},
       {"hidden_activation", "gelu", "hidden_act", "keep one of them"}},
      // Words and switches.
      {"phi3-longrope", {{"hidden_act", "softsign"}}, {"hidden_act", "softsign", "silu, gelu"}},
      {"phi3-longrope", {{"hidden_act", 3}}, {"hidden_act", "3", "string"}},
      {"gemma3", {{"tie_word_embeddings", "yes"}}, {"tie_word_embeddings", "yes", "true or false"}},
      {"gemma3", {{"rms_norm_eps", 0}}, {"rms_norm_eps", "0"}},
      {"gemma3", {{"eos_token_id", 320}}, {"eos_token_id", "320", "319"}},
      {"gemma3", {{"architectures", {"GemmaForSpeech"}}}, {"GemmaForSpeech", "Gemma3ForCausalLM"}},
  };
  return all;
}

TEST(BadFolderTest, IsRefusedWithFileKeyValueAndWhatIsAllowed) {
  for (const Refusal& refusal : Refusals()) {
    SCOPED_TRACE(std::string(refusal.folder) + " with " + refusal.changes.dump());
    ASSERT_TRUE(ParseHfConfig(ConfigOf(refusal.folder).dump(), "").ok());
    const absl::Status status =
        ParseHfConfig(Changed(refusal.folder, refusal.changes).dump(), "").status();
    EXPECT_TRUE(absl::IsInvalidArgument(status) || absl::IsUnimplemented(status)) << status;
    const std::string message(status.message());
    EXPECT_THAT(message, HasSubstr("config.json"));
    for (const std::string& part : refusal.says) EXPECT_THAT(message, HasSubstr(part));
  }
}

// What transformers reads in one way of two is read so here.
TEST(BadFolderTest, OfTwoSpellingsTheReferencesCounts) {
  const auto rope_of = [](const std::string& folder, const Json& changes) {
    const auto spec = ParseHfConfig(Changed(folder, changes).dump(), "");
    EXPECT_TRUE(spec.ok()) << spec.status();
    return spec.ok() ? spec->ropes.at(0) : RopeSpec();
  };
  const Json linear = {{"rope_type", "linear"}, {"factor", 4.0}};
  EXPECT_EQ(rope_of("deepseek-v3", {{"rope_scaling", linear}}).scaling, RopeSpec::Scaling::kLinear);
  // Nothing in it: nothing is set.
  EXPECT_EQ(rope_of("phi3-longrope", {{"rope_scaling", Json::object()}}).scaling,
            RopeSpec::Scaling::kLongRope);
  // rope_type is the newer name of type.
  EXPECT_EQ(rope_of("deepseek-v3", {{"rope_scaling",
                                     {{"type", "yarn"}, {"rope_type", "linear"}, {"factor", 2.0}}}})
                .scaling,
            RopeSpec::Scaling::kLinear);
  // The original length of the top level comes before the dictionary's.
  EXPECT_EQ(
      rope_of("phi3-longrope", {{"original_max_position_embeddings", 100}}).original_max_positions,
      100);
  const auto windows_of = [](const std::string& folder, const Json& changes) {
    const auto spec = ParseHfConfig(Changed(folder, changes).dump(), "");
    EXPECT_TRUE(spec.ok()) << spec.status();
    return spec.ok() ? spec->attention(0).window : -1;
  };
  EXPECT_EQ(windows_of("gemma3", Json::object()), 16);
  EXPECT_EQ(windows_of("phi3-longrope", {{"sliding_window", 0}}), 0);
  EXPECT_EQ(windows_of("phi3-longrope", {{"sliding_window", 4096}}), 0);  // beyond the context
}

// A copy of a committed folder, its config changed.
std::unique_ptr<TempFolder> CopyOf(const std::string& name, const Json& changes) {
  auto copy = std::make_unique<TempFolder>();
  std::filesystem::copy_file(FolderOf(name) / "model.safetensors",
                             std::filesystem::path(copy->path()) / "model.safetensors");
  std::ofstream(std::filesystem::path(copy->path()) / "config.json")
      << Changed(name, changes).dump();
  return copy;
}

struct Mismatch {
  const char* folder;
  Json changes;
  std::string says;
};

// The config is sound, and the tensors are another model's.
TEST(BadFolderTest, TensorsThatDoNotFitTheConfigAreNamed) {
  const std::vector<Mismatch> mismatches = {
      // Experts, layers and projections that are not there.
      {"deepseek-v3", {{"n_routed_experts", 8}}, "mlp.experts.4"},
      {"deepseek-v3", {{"num_hidden_layers", 6}}, "layers.4"},
      {"deepseek-v3", {{"n_shared_experts", 2}}, "shared_experts"},
      {"deepseek-v3", {{"moe_intermediate_size", 40}}, "experts.0"},
      {"deepseek-v3", {{"q_lora_rank", 16}}, "q_a"},
      {"hunyuan-cla2", {{"use_qk_norm", false}}, "layernorm"},
      {"hunyuan-cla2", {{"use_cla", false}}, "k_proj"},
      {"hunyuan-cla2", {{"num_key_value_heads", 4}}, "k_proj"},
      {"lfm2", {{"conv_L_cache", 4}}, "conv"},
      {"lfm2",
       {{"layer_types", {"full_attention", "full_attention", "conv", "full_attention"}}},
       "layers.0"},
      {"qwen3.5", {{"linear_num_value_heads", 8}}, "linear_attn"},
      {"gemma3", {{"num_key_value_heads", 2}}, "k_proj"},
      {"gemma3", {{"intermediate_size", 64}}, "mlp."},
      {"gemma3n", {{"num_kv_shared_layers", 0}}, "k_proj"},
      {"gemma3n", {{"laurel_rank", 4}}, "laurel"},
      {"bloom", {{"vocab_size", 640}}, "word_embeddings"},
      {"pythia-mlkv2", {{"num_key_value_layers", 4}}, "layers"},
  };
  for (const Mismatch& mismatch : mismatches) {
    SCOPED_TRACE(std::string(mismatch.folder) + " with " + mismatch.changes.dump());
    const auto folder = CopyOf(mismatch.folder, mismatch.changes);
    Model::Options options;
    options.compute_type = ComputeType::kF32;
    const auto model = Model::Load(folder->path(), options);
    ASSERT_FALSE(model.ok());
    // NotFound: a tensor that the config asks for is missing.
    EXPECT_TRUE(absl::IsInvalidArgument(model.status()) || absl::IsUnimplemented(model.status()) ||
                absl::IsNotFound(model.status()))
        << model.status();
    EXPECT_THAT(std::string(model.status().message()), HasSubstr(mismatch.says));
  }
}

}  // namespace
}  // namespace kvasir::testing
