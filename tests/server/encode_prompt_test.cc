// EncodePrompt: what a checked request's prompt becomes in tokens, and which prompts it refuses.
#include <memory>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/frontend/validation/request_validation.h"
#include "tests/server/error_details.h"
#include "tests/server/small_model.h"

namespace kvasir {
namespace {

using ::kvasir::testing::LetterTokenizer;
using ::kvasir::testing::SmallLimits;
using ::kvasir::testing::SmallSpec;
using ::kvasir::testing::ViolationOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<GenerationRequest> Encode(const v1::GenerateRequest& message) {
  static const std::unique_ptr<Tokenizer> tokenizer = LetterTokenizer();
  static const ModelSpec spec = SmallSpec();
  auto checked = CheckGenerateRequest(message, SmallLimits(spec), "");
  if (!checked.ok()) return checked.status();
  return EncodePrompt(*std::move(checked), *tokenizer, SmallLimits(spec));
}

TEST(EncodePromptTest, AddsBeginningOfSequenceAndCountsIt) {
  v1::GenerateRequest message;
  message.set_text("abc");
  const auto request = Encode(message);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(request->prompt, ElementsAre(0, 2, 3, 4));
  EXPECT_EQ(request->automatic_prefix_tokens, 1);
}

TEST(EncodePromptTest, LeavesSpecialTokensOutWhenTold) {
  v1::GenerateRequest message;
  message.set_text("abc");
  message.set_add_special_tokens(false);
  const auto request = Encode(message);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(request->prompt, ElementsAre(2, 3, 4));
  EXPECT_EQ(request->automatic_prefix_tokens, 0);
}

TEST(EncodePromptTest, ParsesSpecialTokensOnlyWhenTold) {
  v1::GenerateRequest message;
  message.set_text("<s>a");
  message.set_parse_special_tokens(true);
  const auto parsed = Encode(message);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  // The client's own <s> is no automatic one.
  EXPECT_THAT(parsed->prompt, ElementsAre(0, 0, 2));
  EXPECT_EQ(parsed->automatic_prefix_tokens, 1);

  message.set_parse_special_tokens(false);
  const auto plain = Encode(message);
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_THAT(plain->prompt, ElementsAre(0, 2));  // "<", "s" and ">" have no tokens
}

TEST(EncodePromptTest, TokenIdsAreTakenAsTheyAre) {
  v1::GenerateRequest message;
  message.mutable_token_ids()->add_ids(2);
  const auto request = Encode(message);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(request->prompt, ElementsAre(2));
  EXPECT_EQ(request->automatic_prefix_tokens, 0);
}

TEST(EncodePromptTest, TextMayFillTheContextButNotMore) {
  v1::GenerateRequest message;
  message.set_text("aaaaaaa");  // 7 and <s>
  EXPECT_TRUE(Encode(message).ok());
  message.set_text("aaaaaaaa");
  const absl::Status status = Encode(message).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(ViolationOf(status, "text"), HasSubstr("9 tokens"));
  EXPECT_THAT(ViolationOf(status, "text"), HasSubstr("holds 8"));
}

TEST(EncodePromptTest, TextWithoutTokensIsRefused) {
  v1::GenerateRequest message;
  message.set_text("zzz");
  message.set_add_special_tokens(false);
  const absl::Status status = Encode(message).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(ViolationOf(status, "text"), HasSubstr("3 bytes"));
}

TEST(EncodePromptTest, TokensThatTheModelLacksAreRefused) {
  const std::unique_ptr<Tokenizer> tokenizer = LetterTokenizer();
  ModelSpec spec = SmallSpec();
  spec.vocab_size = 4;  // knows a and b only
  v1::GenerateRequest message;
  message.set_text("abc");
  auto checked = CheckGenerateRequest(message, SmallLimits(spec), "");
  ASSERT_TRUE(checked.ok());
  const absl::Status status =
      EncodePrompt(*std::move(checked), *tokenizer, SmallLimits(spec)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(ViolationOf(status, "text"), HasSubstr("0 to 3"));
}

}  // namespace
}  // namespace kvasir
