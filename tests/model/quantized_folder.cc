#include "tests/model/quantized_folder.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "base/bf16.h"
#include "base/check.h"
#include "runtime/model/hf_config.h"

namespace kvasir::testing {
namespace {

using Json = nlohmann::json;

template <typename T>
FileTensor Tensor(const std::string& dtype, std::vector<int64_t> shape,
                  const std::vector<T>& values) {
  return {dtype, std::move(shape),
          std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T))};
}

FileTensor ScaleTensor(const std::string& dtype, std::vector<int64_t> shape,
                       const std::vector<float>& values) {
  FloatTensors one;
  one["x"] = {std::move(shape), values};
  return Stored(one, dtype).at("x");
}

// As a file of that type can hold it.
float Rounded(const std::string& dtype, float value) {
  if (dtype == "F16") return ToFloat(ToF16(value));
  if (dtype == "BF16") return ToFloat(ToBf16(value));
  return value;
}

// Codes of four or eight bits in groups, not yet in any form.
struct Grouped {
  int64_t out, in, group, groups;
  std::vector<int> codes;     // [out][in]
  std::vector<float> scales;  // [out][groups]
  std::vector<int> zeros;     // [out][groups]
  std::vector<int32_t> group_of;

  FloatTensor Values() const {
    FloatTensor tensor{{out, in}, std::vector<float>(out * in)};
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t i = 0; i < in; ++i) {
        const int64_t g = o * groups + group_of[i];
        tensor.values[o * in + i] = scales[g] * static_cast<float>(codes[o * in + i] - zeros[g]);
      }
    }
    return tensor;
  }
};

struct GroupedOptions {
  int64_t group = 32;  // 0: all
  bool symmetric = true;
  bool act_order = false;
  std::string scale_type = "F16";
  float scale = 0.02f;
  int bits = 4;  // of GPTQ and packed forms

  int per_word() const { return 32 / bits; }
};

Grouped RandomGrouped(const GroupedOptions& options, int64_t out, int64_t in,
                      std::mt19937* random) {
  Grouped g;
  g.out = out;
  g.in = in;
  g.group = options.group == 0 ? in : options.group;
  g.groups = (in + g.group - 1) / g.group;
  std::uniform_real_distribution<float> scale(0.2f * options.scale, options.scale);
  const unsigned levels = 1u << options.bits;
  for (int64_t k = 0; k < out * in; ++k) g.codes.push_back(static_cast<int>((*random)() % levels));
  for (int64_t k = 0; k < out * g.groups; ++k) {
    g.scales.push_back(Rounded(options.scale_type, scale(*random)));
    g.zeros.push_back(options.symmetric ? static_cast<int>(levels / 2)
                                        : static_cast<int>((*random)() % levels));
  }
  for (int64_t i = 0; i < in; ++i) g.group_of.push_back(static_cast<int32_t>(i / g.group));
  if (options.act_order) {
    // Fused modules share their inputs' order, as they do where one set of inputs ranked them; the
    // order depends on the number of inputs alone.
    std::mt19937 order(static_cast<uint32_t>(in));
    std::shuffle(g.group_of.begin(), g.group_of.end(), order);
  }
  return g;
}

std::vector<float> Transposed(const std::vector<float>& values, int64_t rows, int64_t cols) {
  std::vector<float> result(values.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) result[c * rows + r] = values[r * cols + c];
  }
  return result;
}

QuantizedForm Gptq(const std::string& name, const GroupedOptions& options, bool second_version) {
  QuantizedForm form;
  form.name = name;
  form.config = {{"quant_method", "gptq"},
                 {"bits", options.bits},
                 {"group_size", options.group == 0 ? -1 : options.group},
                 {"desc_act", options.act_order},
                 {"sym", options.symmetric},
                 {"damp_percent", 0.01}};
  if (second_version) form.config["checkpoint_format"] = "gptq_v2";
  form.write = [=](const std::string& base, int64_t out, int64_t in, std::mt19937* random,
                   FileTensors* tensors) {
    const Grouped g = RandomGrouped(options, out, in, random);
    const int n = options.per_word(), bits = options.bits;
    std::vector<uint32_t> words(in / n * out), zeros(g.groups * out / n);
    for (int64_t i = 0; i < in; ++i) {
      for (int64_t o = 0; o < out; ++o) {
        words[i / n * out + o] |= static_cast<uint32_t>(g.codes[o * in + i]) << (bits * (i % n));
      }
    }
    for (int64_t k = 0; k < g.groups; ++k) {
      for (int64_t o = 0; o < out; ++o) {
        zeros[k * out / n + o / n] |= static_cast<uint32_t>(g.zeros[o * g.groups + k])
                                      << (bits * (o % n));
      }
    }
    if (!second_version) {
      for (uint32_t& word : zeros) word -= bits == 4 ? 0x11111111u : 0x01010101u;
    }
    (*tensors)[base + ".qweight"] = Tensor("I32", {in / n, out}, words);
    (*tensors)[base + ".qzeros"] = Tensor("I32", {g.groups, out / n}, zeros);
    (*tensors)[base + ".scales"] =
        ScaleTensor(options.scale_type, {g.groups, out}, Transposed(g.scales, out, g.groups));
    (*tensors)[base + ".g_idx"] = Tensor("I32", {in}, g.group_of);
    return g.Values();
  };
  return form;
}

QuantizedForm Awq(const std::string& name, const GroupedOptions& options) {
  QuantizedForm form;
  form.name = name;
  form.config = {{"quant_method", "awq"},
                 {"bits", 4},
                 {"group_size", options.group == 0 ? -1 : options.group},
                 {"zero_point", true},
                 {"version", "gemm"},
                 {"modules_to_not_convert", nullptr}};
  form.write = [=](const std::string& base, int64_t out, int64_t in, std::mt19937* random,
                   FileTensors* tensors) {
    constexpr int kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    const Grouped g = RandomGrouped(options, out, in, random);
    std::vector<uint32_t> words(in * out / 8), zeros(g.groups * out / 8);
    for (int64_t eight = 0; eight < out / 8; ++eight) {
      for (int place = 0; place < 8; ++place) {
        const int64_t o = eight * 8 + kOrder[place];
        for (int64_t i = 0; i < in; ++i) {
          words[i * out / 8 + eight] |= static_cast<uint32_t>(g.codes[o * in + i]) << (4 * place);
        }
        for (int64_t k = 0; k < g.groups; ++k) {
          zeros[k * out / 8 + eight] |= static_cast<uint32_t>(g.zeros[o * g.groups + k])
                                        << (4 * place);
        }
      }
    }
    (*tensors)[base + ".qweight"] = Tensor("I32", {in, out / 8}, words);
    (*tensors)[base + ".qzeros"] = Tensor("I32", {g.groups, out / 8}, zeros);
    (*tensors)[base + ".scales"] =
        ScaleTensor(options.scale_type, {g.groups, out}, Transposed(g.scales, out, g.groups));
    return g.Values();
  };
  return form;
}

Json CompressedConfig(const std::string& format, const Json& weights) {
  return {{"quant_method", "compressed-tensors"},
          {"format", format},
          {"quantization_status", "compressed"},
          {"ignore", {"lm_head"}},
          {"kv_cache_scheme", nullptr},
          {"config_groups",
           {{"group_0",
             {{"targets", {"Linear"}}, {"weights", weights}, {"input_activations", nullptr}}}}}};
}

QuantizedForm Packed(const std::string& name, const GroupedOptions& options) {
  QuantizedForm form;
  form.name = name;
  form.config = CompressedConfig(
      "pack-quantized", {{"num_bits", options.bits},
                         {"type", "int"},
                         {"symmetric", options.symmetric},
                         {"strategy", options.group == 0 ? "channel" : "group"},
                         {"group_size", options.group == 0 ? Json(nullptr) : Json(options.group)},
                         {"actorder", options.act_order ? Json("group") : Json(nullptr)}});
  form.write = [=](const std::string& base, int64_t out, int64_t in, std::mt19937* random,
                   FileTensors* tensors) {
    const Grouped g = RandomGrouped(options, out, in, random);
    const int n = options.per_word(), bits = options.bits;
    std::vector<uint32_t> words(out * in / n), zeros((out + n - 1) / n * g.groups);
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t i = 0; i < in; ++i) {
        words[o * in / n + i / n] |= static_cast<uint32_t>(g.codes[o * in + i]) << (bits * (i % n));
      }
      for (int64_t k = 0; k < g.groups; ++k) {
        zeros[o / n * g.groups + k] |= static_cast<uint32_t>(g.zeros[o * g.groups + k])
                                       << (bits * (o % n));
      }
    }
    (*tensors)[base + ".weight_packed"] = Tensor("I32", {out, in / n}, words);
    (*tensors)[base + ".weight_scale"] = ScaleTensor(options.scale_type, {out, g.groups}, g.scales);
    (*tensors)[base + ".weight_shape"] = Tensor("I64", {2}, std::vector<int64_t>{out, in});
    if (!options.symmetric) {
      (*tensors)[base + ".weight_zero_point"] = Tensor("I32", {(out + n - 1) / n, g.groups}, zeros);
    }
    if (options.act_order) {
      (*tensors)[base + ".weight_g_idx"] = Tensor("I32", {in}, g.group_of);
    }
    return g.Values();
  };
  return form;
}

// S EEEE MMM, bias 7.
float E4m3(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(mantissa), -9)
                              : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

enum class ScaleOf { kTensor, kRow, kBlock };

QuantizedForm Bytes(const std::string& name, bool fp8, ScaleOf scale_of,
                    const std::string& scale_type, const Json& config) {
  QuantizedForm form;
  form.name = name;
  form.config = config;
  form.write = [=](const std::string& base, int64_t out, int64_t in, std::mt19937* random,
                   FileTensors* tensors) {
    constexpr int64_t kBlock = 128;
    const int64_t block_rows = scale_of == ScaleOf::kTensor ? out
                               : scale_of == ScaleOf::kRow  ? 1
                                                            : kBlock;
    const int64_t block_cols = scale_of == ScaleOf::kBlock ? kBlock : in;
    const int64_t down = (out + block_rows - 1) / block_rows;
    const int64_t across = (in + block_cols - 1) / block_cols;
    std::uniform_real_distribution<float> scale(2e-4f, fp8 ? 6e-4f : 2e-3f);
    std::vector<float> scales;
    for (int64_t k = 0; k < down * across; ++k) {
      scales.push_back(Rounded(scale_type, scale(*random)));
    }
    std::vector<uint8_t> bytes;
    FloatTensor values{{out, in}, {}};
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t i = 0; i < in; ++i) {
        auto byte = static_cast<uint8_t>((*random)());
        if (fp8 && (byte & 0x7f) == 0x7f) byte ^= 1;  // no NaN
        bytes.push_back(byte);
        const float number = fp8 ? E4m3(byte) : static_cast<float>(static_cast<int8_t>(byte));
        values.values.push_back(scales[o / block_rows * across + i / block_cols] * number);
      }
    }
    (*tensors)[base + ".weight"] = Tensor(fp8 ? "F8_E4M3" : "I8", {out, in}, bytes);
    const std::vector<int64_t> shape =
        scale_of == ScaleOf::kTensor ? std::vector<int64_t>{1} : std::vector<int64_t>{down, across};
    const char* suffix = scale_of == ScaleOf::kBlock ? ".weight_scale_inv" : ".weight_scale";
    (*tensors)[base + suffix] = ScaleTensor(scale_type, shape, scales);
    return values;
  };
  return form;
}

Json ByteWeights(bool fp8, const std::string& strategy) {
  return CompressedConfig(fp8 ? "float-quantized" : "int-quantized",
                          {{"num_bits", 8},
                           {"type", fp8 ? "float" : "int"},
                           {"symmetric", true},
                           {"strategy", strategy}});
}

}  // namespace

std::vector<QuantizedForm> QuantizedForms() {
  return {
      Gptq("gptq_32", {.group = 32}, false),
      Gptq("gptq_64", {.group = 64}, false),
      Gptq("gptq_128", {.group = 128}, false),
      Gptq("gptq_rows", {.group = 0}, false),
      Gptq("gptq_zeros", {.group = 32, .symmetric = false}, false),
      Gptq("gptq_zeros_64", {.group = 64, .symmetric = false}, false),
      Gptq("gptq_v2", {.group = 32, .symmetric = false}, true),
      Gptq("gptq_act_order", {.group = 32, .symmetric = false, .act_order = true}, false),
      Gptq("gptq_8_bits_32", {.group = 32, .scale = 2e-3f, .bits = 8}, false),
      Gptq("gptq_8_bits_128", {.group = 128, .scale = 2e-3f, .bits = 8}, true),
      Gptq("gptq_8_bits_act_order", {.group = 32, .act_order = true, .scale = 2e-3f, .bits = 8},
           false),
      Awq("awq_32", {.group = 32, .symmetric = false}),
      Awq("awq_128", {.group = 128, .symmetric = false}),
      Packed("packed_32", {.group = 32, .scale_type = "BF16"}),
      Packed("packed_128_zeros", {.group = 128, .symmetric = false, .scale_type = "BF16"}),
      Packed("packed_rows", {.group = 0, .scale_type = "F16"}),
      Packed("packed_act_order", {.group = 32, .act_order = true, .scale_type = "BF16"}),
      Packed("packed_8_bits_64", {.group = 64, .scale_type = "F16", .scale = 2e-3f, .bits = 8}),
      Packed("packed_8_bits_rows", {.group = 0, .scale_type = "BF16", .scale = 2e-3f, .bits = 8}),
      // Too small, or too finely graded, for f16.
      Packed("packed_tiny_scales", {.group = 64, .scale_type = "BF16", .scale = 1e-6f}),
      Packed("packed_f32_scales", {.group = 32, .scale_type = "F32"}),
      Bytes("int8_rows", false, ScaleOf::kRow, "BF16", ByteWeights(false, "channel")),
      Bytes("int8_tensor", false, ScaleOf::kTensor, "F32", ByteWeights(false, "tensor")),
      Bytes("fp8_rows", true, ScaleOf::kRow, "BF16", ByteWeights(true, "channel")),
      Bytes("fp8_tensor", true, ScaleOf::kTensor, "F32", ByteWeights(true, "tensor")),
      Bytes("fp8_blocks", true, ScaleOf::kBlock, "F32",
            {{"quant_method", "fp8"},
             {"fmt", "e4m3"},
             {"activation_scheme", "dynamic"},
             {"weight_block_size", {128, 128}}}),
  };
}

const QuantizedForm& FormNamed(const std::string& name) {
  static const std::vector<QuantizedForm> forms = QuantizedForms();
  const auto found = std::find_if(forms.begin(), forms.end(),
                                  [&](const QuantizedForm& form) { return form.name == name; });
  KVASIR_CHECK(found != forms.end());
  return *found;
}

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
  constexpr float kNumbers[16] = {0,     0.5f,  1,  1.5f,  2,  3,  4,  6,
                                  -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
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
              std::ldexp(kNumbers[code], scales[row * in / 32 + i / 32] - 127);
        }
      }
    }
    twins.quantized[name + "_blocks"] = Tensor("U8", {experts, out, in / 32, 16}, blocks);
    twins.quantized[name + "_scales"] = Tensor("U8", {experts, out, in / 32}, scales);
  }
  twins.plain = std::move(plain);
  return twins;
}

}  // namespace kvasir::testing
