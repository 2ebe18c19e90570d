#include "runtime/tokenizer/tokenizer_json.h"

#include <limits>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer/bpe_tokenizer.h"
#include "runtime/tokenizer/json_access.h"
#include "runtime/tokenizer/sentencepiece_tokenizer.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/tokenizer_config.h"

namespace kvasir {
namespace {

using nlohmann::json;

// Longest name of an added token; the search costs its length at every character that could begin
// one.
constexpr size_t kMaxAddedTokenBytes = 1024;

// All tokens' bytes together. A hostile Replace in the decoder could blow them up.
constexpr size_t kMaxTokenBytes = size_t{1} << 30;

// A component that the file may leave out.
const json& MemberOrNull(const json& file, const char* key) {
  static const json* const null = new json();
  const json* member = FindMember(file, key);
  return member == nullptr ? *null : *member;
}

absl::StatusOr<std::vector<AddedToken>> ReadAddedTokens(const json& list) {
  std::vector<AddedToken> tokens;
  if (list.is_null()) return tokens;
  if (!list.is_array()) return WrongType(list, "added_tokens", "an array");
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string where = absl::StrCat("added_tokens[", i, "]");
    AddedToken token;
    KVASIR_ASSIGN_OR_RETURN(token.content, GetString(list[i], "content", where));
    if (token.content.size() > kMaxAddedTokenBytes) {
      return absl::InvalidArgumentError(absl::StrCat(where, ".content has ", token.content.size(),
                                                     " bytes; the limit is ", kMaxAddedTokenBytes));
    }
    KVASIR_ASSIGN_OR_RETURN(const int64_t id, GetInt(list[i], "id", where));
    if (id < 0 || id >= Tokenizer::kMaxVocabSize) {
      return absl::InvalidArgumentError(absl::StrCat(where, ".id is ", id, "; ids must be in [0, ",
                                                     Tokenizer::kMaxVocabSize, ")"));
    }
    token.id = static_cast<TokenId>(id);
    KVASIR_ASSIGN_OR_RETURN(token.special, GetBoolOr(list[i], "special", where, false));
    KVASIR_ASSIGN_OR_RETURN(token.normalized,
                            GetBoolOr(list[i], "normalized", where, !token.special));
    KVASIR_ASSIGN_OR_RETURN(token.single_word, GetBoolOr(list[i], "single_word", where, false));
    KVASIR_ASSIGN_OR_RETURN(token.lstrip, GetBoolOr(list[i], "lstrip", where, false));
    KVASIR_ASSIGN_OR_RETURN(token.rstrip, GetBoolOr(list[i], "rstrip", where, false));
    tokens.push_back(std::move(token));
  }
  return tokens;
}

// The model's vocabulary: {"token": id, ...} (BPE) or [["token", score], ...] (Unigram, ids by
// position).
absl::Status ReadModelVocabulary(const json& vocab, std::vector<Vocabulary::Entry>* entries) {
  if (vocab.is_object()) {
    for (auto it = vocab.begin(); it != vocab.end(); ++it) {
      if (!it.value().is_number_integer() ||
          (it.value().is_number_unsigned() &&
           it.value().get<uint64_t>() >
               static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))) {
        return absl::InvalidArgumentError(absl::StrCat("model.vocab[\"", absl::CHexEscape(it.key()),
                                                       "\"] must be a small integer, not ",
                                                       it.value().type_name()));
      }
      entries->push_back({it.key(), it.value().get<int64_t>()});
    }
    return absl::OkStatus();
  }
  if (!vocab.is_array()) return WrongType(vocab, "model.vocab", "an object or an array");
  for (size_t id = 0; id < vocab.size(); ++id) {
    const json& entry = vocab[id];
    if (!entry.is_array() || entry.empty() || !entry[0].is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat("model.vocab[", id, "] must be [\"token\", score]"));
    }
    entries->push_back({entry[0].get_ref<const std::string&>(), static_cast<int64_t>(id)});
  }
  return absl::OkStatus();
}

absl::Status FillVocabulary(const json& model, const std::vector<AddedToken>& added,
                            TokenizerParts* parts) {
  KVASIR_ASSIGN_OR_RETURN(const json* vocab, GetMember(model, "vocab", "model"));
  std::vector<Vocabulary::Entry> entries;
  KVASIR_RETURN_IF_ERROR(ReadModelVocabulary(*vocab, &entries));
  for (const AddedToken& token : added) entries.push_back({token.content, token.id});
  KVASIR_RETURN_IF_ERROR(parts->vocabulary.Fill(std::move(entries)));
  if (parts->vocabulary.size() == 0) {
    return absl::InvalidArgumentError("the vocabulary is empty: model.vocab has no tokens");
  }
  parts->is_special.assign(parts->vocabulary.size(), false);
  parts->is_added.assign(parts->vocabulary.size(), false);
  for (const AddedToken& token : added) {
    parts->is_added[token.id] = true;
    if (token.special) parts->is_special[token.id] = true;
  }
  return absl::OkStatus();
}

// Splits added tokens by the text they are sought in; those of the normalised text are normalised
// themselves.
absl::Status PrepareAddedTokens(std::vector<AddedToken> added, TokenizerParts* parts) {
  std::vector<AddedToken> raw, normalized;
  for (AddedToken& token : added) {
    if (!token.normalized) {
      raw.push_back(std::move(token));
      continue;
    }
    if (parts->normalizer != nullptr) {
      KVASIR_RETURN_IF_ERROR(parts->normalizer->Apply(&token.content));
    }
    normalized.push_back(std::move(token));
  }
  parts->raw_added_tokens = AddedTokens(std::move(raw));
  parts->normalized_added_tokens = AddedTokens(std::move(normalized));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<TokenizerModel>> ParseModel(const json& model,
                                                           const TokenizerParts& parts) {
  // Files written before the type was: only BPE has merges.
  const char* otherwise = FindMember(model, "merges") != nullptr ? "BPE" : "";
  KVASIR_ASSIGN_OR_RETURN(const std::string type, GetStringOr(model, "type", "model", otherwise));
  if (type == "BPE") return BpeTokenizer::FromJson(model, parts.vocabulary, parts.is_special);
  if (type == "Unigram") {
    return SentencePieceUnigram::FromJson(model, parts.vocabulary, parts.is_special);
  }
  return absl::UnimplementedError(absl::StrCat("model type \"", absl::CHexEscape(type),
                                               "\" is not supported (BPE and Unigram are)"));
}

absl::Status FillTokenBytes(TokenizerParts* parts) {
  parts->token_bytes_offset = {0};
  parts->token_bytes_offset.reserve(parts->vocabulary.size() + 1);
  for (TokenId id = 0; id < parts->vocabulary.size(); ++id) {
    if (parts->vocabulary.Has(id)) {
      KVASIR_ASSIGN_OR_RETURN(
          const std::string bytes,
          parts->decoder.BytesOf(parts->vocabulary.NameOf(id), parts->is_added[id],
                                 /*is_first=*/false));
      parts->token_bytes += bytes;
      if (parts->token_bytes.size() > kMaxTokenBytes) {
        return absl::InvalidArgumentError(absl::StrCat("the decoder makes the tokens longer than ",
                                                       kMaxTokenBytes, " bytes together"));
      }
    }
    parts->token_bytes_offset.push_back(static_cast<uint32_t>(parts->token_bytes.size()));
  }
  return absl::OkStatus();
}

absl::Status ApplyConfig(const TokenizerConfig& config, TokenizerParts* parts) {
  const auto id_of = [&](const std::optional<std::string>& name) -> std::optional<TokenId> {
    return name.has_value() ? parts->vocabulary.IdOf(*name) : std::nullopt;
  };
  parts->bos_token_id = id_of(config.bos_token);
  parts->eos_token_id = id_of(config.eos_token);
  if (parts->post_processor.has_template) return absl::OkStatus();
  const auto missing = [](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer_config.json asks for add_", what,
                                                   "_token, but its ", what,
                                                   "_token is missing or not in the vocabulary"));
  };
  if (config.add_bos_token) {
    if (!parts->bos_token_id.has_value()) return missing("bos");
    parts->post_processor.prefix = {*parts->bos_token_id};
  }
  if (config.add_eos_token) {
    if (!parts->eos_token_id.has_value()) return missing("eos");
    parts->post_processor.suffix = {*parts->eos_token_id};
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<TokenizerParts>> ParseTokenizer(
    absl::string_view tokenizer_json, absl::string_view tokenizer_config_json) {
  KVASIR_ASSIGN_OR_RETURN(const json file, ParseJson(tokenizer_json, "tokenizer.json"));
  KVASIR_ASSIGN_OR_RETURN(const TokenizerConfig config,
                          ParseTokenizerConfig(tokenizer_config_json));
  KVASIR_ASSIGN_OR_RETURN(const json* model, GetMember(file, "model", ""));

  KVASIR_ASSIGN_OR_RETURN(TokenDecoder decoder,
                          TokenDecoder::FromJson(MemberOrNull(file, "decoder")));
  auto parts = std::make_unique<TokenizerParts>(std::move(decoder));
  KVASIR_ASSIGN_OR_RETURN(std::vector<AddedToken> added,
                          ReadAddedTokens(MemberOrNull(file, "added_tokens")));
  KVASIR_RETURN_IF_ERROR(FillVocabulary(*model, added, parts.get()));
  KVASIR_ASSIGN_OR_RETURN(parts->normalizer, ParseNormalizer(MemberOrNull(file, "normalizer")));
  KVASIR_RETURN_IF_ERROR(PrepareAddedTokens(std::move(added), parts.get()));
  KVASIR_ASSIGN_OR_RETURN(parts->pre_tokenizer,
                          ParsePreTokenizer(MemberOrNull(file, "pre_tokenizer")));
  KVASIR_ASSIGN_OR_RETURN(parts->model, ParseModel(*model, *parts));
  KVASIR_ASSIGN_OR_RETURN(
      parts->post_processor,
      ParsePostProcessor(MemberOrNull(file, "post_processor"), parts->vocabulary));
  KVASIR_RETURN_IF_ERROR(FillTokenBytes(parts.get()));
  KVASIR_RETURN_IF_ERROR(ApplyConfig(config, parts.get()));
  return parts;
}

}  // namespace kvasir
