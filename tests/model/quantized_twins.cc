#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "runtime/model/hf_config.h"
#include "tests/model/quantized_folder.h"

namespace kvasir::testing {
namespace {

using Json = nlohmann::json;

}  // namespace

Json SmallConfig() {
  Json config = TinyConfig();
  config["hidden_size"] = 64;
  config["intermediate_size"] = 160;
  config["num_hidden_layers"] = 2;
  config["head_dim"] = 16;
  return config;
}

Json SmallExpertsConfig() {
  return {{"architectures", {"GptOssForCausalLM"}},
          {"model_type", "gpt_oss"},
          {"hidden_size", 64},
          {"intermediate_size", 32},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 16},
          {"num_local_experts", 4},
          {"num_experts_per_tok", 2},
          {"sliding_window", 16},
          {"max_position_embeddings", 96},
          {"vocab_size", 50},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", false},
          {"eos_token_id", 2}};
}

Twins MakeTwins(const QuantizedForm& form) {
  Twins twins;
  twins.config = SmallConfig();
  FloatTensors plain = RandomTensors(*ParseHfConfig(twins.config.dump(), ""), 1);
  twins.config["quantization_config"] = form.config;
  std::mt19937 random(7);
  for (auto& [name, tensor] : plain) {
    absl::string_view base = name;
    if (!absl::StrContains(name, "_proj") || !absl::ConsumeSuffix(&base, ".weight")) {
      FloatTensors one;
      one[name] = tensor;
      twins.quantized[name] = Stored(one, "F32").at(name);
      continue;
    }
    tensor = form.write(std::string(base), tensor.rows(), tensor.cols(), &random, &twins.quantized);
  }
  twins.plain = std::move(plain);
  return twins;
}

Twins MakeMxfp4Twins() {
  Twins twins;
  twins.config = SmallExpertsConfig();
  FloatTensors plain = RandomTensors(*ParseHfConfig(twins.config.dump(), ""), 1);
  twins.config["quantization_config"] = {
      {"quant_method", "mxfp4"},
      {"modules_to_not_convert", {"model.layers.*.self_attn", "lm_head"}}};
  std::mt19937 random(7);
  for (auto& [name, tensor] : plain) {
    if (!absl::EndsWith(name, "gate_up_proj") && !absl::EndsWith(name, "down_proj")) {
      FloatTensors one;
      one[name] = tensor;
      twins.quantized[name] = Stored(one, "F32").at(name);
      continue;
    }
    const int64_t experts = tensor.shape[0], in = tensor.shape[1], out = tensor.shape[2];
    std::vector<uint8_t> blocks(experts * out * in / 2), scales(experts * out * in / 32);
    for (uint8_t& byte : blocks) byte = static_cast<uint8_t>(random());
    for (uint8_t& byte : scales) byte = static_cast<uint8_t>(119 + random() % 6);
    for (int64_t e = 0; e < experts; ++e) {
      for (int64_t o = 0; o < out; ++o) {
        for (int64_t i = 0; i < in; ++i) {
          const int64_t row = e * out + o;
          const uint8_t byte = blocks[(row * in + i) / 2];
          const int code = i % 2 == 0 ? byte & 15 : byte >> 4;
          tensor.values[(e * in + i) * out + o] =
              std::ldexp(kE2m1[code], scales[row * in / 32 + i / 32] - 127);
        }
      }
    }
    twins.quantized[name + "_blocks"] = RawTensor("U8", {experts, out, in / 32, 16}, blocks);
    twins.quantized[name + "_scales"] = RawTensor("U8", {experts, out, in / 32}, scales);
  }
  twins.plain = std::move(plain);
  return twins;
}

}  // namespace kvasir::testing
