#include "runtime/tokenizer/incremental_detokenizer.h"

#include <algorithm>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/utf8.h"

namespace kvasir {
namespace {

// Of a UTF-8 character, all bytes but the last can be missing their end: so many replacement
// characters at a text's end may still become something else.
constexpr int kUndecided = 3;

// Of the prompt: enough that the decoder does not take what follows for the beginning of a text.
constexpr size_t kSeedTokens = 6;

// Most tokens decoded again with each new one. Shorter windows decode faster, but are made anew
// more often; so many undecided ones are no character any more.
constexpr size_t kMaxRecent = 12;

// Bytes of the replacement characters at the end of `text` that may still change.
size_t UndecidedBytes(absl::string_view text) {
  size_t bytes = 0;
  for (int i = 0; i < kUndecided; ++i) {
    if (!absl::EndsWith(text.substr(0, text.size() - bytes), kReplacementCharacter)) break;
    bytes += kReplacementCharacter.size();
  }
  return bytes;
}

size_t CountReplacements(absl::string_view text) {
  size_t count = 0;
  for (size_t at = text.find(kReplacementCharacter); at != absl::string_view::npos;
       at = text.find(kReplacementCharacter, at + kReplacementCharacter.size())) {
    ++count;
  }
  return count;
}

}  // namespace

IncrementalDetokenizer::IncrementalDetokenizer(const Tokenizer* tokenizer, bool skip_special_tokens,
                                               absl::Span<const TokenId> visible)
    : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens), visible_(visible) {}

bool IncrementalDetokenizer::HasText(TokenId id) const {
  if (!tokenizer_->Has(id)) return false;
  return !skip_special_tokens_ || !tokenizer_->IsSpecial(id) || absl::c_linear_search(visible_, id);
}

std::string IncrementalDetokenizer::DecodeTokens(const std::vector<TokenId>& tokens) const {
  // Tokens without text never came into recent_.
  absl::StatusOr<std::string> text =
      tokenizer_->Decode(tokens, skip_special_tokens_ && visible_.empty());
  // Decoders of one token after another cannot fail on tokens that exist; a file's pattern could.
  return text.ok() ? *std::move(text) : given_;
}

void IncrementalDetokenizer::Seed(absl::Span<const TokenId> prompt_tail) {
  // A window that begins inside a character would break those after it, for decoders that judge a
  // run of bytes as a whole: of a few windows, the one with the fewest broken characters.
  std::vector<TokenId> newest_first, best;
  size_t fewest = 0;
  for (size_t i = prompt_tail.size(); i > 0; --i) {
    if (!HasText(prompt_tail[i - 1])) continue;
    newest_first.push_back(prompt_tail[i - 1]);
    if (newest_first.size() < kSeedTokens && i > 1) continue;
    recent_.assign(newest_first.rbegin(), newest_first.rend());
    const size_t broken = CountReplacements(DecodeRecent());
    if (best.empty() || broken < fewest) {
      best = recent_;
      fewest = broken;
    }
    if (fewest == 0 || newest_first.size() == kSeedTokens + kUndecided) break;
  }
  recent_ = best.empty() ? std::vector<TokenId>(newest_first.rbegin(), newest_first.rend()) : best;
  given_ = DecodeRecent();
  const size_t undecided = UndecidedBytes(given_);
  prompts_ = given_.substr(given_.size() - undecided);
  given_.resize(given_.size() - undecided);
  given_tokens_ = recent_.size();
}

std::string IncrementalDetokenizer::Append(TokenId id) {
  if (!HasText(id)) return "";
  recent_.push_back(id);
  std::string fresh = TakeNew(DecodeRecent(), /*at_end=*/false);
  if (recent_.size() >= kMaxRecent) Shorten();
  return fresh;
}

std::string IncrementalDetokenizer::Flush() {
  std::string fresh = TakeNew(DecodeRecent(), /*at_end=*/true);
  recent_.clear();
  given_.clear();
  newest_begin_ = given_tokens_ = 0;
  return fresh;
}

std::string IncrementalDetokenizer::TakeNew(const std::string& text, bool at_end) {
  size_t undecided = at_end ? 0 : UndecidedBytes(text);
  if (undecided > 0) {
    // A model may also write a replacement character. Its bytes tell.
    const std::string bytes = BytesOf(given_tokens_, recent_.size());
    if (!bytes.empty() && ReadUtf8(bytes).kind == Utf8Front::kUnfinished) return "";
    if (!bytes.empty() && !FindInvalidUtf8(bytes)) undecided = 0;
  }
  const size_t decided = text.size() - undecided;
  if (!absl::StartsWith(text, given_)) {
    // Bytes of an unfinished character can spoil those before them, and heal when it is whole.
    const bool may_heal = undecided > 0 && recent_.size() - given_tokens_ <= kUndecided;
    return may_heal ? "" : StartAnew();
  }
  if (decided <= given_.size()) return "";
  std::string fresh = text.substr(given_.size(), decided - given_.size());
  given_ = text.substr(0, decided);
  if (undecided == 0) {
    newest_begin_ = given_tokens_;
    given_tokens_ = recent_.size();
  }
  // Unless generated bytes have completed it, a broken character of the prompt is the prompt's.
  if (!prompts_.empty() && absl::StartsWith(fresh, prompts_)) fresh.erase(0, prompts_.size());
  prompts_.clear();
  return fresh;
}

std::string IncrementalDetokenizer::StartAnew() {
  recent_.erase(recent_.begin(), recent_.begin() + static_cast<std::ptrdiff_t>(given_tokens_));
  newest_begin_ = 0;
  given_tokens_ = recent_.size();
  given_ = DecodeRecent();
  prompts_.clear();
  return given_;
}

std::string IncrementalDetokenizer::BytesOf(size_t begin, size_t end) const {
  std::string bytes;
  for (size_t i = begin; i < end; ++i) absl::StrAppend(&bytes, tokenizer_->TokenBytes(recent_[i]));
  return bytes;
}

size_t IncrementalDetokenizer::GivenTokensToKeep() const {
  // A cut inside of a character would spoil those after it, as in Seed().
  const size_t most = std::min<size_t>(given_tokens_, kUndecided + 1);
  for (size_t keep = 1; keep <= most; ++keep) {
    if (!FindInvalidUtf8(BytesOf(given_tokens_ - keep, given_tokens_))) return keep;
  }
  return std::min<size_t>(most, 1);
}

void IncrementalDetokenizer::Shorten() {
  const std::string before = DecodeRecent();
  // Not so while an unfinished character spoils those before it.
  const bool goes_on = absl::StartsWith(before, given_);
  const size_t held_back = goes_on ? before.size() - given_.size() : UndecidedBytes(before);
  const bool all_given = held_back == 0 && given_tokens_ == recent_.size();
  const size_t kept_given = all_given ? recent_.size() - newest_begin_ : GivenTokensToKeep();
  const size_t keep = recent_.size() - given_tokens_ + kept_given;
  newest_begin_ = 0;
  if (keep >= kMaxRecent) {
    // Nothing but broken bytes: the newest suffice to finish a character.
    recent_.erase(recent_.begin(), recent_.end() - kUndecided - 1);
    given_ = DecodeRecent();
    given_.resize(given_.size() - std::min(held_back, UndecidedBytes(given_)));
    given_tokens_ = all_given ? recent_.size() : 1;
    return;
  }
  recent_.erase(recent_.begin(), recent_.end() - static_cast<std::ptrdiff_t>(keep));
  given_tokens_ = kept_given;
  const std::string text = DecodeRecent();
  given_ =
      DecodeTokens({recent_.begin(), recent_.begin() + static_cast<std::ptrdiff_t>(kept_given)});
  // Of a token that ends inside of a character, what comes before that is given out too.
  if (goes_on && absl::StartsWith(text, given_)) {
    given_ = text.substr(0, text.size() - std::min(held_back, text.size() - given_.size()));
  }
}

}  // namespace kvasir
