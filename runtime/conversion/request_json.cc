#include "runtime/conversion/request_json.h"

#include <algorithm>
#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/formats/weight_format.h"
#include "runtime/model/json_fields.h"

namespace kvasir {
namespace {

constexpr size_t kMaxRequestBytes = size_t{1} << 20;

constexpr const char* kKeys[] = {"source", "output", "kv_heads", "heads",       "cla",  "mlkv",
                                 "layers", "seed",   "weights",  "shard_bytes", "force"};

absl::Status ReadCount(const JsonFields& fields, const char* key, std::optional<int>* count) {
  if (!fields.Has(key)) return absl::OkStatus();
  KVASIR_ASSIGN_OR_RETURN(const int64_t value, fields.Int(key, INT32_MIN, INT32_MAX));
  *count = static_cast<int>(value);
  return absl::OkStatus();
}

absl::Status ReadHeads(const JsonFields& fields, HeadRecipe* recipe) {
  KVASIR_ASSIGN_OR_RETURN(const std::string name, fields.StringOr("heads", "mean"));
  if (name == "mean") {
    *recipe = HeadRecipe::kMean;
  } else if (name == "first") {
    *recipe = HeadRecipe::kFirst;
  } else if (name == "random") {
    *recipe = HeadRecipe::kRandom;
  } else {
    return fields.Wrong("heads", "but must be mean, first or random");
  }
  return absl::OkStatus();
}

absl::Status ReadLayers(const JsonFields& fields, std::optional<LayerRecipe>* recipe) {
  if (!fields.Has("layers")) return absl::OkStatus();
  KVASIR_ASSIGN_OR_RETURN(const std::string name, fields.StringOr("layers", ""));
  if (name == "first") {
    *recipe = LayerRecipe::kFirst;
  } else if (name == "mean") {
    *recipe = LayerRecipe::kMean;
  } else if (name == "running_mean") {
    *recipe = LayerRecipe::kRunningMean;
  } else {
    return fields.Wrong("layers", "but must be first, mean or running_mean");
  }
  return absl::OkStatus();
}

absl::Status ReadWeights(const JsonFields& fields, ConversionRequest* request) {
  if (!fields.Has("weights")) return absl::OkStatus();
  KVASIR_ASSIGN_OR_RETURN(const std::string name, fields.StringOr("weights", ""));
  if (name == "int8" || name == "int4") {
    request->integer_bits = name == "int8" ? 8 : 4;
    return absl::OkStatus();
  }
  std::string known = "int8, int4";
  for (const WeightFormat format :
       {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kF16, WeightFormat::kQ8_0,
        WeightFormat::kQ4_0, WeightFormat::kQ4_K}) {
    if (name == Info(format).name) {
      request->weights = format;
      return absl::OkStatus();
    }
    absl::StrAppend(&known, ", ", Info(format).name);
  }
  return fields.Wrong("weights", absl::StrCat("but must be one of ", known));
}

nlohmann::ordered_json ToJson(const ModelFigures& figures) {
  return {{"architecture", figures.architecture},
          {"sharing", figures.sharing},
          {"kv_heads", figures.kv_heads},
          {"kv_layers", figures.kv_layers},
          {"parameters", figures.parameters},
          {"weight_bytes", figures.weight_bytes},
          {"kv_bytes_per_token_resident", figures.kv_bytes_per_token_resident},
          {"kv_bytes_per_token_read", figures.kv_bytes_per_token_read}};
}

}  // namespace

absl::StatusOr<ConversionRequest> ParseConversionRequest(absl::string_view json) {
  KVASIR_ASSIGN_OR_RETURN(const nlohmann::json object,
                          ParseJsonObject(json, "request", kMaxRequestBytes));
  for (const auto& [key, value] : object.items()) {
    if (std::find(std::begin(kKeys), std::end(kKeys), key) == std::end(kKeys)) {
      return absl::InvalidArgumentError(absl::StrCat("request: unknown key ", key));
    }
  }
  const JsonFields fields(&object, "request");
  ConversionRequest request;
  KVASIR_ASSIGN_OR_RETURN(request.source, fields.StringOr("source", ""));
  KVASIR_ASSIGN_OR_RETURN(request.output, fields.StringOr("output", ""));
  if (request.source.empty() || request.output.empty()) {
    return absl::InvalidArgumentError("request: source and output must name a model and a place");
  }
  KVASIR_RETURN_IF_ERROR(ReadCount(fields, "kv_heads", &request.sharing.kv_heads));
  KVASIR_RETURN_IF_ERROR(ReadCount(fields, "cla", &request.sharing.cla_factor));
  KVASIR_RETURN_IF_ERROR(ReadCount(fields, "mlkv", &request.sharing.mlkv_layers));
  KVASIR_RETURN_IF_ERROR(ReadHeads(fields, &request.sharing.heads));
  KVASIR_RETURN_IF_ERROR(ReadLayers(fields, &request.sharing.layers));
  KVASIR_ASSIGN_OR_RETURN(const int64_t seed, fields.IntOr("seed", 0, 0, INT64_MAX));
  request.sharing.seed = static_cast<uint64_t>(seed);
  KVASIR_RETURN_IF_ERROR(ReadWeights(fields, &request));
  KVASIR_ASSIGN_OR_RETURN(request.shard_bytes,
                          fields.IntOr("shard_bytes", request.shard_bytes, 1, INT64_MAX));
  KVASIR_ASSIGN_OR_RETURN(request.force, fields.BoolOr("force", false));
  return request;
}

nlohmann::ordered_json ToJson(const ConversionReport& report) {
  return {{"source", ToJson(report.source)},
          {"result", ToJson(report.result)},
          {"tensors", report.tensors},
          {"files", report.files}};
}

nlohmann::ordered_json ToJson(const absl::Status& error) {
  return {{"code", static_cast<int>(error.code())}, {"message", std::string(error.message())}};
}

}  // namespace kvasir
