#include "runtime/tokenizer/tokenizer_config.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer/json_access.h"

namespace kvasir {
namespace {

constexpr char kFile[] = "tokenizer_config.json";

// A token is written as its name, or as an object with the name in "content".
absl::StatusOr<std::optional<std::string>> TokenName(const nlohmann::json& config,
                                                     const char* key) {
  const nlohmann::json* value = FindMember(config, key);
  if (value == nullptr) return std::nullopt;
  if (value->is_object()) {
    KVASIR_ASSIGN_OR_RETURN(std::string name,
                            GetString(*value, "content", absl::StrCat(kFile, ": ", key)));
    return name;
  }
  KVASIR_ASSIGN_OR_RETURN(std::string name, GetString(config, key, kFile));
  return name;
}

}  // namespace

absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(absl::string_view text) {
  TokenizerConfig config;
  if (text.empty()) return config;
  KVASIR_ASSIGN_OR_RETURN(const nlohmann::json file, ParseJson(text, kFile));
  if (!file.is_object()) return WrongType(file, kFile, "an object");
  KVASIR_ASSIGN_OR_RETURN(config.bos_token, TokenName(file, "bos_token"));
  KVASIR_ASSIGN_OR_RETURN(config.eos_token, TokenName(file, "eos_token"));
  KVASIR_ASSIGN_OR_RETURN(config.add_bos_token, GetBoolOr(file, "add_bos_token", kFile, false));
  KVASIR_ASSIGN_OR_RETURN(config.add_eos_token, GetBoolOr(file, "add_eos_token", kFile, false));
  return config;
}

}  // namespace kvasir
