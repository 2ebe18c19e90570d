// The small parts under the tokenizer: UTF-8, the byte-level alphabet, the trie, splits, added
// tokens, regex.
#include <algorithm>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/tokenizer/added_tokens.h"
#include "runtime/tokenizer/byte_level.h"
#include "runtime/tokenizer/byte_trie.h"
#include "runtime/tokenizer/chat_template.h"
#include "runtime/tokenizer/regex.h"
#include "runtime/tokenizer/text_splits.h"
#include "runtime/tokenizer/utf8.h"
#include "runtime/tokenizer/vocabulary.h"

namespace kvasir {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Utf8, EveryCodePointRoundTrips) {
  for (uint32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    AppendUtf8(c, &text);
    ASSERT_FALSE(FindInvalidUtf8(text).has_value()) << c;
    ASSERT_EQ(CodePointAt(text, 0).value, c);
    ASSERT_EQ(CodePointAt(text, 0).length_bytes, text.size());
    ASSERT_TRUE(IsOneCharacter(text));
    ASSERT_EQ(PreviousCodePoint("x" + text, text.size() + 1), 1u);
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

TEST(ByteLevel, AlphabetIsABijectionOfPrintableCharacters) {
  std::set<std::string> seen;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string raw(1, static_cast<char>(byte));
    std::string spelled;
    AppendByteLevel(raw, &spelled);
    EXPECT_TRUE(seen.insert(spelled).second);
    EXPECT_EQ(BytesOfByteLevel(spelled), raw);
  }
  std::string spelled;
  AppendByteLevel(" \né~", &spelled);
  EXPECT_EQ(spelled, "ĠĊÃ©~");
  EXPECT_EQ(BytesOfByteLevel("a b"), std::nullopt);
  EXPECT_EQ(BytesOfByteLevel("北"), std::nullopt);
}

TEST(ByteTrie, FindsExactlyTheKeysThatArePrefixes) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::string> keys;
    for (int i = 0; i < 30; ++i) {
      std::string key;
      const int length = random() % 6;
      for (int j = 0; j < length; ++j) key += static_cast<char>("ab\x00\xff"[random() % 4]);
      keys.push_back(key);
    }
    std::vector<ByteTrie::Entry> entries;
    for (size_t i = 0; i < keys.size(); ++i) entries.emplace_back(keys[i], i);
    const ByteTrie trie(entries);
    std::string text;
    for (int j = 0; j < 8; ++j) text += static_cast<char>("ab\x00\xff"[random() % 4]);

    std::vector<std::pair<size_t, int32_t>> expected, found;
    for (size_t length = 1; length <= text.size(); ++length) {
      for (int i = static_cast<int>(keys.size()) - 1; i >= 0;
           --i) {  // the last of equal keys counts
        if (keys[i] == text.substr(0, length)) {
          expected.emplace_back(length, i);
          break;
        }
      }
    }
    trie.ForEachPrefix(text,
                       [&](size_t length, int32_t value) { found.emplace_back(length, value); });
    EXPECT_EQ(found, expected);
    if (!expected.empty()) {
      EXPECT_TRUE(trie.CanBeginWith(text[0]));
    }
  }
}

TEST(Vocabulary, KeepsHolesAndRefusesContradictions) {
  Vocabulary vocabulary;
  ASSERT_TRUE(vocabulary.Fill({{"b", 3}, {"a", 1}, {"a", 1}, {"", 5}}).ok());
  EXPECT_EQ(vocabulary.size(), 6);
  EXPECT_EQ(vocabulary.IdOf("a"), 1);
  EXPECT_EQ(vocabulary.IdOf("b"), 3);
  EXPECT_EQ(vocabulary.NameOf(1), "a");
  EXPECT_EQ(vocabulary.NameOf(2), "");
  EXPECT_FALSE(vocabulary.Has(2));
  EXPECT_TRUE(vocabulary.Has(5));
  EXPECT_FALSE(vocabulary.Has(6));
  EXPECT_FALSE(vocabulary.Has(-1));

  Vocabulary broken;
  EXPECT_THAT(broken.Fill({{"a", 7}, {"b", 7}}).ToString(), HasSubstr("id 7 stands for both"));
  EXPECT_THAT(Vocabulary().Fill({{"a", 1}, {"a", 2}}).ToString(), HasSubstr("has the ids 1 and 2"));
  EXPECT_THAT(broken.Fill({{"a", -1}}).ToString(), HasSubstr("has id -1"));
  EXPECT_THAT(broken.Fill({{"a", 1 << 21}}).ToString(), HasSubstr("2097152"));
}

TEST(Vocabulary, ReadsByteTokens) {
  EXPECT_EQ(ByteOfByteToken("<0x0A>"), 10);
  EXPECT_EQ(ByteOfByteToken("<0xFF>"), 255);
  for (const char* other : {"<0x0a>", "<0xF>", "<0x0G>", "0x0A", "<0x0A> ", ""}) {
    EXPECT_EQ(ByteOfByteToken(other), std::nullopt) << other;
  }
}

// Pieces of "a--b-" split at each '-'.
std::vector<std::string> SplitAtDashes(SplitBehavior behavior, bool invert) {
  const std::string text = "a--b-";
  std::vector<TextSpan> pieces;
  SplitAtMatches({0, 5}, {{1, 2}, {2, 3}, {4, 5}}, behavior, invert, &pieces);
  std::vector<std::string> result;
  for (const TextSpan piece : pieces) {
    result.push_back(text.substr(piece.begin, piece.end - piece.begin));
  }
  return result;
}

TEST(TextSplits, KnowsEveryBehavior) {
  EXPECT_THAT(SplitAtDashes(SplitBehavior::kRemoved, false), ElementsAre("a", "b"));
  EXPECT_THAT(SplitAtDashes(SplitBehavior::kIsolated, false), ElementsAre("a", "-", "-", "b", "-"));
  EXPECT_THAT(SplitAtDashes(SplitBehavior::kMergedWithPrevious, false),
              ElementsAre("a-", "-", "b-"));
  EXPECT_THAT(SplitAtDashes(SplitBehavior::kMergedWithNext, false),
              ElementsAre("a", "-", "-b", "-"));
  EXPECT_THAT(SplitAtDashes(SplitBehavior::kContiguous, false), ElementsAre("a", "--", "b", "-"));
  EXPECT_THAT(SplitAtDashes(SplitBehavior::kRemoved, true), ElementsAre("-", "-", "-"));
  EXPECT_FALSE(ParseSplitBehavior("removed").ok());
}

// Sections of `text`, tokens in brackets by their ids.
std::string Sections(const AddedTokens& tokens, const std::string& text,
                     bool parse_special = true) {
  std::string result;
  for (const AddedTokens::Section& section : tokens.Split(text, parse_special)) {
    const auto part =
        absl::string_view(text).substr(section.span.begin, section.span.end - section.span.begin);
    if (section.token.has_value()) {
      absl::StrAppend(&result, "{", *section.token, ":", part, "}");
    } else {
      absl::StrAppend(&result, "(", part, ")");
    }
  }
  return result;
}

TEST(AddedTokens, TakesTheLeftmostThenTheLongest) {
  const AddedTokens tokens({{.content = "<a>", .id = 1},
                            {.content = "<a><b>", .id = 2},
                            {.content = "a><b", .id = 3},
                            {.content = "", .id = 4}});
  EXPECT_EQ(Sections(tokens, "<a><b>x<a><"), "{2:<a><b>}(x){1:<a>}(<)");
  EXPECT_EQ(Sections(tokens, "xa><b>"), "(x){3:a><b}(>)");
  EXPECT_EQ(Sections(tokens, ""), "");
}

TEST(AddedTokens, HonoursTheirFlags) {
  const AddedTokens tokens({{.content = "<s>", .id = 1, .special = true},
                            {.content = "WORD", .id = 2, .single_word = true},
                            {.content = "<m>", .id = 3, .lstrip = true, .rstrip = true}});
  EXPECT_EQ(Sections(tokens, "<s>x", /*parse_special=*/false), "(<s>x)");
  EXPECT_EQ(Sections(tokens, "WORD aWORD WORDé (WORD)"), "{2:WORD}( aWORD WORDé (){2:WORD}())");
  EXPECT_EQ(Sections(tokens, "a \u3000<m>\n <m> b"), "(a){3: \u3000<m>\n }{3:<m> }(b)");
}

TEST(Regex, RefusesWhatOnigurumaReadsDifferently) {
  EXPECT_EQ(Regex::Compile(R"([a-z&&[aeiou]])").status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(Regex::Compile(R"([a[bc]])").status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(Regex::Compile(R"(\h+)").status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(Regex::Compile(R"([\W])").status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(Regex::Compile(R"([\[\]&]|[]a]|[^]a]|[[:alpha:]]|&&)").ok());
  EXPECT_THAT(Regex::Compile("(ab").status().ToString(), HasSubstr("at byte 3"));
  EXPECT_THAT(Regex::Compile(std::string(1 << 20, 'a')).status().ToString(), HasSubstr("limit"));
}

// Every character of `text` that `pattern` matches.
std::string Matched(const char* pattern, const std::string& text) {
  const auto regex = Regex::Compile(pattern);
  EXPECT_TRUE(regex.ok()) << regex.status();
  std::string matched;
  Regex::Scanner scanner(*regex);
  for (scanner.Start(text); scanner.Next();)
    matched += text.substr(scanner.begin(), scanner.end() - scanner.begin());
  return matched;
}

// Where PCRE2 and Oniguruma disagree about a class, it is Oniguruma's that counts.
TEST(Regex, ClassesMeanWhatTheyMeanInOniguruma) {
  const std::string blanks = " \t\n\u0085\u00a0\u2028\u3000";
  EXPECT_EQ(Matched(R"(\s)", "a\u180e" + blanks + "b"), blanks);
  EXPECT_EQ(Matched(R"(\S)", "a\u180e" + blanks + "b"), "a\u180eb");
  EXPECT_EQ(Matched(R"([\s]+)", "a\u180e" + blanks + "b"), blanks);
  EXPECT_EQ(Matched(R"([^\sa])", "a\u180e" + blanks + "b"), "\u180eb");
  EXPECT_EQ(Matched(R"(\w)", "aé_\u203f\u0301\u0664 -½"), "aé_\u203f\u0301\u0664");
  EXPECT_EQ(Matched(R"([^\w])", "a\u0301 -"), " -");
  EXPECT_EQ(Matched(R"(\W)", "a\u0301 -"), " -");
  EXPECT_EQ(Matched(R"([\Sx])", "a\u180e b"), "a\u180eb");
  EXPECT_EQ(Matched(R"(\p{Han})", "北、あ"), "北");
  EXPECT_EQ(Matched(R"([\p{^Han}\p{Nd}])", "北、あ1"), "、あ1");
  EXPECT_EQ(Matched(R"(\P{Han})", "北、あ"), "、あ");
  EXPECT_EQ(Matched("^.", "ab\ncd"), "ac");  // lines, always
}

TEST(Regex, GivesUpOnCatastrophicBacktracking) {
  const auto regex = Regex::Compile(R"((?:a+)+$)");
  ASSERT_TRUE(regex.ok());
  const std::string text = std::string(64, 'a') + "!";
  Regex::Scanner scanner(*regex);
  scanner.Start(text);
  while (scanner.Next()) {
  }
  EXPECT_EQ(scanner.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(scanner.status().ToString(), HasSubstr("gave up at byte 0 of 65"));
  scanner.Start("aaa");  // usable again
  EXPECT_TRUE(scanner.Next());
  EXPECT_EQ(scanner.end(), 3u);
}

TEST(Regex, EmptyAndBackwardMatchesDoNotLoop) {
  for (const char* pattern : {"", "x*", R"(\b)", R"((?=(ab\K)))", R"((?<=(?=\Ka))b)"}) {
    const auto regex = Regex::Compile(pattern);
    if (!regex.ok()) continue;  // some releases of PCRE2 refuse \K in lookarounds
    Regex::Scanner scanner(*regex);
    scanner.Start("ab北abxb");
    size_t end = 0;
    while (scanner.Next()) {
      ASSERT_LE(end, scanner.begin());
      ASSERT_LT(scanner.begin(), scanner.end());
      end = scanner.end();
    }
    EXPECT_TRUE(scanner.status().ok());
  }
}

TEST(ChatTemplate, ChecksMessagesAndThenSaysWhatIsMissing) {
  EXPECT_EQ(RenderChat({}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(RenderChat({{"wizard", "hi"}}).status().ToString(), HasSubstr("wizard"));
  EXPECT_THAT(RenderChat({{"user", "hi"}, {"assistant", "\xff"}}).status().ToString(),
              HasSubstr("message 1 is not valid UTF-8 at byte 0"));
  EXPECT_EQ(RenderChat({{"user", "hi"}}).status().code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace kvasir
