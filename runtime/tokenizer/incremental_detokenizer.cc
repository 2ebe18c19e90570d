#include "runtime/tokenizer/incremental_detokenizer.h"

#include <algorithm>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "base/check.h"
#include "runtime/tokenizer/text_call.h"
#include "runtime/tokenizer/tokenizer.h"
#include "text/decode_stream.h"

namespace kvasir {
namespace {

// Of a prompt. A decoder looks back over the bytes of a character and over a pattern that it
// replaces, and must not take what follows for the begin of a text.
constexpr size_t kSeedTokens = 16;

// A run of such tokens is judged as a whole.
bool IsByteToken(absl::string_view name) {
  return name.size() == 6 && absl::StartsWith(name, "<0x") && absl::EndsWith(name, ">");
}

}  // namespace

void IncrementalDetokenizer::Free::operator()(KvasirTextStream* stream) const {
  kvasir_text_stream_free(stream);
}

IncrementalDetokenizer::IncrementalDetokenizer(const Tokenizer* tokenizer, bool skip_special_tokens,
                                               absl::Span<const TokenId> visible)
    : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens), visible_(visible) {
  KvasirTextStream* stream = nullptr;
  const KvasirTextCode code = kvasir_text_stream_new(tokenizer->handle(), &stream, nullptr);
  KVASIR_CHECK(code == KVASIR_TEXT_OK);
  stream_.reset(stream);
}

bool IncrementalDetokenizer::HasText(TokenId id) const {
  if (!tokenizer_->Has(id)) return false;
  return !skip_special_tokens_ || !tokenizer_->IsSpecial(id) || absl::c_linear_search(visible_, id);
}

void IncrementalDetokenizer::Seed(absl::Span<const TokenId> prompt) {
  std::vector<TokenId> newest;
  for (size_t i = prompt.size(); i > 0; --i) {
    const TokenId id = prompt[i - 1];
    if (!HasText(id)) continue;
    newest.push_back(id);
    if (newest.size() >= kSeedTokens && !IsByteToken(tokenizer_->IdToToken(id))) break;
  }
  std::reverse(newest.begin(), newest.end());
  // What a decoder fails on has no text.
  kvasir_text_stream_prompt(stream_.get(), newest.data(), newest.size(), nullptr);
}

std::string IncrementalDetokenizer::Append(TokenId id) {
  if (!HasText(id)) return "";
  TextBuffer text;
  kvasir_text_stream_append(stream_.get(), id, text.out(), nullptr);
  return std::string(text.view());
}

std::string IncrementalDetokenizer::Flush() {
  TextBuffer text;
  kvasir_text_stream_end(stream_.get(), text.out(), nullptr);
  return std::string(text.view());
}

}  // namespace kvasir
