#include "runtime/grammar/token_matcher.h"

#include <string>

#include "base/check.h"
#include "runtime/tokenizer/text_call.h"

namespace kvasir {

std::unique_ptr<TokenMatcher> TokenMatcher::Clone() const {
  KvasirTextMatcher* clone = nullptr;
  TextBuffer error;
  const KvasirTextCode code = kvasir_text_matcher_clone(handle_.get(), &clone, error.out());
  KVASIR_CHECK(code == KVASIR_TEXT_OK);
  return std::make_unique<TokenMatcher>(clone);
}

std::unique_ptr<TokenMatcher> TokenMatcher::Copy() const {
  KvasirTextMatcher* copy = nullptr;
  TextBuffer error;
  const KvasirTextCode code = kvasir_text_matcher_copy(handle_.get(), &copy, error.out());
  KVASIR_CHECK(code == KVASIR_TEXT_OK);
  return std::make_unique<TokenMatcher>(copy);
}

absl::Status TokenMatcher::FillMask(absl::Span<uint32_t> mask) {
  TextBuffer error;
  return TextStatus(kvasir_text_matcher_mask(handle_.get(), mask.data(), mask.size(), error.out()),
                    error);
}

absl::Status TokenMatcher::Commit(TokenId token) {
  TextBuffer error;
  return TextStatus(kvasir_text_matcher_commit(handle_.get(), &token, 1, error.out()), error);
}

std::vector<TokenId> TokenMatcher::Forced() const {
  KvasirTextInts forced = {};
  TextBuffer error;
  std::vector<TokenId> tokens;
  if (kvasir_text_matcher_forced(handle_.get(), &forced, error.out()) == KVASIR_TEXT_OK) {
    tokens.assign(forced.data, forced.data + forced.size);
  }
  kvasir_text_ints_free(&forced);
  return tokens;
}

}  // namespace kvasir
