// config.json and generation_config.json of any bytes, and configs of real architectures with
// settings changed: each byte pair puts one of many values under one of all keys that any of them
// has, so that what lies behind the first check is reached too. An accepted spec must keep the
// promises that everything behind the parser relies on, and its tensors must be listed without
// fault.
//
// The configs are those of tests/golden/arch.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "base/check.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/hf_config.h"
#include "runtime/model/rope_table.h"

namespace kvasir {
namespace {

using Json = nlohmann::json;

// Listing every tensor of larger ones takes longer than a fuzzer waits.
constexpr int64_t kMaxTensors = 20000;

struct Material {
  std::vector<Json> configs;
  std::vector<std::string> keys;  // of all of them, and other spellings
  std::vector<Json> values;
};

const Material& TheMaterial() {
  static const Material& material = *[] {
    auto* const made = new Material;
    std::set<std::string> keys = {"rope_scaling",
                                  "rope_theta",
                                  "partial_rotary_factor",
                                  "type",
                                  "rope_type",
                                  "factor",
                                  "short_factor",
                                  "long_factor",
                                  "n_embd",
                                  "n_head",
                                  "n_layer",
                                  "n_positions",
                                  "n_inner",
                                  "layer_norm_eps",
                                  "num_local_experts",
                                  "num_experts",
                                  "n_routed_experts",
                                  "n_group",
                                  "topk_group",
                                  "first_k_dense_replace",
                                  "mlp_only_layers",
                                  "decoder_sparse_step",
                                  "use_sliding_window",
                                  "max_window_layers",
                                  "sliding_window",
                                  "layer_types",
                                  "sharing_pattern",
                                  "use_cla",
                                  "cla_share_factor",
                                  "num_key_value_layers",
                                  "no_rope_layers",
                                  "alibi",
                                  "new_decoder_architecture",
                                  "multi_query",
                                  "parallel_attn",
                                  "text_config"};
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(KVASIR_ARCH_CONFIGS, error)) {
      std::ifstream file(entry.path() / "config.json");
      const Json config = Json::parse(file, nullptr, /*allow_exceptions=*/false);
      if (!config.is_object()) continue;
      made->configs.push_back(config);
      for (const auto& [key, value] : config.items()) {
        keys.insert(key);
        made->values.push_back(value);
      }
    }
    for (const Architecture& architecture : Architectures()) {
      made->values.push_back(architecture.model_type);
      made->values.push_back(Json::array({architecture.name}));
    }
    for (const char* text :
         {"null",
          "true",
          "false",
          "-1",
          "0",
          "1",
          "2",
          "3",
          "4",
          "5",
          "7",
          "16",
          "63",
          "64",
          "65",
          "1024",
          "2147483647",
          "2147483648",
          "-2147483649",
          "18446744073709551615",
          "0.5",
          "1e-30",
          "1e300",
          "\"\"",
          "\"16\"",
          "[]",
          "{}",
          "[1,2]",
          "[0,0,2,2]",
          "[4,3,2,1]",
          "[-1,0,1,2]",
          "[1e300,0,0,0]",
          "[\"full_attention\",\"sliding_attention\"]",
          "[\"conv\",\"conv\",\"conv\",\"conv\"]",
          "{\"rope_type\":\"yarn\"}",
          "{\"rope_type\":\"yarn\",\"factor\":1e4,\"beta_fast\":0,\"mscale\":1e4}",
          "{\"rope_type\":\"longrope\",\"short_factor\":[1,1],\"long_factor\":[2,2]}",
          "{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4}",
          "{\"rope_type\":\"dynamic\",\"alpha\":1e9}",
          "{\"type\":\"linear\",\"factor\":2}",
          "{\"full_attention\":{\"rope_type\":\"proportional\"},\"sliding_attention\":null}",
          "{\"full_attention\":3}"}) {
      made->values.push_back(Json::parse(text));
    }
    made->keys.assign(keys.begin(), keys.end());
    return made;
  }();
  return material;
}

int64_t MostTensors(const ModelSpec& spec) {
  int64_t tensors = 0;
  for (const LayerSpec& layer : spec.layers)
    tensors += 40 + (layer.feed_forward.moe ? 3 * int64_t{layer.feed_forward.moe->experts} : 0);
  return tensors;
}

void CheckAttention(const ModelSpec& spec, int layer, const AttentionSpec& attention) {
  KVASIR_CHECK(attention.kv_owner >= 0 && attention.kv_owner <= layer);
  KVASIR_CHECK(attention.kv_heads > 0 && attention.query_heads % attention.kv_heads == 0);
  KVASIR_CHECK(attention.window >= 0 && attention.window < spec.max_positions);
  KVASIR_CHECK(attention.rope >= -1 && attention.rope < static_cast<int>(spec.ropes.size()));
  KVASIR_CHECK(std::isfinite(attention.scale) && attention.scale > 0);
  const AttentionSpec* const owner = spec.layers[attention.kv_owner].attention();
  KVASIR_CHECK(owner != nullptr && owner->kv_owner == attention.kv_owner);
  KVASIR_CHECK(owner->kv_heads == attention.kv_heads && owner->head_dim == attention.head_dim);
}

void Check(const absl::StatusOr<ModelSpec>& spec) {
  if (!spec.ok()) {
    KVASIR_CHECK(!spec.status().message().empty());
    return;
  }
  KVASIR_CHECK(spec->num_layers() > 0 && spec->max_positions > 0 && spec->hidden_size > 0);
  KVASIR_CHECK(spec->SharingName() != "invalid");
  for (int layer = 0; layer < spec->num_layers(); ++layer) {
    if (const AttentionSpec* attention = spec->layers[layer].attention())
      CheckAttention(*spec, layer, *attention);
    if (const auto& moe = spec->layers[layer].feed_forward.moe) {
      KVASIR_CHECK(moe->chosen >= 1 && moe->chosen <= moe->experts);
      KVASIR_CHECK(moe->groups >= 1 && moe->experts % moe->groups == 0);
    }
  }
  for (const int id : spec->eos_token_ids) KVASIR_CHECK(id >= 0 && id < spec->vocab_size);
  for (const RopeSpec& rope : spec->ropes) {
    for (const bool long_context : {false, true}) {
      if (long_context && rope.scaling != RopeSpec::Scaling::kLongRope) continue;
      for (const float frequency : RopeInverseFrequencies(rope, long_context))
        KVASIR_CHECK(std::isfinite(frequency) && frequency >= 0);
    }
  }
  if (MostTensors(*spec) > kMaxTensors) return;
  KVASIR_CHECK(spec->num_parameters() > 0);
  for (const bool there : {false, true}) {
    const auto map = MapTensors(*spec, [there](const std::string&) { return there; });
    if (!map.ok()) KVASIR_CHECK(!map.status().message().empty());
  }
}

void CheckChanged(const uint8_t* data, size_t size) {
  const Material& material = TheMaterial();
  if (size < 1 || material.configs.empty()) return;
  Json config = material.configs[data[0] % material.configs.size()];
  for (size_t i = 1; i + 2 < size && i < 40; i += 3) {
    const size_t value = (data[i + 1] * size_t{256} + data[i + 2]) % material.values.size();
    config[material.keys[data[i] % material.keys.size()]] = material.values[value];
  }
  Check(ParseHfConfig(config.dump(), ""));
}

}  // namespace
}  // namespace kvasir

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  const size_t zero = bytes.find('\0');
  kvasir::Check(kvasir::ParseHfConfig(bytes.substr(0, zero),
                                      zero == std::string::npos ? "" : bytes.substr(zero + 1)));
  kvasir::CheckChanged(data, size);
  return 0;
}
