#include "runtime/tokenizer/utf8.h"

#include "gtest/gtest.h"

namespace kvasir {
namespace {

TEST(Utf8, EveryCodePointRoundTrips) {
  for (uint32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    AppendUtf8(c, &text);
    ASSERT_FALSE(FindInvalidUtf8(text).has_value()) << c;
    ASSERT_EQ(CodePointAt(text, 0).value, c);
    ASSERT_EQ(CodePointAt(text, 0).length_bytes, text.size());
    ASSERT_TRUE(IsOneCharacter(text));
    // Every proper prefix is unfinished, not invalid.
    for (size_t length = 1; length < text.size(); ++length) {
      const Utf8Part part = ReadUtf8(absl::string_view(text).substr(0, length));
      ASSERT_EQ(part.kind, Utf8Front::kUnfinished);
      ASSERT_EQ(part.length_bytes, length);
    }
  }
}

TEST(Utf8, ReportsTheFirstBadByte) {
  EXPECT_EQ(FindInvalidUtf8(""), std::nullopt);
  EXPECT_EQ(FindInvalidUtf8("0123456789abcdef"), std::nullopt);
  EXPECT_EQ(FindInvalidUtf8("0123456789\xff"), 10u);
  EXPECT_EQ(FindInvalidUtf8("é\xc3"), 2u);               // unfinished
  EXPECT_EQ(FindInvalidUtf8("a\xc0\x80"), 1u);           // overlong NUL
  EXPECT_EQ(FindInvalidUtf8("\xed\xa0\x80"), 0u);        // surrogate
  EXPECT_EQ(FindInvalidUtf8("ab\xf4\x90\x80\x80"), 2u);  // beyond U+10FFFF
  EXPECT_EQ(FindInvalidUtf8("\xe2\x82\xac\xe2\x82x"), 3u);
}

}  // namespace
}  // namespace kvasir
