#include "runtime/model/gguf/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/formats/dequantize.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/gguf/gguf_reader.h"

namespace kvasir {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxSize = INT32_MAX;
constexpr int64_t kMaxLayers = 1024;

// --- What all architectures have ---

// Values of attention are as long as keys in everything that is read from GGUF files.
absl::Status CheckValueLength(const GgufReader& reader, const Json& config) {
  KVASIR_ASSIGN_OR_RETURN(const auto value, reader.Integer("attention.value_length", kMaxSize));
  if (!value || !config.contains("head_dim")) return absl::OkStatus();
  const auto key = config["head_dim"].get<int64_t>();
  if (*value == key) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat("GGUF key ", reader.Key("attention.value_length"),
                                               " is ", *value, ", but keys have ", key,
                                               "; only equal lengths are read"));
}

absl::Status ReadSizes(const GgufReader& reader, Json* config) {
  KVASIR_ASSIGN_OR_RETURN(const int64_t hidden, reader.Need("embedding_length"));
  KVASIR_ASSIGN_OR_RETURN(int64_t layers, reader.Need("block_count"));
  // The layers behind the last predict several tokens at once.
  KVASIR_ASSIGN_OR_RETURN(const auto extra, reader.Integer("nextn_predict_layers", kMaxLayers));
  layers -= extra.value_or(0);
  if (layers < 1 || layers > kMaxLayers) {
    return absl::InvalidArgumentError(absl::StrCat("GGUF key ", reader.Key("block_count"),
                                                   " gives ", layers, " layers; want 1 to ",
                                                   kMaxLayers));
  }
  KVASIR_ASSIGN_OR_RETURN(const int64_t heads, reader.Need("attention.head_count"));
  KVASIR_ASSIGN_OR_RETURN(const int64_t context, reader.Need("context_length"));
  (*config)["hidden_size"] = hidden;
  (*config)["num_hidden_layers"] = layers;
  (*config)["num_attention_heads"] = heads;
  (*config)["max_position_embeddings"] = context;
  KVASIR_ASSIGN_OR_RETURN(const std::vector<int64_t> kv_heads, reader.KvHeads(layers, heads));
  int64_t kv = 0;
  for (const int64_t count : kv_heads) {
    if (count == 0) continue;  // no attention in that layer
    if (kv != 0 && count != kv) {
      return absl::UnimplementedError(
          "layers with different numbers of K/V heads in one GGUF file");
    }
    kv = count;
  }
  (*config)["num_key_value_heads"] = kv;
  KVASIR_RETURN_IF_ERROR(reader.CopyInteger("feed_forward_length", "intermediate_size", config));
  KVASIR_RETURN_IF_ERROR(reader.CopyInteger("attention.key_length", "head_dim", config));
  KVASIR_RETURN_IF_ERROR(
      reader.CopyNumber("attention.layer_norm_rms_epsilon", "rms_norm_eps", config));
  if (!config->contains("rms_norm_eps")) {
    KVASIR_RETURN_IF_ERROR(
        reader.CopyNumber("attention.layer_norm_epsilon", "layer_norm_epsilon", config));
  }
  if (!config->contains("rms_norm_eps") && !config->contains("layer_norm_epsilon")) {
    return absl::InvalidArgumentError(absl::StrCat(
        "GGUF key ", reader.Key("attention.layer_norm_rms_epsilon"), " is missing (or ",
        reader.Key("attention.layer_norm_epsilon"), "); convert the original again"));
  }
  KVASIR_RETURN_IF_ERROR(CheckValueLength(reader, *config));
  const GgufFile::Tensor* table = reader.file().Find("token_embd.weight");
  if (table == nullptr || table->info.shape.size() != 2) {
    return absl::InvalidArgumentError("the GGUF file has no token_embd.weight of two dimensions");
  }
  (*config)["vocab_size"] = table->info.shape[0];
  (*config)["tie_word_embeddings"] = reader.file().Find("output.weight") == nullptr;
  return absl::OkStatus();
}

// --- Rotary embedding ---

// What each frequency is divided by, of a tensor of the file; empty: it has no such tensor.
absl::StatusOr<std::vector<float>> ReadDivisors(const GgufReader& reader, const char* name) {
  const GgufFile::Tensor* tensor = reader.file().Find(name);
  if (tensor == nullptr) return std::vector<float>();
  if (tensor->info.type.type != TensorType::kF32 || tensor->info.shape.size() != 1) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " is no vector of F32"));
  }
  std::vector<float> divisors(static_cast<size_t>(tensor->info.shape[0]));
  Dequantize(WeightFormat::kF32, reader.file().Bytes(*tensor).data(),
             static_cast<int64_t>(divisors.size()), divisors.data());
  return divisors;
}

// The scaling of long contexts as the file has it: one set of divisors for all contexts.
absl::Status ReadRopeDivisors(const GgufReader& reader, Json* rope) {
  KVASIR_ASSIGN_OR_RETURN(const std::vector<float> divisors,
                          ReadDivisors(reader, "rope_freqs.weight"));
  if (divisors.empty()) return absl::OkStatus();
  (*rope)["rope_type"] = "longrope";
  (*rope)["short_factor"] = divisors;
  (*rope)["long_factor"] = divisors;
  (*rope)["factor"] = 1.0;
  (*rope)["attention_factor"] = 1.0;
  return absl::OkStatus();
}

// One set for short contexts and one for long ones.
absl::Status ReadLongRope(const GgufReader& reader, Json* rope) {
  KVASIR_ASSIGN_OR_RETURN(const std::vector<float> brief,
                          ReadDivisors(reader, "rope_factors_short.weight"));
  KVASIR_ASSIGN_OR_RETURN(const std::vector<float> wide,
                          ReadDivisors(reader, "rope_factors_long.weight"));
  if (brief.empty() || wide.empty()) {
    return absl::InvalidArgumentError(
        "the GGUF file scales its rope by longrope, but lacks rope_factors_short.weight or "
        "rope_factors_long.weight; convert the original again");
  }
  (*rope)["rope_type"] = "longrope";
  (*rope)["short_factor"] = brief;
  (*rope)["long_factor"] = wide;
  KVASIR_RETURN_IF_ERROR(reader.CopyInteger("rope.scaling.original_context_length",
                                            "original_max_position_embeddings", rope));
  KVASIR_RETURN_IF_ERROR(reader.CopyNumber("rope.scaling.factor", "factor", rope));
  return reader.CopyNumber("rope.scaling.attn_factor", "attention_factor", rope);
}

absl::Status ReadRopeScaling(const GgufReader& reader, Json* rope) {
  KVASIR_ASSIGN_OR_RETURN(const auto type,
                          reader.metadata().String(reader.Key("rope.scaling.type")));
  KVASIR_ASSIGN_OR_RETURN(auto factor, reader.Number("rope.scaling.factor"));
  if (!factor) {
    KVASIR_ASSIGN_OR_RETURN(factor, reader.Number("rope.scale_linear"));  // as old files have it
  }
  if (type == "longrope" ||
      reader.HasEither("rope_factors_short.weight", "rope_factors_long.weight")) {
    return ReadLongRope(reader, rope);
  }
  if (type == "none" || (!type && !factor)) return ReadRopeDivisors(reader, rope);
  if (!type || type == "linear") {
    if (!factor || *factor == 1.0) return absl::OkStatus();
    (*rope)["rope_type"] = "linear";
    (*rope)["factor"] = *factor;
    return absl::OkStatus();
  }
  if (type != "yarn" || !factor) {
    return absl::UnimplementedError(
        absl::StrCat("GGUF key ", reader.Key("rope.scaling.type"), " is ", QuoteForeign(*type),
                     "; none, linear, longrope and yarn (with a factor) are read"));
  }
  (*rope)["rope_type"] = "yarn";
  (*rope)["factor"] = *factor;
  KVASIR_RETURN_IF_ERROR(reader.CopyInteger("rope.scaling.original_context_length",
                                            "original_max_position_embeddings", rope));
  KVASIR_RETURN_IF_ERROR(reader.CopyNumber("rope.scaling.yarn_beta_fast", "beta_fast", rope));
  KVASIR_RETURN_IF_ERROR(reader.CopyNumber("rope.scaling.yarn_beta_slow", "beta_slow", rope));
  // Beside the factor that yarn itself asks for.
  KVASIR_ASSIGN_OR_RETURN(const auto beside, reader.Number("rope.scaling.attn_factor"));
  if (beside && *beside != 1.0) {
    (*rope)["attention_factor"] = *beside * (0.1 * std::log(std::max(1.0, *factor)) + 1.0);
  }
  return absl::OkStatus();
}

absl::Status ReadRope(const GgufReader& reader, Json* config) {
  Json rope = {{"rope_type", "default"}};
  KVASIR_ASSIGN_OR_RETURN(const auto theta, reader.Number("rope.freq_base"));
  rope["rope_theta"] = theta.value_or(10000.0);
  KVASIR_ASSIGN_OR_RETURN(const auto rotated, reader.Integer("rope.dimension_count", kMaxSize));
  const int64_t heads = std::max<int64_t>(1, (*config)["num_attention_heads"].get<int64_t>());
  const int64_t head_dim = config->contains("head_dim")
                               ? (*config)["head_dim"].get<int64_t>()
                               : (*config)["hidden_size"].get<int64_t>() / heads;
  if (rotated && *rotated != head_dim && head_dim > 0) {
    rope["partial_rotary_factor"] = static_cast<double>(*rotated) / static_cast<double>(head_dim);
  }
  KVASIR_RETURN_IF_ERROR(ReadRopeScaling(reader, &rope));
  (*config)["rope_parameters"] = std::move(rope);
  return absl::OkStatus();
}

// All tokens that end a turn.
absl::StatusOr<Json> ReadGeneration(const GgufMetadata& metadata, int64_t vocab_size) {
  Json generation = Json::object();
  Json ends = Json::array();
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    KVASIR_ASSIGN_OR_RETURN(const auto id, metadata.Integer(key, 0, vocab_size - 1));
    if (id) ends.push_back(*id);
  }
  if (!ends.empty()) generation["eos_token_id"] = std::move(ends);
  KVASIR_ASSIGN_OR_RETURN(const auto bos,
                          metadata.Integer("tokenizer.ggml.bos_token_id", 0, vocab_size - 1));
  if (bos) generation["bos_token_id"] = *bos;
  return generation;
}

}  // namespace

absl::StatusOr<GgufConfig> ReadGgufConfig(const GgufFile& file) {
  KVASIR_ASSIGN_OR_RETURN(const Architecture architecture,
                          FindGgufArchitecture(file.architecture()));
  const GgufReader reader(file);
  GgufConfig result;
  result.config["architectures"] = {architecture.name};
  KVASIR_RETURN_IF_ERROR(ReadSizes(reader, &result.config));
  KVASIR_RETURN_IF_ERROR(ReadRope(reader, &result.config));
  if (architecture.gguf.complete != nullptr)
    KVASIR_RETURN_IF_ERROR(architecture.gguf.complete(reader, &result.config));
  KVASIR_ASSIGN_OR_RETURN(
      result.generation_config,
      ReadGeneration(file.metadata(), result.config["vocab_size"].get<int64_t>()));
  return result;
}

}  // namespace kvasir
