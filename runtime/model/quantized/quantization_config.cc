#include "runtime/model/quantized/quantization_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/model/json_fields.h"

namespace kvasir {
namespace {

using Json = nlohmann::json;
using Method = QuantizationConfig::Method;

constexpr int64_t kMaxGroup = 1 << 20;
constexpr size_t kMaxConfigGroups = 64;

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

absl::StatusOr<int> FourOrEight(const JsonFields& fields, const char* key) {
  KVASIR_ASSIGN_OR_RETURN(const int64_t value, fields.Int(key, 0, 1024));
  if (value != 4 && value != 8) return NotServed(fields, key, "4 bits and 8 bits");
  return static_cast<int>(value);
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

absl::StatusOr<QuantizationConfig> ReadGptq(const JsonFields& fields) {
  QuantizationConfig config;
  config.method = Method::kGptq;
  KVASIR_ASSIGN_OR_RETURN(config.bits, FourOrEight(fields, "bits"));
  KVASIR_ASSIGN_OR_RETURN(const int64_t group, ReadGroupSize(fields));
  config.group_sizes = {group};
  KVASIR_RETURN_IF_ERROR(
      WantString(fields, "checkpoint_format", {"gptq", "gptq_v2"}, "gptq and gptq_v2"));
  KVASIR_ASSIGN_OR_RETURN(const std::string format, fields.StringOr("checkpoint_format", "gptq"));
  config.zeros_less_one = format == "gptq";
  if (fields.Has("dynamic")) {
    const Json& dynamic = fields.At("dynamic");
    // "-:" leaves modules out; anything else gives them settings of their own.
    const bool only_left_out =
        dynamic.is_object() &&
        std::all_of(dynamic.items().begin(), dynamic.items().end(),
                    [](const auto& rule) { return absl::StartsWith(rule.key(), "-:"); });
    if (!only_left_out && !(dynamic.is_boolean() && !dynamic.get<bool>())) {
      return NotServed(fields, "dynamic", "rules that begin with \"-:\"");
    }
  }
  return config;
}

absl::StatusOr<QuantizationConfig> ReadAwq(const JsonFields& fields) {
  QuantizationConfig config;
  config.method = Method::kAwq;
  KVASIR_RETURN_IF_ERROR(WantInt(fields, "bits", 4, "4 bits"));
  KVASIR_ASSIGN_OR_RETURN(const int64_t group, ReadGroupSize(fields));
  config.group_sizes = {group};
  KVASIR_RETURN_IF_ERROR(WantString(fields, "version", {"gemm", "GEMM"}, "gemm"));
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
  KVASIR_ASSIGN_OR_RETURN(const int bits, FourOrEight(weights, "num_bits"));
  if (!config->group_sizes.empty() && bits != config->bits) {
    return NotServed(weights, "num_bits", "the same number in all config_groups");
  }
  config->bits = bits;
  KVASIR_RETURN_IF_ERROR(WantString(weights, "type", {"int"}, "int"));
  KVASIR_RETURN_IF_ERROR(
      WantString(weights, "strategy", {"group", "channel"}, "group and channel"));
  KVASIR_ASSIGN_OR_RETURN(const std::string strategy, weights.StringOr("strategy", "group"));
  int64_t group = 0;
  if (strategy == "group") {
    KVASIR_ASSIGN_OR_RETURN(group, ReadGroupSize(weights));
  }
  config->group_sizes.push_back(group);
  return absl::OkStatus();
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
  return config->method == Method::kPackedInt4 ? ReadPackedWeights(weights, config)
                                               : ReadByteWeights(weights, config);
}

absl::StatusOr<QuantizationConfig> ReadCompressedTensors(const JsonFields& fields) {
  KVASIR_RETURN_IF_ERROR(WantString(fields, "quantization_status", {"compressed"}, "compressed"));
  constexpr absl::string_view kServed =
      "pack-quantized, int-quantized, float-quantized, naive-quantized";
  KVASIR_RETURN_IF_ERROR(WantString(
      fields, "format", {"pack-quantized", "int-quantized", "float-quantized", "naive-quantized"},
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
  config.method = format == "pack-quantized" ? Method::kPackedInt4 : Method::kScaledBytes;
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

absl::StatusOr<QuantizationConfig> Read(const JsonFields& fields) {
  constexpr absl::string_view kServed = "gptq, awq, compressed-tensors, fp8, mxfp4";
  KVASIR_ASSIGN_OR_RETURN(const std::string method, fields.StringOr("quant_method", ""));
  if (method == "gptq") return ReadGptq(fields);
  if (method == "awq") return ReadAwq(fields);
  if (method == "compressed-tensors") return ReadCompressedTensors(fields);
  if (method == "fp8") return ReadFp8(fields);
  if (method == "mxfp4") {
    QuantizationConfig config;
    config.method = Method::kMxfp4;
    return config;
  }
  return NotServed(fields, "quant_method",
                   absl::StrCat(kServed,
                                " (or take the unquantised checkpoint: weights int4 and "
                                "compute type int8 are made while loading)"));
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
  const std::string path = absl::StrCat(folder, "/quantize_config.json");
  if (parsed.method != Method::kNone) return parsed;
  const absl::StatusOr<Json> own = ReadJsonObject(path, kMaxConfigBytes);
  if (absl::IsNotFound(own.status())) return parsed;
  KVASIR_RETURN_IF_ERROR(own.status());
  return ReadGptq(JsonFields(&*own, path));
}

}  // namespace kvasir
