#include "runtime/model/gguf/gguf_config.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/formats/dequantize.h"

namespace kvasir {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxSize = INT32_MAX;
constexpr int64_t kMaxLayers = 1024;

// Keys of one architecture: Key("block_count") is "llama.block_count".
class Reader {
 public:
  explicit Reader(const GgufFile& file) : file_(file) {}

  const GgufFile& file() const { return file_; }
  const GgufMetadata& metadata() const { return file_.metadata(); }
  std::string Key(absl::string_view name) const {
    return absl::StrCat(file_.architecture(), ".", name);
  }

  absl::StatusOr<std::optional<int64_t>> Integer(absl::string_view name, int64_t max) const {
    return metadata().Integer(Key(name), 0, max);
  }
  absl::StatusOr<int64_t> Need(absl::string_view name) const {
    KVASIR_ASSIGN_OR_RETURN(const std::optional<int64_t> value, Integer(name, kMaxSize));
    if (value) return *value;
    return absl::InvalidArgumentError(
        absl::StrCat("GGUF key ", Key(name), " is missing; convert the original again"));
  }
  // Sets config[to] where the file has the key.
  absl::Status CopyInteger(absl::string_view name, const char* to, Json* config) const {
    KVASIR_ASSIGN_OR_RETURN(const std::optional<int64_t> value, Integer(name, kMaxSize));
    if (value) (*config)[to] = *value;
    return absl::OkStatus();
  }
  absl::StatusOr<std::optional<double>> Number(absl::string_view name) const {
    return metadata().Number(Key(name));
  }
  absl::Status CopyNumber(absl::string_view name, const char* to, Json* config) const {
    KVASIR_ASSIGN_OR_RETURN(const std::optional<double> value, Number(name));
    if (value) (*config)[to] = *value;
    return absl::OkStatus();
  }

 private:
  const GgufFile& file_;
};

// A word for each layer: full_attention where is_full, else the other.
template <typename IsFull>
void SetLayerTypes(const char* other, const IsFull& is_full, Json* config) {
  Json types = Json::array();
  const int layers = (*config)["num_hidden_layers"].get<int>();
  for (int layer = 0; layer < layers; ++layer) {
    types.push_back(is_full(layer) ? "full_attention" : other);
  }
  (*config)["layer_types"] = std::move(types);
}

// The last of every `period` layers is full, the others have windows.
void SetWindowPeriod(int period, Json* config) {
  SetLayerTypes(
      "sliding_attention", [&](int layer) { return (layer + 1) % period == 0; }, config);
}

// --- What all architectures have ---

// K/V heads: one number, or one per layer.
absl::StatusOr<std::vector<int64_t>> ReadKvHeads(const Reader& reader, int64_t layers,
                                                 int64_t heads) {
  const std::string key = reader.Key("attention.head_count_kv");
  const GgufValue* value = reader.metadata().Find(key);
  if (value == nullptr) return std::vector<int64_t>(layers, heads);
  if (!std::holds_alternative<GgufArray>(*value)) {
    KVASIR_ASSIGN_OR_RETURN(const std::optional<int64_t> all,
                            reader.Integer("attention.head_count_kv", heads));
    return std::vector<int64_t>(layers, *all);
  }
  KVASIR_ASSIGN_OR_RETURN(const auto list, reader.metadata().Integers(key));
  if (list->size() != static_cast<size_t>(layers)) {
    return absl::InvalidArgumentError(
        absl::StrCat("GGUF key ", key, " has ", list->size(), " entries for ", layers, " layers"));
  }
  return *list;
}

absl::Status ReadSizes(const Reader& reader, Json* config) {
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
  KVASIR_ASSIGN_OR_RETURN(const std::vector<int64_t> kv_heads, ReadKvHeads(reader, layers, heads));
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
  const GgufFile::Tensor* table = reader.file().Find("token_embd.weight");
  if (table == nullptr || table->info.shape.size() != 2) {
    return absl::InvalidArgumentError("the GGUF file has no token_embd.weight of two dimensions");
  }
  (*config)["vocab_size"] = table->info.shape[0];
  (*config)["tie_word_embeddings"] = reader.file().Find("output.weight") == nullptr;
  return absl::OkStatus();
}

// --- Rotary embedding ---

// Llama 3's scaling as the file has it: what each frequency is divided by.
absl::Status ReadRopeDivisors(const Reader& reader, Json* rope) {
  const GgufFile::Tensor* tensor = reader.file().Find("rope_freqs.weight");
  if (tensor == nullptr) return absl::OkStatus();
  if (tensor->info.type.type != TensorType::kF32 || tensor->info.shape.size() != 1) {
    return absl::InvalidArgumentError("tensor rope_freqs.weight is no vector of F32");
  }
  std::vector<float> divisors(static_cast<size_t>(tensor->info.shape[0]));
  Dequantize(WeightFormat::kF32, reader.file().Bytes(*tensor).data(),
             static_cast<int64_t>(divisors.size()), divisors.data());
  (*rope)["rope_type"] = "longrope";
  (*rope)["short_factor"] = divisors;
  (*rope)["long_factor"] = divisors;
  (*rope)["factor"] = 1.0;
  (*rope)["attention_factor"] = 1.0;
  return absl::OkStatus();
}

absl::Status ReadRopeScaling(const Reader& reader, Json* rope) {
  KVASIR_ASSIGN_OR_RETURN(const auto type,
                          reader.metadata().String(reader.Key("rope.scaling.type")));
  KVASIR_ASSIGN_OR_RETURN(auto factor, reader.Number("rope.scaling.factor"));
  if (!factor) {
    KVASIR_ASSIGN_OR_RETURN(factor, reader.Number("rope.scale_linear"));  // as old files have it
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
                     "; none, linear and yarn (with a factor) are read"));
  }
  (*rope)["rope_type"] = "yarn";
  (*rope)["factor"] = *factor;
  KVASIR_RETURN_IF_ERROR(reader.CopyInteger("rope.scaling.original_context_length",
                                            "original_max_position_embeddings", rope));
  KVASIR_RETURN_IF_ERROR(reader.CopyNumber("rope.scaling.yarn_beta_fast", "beta_fast", rope));
  return reader.CopyNumber("rope.scaling.yarn_beta_slow", "beta_slow", rope);
}

absl::Status ReadRope(const Reader& reader, Json* config) {
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

absl::Status ReadExpertCounts(const Reader& reader, Json* config) {
  KVASIR_RETURN_IF_ERROR(reader.CopyInteger("expert_count", "num_local_experts", config));
  return reader.CopyInteger("expert_used_count", "num_experts_per_tok", config);
}

// --- Architectures ---

absl::Status Nothing(const Reader&, Json*) { return absl::OkStatus(); }

absl::Status Llama(const Reader& reader, Json* config) {
  KVASIR_ASSIGN_OR_RETURN(const auto experts, reader.Integer("expert_count", kMaxSize));
  if (experts.value_or(0) == 0) return absl::OkStatus();
  (*config)["architectures"] = {"MixtralForCausalLM"};
  (*config)["model_type"] = "mixtral";
  return ReadExpertCounts(reader, config);
}

absl::Status Qwen3Moe(const Reader& reader, Json* config) {
  KVASIR_RETURN_IF_ERROR(
      reader.CopyInteger("expert_feed_forward_length", "moe_intermediate_size", config));
  (*config)["norm_topk_prob"] = true;
  return ReadExpertCounts(reader, config);
}

absl::Status Gemma(const Reader&, Json* config) {
  (*config)["hidden_activation"] = "gelu_pytorch_tanh";
  return absl::OkStatus();
}

// The largest model's scores are scaled by hidden_size / heads, and only its number of layers
// tells.
void SetGemmaScale(int largest_layers, Json* config) {
  const bool largest = (*config)["num_hidden_layers"] == largest_layers;
  (*config)["query_pre_attn_scalar"] = largest ? (*config)["hidden_size"].get<double>() /
                                                     (*config)["num_attention_heads"].get<double>()
                                               : (*config)["head_dim"].get<double>();
}

absl::Status CheckHeadDim(const Reader& reader, const Json& config) {
  if (config.contains("head_dim") && config["num_attention_heads"].get<int64_t>() > 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("GGUF key ", reader.Key("attention.key_length"), " is missing"));
}

absl::Status Gemma2(const Reader& reader, Json* config) {
  KVASIR_RETURN_IF_ERROR(CheckHeadDim(reader, *config));
  (*config)["hidden_activation"] = "gelu_pytorch_tanh";
  (*config)["attn_logit_softcapping"] = 50.0;
  (*config)["final_logit_softcapping"] = 30.0;
  KVASIR_RETURN_IF_ERROR(
      reader.CopyNumber("attn_logit_softcapping", "attn_logit_softcapping", config));
  KVASIR_RETURN_IF_ERROR(
      reader.CopyNumber("final_logit_softcapping", "final_logit_softcapping", config));
  KVASIR_RETURN_IF_ERROR(reader.CopyInteger("attention.sliding_window", "sliding_window", config));
  SetGemmaScale(46, config);
  SetWindowPeriod(2, config);
  return absl::OkStatus();
}

absl::Status Gemma3(const Reader& reader, Json* config) {
  KVASIR_RETURN_IF_ERROR(CheckHeadDim(reader, *config));
  (*config)["hidden_activation"] = "gelu_pytorch_tanh";
  KVASIR_RETURN_IF_ERROR(reader.CopyInteger("attention.sliding_window", "sliding_window", config));
  (*config)["rope_local_base_freq"] = 10000.0;
  KVASIR_RETURN_IF_ERROR(reader.CopyNumber("rope.freq_base_swa", "rope_local_base_freq", config));
  SetGemmaScale(62, config);
  SetWindowPeriod(6, config);
  return absl::OkStatus();
}

// OLMo 3 goes by the name of OLMo 2, with windows.
absl::Status Olmo2(const Reader& reader, Json* config) {
  KVASIR_ASSIGN_OR_RETURN(const auto window, reader.Integer("attention.sliding_window", kMaxSize));
  if (window.value_or(0) == 0) return absl::OkStatus();
  (*config)["architectures"] = {"Olmo3ForCausalLM"};
  (*config)["model_type"] = "olmo3";
  (*config)["sliding_window"] = *window;
  SetWindowPeriod(4, config);
  return absl::OkStatus();
}

absl::Status Bloom(const Reader&, Json* config) {
  // The converter writes the hidden size for a context that ALiBi leaves open: the architecture's
  // own default holds.
  config->erase("max_position_embeddings");
  config->erase("rope_parameters");
  config->erase("num_key_value_heads");
  return absl::OkStatus();
}

absl::Status Glm4(const Reader& reader, Json* config) {
  (*config)["attention_bias"] = reader.file().Find("blk.0.attn_q.bias") != nullptr;
  return absl::OkStatus();
}

absl::Status GptOss(const Reader& reader, Json* config) {
  KVASIR_RETURN_IF_ERROR(
      reader.CopyInteger("expert_feed_forward_length", "intermediate_size", config));
  KVASIR_RETURN_IF_ERROR(reader.CopyInteger("attention.sliding_window", "sliding_window", config));
  (*config)["rope_parameters"]["truncate"] = false;
  SetWindowPeriod(2, config);
  return ReadExpertCounts(reader, config);
}

absl::Status Lfm2(const Reader& reader, Json* config) {
  KVASIR_RETURN_IF_ERROR(reader.CopyInteger("shortconv.l_cache", "conv_L_cache", config));
  (*config)["block_auto_adjust_ff_dim"] = false;
  const auto layers = (*config)["num_hidden_layers"].get<int64_t>();
  KVASIR_ASSIGN_OR_RETURN(const std::vector<int64_t> kv_heads,
                          ReadKvHeads(reader, layers, 1 << 20));
  SetLayerTypes(
      "conv", [&](int layer) { return kv_heads[layer] > 0; }, config);
  return absl::OkStatus();
}

absl::Status SmolLm3(const Reader&, Json* config) {
  Json rotated = Json::array();
  const int layers = (*config)["num_hidden_layers"].get<int>();
  for (int layer = 0; layer < layers; ++layer) rotated.push_back((layer + 1) % 4 == 0 ? 0 : 1);
  (*config)["no_rope_layers"] = std::move(rotated);
  return absl::OkStatus();
}

absl::Status Granite(const Reader& reader, Json* config) {
  KVASIR_RETURN_IF_ERROR(reader.CopyNumber("embedding_scale", "embedding_multiplier", config));
  KVASIR_RETURN_IF_ERROR(reader.CopyNumber("residual_scale", "residual_multiplier", config));
  KVASIR_RETURN_IF_ERROR(reader.CopyNumber("attention.scale", "attention_multiplier", config));
  KVASIR_RETURN_IF_ERROR(reader.CopyNumber("logit_scale", "logits_scaling", config));
  config->erase("head_dim");
  return absl::OkStatus();
}

struct Translation {
  const char* gguf;          // general.architecture
  const char* architecture;  // the class that config.json names
  absl::Status (*finish)(const Reader& reader, Json* config);
};

constexpr Translation kTranslations[] = {
    {"llama", "LlamaForCausalLM", Llama},
    {"qwen2", "Qwen2ForCausalLM", Nothing},
    {"qwen3", "Qwen3ForCausalLM", Nothing},
    {"qwen3moe", "Qwen3MoeForCausalLM", Qwen3Moe},
    {"gemma", "GemmaForCausalLM", Gemma},
    {"gemma2", "Gemma2ForCausalLM", Gemma2},
    {"gemma3", "Gemma3ForCausalLM", Gemma3},
    {"olmo2", "Olmo2ForCausalLM", Olmo2},
    {"starcoder2", "Starcoder2ForCausalLM", Nothing},
    {"bloom", "BloomForCausalLM", Bloom},
    {"glm4", "Glm4ForCausalLM", Glm4},
    {"gpt-oss", "GptOssForCausalLM", GptOss},
    {"lfm2", "Lfm2ForCausalLM", Lfm2},
    {"smollm3", "SmolLM3ForCausalLM", SmolLm3},
    {"granite", "GraniteForCausalLM", Granite},
};

absl::StatusOr<Translation> FindTranslation(const std::string& name) {
  std::string known;
  for (const Translation& translation : kTranslations) {
    if (name == translation.gguf) return translation;
    absl::StrAppend(&known, known.empty() ? "" : ", ", translation.gguf);
  }
  return absl::UnimplementedError(absl::StrCat("GGUF architecture ", QuoteForeign(name),
                                               " is not read; ", known,
                                               " are. Other models: as a Hugging Face folder"));
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
  KVASIR_ASSIGN_OR_RETURN(const Translation translation, FindTranslation(file.architecture()));
  const Reader reader(file);
  GgufConfig result;
  result.config["architectures"] = {translation.architecture};
  KVASIR_RETURN_IF_ERROR(ReadSizes(reader, &result.config));
  KVASIR_RETURN_IF_ERROR(ReadRope(reader, &result.config));
  KVASIR_RETURN_IF_ERROR(translation.finish(reader, &result.config));
  KVASIR_ASSIGN_OR_RETURN(
      result.generation_config,
      ReadGeneration(file.metadata(), result.config["vocab_size"].get<int64_t>()));
  return result;
}

}  // namespace kvasir
