#include "runtime/conversion/gguf_vocabulary.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/mmap_file.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "runtime/model/json_fields.h"
#include "runtime/tokenizer/gguf_text.h"
#include "runtime/tokenizer/tokenizer.h"

namespace kvasir {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxTokenizerBytes = size_t{256} << 20;

// Types of tokens, by the format's own numbers.
enum TokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

// Texts on which tokenizers differ: contractions, digits, runs of blanks, scripts, symbols.
constexpr const char* kProbes[] = {
    "",
    "Hello, world! It's they'll we'VE I'm.",
    "  two  spaces   three \t tab\n\n newline \r\n\r\n end  ",
    "3.14159 12345678901234567890 007 1,000,000",
    "for (int i = 0; i < n; ++i) { a[i] *= 2; }\n\t// done",
    "na\xc3\xafve caf\xc3\xa9 \xc3\x9c\x62\x65r stra\xc3\x9f\x65 e\xcc\x81",
    "\xe4\xb8\xad\xe6\x96\x87 \xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e \xd0\xa0\xd1\x83\xd1\x81",
    "\xf0\x9f\x98\x80\xf0\x9f\x91\x8d\xf0\x9f\x8f\xbd \xe2\x80\x94 \xe2\x80\x9cquoted\xe2\x80\x9d",
    "<unk> <s> </s> <|endoftext|> <0x41> [PAD]",
    "ALLCAPS CamelCase snake_case kebab-case http://example.org/?q=a&b=c",
};

absl::Status Refuse(absl::string_view reason) {
  return absl::UnimplementedError(absl::StrCat(
      "the tokenizer cannot be put into a GGUF file: ", reason, "; name a folder as the output"));
}

// A member that is there, else null.
const Json& Get(const Json& json, const char* key) {
  static const Json& null = *new Json();
  const auto it = json.is_object() ? json.find(key) : json.end();
  return json.is_object() && it != json.end() ? *it : null;
}

bool IsType(const Json& json, const char* type) { return Get(json, "type") == type; }

// The stages of a pre-tokenizer, normalizer or decoder, one or several.
std::vector<Json> Stages(const Json& json, const char* list) {
  if (json.is_null()) return {};
  if (!IsType(json, "Sequence")) return {json};
  const Json& stages = Get(json, list);
  if (!stages.is_array()) return {};
  return std::vector<Json>(stages.begin(), stages.end());
}

// What the format calls a byte-level tokenizer's way of splitting.
absl::StatusOr<std::string> PreTokenizerName(const Json& tokenizer) {
  const absl::Status unknown = Refuse("its way of splitting texts has no name there");
  const std::vector<Json> stages = Stages(Get(tokenizer, "pre_tokenizer"), "pretokenizers");
  if (stages.empty() || !IsType(stages.back(), "ByteLevel") ||
      Get(stages.back(), "add_prefix_space") == true) {
    return unknown;
  }
  const bool gpt2_pattern = Get(stages.back(), "use_regex") != false;
  std::vector<std::string> patterns;
  for (size_t i = 0; i + 1 < stages.size(); ++i) {
    if (IsType(stages[i], "Digits") && Get(stages[i], "individual_digits") == true) {
      patterns.push_back(R"(\p{N})");
      continue;
    }
    const Json& pattern = Get(Get(stages[i], "pattern"), "Regex");
    if (!IsType(stages[i], "Split") || Get(stages[i], "behavior") != "Isolated" ||
        Get(stages[i], "invert") == true || !pattern.is_string()) {
      return unknown;
    }
    patterns.push_back(pattern.get<std::string>());
  }
  const std::string name =
      GgufSplitName(patterns, gpt2_pattern, Get(Get(tokenizer, "model"), "ignore_merges") == true);
  return name.empty() ? absl::StatusOr<std::string>(unknown) : name;
}

struct Tokens {
  std::vector<std::string> texts;  // by id
  std::vector<int32_t> types;
  std::map<std::string, int64_t> ids;
};

absl::Status AddToken(const std::string& text, const Json& id, int32_t type, Tokens* tokens) {
  const auto size = static_cast<int64_t>(tokens->texts.size());
  if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= size) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: token ", Quoted(text),
                                                   " has id ", id.dump(), ", outside the model's ",
                                                   size, " rows"));
  }
  tokens->texts[id.get<int64_t>()] = text;
  tokens->types[id.get<int64_t>()] = type;
  tokens->ids[text] = id.get<int64_t>();
  return absl::OkStatus();
}

bool IsByteToken(const std::string& text) {
  return text.size() == 6 && absl::StartsWith(text, "<0x") && text.back() == '>';
}

absl::StatusOr<Tokens> ReadTokens(const Json& tokenizer, bool byte_fallback, int vocab_size) {
  Tokens tokens;
  tokens.types.assign(vocab_size, kUnused);
  for (int id = 0; id < vocab_size; ++id) tokens.texts.push_back(absl::StrCat("[PAD", id, "]"));
  const Json& model = Get(tokenizer, "model");
  for (const auto& [text, id] : Get(model, "vocab").items()) {
    const bool byte = byte_fallback && IsByteToken(text);
    KVASIR_RETURN_IF_ERROR(AddToken(text, id, byte ? kByte : kNormal, &tokens));
  }
  const Json& added = Get(tokenizer, "added_tokens");
  if (!added.is_array()) return tokens;
  for (const Json& token : added) {
    const Json& content = Get(token, "content");
    if (!content.is_string()) continue;
    const int32_t type = content == Get(model, "unk_token") && byte_fallback ? kUnknown
                         : Get(token, "special") == true                     ? kControl
                                                                             : kUserDefined;
    KVASIR_RETURN_IF_ERROR(AddToken(content.get<std::string>(), Get(token, "id"), type, &tokens));
  }
  return tokens;
}

// "left right", from either way of writing them.
absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ReadMerges(const Json& model) {
  std::vector<std::pair<std::string, std::string>> merges;
  for (const Json& merge : Get(model, "merges")) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      merges.emplace_back(merge[0], merge[1]);
      continue;
    }
    const std::string text = merge.is_string() ? merge.get<std::string>() : "";
    const size_t space = text.find(' ', 1);
    if (space == std::string::npos) {
      return absl::InvalidArgumentError("tokenizer.json: a merge is no pair of tokens");
    }
    merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  return merges;
}

// SentencePiece merges the pair whose whole has the best score: the earlier in the list, the
// better. Pieces that no merge makes are never merged into.
std::vector<float> ScoresOfMerges(const Tokens& tokens,
                                  const std::vector<std::pair<std::string, std::string>>& merges) {
  std::vector<float> scores(tokens.texts.size(), -1e6f);
  for (size_t rank = merges.size(); rank-- > 0;) {
    const auto it = tokens.ids.find(merges[rank].first + merges[rank].second);
    if (it != tokens.ids.end()) scores[it->second] = -static_cast<float>(rank) - 1;
  }
  return scores;
}

bool PrependsSpace(const Json& tokenizer) {
  for (const Json& stage : Stages(Get(tokenizer, "normalizer"), "normalizers")) {
    if (IsType(stage, "Prepend")) return true;
  }
  for (const Json& stage : Stages(Get(tokenizer, "pre_tokenizer"), "pretokenizers")) {
    if (IsType(stage, "Metaspace")) return Get(stage, "prepend_scheme") != "never";
  }
  return false;
}

absl::Status AddSentencePiece(const Json& tokenizer, const Tokens& tokens,
                              GgufHeaderWriter* header) {
  const Json& model = Get(tokenizer, "model");
  KVASIR_ASSIGN_OR_RETURN(const auto merges, ReadMerges(model));
  header->AddString("tokenizer.ggml.model", "llama");
  header->AddString("tokenizer.ggml.pre", "default");
  header->AddF32s("tokenizer.ggml.scores", ScoresOfMerges(tokens, merges));
  header->AddBool("tokenizer.ggml.add_space_prefix", PrependsSpace(tokenizer));
  const Json& unknown = Get(model, "unk_token");
  const auto it =
      unknown.is_string() ? tokens.ids.find(unknown.get<std::string>()) : tokens.ids.end();
  if (it != tokens.ids.end()) {
    header->AddU32("tokenizer.ggml.unknown_token_id", static_cast<uint32_t>(it->second));
  }
  return absl::OkStatus();
}

absl::Status AddByteLevel(const Json& tokenizer, GgufHeaderWriter* header) {
  KVASIR_ASSIGN_OR_RETURN(const std::string pre, PreTokenizerName(tokenizer));
  KVASIR_ASSIGN_OR_RETURN(const auto merges, ReadMerges(Get(tokenizer, "model")));
  std::vector<std::string> lines;
  for (const auto& [left, right] : merges) lines.push_back(absl::StrCat(left, " ", right));
  header->AddString("tokenizer.ggml.model", "gpt2");
  header->AddString("tokenizer.ggml.pre", pre);
  header->AddStrings("tokenizer.ggml.merges", lines);
  return absl::OkStatus();
}

// The folder's one chat template, or nothing.
absl::StatusOr<std::string> ReadTemplate(const std::string& folder) {
  std::error_code ignored;
  const std::string jinja = absl::StrCat(folder, "/chat_template.jinja");
  if (std::filesystem::exists(jinja, ignored)) {
    KVASIR_ASSIGN_OR_RETURN(const MmapFile file, MmapFile::Open(jinja));
    return std::string(file.bytes().begin(), file.bytes().end());
  }
  const std::string config = absl::StrCat(folder, "/tokenizer_config.json");
  if (!std::filesystem::exists(config, ignored)) return std::string();
  KVASIR_ASSIGN_OR_RETURN(const Json json, ReadJsonObject(config, kMaxTokenizerBytes));
  const Json& source = Get(json, "chat_template");
  return source.is_string() ? source.get<std::string>() : std::string();
}

// Which ends the folder's tokenizer puts to a text, and the ids that the model names.
absl::Status AddEnds(const std::string& folder, const ModelSpec& spec, GgufHeaderWriter* header) {
  KVASIR_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(folder));
  KVASIR_ASSIGN_OR_RETURN(const auto bare, tokenizer->Encode("a", {.add_special_tokens = false}));
  KVASIR_ASSIGN_OR_RETURN(const auto full, tokenizer->Encode("a", {.add_special_tokens = true}));
  const auto at = std::search(full.begin(), full.end(), bare.begin(), bare.end());
  header->AddBool("tokenizer.ggml.add_bos_token", at != full.begin());
  header->AddBool("tokenizer.ggml.add_eos_token",
                  full.end() - at > static_cast<int64_t>(bare.size()));
  // The one that it puts there counts, then the one that it names, then the model's.
  std::optional<TokenId> bos = tokenizer->bos_token_id();
  if (at != full.begin()) bos = full.front();
  if (!bos && spec.bos_token_id) bos = static_cast<TokenId>(*spec.bos_token_id);
  if (bos) header->AddU32("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(*bos));
  const char* const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                              "tokenizer.ggml.eom_token_id"};
  for (size_t i = 0; i < spec.eos_token_ids.size() && i < std::size(keys); ++i) {
    header->AddU32(keys[i], static_cast<uint32_t>(spec.eos_token_ids[i]));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status AddGgufVocabulary(const std::string& folder, const ModelSpec& spec,
                               const nlohmann::ordered_json& config, GgufHeaderWriter* header) {
  const std::string path = absl::StrCat(folder, "/tokenizer.json");
  absl::StatusOr<Json> tokenizer = ReadJsonObject(path, kMaxTokenizerBytes);
  if (!tokenizer.ok()) return tokenizer.status();
  const Json& model = Get(*tokenizer, "model");
  if (!IsType(model, "BPE") || !Get(model, "vocab").is_object() ||
      !Get(model, "merges").is_array()) {
    return Refuse("it is no BPE");
  }
  const bool byte_fallback = Get(model, "byte_fallback") == true;
  KVASIR_ASSIGN_OR_RETURN(const Tokens tokens,
                          ReadTokens(*tokenizer, byte_fallback, spec.vocab_size));
  KVASIR_RETURN_IF_ERROR(byte_fallback ? AddSentencePiece(*tokenizer, tokens, header)
                                       : AddByteLevel(*tokenizer, header));
  header->AddStrings("tokenizer.ggml.tokens", tokens.texts);
  header->AddI32s("tokenizer.ggml.token_type", tokens.types);
  KVASIR_RETURN_IF_ERROR(AddEnds(folder, spec, header));
  const auto pad = config.find("pad_token_id");
  if (pad != config.end() && pad->is_number_unsigned() && *pad < spec.vocab_size) {
    header->AddU32("tokenizer.ggml.padding_token_id", pad->get<uint32_t>());
  }
  KVASIR_ASSIGN_OR_RETURN(const std::string chat, ReadTemplate(folder));
  if (!chat.empty()) header->AddString("tokenizer.chat_template", chat);
  return absl::OkStatus();
}

absl::Status CheckSameTokens(const std::string& folder, const std::string& gguf) {
  KVASIR_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> meant, Tokenizer::Load(folder));
  KVASIR_ASSIGN_OR_RETURN(const GgufText written, LoadGgufText(gguf, ""));
  for (const char* text : kProbes) {
    for (const bool special : {false, true}) {
      const Tokenizer::EncodeOptions options = {.add_special_tokens = special,
                                                .parse_special_tokens = special};
      KVASIR_ASSIGN_OR_RETURN(const auto a, meant->Encode(text, options));
      KVASIR_ASSIGN_OR_RETURN(const auto b, written.tokenizer->Encode(text, options));
      if (a != b) return Refuse(absl::StrCat("it would split ", Quoted(text), " otherwise"));
    }
  }
  return absl::OkStatus();
}

}  // namespace kvasir
