#include "runtime/tokenizer/post_processor.h"

#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer/json_access.h"

namespace kvasir {
namespace {

using nlohmann::json;

// Longest template accepted; real ones have one or two special tokens, each of one id.
constexpr size_t kMaxTemplateTokens = 64;

absl::StatusOr<std::vector<TokenId>> IdsOfSpecialToken(const json& processor,
                                                       const std::string& name,
                                                       const Vocabulary& vocabulary) {
  KVASIR_ASSIGN_OR_RETURN(const json* table,
                          GetMember(processor, "special_tokens", "post_processor"));
  const std::string path = "post_processor.special_tokens";
  KVASIR_ASSIGN_OR_RETURN(const json* token, GetMember(*table, name.c_str(), path));
  KVASIR_ASSIGN_OR_RETURN(const json* ids, GetArray(*token, "ids", path));
  std::vector<TokenId> result;
  for (const json& id : *ids) {
    if (!id.is_number_unsigned() ||
        id.get<uint64_t>() >= static_cast<uint64_t>(vocabulary.size()) ||
        !vocabulary.Has(static_cast<TokenId>(id.get<uint64_t>()))) {
      return absl::InvalidArgumentError(absl::StrCat(path, " gives \"", absl::CHexEscape(name),
                                                     "\" the id ", id.dump(),
                                                     ", which no token of the vocabulary has"));
    }
    result.push_back(static_cast<TokenId>(id.get<uint64_t>()));
  }
  return result;
}

absl::Status ApplyTemplate(const json& value, const Vocabulary& vocabulary, PostProcessor* result) {
  KVASIR_ASSIGN_OR_RETURN(const json* single, GetArray(value, "single", "post_processor"));
  std::vector<TokenId> before, after;
  bool seen_text = false;
  for (const json& part : *single) {
    if (const json* special = FindMember(part, "SpecialToken")) {
      KVASIR_ASSIGN_OR_RETURN(const std::string name,
                              GetString(*special, "id", "post_processor.single.SpecialToken"));
      KVASIR_ASSIGN_OR_RETURN(const std::vector<TokenId> ids,
                              IdsOfSpecialToken(value, name, vocabulary));
      std::vector<TokenId>& side = seen_text ? after : before;
      side.insert(side.end(), ids.begin(), ids.end());
    } else if (FindMember(part, "Sequence") != nullptr && !seen_text) {
      seen_text = true;
    } else {
      return absl::InvalidArgumentError(
          "post_processor.single must hold SpecialTokens and one Sequence, and nothing else");
    }
  }
  if (!seen_text) {
    return absl::InvalidArgumentError("post_processor.single has no Sequence to put the text in");
  }
  // The steps of a Sequence wrap what the steps before them made.
  result->has_template = true;
  result->prefix.insert(result->prefix.begin(), before.begin(), before.end());
  result->suffix.insert(result->suffix.end(), after.begin(), after.end());
  if (result->prefix.size() + result->suffix.size() > kMaxTemplateTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("post_processor adds more than ", kMaxTemplateTokens, " tokens to a text"));
  }
  return absl::OkStatus();
}

absl::Status Apply(const json& value, const Vocabulary& vocabulary, int depth,
                   PostProcessor* result) {
  if (depth > kMaxComponentDepth) {
    return absl::InvalidArgumentError(
        absl::StrCat("post_processors nest deeper than the limit of ", kMaxComponentDepth));
  }
  KVASIR_ASSIGN_OR_RETURN(const std::string type, GetString(value, "type", "post_processor"));
  if (type == "ByteLevel") return absl::OkStatus();
  if (type == "TemplateProcessing") return ApplyTemplate(value, vocabulary, result);
  if (type == "Sequence") {
    KVASIR_ASSIGN_OR_RETURN(const json* list, GetArray(value, "processors", "post_processor"));
    for (const json& item : *list) {
      KVASIR_RETURN_IF_ERROR(Apply(item, vocabulary, depth + 1, result));
    }
    return absl::OkStatus();
  }
  return absl::UnimplementedError(
      absl::StrCat("post_processor type \"", absl::CHexEscape(type),
                   "\" is not supported (TemplateProcessing, ByteLevel and Sequence are)"));
}

}  // namespace

absl::StatusOr<PostProcessor> ParsePostProcessor(const json& value, const Vocabulary& vocabulary) {
  PostProcessor result;
  if (!value.is_null()) KVASIR_RETURN_IF_ERROR(Apply(value, vocabulary, 0, &result));
  return result;
}

}  // namespace kvasir
