#include "runtime/tokenizer/token_decoder.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer/byte_level.h"
#include "runtime/tokenizer/json_access.h"
#include "runtime/tokenizer/regex.h"
#include "runtime/tokenizer/utf8.h"
#include "runtime/tokenizer/vocabulary.h"

namespace kvasir {

using nlohmann::json;

// A token on its way through the steps. Once it is raw bytes no step touches it again: it may be a
// part of a character.
struct TokenText {
  std::string text;
  bool is_bytes = false;
};

class TokenDecoder::Step {
 public:
  virtual ~Step() = default;
  virtual absl::Status Apply(bool is_added, bool is_first, TokenText* token) const = 0;
};

namespace {

// Longest Strip accepted; real ones have 1.
constexpr int64_t kMaxStripped = 1024;

class ByteLevelStep : public TokenDecoder::Step {
 public:
  absl::Status Apply(bool is_added, bool, TokenText* token) const override {
    if (!is_added) {
      if (std::optional<std::string> bytes = BytesOfByteLevel(token->text)) {
        token->text = *std::move(bytes);
      }
    }
    token->is_bytes = true;
    return absl::OkStatus();
  }
};

class ByteFallbackStep : public TokenDecoder::Step {
 public:
  absl::Status Apply(bool, bool, TokenText* token) const override {
    if (const std::optional<uint8_t> byte = ByteOfByteToken(token->text)) {
      token->text.assign(1, static_cast<char>(*byte));
      token->is_bytes = true;
    }
    return absl::OkStatus();
  }
};

// Marks become blanks; in the first token they vanish, if encoding may have put one there.
class MetaspaceStep : public TokenDecoder::Step {
 public:
  MetaspaceStep(std::string mark, bool drop_in_first)
      : mark_(std::move(mark)), drop_in_first_(drop_in_first) {}

  absl::Status Apply(bool, bool is_first, TokenText* token) const override {
    const char* blank = is_first && drop_in_first_ ? "" : " ";
    token->text = absl::StrReplaceAll(token->text, {{mark_, blank}});
    return absl::OkStatus();
  }

 private:
  const std::string mark_;
  const bool drop_in_first_;
};

class ReplaceLiteralStep : public TokenDecoder::Step {
 public:
  ReplaceLiteralStep(std::string from, std::string to)
      : from_(std::move(from)), to_(std::move(to)) {}

  absl::Status Apply(bool, bool, TokenText* token) const override {
    if (!from_.empty()) token->text = absl::StrReplaceAll(token->text, {{from_, to_}});
    return absl::OkStatus();
  }

 private:
  const std::string from_, to_;
};

class ReplacePatternStep : public TokenDecoder::Step {
 public:
  ReplacePatternStep(Regex pattern, std::string to)
      : pattern_(std::move(pattern)), to_(std::move(to)) {}

  absl::Status Apply(bool, bool, TokenText* token) const override {
    std::string replaced;
    size_t copied = 0;
    Regex::Scanner scanner(pattern_);
    scanner.Start(token->text);
    while (scanner.Next()) {
      replaced.append(token->text, copied, scanner.begin() - copied);
      replaced += to_;
      copied = scanner.end();
    }
    KVASIR_RETURN_IF_ERROR(scanner.status());
    replaced.append(token->text, copied, std::string::npos);
    token->text = std::move(replaced);
    return absl::OkStatus();
  }

 private:
  const Regex pattern_;
  const std::string to_;
};

class StripStep : public TokenDecoder::Step {
 public:
  explicit StripStep(TokenDecoder::TextStrip strip) : strip_(std::move(strip)) {}

  absl::Status Apply(bool, bool, TokenText* token) const override {
    absl::string_view text = token->text;
    for (int i = 0; i < strip_.leading && absl::StartsWith(text, strip_.character); ++i) {
      text.remove_prefix(strip_.character.size());
    }
    for (int i = 0; i < strip_.trailing && absl::EndsWith(text, strip_.character); ++i) {
      text.remove_suffix(strip_.character.size());
    }
    token->text = std::string(text);
    return absl::OkStatus();
  }

 private:
  const TokenDecoder::TextStrip strip_;
};

// What a file without a decoder means.
class JoinWithBlanksStep : public TokenDecoder::Step {
 public:
  absl::Status Apply(bool, bool is_first, TokenText* token) const override {
    if (!is_first) token->text.insert(0, 1, ' ');
    return absl::OkStatus();
  }
};

absl::StatusOr<std::unique_ptr<TokenDecoder::Step>> ParseReplace(const json& value) {
  KVASIR_ASSIGN_OR_RETURN(std::string to, GetString(value, "content", "decoder"));
  KVASIR_ASSIGN_OR_RETURN(const json* pattern, GetMember(value, "pattern", "decoder"));
  // Nearly every file has a literal here, and every token of the vocabulary goes through this once.
  if (FindMember(*pattern, "String") != nullptr) {
    KVASIR_ASSIGN_OR_RETURN(std::string from, GetString(*pattern, "String", "decoder.pattern"));
    return std::make_unique<ReplaceLiteralStep>(std::move(from), std::move(to));
  }
  KVASIR_ASSIGN_OR_RETURN(Regex regex, Regex::FromJson(value, "decoder"));
  return std::make_unique<ReplacePatternStep>(std::move(regex), std::move(to));
}

absl::Status CheckOneCharacter(absl::string_view text, absl::string_view where) {
  if (IsOneCharacter(text)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(where, " must be one character, not \"", absl::CHexEscape(text), "\""));
}

}  // namespace

TokenDecoder::TokenDecoder() = default;
TokenDecoder::TokenDecoder(TokenDecoder&&) noexcept = default;
TokenDecoder::~TokenDecoder() = default;

absl::StatusOr<TokenDecoder> TokenDecoder::FromJson(const json& value) {
  TokenDecoder decoder;
  if (value.is_null()) {
    decoder.steps_.push_back(std::make_unique<JoinWithBlanksStep>());
    decoder.first_differs_ = true;
  } else {
    KVASIR_RETURN_IF_ERROR(decoder.Add(value, 0));
  }
  return decoder;
}

absl::Status TokenDecoder::Add(const json& value, int depth) {
  if (depth > kMaxComponentDepth) {
    return absl::InvalidArgumentError(
        absl::StrCat("decoders nest deeper than the limit of ", kMaxComponentDepth));
  }
  KVASIR_ASSIGN_OR_RETURN(const std::string type, GetString(value, "type", "decoder"));
  if (type == "Sequence") {
    KVASIR_ASSIGN_OR_RETURN(const json* list, GetArray(value, "decoders", "decoder"));
    for (const json& item : *list) KVASIR_RETURN_IF_ERROR(Add(item, depth + 1));
    return absl::OkStatus();
  }
  if (type == "Fuse") {
    fused_ = true;
    return absl::OkStatus();
  }
  if (type == "Strip") return AddStrip(value);

  std::unique_ptr<const Step> step;
  if (type == "ByteLevel") {
    step = std::make_unique<ByteLevelStep>();
  } else if (type == "ByteFallback") {
    step = std::make_unique<ByteFallbackStep>();
  } else if (type == "Replace") {
    KVASIR_ASSIGN_OR_RETURN(step, ParseReplace(value));
  } else if (type == "Metaspace") {
    KVASIR_ASSIGN_OR_RETURN(std::string mark, GetStringOr(value, "replacement", "decoder", "▁"));
    KVASIR_RETURN_IF_ERROR(CheckOneCharacter(mark, "decoder.replacement"));
    KVASIR_ASSIGN_OR_RETURN(const bool prefix,
                            GetBoolOr(value, "add_prefix_space", "decoder", true));
    KVASIR_ASSIGN_OR_RETURN(
        const std::string scheme,
        GetStringOr(value, "prepend_scheme", "decoder", prefix ? "always" : "never"));
    step = std::make_unique<MetaspaceStep>(std::move(mark), scheme != "never");
    first_differs_ |= scheme != "never";
  } else {
    return absl::UnimplementedError(
        absl::StrCat("decoder type \"", absl::CHexEscape(type),
                     "\" is not supported (ByteLevel, Metaspace, ByteFallback, Fuse, Strip, "
                     "Replace and Sequence are)"));
  }
  if (fused_) {
    return absl::UnimplementedError(absl::StrCat("decoder \"", type,
                                                 "\" after Fuse or ByteLevel is not supported: it "
                                                 "would need the whole text before the first "
                                                 "character can be streamed; put it before"));
  }
  steps_.push_back(std::move(step));
  fused_ = type == "ByteLevel";
  return absl::OkStatus();
}

absl::Status TokenDecoder::AddStrip(const json& value) {
  TextStrip strip;
  KVASIR_ASSIGN_OR_RETURN(strip.character, GetStringOr(value, "content", "decoder", " "));
  KVASIR_RETURN_IF_ERROR(CheckOneCharacter(strip.character, "decoder.content"));
  KVASIR_ASSIGN_OR_RETURN(const int64_t start, GetIntOr(value, "start", "decoder", 0));
  KVASIR_ASSIGN_OR_RETURN(const int64_t stop, GetIntOr(value, "stop", "decoder", 0));
  if (std::min(start, stop) < 0 || std::max(start, stop) > kMaxStripped) {
    return absl::InvalidArgumentError(absl::StrCat("decoder.start and decoder.stop are ", start,
                                                   " and ", stop, "; they must be in [0, ",
                                                   kMaxStripped, "]"));
  }
  strip.leading = static_cast<int>(start);
  strip.trailing = static_cast<int>(stop);
  if (!fused_) {
    steps_.push_back(std::make_unique<StripStep>(std::move(strip)));
    return absl::OkStatus();
  }
  if (text_strip_.leading > 0 || text_strip_.trailing > 0) {
    return absl::UnimplementedError("more than one decoder \"Strip\" after Fuse is not supported");
  }
  text_strip_ = std::move(strip);
  return absl::OkStatus();
}

absl::StatusOr<std::string> TokenDecoder::BytesOf(absl::string_view name, bool is_added,
                                                  bool is_first) const {
  TokenText token{std::string(name)};
  for (const auto& step : steps_) {
    if (token.is_bytes) break;
    KVASIR_RETURN_IF_ERROR(step->Apply(is_added, is_first, &token));
  }
  return std::move(token.text);
}

}  // namespace kvasir
