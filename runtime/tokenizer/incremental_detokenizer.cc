#include "runtime/tokenizer/incremental_detokenizer.h"

#include "absl/strings/match.h"
#include "runtime/tokenizer/token_decoder.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/tokenizer_json.h"
#include "runtime/tokenizer/utf8.h"

namespace kvasir {

IncrementalDetokenizer::IncrementalDetokenizer(const Tokenizer* tokenizer, bool skip_special_tokens)
    : tokenizer_(tokenizer),
      skip_special_tokens_(skip_special_tokens),
      leading_strips_left_(tokenizer->parts_->decoder.text_strip().leading) {}

void IncrementalDetokenizer::Seed(absl::Span<const TokenId> prompt_tail) {
  for (const TokenId id : prompt_tail) Append(id);
  held_back_.clear();  // is followed by the generated text, and so was not the end
}

std::string IncrementalDetokenizer::Append(TokenId id) {
  const TokenizerParts& parts = *tokenizer_->parts_;
  std::string text;
  if (!parts.vocabulary.Has(id) || (skip_special_tokens_ && parts.is_special[id])) return text;
  const bool as_first = at_first_token_ && parts.decoder.first_differs();
  at_first_token_ = false;
  if (as_first) {
    // The same steps have succeeded on the same name for running text; should a pattern give up all
    // the same, a blank too many is the smaller evil.
    const auto bytes =
        parts.decoder.BytesOf(parts.vocabulary.NameOf(id), parts.is_added[id], /*is_first=*/true);
    pending_ += bytes.ok() ? *bytes : std::string(tokenizer_->TokenBytes(id));
  } else {
    const absl::string_view bytes = tokenizer_->TokenBytes(id);
    pending_.append(bytes.data(), bytes.size());
  }
  TakeCharacters(&text);
  return Strip(std::move(text));
}

std::string IncrementalDetokenizer::Flush() {
  std::string text;
  if (!pending_.empty()) text.append(kReplacementCharacter.data(), kReplacementCharacter.size());
  pending_.clear();
  text = Strip(std::move(text));
  held_back_.clear();  // was the end, and is stripped from it
  return text;
}

void IncrementalDetokenizer::TakeCharacters(std::string* out) {
  size_t taken = 0;
  while (taken < pending_.size()) {
    const Utf8Part part = ReadUtf8(absl::string_view(pending_).substr(taken));
    if (part.kind == Utf8Front::kUnfinished) break;
    if (part.kind == Utf8Front::kCharacter) {
      out->append(pending_, taken, part.length_bytes);
    } else {
      out->append(kReplacementCharacter.data(), kReplacementCharacter.size());
    }
    taken += part.length_bytes;
  }
  pending_.erase(0, taken);
}

std::string IncrementalDetokenizer::Strip(std::string text) {
  const TokenDecoder::TextStrip& strip = tokenizer_->parts_->decoder.text_strip();
  if (text.empty() || (leading_strips_left_ == 0 && strip.trailing == 0)) return text;
  size_t begin = 0;
  while (leading_strips_left_ > 0 && begin < text.size()) {
    if (!absl::StartsWith(absl::string_view(text).substr(begin), strip.character)) {
      leading_strips_left_ = 0;
      break;
    }
    begin += strip.character.size();
    --leading_strips_left_;
  }
  held_back_.append(text, begin, std::string::npos);
  size_t decided = held_back_.size();
  for (int i = 0; i < strip.trailing; ++i) {
    if (!absl::EndsWith(absl::string_view(held_back_).substr(0, decided), strip.character)) break;
    decided -= strip.character.size();
  }
  std::string out = held_back_.substr(0, decided);
  held_back_.erase(0, decided);
  return out;
}

}  // namespace kvasir
