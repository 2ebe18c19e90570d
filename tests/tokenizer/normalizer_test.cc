#include "runtime/tokenizer/normalizer.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace kvasir {
namespace {

using ::nlohmann::json;
using ::testing::HasSubstr;

std::string Normalized(const json& normalizer, std::string text) {
  auto parsed = ParseNormalizer(normalizer);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  const absl::Status status = (*parsed)->Apply(&text);
  EXPECT_TRUE(status.ok()) << status;
  return text;
}

json Replace(const char* kind, const char* pattern, const char* content) {
  return {{"type", "Replace"}, {"pattern", {{kind, pattern}}}, {"content", content}};
}

TEST(Normalizer, UnicodeForms) {
  const std::string text = "e\u0301 \u00e9 ﬁ Å \uac00";
  EXPECT_EQ(Normalized({{"type", "NFC"}}, text), "\u00e9 \u00e9 ﬁ \u00c5 \uac00");
  EXPECT_EQ(Normalized({{"type", "NFD"}}, text), "e\u0301 e\u0301 ﬁ A\u030a \u1100\u1161");
  EXPECT_EQ(Normalized({{"type", "NFKC"}}, text), "\u00e9 \u00e9 fi \u00c5 \uac00");
  EXPECT_EQ(Normalized({{"type", "NFKD"}}, text), "e\u0301 e\u0301 fi A\u030a \u1100\u1161");
  // Zero bytes are text like any other.
  EXPECT_EQ(Normalized({{"type", "NFC"}}, std::string("e\u0301\0e\u0301", 7)),
            std::string("é\0é", 5));
}

// Only runs of other characters are mapped: what combines must not be cut from what it combines
// with.
TEST(Normalizer, MarksReachTheAsciiBeforeThem) {
  EXPECT_EQ(Normalized({{"type", "NFC"}}, "abe\u0301cd e\u0301"), "ab\u00e9cd \u00e9");
  EXPECT_EQ(Normalized({{"type", "NFC"}}, "\u0301a s\u0323\u0307x"), "\u0301a \u1e69x");
  EXPECT_EQ(Normalized({{"type", "NFC"}}, "s\u0307\u0323"), "\u1e69");
  EXPECT_EQ(Normalized({{"type", "NFC"}}, "\u1100\u1161\u11a8 a"), "\uac01 a");
  EXPECT_EQ(Normalized({{"type", "NFD"}}, "a\u1e69z"), "as\u0323\u0307z");
  EXPECT_EQ(Normalized({{"type", "NFKC"}}, "\u2460e\u0301\uff21"), "1\u00e9A");
}

TEST(Normalizer, SimpleRewritings) {
  EXPECT_EQ(Normalized({{"type", "Lowercase"}}, "ÀB İ ẞ"), "àb i\u0307 ß");
  EXPECT_EQ(Normalized({{"type", "StripAccents"}}, "e\u0301x"), "ex");
  EXPECT_EQ(Normalized({{"type", "Strip"}}, "\u3000\n a b\t\u00a0"), "a b");
  EXPECT_EQ(Normalized({{"type", "Strip"}, {"strip_left", false}}, " a "), " a");
  EXPECT_EQ(Normalized({{"type", "Strip"}}, " \n"), "");
  EXPECT_EQ(Normalized({{"type", "Prepend"}, {"prepend", "▁"}}, "a"), "▁a");
  EXPECT_EQ(Normalized({{"type", "Prepend"}, {"prepend", "▁"}}, ""), "");
  EXPECT_EQ(Normalized(Replace("String", " ", "▁"), " a b"), "▁a▁b");
  EXPECT_EQ(Normalized(Replace("String", ".*", "$0"), "a.*b"), "a$0b");
  EXPECT_EQ(Normalized(Replace("Regex", " {2,}", " "), "a   b c  "), "a b c ");
  EXPECT_EQ(Normalized(Replace("String", "", "x"), "ab"), "ab");
}

TEST(Normalizer, SequenceAppliesInOrder) {
  const json sequence = {
      {"type", "Sequence"},
      {"normalizers", {{{"type", "Prepend"}, {"prepend", " "}}, Replace("String", " ", "▁")}}};
  EXPECT_EQ(Normalized(sequence, "a b"), "▁a▁b");
}

TEST(Normalizer, GrowthIsBounded) {
  // Each step makes a hundred characters of one.
  json steps = json::array();
  const std::string hundred(100, 'a');
  for (int i = 0; i < 6; ++i) steps.push_back(Replace("String", "a", hundred.c_str()));
  auto parsed = ParseNormalizer({{"type", "Sequence"}, {"normalizers", steps}});
  ASSERT_TRUE(parsed.ok());
  std::string text = "a";
  EXPECT_THAT((*parsed)->Apply(&text).ToString(), HasSubstr("longer than"));
}

TEST(Normalizer, BadPartsAreNamed) {
  EXPECT_EQ(*ParseNormalizer(nullptr), nullptr);
  EXPECT_THAT(ParseNormalizer({{"type", "Precompiled"}}).status().ToString(),
              HasSubstr("UNIMPLEMENTED: normalizer type \"Precompiled\""));
  EXPECT_THAT(ParseNormalizer(json::array()).status().ToString(), HasSubstr("must be an object"));
  EXPECT_THAT(ParseNormalizer({{"type", "Prepend"}}).status().ToString(),
              HasSubstr("normalizer.prepend is missing"));
  EXPECT_THAT(
      ParseNormalizer({{"type", "Replace"}, {"pattern", "x"}, {"content", ""}}).status().ToString(),
      HasSubstr("must be an object"));
  json deep = {{"type", "NFC"}};
  for (int i = 0; i < 200; ++i) deep = {{"type", "Sequence"}, {"normalizers", {deep}}};
  EXPECT_THAT(ParseNormalizer(deep).status().ToString(), HasSubstr("nest deeper"));
}

}  // namespace
}  // namespace kvasir
