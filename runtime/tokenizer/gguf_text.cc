#include "runtime/tokenizer/gguf_text.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/formats/gguf_file.h"
#include "text/kvasir_text.h"

namespace kvasir {
namespace {

// The arrays that the vocabulary's spans point into.
struct Arrays {
  std::vector<float> scores;
  std::vector<int32_t> token_types;
};

absl::StatusOr<GgufVocabulary> ReadVocabulary(const GgufMetadata& metadata, Arrays* arrays) {
  GgufVocabulary vocabulary;
  const auto text = [&](const char* key) -> absl::StatusOr<absl::string_view> {
    KVASIR_ASSIGN_OR_RETURN(const auto value, metadata.String(key));
    return value.value_or("");
  };
  KVASIR_ASSIGN_OR_RETURN(vocabulary.model, text("tokenizer.ggml.model"));
  KVASIR_ASSIGN_OR_RETURN(vocabulary.pre, text("tokenizer.ggml.pre"));
  KVASIR_ASSIGN_OR_RETURN(auto tokens, metadata.Strings("tokenizer.ggml.tokens"));
  if (vocabulary.model.empty() || !tokens.has_value()) {
    return absl::InvalidArgumentError(
        "the file has no tokenizer (tokenizer.ggml.model and tokenizer.ggml.tokens); convert the "
        "model again with its vocabulary");
  }
  vocabulary.tokens = *std::move(tokens);
  KVASIR_ASSIGN_OR_RETURN(auto merges, metadata.Strings("tokenizer.ggml.merges"));
  if (merges.has_value()) vocabulary.merges = *std::move(merges);
  if (vocabulary.model == "gpt2" && !merges.has_value()) {
    return absl::InvalidArgumentError(
        "the file has no tokenizer.ggml.merges, without which texts fall into single bytes; "
        "convert "
        "the model again with its vocabulary");
  }
  KVASIR_ASSIGN_OR_RETURN(auto scores, metadata.Floats("tokenizer.ggml.scores"));
  if (scores.has_value()) arrays->scores = *std::move(scores);
  vocabulary.scores = arrays->scores;
  KVASIR_ASSIGN_OR_RETURN(const auto types, metadata.Integers("tokenizer.ggml.token_type"));
  if (types.has_value()) {
    for (const int64_t type : *types) {
      if (type < 0 || type > std::numeric_limits<int32_t>::max()) {
        return absl::InvalidArgumentError(
            absl::StrCat("tokenizer.ggml.token_type has ", type, ", which is no type of a token"));
      }
      arrays->token_types.push_back(static_cast<int32_t>(type));
    }
  }
  vocabulary.token_types = arrays->token_types;

  const auto id = [&](const char* key, std::optional<TokenId>* to) -> absl::Status {
    KVASIR_ASSIGN_OR_RETURN(
        const auto value,
        metadata.Integer(key, 0, static_cast<int64_t>(vocabulary.tokens.size()) - 1));
    if (value.has_value()) *to = static_cast<TokenId>(*value);
    return absl::OkStatus();
  };
  KVASIR_RETURN_IF_ERROR(id("tokenizer.ggml.bos_token_id", &vocabulary.bos_id));
  KVASIR_RETURN_IF_ERROR(id("tokenizer.ggml.eos_token_id", &vocabulary.eos_id));
  KVASIR_RETURN_IF_ERROR(id("tokenizer.ggml.unknown_token_id", &vocabulary.unk_id));
  KVASIR_RETURN_IF_ERROR(id("tokenizer.ggml.seperator_token_id", &vocabulary.sep_id));
  KVASIR_RETURN_IF_ERROR(id("tokenizer.ggml.cls_token_id", &vocabulary.cls_id));
  KVASIR_RETURN_IF_ERROR(id("tokenizer.ggml.padding_token_id", &vocabulary.pad_id));
  KVASIR_RETURN_IF_ERROR(id("tokenizer.ggml.mask_token_id", &vocabulary.mask_id));
  KVASIR_ASSIGN_OR_RETURN(vocabulary.add_bos, metadata.Bool("tokenizer.ggml.add_bos_token"));
  KVASIR_ASSIGN_OR_RETURN(vocabulary.add_eos, metadata.Bool("tokenizer.ggml.add_eos_token"));
  KVASIR_ASSIGN_OR_RETURN(vocabulary.add_space_prefix,
                          metadata.Bool("tokenizer.ggml.add_space_prefix"));
  KVASIR_ASSIGN_OR_RETURN(vocabulary.remove_extra_whitespaces,
                          metadata.Bool("tokenizer.ggml.remove_extra_whitespaces"));
  return vocabulary;
}

// The names of special tokens, as tokenizer_config.json spells them.
std::string SpecialTokens(const GgufVocabulary& vocabulary) {
  nlohmann::json names = nlohmann::json::object();
  const auto add = [&](const char* name, std::optional<TokenId> id) {
    if (id.has_value()) names[name] = std::string(vocabulary.tokens[*id]);
  };
  add("bos_token", vocabulary.bos_id);
  add("eos_token", vocabulary.eos_id);
  add("unk_token", vocabulary.unk_id);
  add("pad_token", vocabulary.pad_id);
  return names.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

absl::StatusOr<GgufText> LoadGgufText(const std::string& path,
                                      const std::string& template_override) {
  KVASIR_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(path));
  Arrays arrays;
  GgufText text;
  KVASIR_ASSIGN_OR_RETURN(const GgufVocabulary vocabulary,
                          ReadVocabulary(file.metadata(), &arrays));
  KVASIR_ASSIGN_OR_RETURN(text.tokenizer, Tokenizer::FromGguf(vocabulary));
  if (!template_override.empty()) {
    KVASIR_ASSIGN_OR_RETURN(text.chat_template,
                            ChatTemplate::Load("", template_override, *text.tokenizer));
    return text;
  }
  KVASIR_ASSIGN_OR_RETURN(const auto source, file.metadata().String("tokenizer.chat_template"));
  if (source.has_value()) {
    KVASIR_ASSIGN_OR_RETURN(text.chat_template,
                            ChatTemplate::FromSources({{"default", std::string(*source)}},
                                                      SpecialTokens(vocabulary), *text.tokenizer));
  }
  return text;
}

std::string GgufSplitName(const std::vector<std::string>& patterns, bool gpt2_pattern,
                          bool ignore_merges) {
  std::vector<KvasirTextView> views;
  for (const std::string& pattern : patterns) views.push_back({pattern.data(), pattern.size()});
  const KvasirTextView name =
      kvasir_text_split_name(views.data(), views.size(), gpt2_pattern, ignore_merges);
  return std::string(name.data, name.size);
}

}  // namespace kvasir
