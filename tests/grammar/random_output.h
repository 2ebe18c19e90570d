// An output as a model would draw it that knows nothing: each next token is any of those that the
// grammar allows.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "runtime/grammar/token_matcher.h"
#include "runtime/tokenizer/tokenizer.h"

namespace kvasir::testing {

inline bool Allows(absl::Span<const uint32_t> mask, TokenId token) {
  return (mask[token / 32] >> (token % 32)) & 1;
}

inline std::vector<TokenId> AllowedTokens(TokenMatcher* matcher, int vocab_size) {
  std::vector<uint32_t> mask(MaskWords(vocab_size));
  const absl::Status status = matcher->FillMask(absl::MakeSpan(mask));
  EXPECT_TRUE(status.ok()) << status;
  std::vector<TokenId> tokens;
  for (TokenId token = 0; token < vocab_size; ++token) {
    if (Allows(mask, token)) tokens.push_back(token);
  }
  return tokens;
}

struct RandomOutput {
  std::string text;
  std::vector<TokenId> tokens;
  bool complete = false;  // not cut at the longest length

  RandomOutput(TokenMatcher* matcher, const Tokenizer& tokenizer, int vocab_size, TokenId eos,
               uint64_t seed, int longest = 400) {
    std::mt19937_64 random(seed);
    while (!(complete = matcher->IsComplete()) && static_cast<int>(tokens.size()) < longest) {
      const std::vector<TokenId> allowed = AllowedTokens(matcher, vocab_size);
      if (allowed.empty()) return;
      const TokenId token = allowed[random() % allowed.size()];
      const bool may_end = matcher->IsAccepting();
      EXPECT_TRUE(token != eos || may_end);
      const absl::Status committed = matcher->Commit(token);
      EXPECT_TRUE(committed.ok()) << committed;
      if (!committed.ok()) return;
      tokens.push_back(token);
      if (token != eos) absl::StrAppend(&text, tokenizer.TokenBytes(token));
    }
  }
};

}  // namespace kvasir::testing
