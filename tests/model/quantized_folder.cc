#include "tests/model/quantized_folder.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "absl/strings/match.h"
#include "base/bf16.h"
#include "base/check.h"

namespace kvasir::testing {
namespace {

using Json = nlohmann::json;

FileTensor ScaleTensor(const std::string& dtype, std::vector<int64_t> shape,
                       const std::vector<float>& values) {
  if (dtype == "F8_E8M0") {
    std::vector<uint8_t> exponents;
    for (const float value : values)
      exponents.push_back(static_cast<uint8_t>(std::ilogb(value) + 127));
    return RawTensor(dtype, std::move(shape), exponents);
  }
  FloatTensors one;
  one["x"] = {std::move(shape), values};
  return Stored(one, dtype).at("x");
}

// As a file of that type can hold it.
float Rounded(const std::string& dtype, float value) {
  if (dtype == "F16") return ToFloat(ToF16(value));
  if (dtype == "BF16") return ToFloat(ToBf16(value));
  if (dtype == "F8_E8M0") return std::ldexp(1.0f, std::ilogb(value));
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
    const int bits = options.bits;
    const int64_t word_rows = in * bits / 32, zero_cols = out * bits / 32;
    std::vector<uint32_t> words(word_rows * out), zeros(g.groups * zero_cols);
    // Codes of three bits cross from one word into the next.
    const auto put = [bits](int code, int64_t index, const auto& word) {
      for (int bit = 0; bit < bits; ++bit) {
        const int64_t at = index * bits + bit;
        if ((code >> bit & 1) != 0) word(at / 32) |= 1u << (at % 32);
      }
    };
    for (int64_t i = 0; i < in; ++i) {
      for (int64_t o = 0; o < out; ++o) {
        put(g.codes[o * in + i], i, [&](int64_t w) -> uint32_t& { return words[w * out + o]; });
      }
    }
    const bool less_one_each = bits == 3 && !second_version;
    for (int64_t k = 0; k < g.groups; ++k) {
      for (int64_t o = 0; o < out; ++o) {
        const int zero = g.zeros[o * g.groups + k];
        put(less_one_each ? (zero + 7) & 7 : zero, o,
            [&](int64_t w) -> uint32_t& { return zeros[k * zero_cols + w]; });
      }
    }
    if (!second_version && bits != 3) {
      const uint32_t ones = bits == 2 ? 0x55555555u : bits == 4 ? 0x11111111u : 0x01010101u;
      for (uint32_t& word : zeros) word -= ones;
    }
    (*tensors)[base + ".qweight"] = RawTensor("I32", {word_rows, out}, words);
    (*tensors)[base + ".qzeros"] = RawTensor("I32", {g.groups, zero_cols}, zeros);
    (*tensors)[base + ".scales"] =
        ScaleTensor(options.scale_type, {g.groups, out}, Transposed(g.scales, out, g.groups));
    (*tensors)[base + ".g_idx"] = RawTensor("I32", {in}, g.group_of);
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
    (*tensors)[base + ".qweight"] = RawTensor("I32", {in, out / 8}, words);
    (*tensors)[base + ".qzeros"] = RawTensor("I32", {g.groups, out / 8}, zeros);
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
    (*tensors)[base + ".weight_packed"] = RawTensor("I32", {out, in / n}, words);
    (*tensors)[base + ".weight_scale"] = ScaleTensor(options.scale_type, {out, g.groups}, g.scales);
    (*tensors)[base + ".weight_shape"] = RawTensor("I64", {2}, std::vector<int64_t>{out, in});
    if (!options.symmetric) {
      (*tensors)[base + ".weight_zero_point"] =
          RawTensor("I32", {(out + n - 1) / n, g.groups}, zeros);
    }
    if (options.act_order) {
      (*tensors)[base + ".weight_g_idx"] = RawTensor("I32", {in}, g.group_of);
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

// mxfp4-pack-quantized: pairs of codes of type E2M1, the lower half first, and exponents.
QuantizedForm PackedMxfp4() {
  QuantizedForm form;
  form.name = "packed_mxfp4";
  form.config = CompressedConfig("mxfp4-pack-quantized", {{"num_bits", 4},
                                                          {"type", "float"},
                                                          {"symmetric", true},
                                                          {"strategy", "group"},
                                                          {"group_size", 32}});
  form.write = [=](const std::string& base, int64_t out, int64_t in, std::mt19937* random,
                   FileTensors* tensors) {
    std::vector<uint8_t> codes(out * in / 2), scales(out * in / 32);
    for (uint8_t& byte : codes) byte = static_cast<uint8_t>((*random)());
    for (uint8_t& byte : scales) byte = static_cast<uint8_t>(119 + (*random)() % 6);
    FloatTensor values{{out, in}, std::vector<float>(out * in)};
    for (int64_t k = 0; k < out * in; ++k) {
      const int code = k % 2 == 0 ? codes[k / 2] & 15 : codes[k / 2] >> 4;
      values.values[k] = std::ldexp(kE2m1[code], scales[k / 32] - 127);
    }
    (*tensors)[base + ".weight_packed"] = RawTensor("U8", {out, in / 2}, codes);
    (*tensors)[base + ".weight_scale"] = RawTensor("U8", {out, in / 32}, scales);
    return values;
  };
  return form;
}

// Pairs of codes of type E2M1, a scale of type E4M3 for each 16, and one number for all: what
// compressed-tensors divides by, or Model Optimizer multiplies with. Scales may be negative.
QuantizedForm Nvfp4(const std::string& name, bool divides, float number, const Json& config) {
  QuantizedForm form;
  form.name = name;
  form.config = config;
  int exponent;
  form.rounds = std::frexp(number, &exponent) != 0.5f;
  form.write = [=](const std::string& base, int64_t out, int64_t in, std::mt19937* random,
                   FileTensors* tensors) {
    std::vector<uint8_t> codes(out * in / 2), scales(out * in / 16);
    for (uint8_t& byte : codes) byte = static_cast<uint8_t>((*random)());
    for (uint8_t& byte : scales) {
      byte = static_cast<uint8_t>(0x30 + (*random)() % 0x18);
      if ((*random)() % 16 == 0) byte |= 0x80;
    }
    FloatTensor values{{out, in}, std::vector<float>(out * in)};
    for (int64_t k = 0; k < out * in; ++k) {
      const int code = k % 2 == 0 ? codes[k / 2] & 15 : codes[k / 2] >> 4;
      const float scale = E4m3(scales[k / 16]);
      values.values[k] = kE2m1[code] * (divides ? scale / number : scale * number);
    }
    (*tensors)[base + (divides ? ".weight_packed" : ".weight")] =
        RawTensor("U8", {out, in / 2}, codes);
    (*tensors)[base + ".weight_scale"] = RawTensor("F8_E4M3", {out, in / 16}, scales);
    const std::vector<int64_t> shape = divides ? std::vector<int64_t>{1} : std::vector<int64_t>{};
    (*tensors)[base + (divides ? ".weight_global_scale" : ".weight_scale_2")] =
        RawTensor("F32", shape, std::vector<float>{number});
    (*tensors)[base + (divides ? ".input_global_scale" : ".input_scale")] =
        RawTensor("F32", shape, std::vector<float>{123.0f});
    return values;
  };
  return form;
}

// Some modules in another form than the others, under one config.
QuantizedForm Mixed(const std::string& name, const QuantizedForm& most, const QuantizedForm& down,
                    const Json& config) {
  QuantizedForm form;
  form.name = name;
  form.config = config;
  form.write = [=](const std::string& base, int64_t out, int64_t in, std::mt19937* random,
                   FileTensors* tensors) {
    const bool other = absl::StrContains(base, "down_proj");
    return (other ? down : most).write(base, out, in, random, tensors);
  };
  return form;
}

QuantizedForm GptqRules() {
  const QuantizedForm most = Gptq("", {.group = 32, .symmetric = false}, false);
  const QuantizedForm down = Gptq("", {.group = 64, .scale = 2e-3f, .bits = 8}, false);
  Json config = most.config;
  config["dynamic"] = {{"+:.*\\.down_proj$", {{"bits", 8}, {"group_size", 64}}},
                       {"-:.*\\.lm_head$", Json::object()}};
  QuantizedForm form = Mixed("gptq_rules", most, down, config);
  return form;
}

QuantizedForm PackedInTwoGroups() {
  const QuantizedForm most = Packed("", {.group = 32, .symmetric = false, .scale_type = "BF16"});
  const QuantizedForm down =
      Packed("", {.group = 0, .scale_type = "BF16", .scale = 2e-3f, .bits = 8});
  Json config = most.config;
  config["config_groups"]["group_1"] = down.config["config_groups"]["group_0"];
  return Mixed("packed_two_groups", most, down, config);
}

QuantizedForm AsPlainNumbers(QuantizedForm form) {
  form.in_blocks = false;
  return form;
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
    (*tensors)[base + ".weight"] = RawTensor(fp8 ? "F8_E4M3" : "I8", {out, in}, bytes);
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
      Gptq("gptq_2_bits", {.group = 32, .symmetric = false, .bits = 2}, false),
      Gptq("gptq_2_bits_rows", {.group = 0, .bits = 2}, true),
      Gptq("gptq_3_bits", {.group = 32, .symmetric = false, .bits = 3}, false),
      Gptq("gptq_3_bits_64", {.group = 64, .act_order = true, .bits = 3}, true),
      AsPlainNumbers(Gptq("gptq_8_bits_zeros",
                          {.group = 32, .symmetric = false, .scale = 2e-3f, .bits = 8}, false)),
      AsPlainNumbers(Gptq(
          "gptq_8_bits_zeros_act_order",
          {.group = 64, .symmetric = false, .act_order = true, .scale = 2e-3f, .bits = 8}, true)),
      AsPlainNumbers(Gptq("gptq_8_bits_f32_scales",
                          {.group = 32, .scale_type = "F32", .scale = 2e-3f, .bits = 8}, false)),
      GptqRules(),
      PackedInTwoGroups(),
      PackedMxfp4(),
      Nvfp4("packed_nvfp4", /*divides=*/true, 64.0f,
            CompressedConfig("nvfp4-pack-quantized", {{"num_bits", 4},
                                                      {"type", "float"},
                                                      {"symmetric", true},
                                                      {"strategy", "tensor_group"},
                                                      {"group_size", 16}})),
      Nvfp4("packed_nvfp4_any", /*divides=*/true, 71.3f,
            CompressedConfig("nvfp4-pack-quantized",
                             {{"num_bits", 4}, {"type", "float"}, {"strategy", "tensor_group"}})),
      Nvfp4("modelopt_nvfp4", /*divides=*/false, 0.0137f,
            {{"quant_method", "modelopt"},
             {"quant_algo", "NVFP4"},
             {"group_size", 16},
             {"ignore", {"lm_head"}}}),
      AsPlainNumbers(Packed(
          "packed_8_bits_zeros",
          {.group = 64, .symmetric = false, .scale_type = "BF16", .scale = 2e-3f, .bits = 8})),
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
      Bytes("fp8_blocks_exponents", true, ScaleOf::kBlock, "F8_E8M0",
            {{"quant_method", "fp8"},
             {"fmt", "e4m3"},
             {"scale_fmt", "ue8m0"},
             {"weight_block_size", {128, 128}}}),
      Bytes("fbgemm_fp8", true, ScaleOf::kRow, "F32",
            {{"quant_method", "fbgemm_fp8"}, {"activation_scale_ub", 1200.0}}),
      Bytes("modelopt_fp8", true, ScaleOf::kTensor, "F32",
            {{"quant_method", "modelopt"}, {"quant_algo", "FP8"}}),
  };
}

const QuantizedForm& FormNamed(const std::string& name) {
  static const std::vector<QuantizedForm> forms = QuantizedForms();
  const auto found = std::find_if(forms.begin(), forms.end(),
                                  [&](const QuantizedForm& form) { return form.name == name; });
  KVASIR_CHECK(found != forms.end());
  return *found;
}

}  // namespace kvasir::testing
