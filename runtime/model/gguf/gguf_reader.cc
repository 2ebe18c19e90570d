#include "runtime/model/gguf/gguf_reader.h"

#include <limits>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxSize = INT32_MAX;

}  // namespace

std::string GgufReader::Key(absl::string_view name) const {
  return absl::StrCat(file_.architecture(), ".", name);
}

absl::StatusOr<std::optional<int64_t>> GgufReader::Integer(absl::string_view name,
                                                           int64_t max) const {
  return metadata().Integer(Key(name), 0, max);
}

absl::StatusOr<int64_t> GgufReader::Need(absl::string_view name) const {
  KVASIR_ASSIGN_OR_RETURN(const std::optional<int64_t> value, Integer(name, kMaxSize));
  if (value) return *value;
  return absl::InvalidArgumentError(
      absl::StrCat("GGUF key ", Key(name), " is missing; convert the original again"));
}

absl::StatusOr<std::optional<double>> GgufReader::Number(absl::string_view name) const {
  return metadata().Number(Key(name));
}

absl::Status GgufReader::CopyInteger(absl::string_view name, const char* to, Json* config) const {
  KVASIR_ASSIGN_OR_RETURN(const std::optional<int64_t> value, Integer(name, kMaxSize));
  if (value) (*config)[to] = *value;
  return absl::OkStatus();
}

absl::Status GgufReader::CopyNumber(absl::string_view name, const char* to, Json* config) const {
  KVASIR_ASSIGN_OR_RETURN(const std::optional<double> value, Number(name));
  if (value) (*config)[to] = *value;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int64_t>> GgufReader::KvHeads(int64_t layers, int64_t heads) const {
  const std::string key = Key("attention.head_count_kv");
  const GgufValue* value = metadata().Find(key);
  if (value == nullptr) return std::vector<int64_t>(layers, heads);
  if (!std::holds_alternative<GgufArray>(*value)) {
    KVASIR_ASSIGN_OR_RETURN(const std::optional<int64_t> all,
                            Integer("attention.head_count_kv", heads));
    return std::vector<int64_t>(layers, *all);
  }
  KVASIR_ASSIGN_OR_RETURN(const auto list, metadata().Integers(key));
  if (list->size() != static_cast<size_t>(layers)) {
    return absl::InvalidArgumentError(
        absl::StrCat("GGUF key ", key, " has ", list->size(), " entries for ", layers, " layers"));
  }
  return *list;
}

absl::Status GgufReader::CopyWindows(int period, Json* config, int usual_window) const {
  KVASIR_ASSIGN_OR_RETURN(const auto window, Integer("attention.sliding_window", kMaxSize));
  if (window.value_or(usual_window) == 0) {
    SetLayerTypes(
        "", [](int) { return true; }, config);
    return absl::OkStatus();
  }
  (*config)["sliding_window"] = window.value_or(usual_window);
  const auto layers = (*config)["num_hidden_layers"].get<int64_t>();
  const std::string key = Key("attention.sliding_window_pattern");
  const GgufValue* value = metadata().Find(key);
  if (value != nullptr && std::holds_alternative<GgufArray>(*value)) {
    KVASIR_ASSIGN_OR_RETURN(const auto flags, metadata().Integers(key));
    // Layers behind the last may be listed too.
    if (flags->size() < static_cast<size_t>(layers)) {
      return absl::InvalidArgumentError(absl::StrCat("GGUF key ", key, " has ", flags->size(),
                                                     " entries for ", layers, " layers"));
    }
    SetLayerTypes(
        "sliding_attention", [&](int layer) { return (*flags)[layer] == 0; }, config);
    return absl::OkStatus();
  }
  KVASIR_ASSIGN_OR_RETURN(const auto stated, Integer("attention.sliding_window_pattern",
                                                     std::numeric_limits<int>::max()));
  const auto every = static_cast<int>(stated.value_or(period));
  SetLayerTypes(
      "sliding_attention", [&](int layer) { return every > 0 && (layer + 1) % every == 0; },
      config);
  return absl::OkStatus();
}

absl::Status GgufReader::CopyExpertCounts(Json* config) const {
  KVASIR_RETURN_IF_ERROR(CopyInteger("expert_count", "num_local_experts", config));
  return CopyInteger("expert_used_count", "num_experts_per_tok", config);
}

void SetLayerTypes(const char* other, const std::function<bool(int)>& is_full, Json* config) {
  Json types = Json::array();
  const int layers = (*config)["num_hidden_layers"].get<int>();
  for (int layer = 0; layer < layers; ++layer)
    types.push_back(is_full(layer) ? "full_attention" : other);
  (*config)["layer_types"] = std::move(types);
}

}  // namespace kvasir
