#include "runtime/model/quantized/quantization_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "runtime/model/json_fields.h"

namespace kvasir {
namespace {

using Json = nlohmann::json;
using Method = QuantizationConfig::Method;

constexpr int64_t kMaxGroup = 1 << 20;
constexpr size_t kMaxConfigGroups = 64;
constexpr size_t kMaxRules = 4096;

// An error for a value that some writer may write and that is not served.
absl::Status NotServed(const JsonFields& fields, const char* key, absl::string_view served) {
  return absl::UnimplementedError(
      fields.Wrong(key, absl::StrCat("which is not served; served: ", served)).message());
}

absl::Status WantInt(const JsonFields& fields, const char* key, int64_t wanted,
                     absl::string_view served) {
  KVASIR_ASSIGN_OR_RETURN(const int64_t value, fields.Int(key, 0, 1024));
  return value == wanted ? absl::OkStatus() : NotServed(fields, key, served);
}

absl::StatusOr<int> Bits(const JsonFields& fields, const char* key,
                         const std::vector<int>& served) {
  KVASIR_ASSIGN_OR_RETURN(const auto value, fields.Int(key, 0, 1024));
  if (std::find(served.begin(), served.end(), value) == served.end()) {
    return NotServed(fields, key, absl::StrCat(absl::StrJoin(served, ", "), " bits"));
  }
  return static_cast<int>(value);
}

absl::StatusOr<int> GptqBits(const JsonFields& fields) {
  return Bits(fields, "bits", {2, 3, 4, 8});
}

template <typename T>
void AddOnce(T value, std::vector<T>* values) {
  if (std::find(values->begin(), values->end(), value) == values->end()) values->push_back(value);
}

// A key that must not be set: with it the values would be others.
absl::Status WantNone(const JsonFields& fields, const char* key, absl::string_view served) {
  if (!fields.Has(key) || fields.At(key).empty() || fields.At(key) == false) {
    return absl::OkStatus();
  }
  return NotServed(fields, key, served);
}

absl::Status WantString(const JsonFields& fields, const char* key,
                        const std::vector<absl::string_view>& allowed, absl::string_view served) {
  KVASIR_ASSIGN_OR_RETURN(const std::string value, fields.StringOr(key, allowed.front()));
  return std::find(allowed.begin(), allowed.end(), value) != allowed.end()
             ? absl::OkStatus()
             : NotServed(fields, key, served);
}

// -1 = all inputs of a row; else a multiple of 32.
absl::StatusOr<int64_t> ReadGroupSize(const JsonFields& fields) {
  KVASIR_ASSIGN_OR_RETURN(const int64_t size, fields.Int("group_size", -1, kMaxGroup));
  if (size == -1) return 0;
  if (size == 0) return fields.Wrong("group_size", "must be -1 or at least 1");
  if (size % 32 != 0) return NotServed(fields, "group_size", "multiples of 32, and -1");
  return size;
}

// Settings of modules whose names a pattern finds. Which those are is not asked: their tensors have
// the shapes of one setting or another.
absl::Status ReadGptqRules(const JsonFields& fields, QuantizationConfig* config) {
  if (!fields.Has("dynamic") || fields.At("dynamic") == false) return absl::OkStatus();
  const Json& dynamic = fields.At("dynamic");
  if (!dynamic.is_object() || dynamic.size() > kMaxRules) {
    return fields.Wrong("dynamic",
                        absl::StrCat("must be an object of at most ", kMaxRules, " rules"));
  }
  for (const auto& [pattern, settings] : dynamic.items()) {
    if (absl::StartsWith(pattern, "-:")) continue;  // leaves modules out
    const std::string path = absl::StrCat(fields.file(), ": dynamic: ", pattern.substr(0, 80));
    if (!settings.is_object()) {
      return absl::InvalidArgumentError(absl::StrCat(path, " must be an object"));
    }
    const JsonFields rule(&settings, path);
    if (rule.Has("bits")) {
      KVASIR_ASSIGN_OR_RETURN(const int bits, GptqBits(rule));
      AddOnce(bits, &config->bits);
    }
    if (rule.Has("group_size")) {
      KVASIR_ASSIGN_OR_RETURN(const int64_t group, ReadGroupSize(rule));
      AddOnce(group, &config->group_sizes);
    }
    KVASIR_RETURN_IF_ERROR(WantNone(rule, "adapter", "weights without adapters; merge it first"));
    KVASIR_ASSIGN_OR_RETURN(const bool order, rule.BoolOr("desc_act", false));
    config->needs_order |= order;
  }
  return absl::OkStatus();
}

absl::StatusOr<QuantizationConfig> ReadGptq(const JsonFields& fields) {
  QuantizationConfig config;
  config.method = Method::kGptq;
  KVASIR_ASSIGN_OR_RETURN(const int bits, GptqBits(fields));
  KVASIR_ASSIGN_OR_RETURN(const int64_t group, ReadGroupSize(fields));
  config.bits = {bits};
  config.group_sizes = {group};
  // Newer writers have the second key, some both.
  KVASIR_ASSIGN_OR_RETURN(const std::string newer, fields.StringOr("format", "gptq"));
  for (const char* key : {"checkpoint_format", "format"}) {
    KVASIR_RETURN_IF_ERROR(WantString(fields, key, {"gptq", "gptq_v2"}, "gptq and gptq_v2"));
  }
  KVASIR_ASSIGN_OR_RETURN(const std::string format, fields.StringOr("checkpoint_format", newer));
  if (fields.Has("format") && format != newer) {
    return fields.Wrong("format", absl::StrCat("but checkpoint_format is \"", format, "\""));
  }
  config.zeros_less_one = format == "gptq";
  KVASIR_RETURN_IF_ERROR(WantString(fields, "pack_dtype", {"int32"}, "int32"));
  KVASIR_RETURN_IF_ERROR(WantNone(fields, "is_marlin_format", "false"));
  KVASIR_RETURN_IF_ERROR(WantNone(fields, "adapter", "weights without adapters; merge it first"));
  KVASIR_ASSIGN_OR_RETURN(config.needs_order, fields.BoolOr("desc_act", false));
  KVASIR_RETURN_IF_ERROR(ReadGptqRules(fields, &config));
  return config;
}

absl::StatusOr<QuantizationConfig> ReadAwq(const JsonFields& fields) {
  QuantizationConfig config;
  config.method = Method::kAwq;
  KVASIR_RETURN_IF_ERROR(WantInt(fields, "bits", 4, "4 bits"));
  KVASIR_ASSIGN_OR_RETURN(const int64_t group, ReadGroupSize(fields));
  config.group_sizes = {group};
  for (const char* key : {"version", "format", "checkpoint_format"}) {
    KVASIR_RETURN_IF_ERROR(WantString(fields, key, {"gemm", "GEMM"}, "gemm"));
  }
  return config;
}

absl::StatusOr<QuantizationConfig> ReadFp8(const JsonFields& fields) {
  QuantizationConfig config;
  config.method = Method::kScaledBytes;
  config.has_fp8 = true;
  KVASIR_RETURN_IF_ERROR(WantString(fields, "fmt", {"e4m3", "float8_e4m3fn"}, "e4m3"));
  if (!fields.Has("weight_block_size")) return config;
  KVASIR_ASSIGN_OR_RETURN(const std::vector<int> block,
                          fields.IntList("weight_block_size", 2, 1, kMaxGroup));
  if (block.size() != 2) return fields.Wrong("weight_block_size", "must be two integers");
  if (block[1] % 128 != 0) {
    return NotServed(fields, "weight_block_size", "blocks of a multiple of 128 inputs");
  }
  config.block_rows = block[0];
  config.block_cols = block[1];
  return config;
}

// --- compressed-tensors ---

absl::Status ReadPackedWeights(const JsonFields& weights, QuantizationConfig* config) {
  KVASIR_ASSIGN_OR_RETURN(const int bits, Bits(weights, "num_bits", {4, 8}));
  if (config->group_sizes.empty()) config->bits.clear();
  AddOnce(bits, &config->bits);
  KVASIR_RETURN_IF_ERROR(WantString(weights, "type", {"int"}, "int"));
  KVASIR_RETURN_IF_ERROR(
      WantString(weights, "strategy", {"group", "channel"}, "group and channel"));
  KVASIR_ASSIGN_OR_RETURN(const std::string strategy, weights.StringOr("strategy", "group"));
  int64_t group = 0;
  if (strategy == "group") {
    KVASIR_ASSIGN_OR_RETURN(group, ReadGroupSize(weights));
  }
  AddOnce(group, &config->group_sizes);
  if (!weights.Has("actorder") || weights.At("actorder").is_boolean()) {
    config->needs_order |= weights.Has("actorder") && weights.At("actorder") == true;
    return absl::OkStatus();
  }
  // "weight" orders before quantising and stores what it gives in the plain order.
  KVASIR_ASSIGN_OR_RETURN(const std::string order, weights.StringOr("actorder", ""));
  for (const char* known : {"group", "weight", "static", "dynamic"}) {
    if (!absl::EqualsIgnoreCase(order, known)) continue;
    config->needs_order |=
        absl::EqualsIgnoreCase(order, "group") || absl::EqualsIgnoreCase(order, "dynamic");
    return absl::OkStatus();
  }
  return NotServed(weights, "actorder", "group, weight, static and dynamic");
}

// A group size, where one is said, must be this.
absl::Status WantGroup(const JsonFields& fields, int64_t size) {
  if (!fields.Has("group_size")) return absl::OkStatus();
  return WantInt(fields, "group_size", size, absl::StrCat("groups of ", size));
}

// MXFP4 and NVFP4, which differ in their groups.
absl::Status ReadFp4Weights(const JsonFields& weights, int64_t group) {
  KVASIR_RETURN_IF_ERROR(WantInt(weights, "num_bits", 4, "4 bits"));
  KVASIR_RETURN_IF_ERROR(WantString(weights, "type", {"float"}, "float"));
  return WantGroup(weights, group);
}

absl::Status ReadByteWeights(const JsonFields& weights, QuantizationConfig* config) {
  KVASIR_RETURN_IF_ERROR(WantInt(weights, "num_bits", 8, "8 bits"));
  KVASIR_RETURN_IF_ERROR(WantString(weights, "type", {"int", "float"}, "int and float"));
  KVASIR_ASSIGN_OR_RETURN(const std::string type, weights.StringOr("type", "int"));
  (type == "float" ? config->has_fp8 : config->has_int8) = true;
  KVASIR_ASSIGN_OR_RETURN(const bool symmetric, weights.BoolOr("symmetric", true));
  if (!symmetric) return NotServed(weights, "symmetric", "symmetric weights of eight bits");
  KVASIR_RETURN_IF_ERROR(
      WantString(weights, "strategy", {"tensor", "channel", "block"}, "tensor, channel and block"));
  KVASIR_ASSIGN_OR_RETURN(const std::string strategy, weights.StringOr("strategy", "tensor"));
  if (strategy != "block") return absl::OkStatus();
  KVASIR_ASSIGN_OR_RETURN(const std::vector<int> block,
                          weights.IntList("block_structure", 2, 1, kMaxGroup));
  if (block.size() != 2) return weights.Wrong("block_structure", "must be two integers");
  if (block[1] % 128 != 0 || (config->block_rows != 0 &&
                              (config->block_rows != block[0] || config->block_cols != block[1]))) {
    return NotServed(weights, "block_structure", "one size, a multiple of 128 inputs");
  }
  config->block_rows = block[0];
  config->block_cols = block[1];
  return absl::OkStatus();
}

// A format that stands for a group of modules must be the checkpoint's.
absl::Status ReadConfigGroup(const JsonFields& group, const std::string& format,
                             QuantizationConfig* config) {
  KVASIR_ASSIGN_OR_RETURN(const std::string own, group.StringOr("format", format));
  if (own != format) return NotServed(group, "format", absl::StrCat("one format, here ", format));
  if (!group.Has("weights") || !group.At("weights").is_object()) {
    return group.Wrong("weights", "must be an object");
  }
  const JsonFields weights(&group.At("weights"), absl::StrCat(group.file(), ": weights"));
  switch (config->method) {
    case Method::kPackedInt4:
      return ReadPackedWeights(weights, config);
    case Method::kPackedMxfp4:
      return ReadFp4Weights(weights, 32);
    case Method::kPackedNvfp4:
      return ReadFp4Weights(weights, 16);
    default:
      return ReadByteWeights(weights, config);
  }
}

absl::StatusOr<QuantizationConfig> ReadCompressedTensors(const JsonFields& fields) {
  KVASIR_RETURN_IF_ERROR(WantString(fields, "quantization_status", {"compressed"}, "compressed"));
  constexpr absl::string_view kServed =
      "pack-quantized, int-quantized, float-quantized, naive-quantized, mxfp4-pack-quantized, "
      "nvfp4-pack-quantized";
  KVASIR_RETURN_IF_ERROR(
      WantString(fields, "format",
                 {"pack-quantized", "int-quantized", "float-quantized", "naive-quantized",
                  "mxfp4-pack-quantized", "nvfp4-pack-quantized"},
                 kServed));
  KVASIR_ASSIGN_OR_RETURN(const std::string format, fields.StringOr("format", "pack-quantized"));
  if (fields.Has("sparsity_config") && fields.At("sparsity_config").is_object() &&
      !fields.At("sparsity_config").empty()) {
    const JsonFields sparsity(&fields.At("sparsity_config"),
                              absl::StrCat(fields.file(), ": sparsity_config"));
    KVASIR_RETURN_IF_ERROR(WantString(sparsity, "format", {"dense"}, "dense"));
  }
  if (fields.Has("transform_config") && !fields.At("transform_config").empty()) {
    return NotServed(fields, "transform_config", "weights without transforms");
  }
  QuantizationConfig config;
  config.method = format == "pack-quantized"         ? Method::kPackedInt4
                  : format == "mxfp4-pack-quantized" ? Method::kPackedMxfp4
                  : format == "nvfp4-pack-quantized" ? Method::kPackedNvfp4
                                                     : Method::kScaledBytes;
  if (!fields.Has("config_groups") || !fields.At("config_groups").is_object() ||
      fields.At("config_groups").empty() || fields.At("config_groups").size() > kMaxConfigGroups) {
    return fields.Wrong("config_groups",
                        absl::StrCat("must be an object of 1 to ", kMaxConfigGroups, " groups"));
  }
  for (const auto& [name, group] : fields.At("config_groups").items()) {
    const std::string path = absl::StrCat(fields.file(), ": config_groups: ", name.substr(0, 80));
    if (!group.is_object()) {
      return absl::InvalidArgumentError(absl::StrCat(path, " must be an object"));
    }
    KVASIR_RETURN_IF_ERROR(ReadConfigGroup(JsonFields(&group, path), format, &config));
  }
  return config;
}

// Model Optimizer's: in config.json, or under "quantization" of hf_quant_config.json.
absl::StatusOr<QuantizationConfig> ReadModelOpt(const JsonFields& fields) {
  KVASIR_RETURN_IF_ERROR(WantString(fields, "quant_algo", {"FP8", "NVFP4"}, "FP8 and NVFP4"));
  KVASIR_ASSIGN_OR_RETURN(const std::string algorithm, fields.StringOr("quant_algo", "FP8"));
  if (algorithm == "FP8") return ReadFp8(fields);
  KVASIR_RETURN_IF_ERROR(WantGroup(fields, 16));
  QuantizationConfig config;
  config.method = Method::kNvfp4;
  return config;
}

absl::StatusOr<QuantizationConfig> Read(const JsonFields& fields) {
  constexpr absl::string_view kServed =
      "gptq, awq, compressed-tensors, fp8, fbgemm_fp8, modelopt (FP8 and NVFP4), mxfp4";
  KVASIR_ASSIGN_OR_RETURN(const std::string method, fields.StringOr("quant_method", ""));
  if (method == "gptq") return ReadGptq(fields);
  if (method == "awq") return ReadAwq(fields);
  if (method == "compressed-tensors") return ReadCompressedTensors(fields);
  if (method == "fp8" || method == "fbgemm_fp8") return ReadFp8(fields);
  if (method == "modelopt") return ReadModelOpt(fields);
  if (method == "mxfp4") {
    QuantizationConfig config;
    config.method = Method::kMxfp4;
    return config;
  }
  return NotServed(fields, "quant_method",
                   absl::StrCat(kServed,
                                " (or take a GGUF file of the model, or the unquantised "
                                "checkpoint: weights int4 and compute type int8 are made while "
                                "loading)"));
}

// The object under `key`, which is there, or an error.
absl::StatusOr<QuantizationConfig> ReadUnder(const JsonFields& config, const char* key) {
  if (!config.At(key).is_object()) return config.Wrong(key, "must be an object or null");
  return Read(JsonFields(&config.At(key), absl::StrCat(config.file(), ": ", key)));
}

}  // namespace

absl::StatusOr<QuantizationConfig> ParseQuantizationConfig(const Json& config) {
  const JsonFields fields(&config, "config.json");
  for (const char* key : {"quantization_config", "compression_config"}) {
    if (fields.Has(key)) return ReadUnder(fields, key);
    if (!fields.Has("text_config") || !fields.At("text_config").is_object()) continue;
    const JsonFields text(&fields.At("text_config"), "config.json: text_config");
    if (text.Has(key)) return ReadUnder(text, key);
  }
  return QuantizationConfig();
}

absl::StatusOr<QuantizationConfig> LoadQuantizationConfig(const std::string& folder) {
  KVASIR_ASSIGN_OR_RETURN(const Json config,
                          ReadJsonObject(absl::StrCat(folder, "/config.json"), kMaxConfigBytes));
  KVASIR_ASSIGN_OR_RETURN(const QuantizationConfig parsed, ParseQuantizationConfig(config));
  if (parsed.method != Method::kNone) return parsed;
  const std::string gptq = absl::StrCat(folder, "/quantize_config.json");
  absl::StatusOr<Json> own = ReadJsonObject(gptq, kMaxConfigBytes);
  if (own.ok()) return ReadGptq(JsonFields(&*own, gptq));
  if (!absl::IsNotFound(own.status())) return own.status();
  const std::string model_opt = absl::StrCat(folder, "/hf_quant_config.json");
  own = ReadJsonObject(model_opt, kMaxConfigBytes);
  if (absl::IsNotFound(own.status())) return parsed;
  KVASIR_RETURN_IF_ERROR(own.status());
  const JsonFields fields(&*own, model_opt);
  if (!fields.Has("quantization") || !fields.At("quantization").is_object()) {
    return fields.Wrong("quantization", "must be an object");
  }
  return ReadModelOpt(
      JsonFields(&fields.At("quantization"), absl::StrCat(model_opt, ": quantization")));
}

}  // namespace kvasir
