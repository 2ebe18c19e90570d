// Where texts are cut: the three great patterns on strings whose splits are known, and every
// pre-tokenizer against the reference implementation.
#include "runtime/tokenizer/pre_tokenizer.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/tokenizer/tiny_tokenizer.h"

namespace kvasir {
namespace {

using ::nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Strings = std::vector<std::string>;

constexpr char kLlama3[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen2[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kGpt2[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

json Split(const std::string& pattern, const std::string& behavior = "Isolated",
           bool invert = false) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", pattern}}},
          {"behavior", behavior},
          {"invert", invert}};
}

Strings Pieces(const json& pre_tokenizer, const std::string& text, bool at_text_start = true) {
  auto parsed = ParsePreTokenizer(pre_tokenizer);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  PreTokens tokens{text, {}};
  if (!text.empty()) tokens.pieces.push_back({0, static_cast<uint32_t>(text.size())});
  EXPECT_TRUE((*parsed)->Apply(at_text_start, &tokens).ok());
  Strings result;
  for (const TextSpan piece : tokens.pieces) result.emplace_back(tokens.Piece(piece));
  return result;
}

TEST(PreTokenizer, ContractionsDifferByCase) {
  EXPECT_THAT(Pieces(Split(kGpt2), "don't DON'T"), ElementsAre("don", "'t", " DON", "'", "T"));
  EXPECT_THAT(Pieces(Split(kLlama3), "don't DON'T"), ElementsAre("don", "'t", " DON", "'T"));
  EXPECT_THAT(Pieces(Split(kQwen2), "y'all'RE"), ElementsAre("y", "'all", "'RE"));
}

TEST(PreTokenizer, DigitsComeInGroupsOfTheModelsSize) {
  EXPECT_THAT(Pieces(Split(kGpt2), "in 12345."), ElementsAre("in", " 12345", "."));
  EXPECT_THAT(Pieces(Split(kLlama3), "in 12345."), ElementsAre("in", " ", "123", "45", "."));
  EXPECT_THAT(Pieces(Split(kQwen2), "in 123."), ElementsAre("in", " ", "1", "2", "3", "."));
  EXPECT_THAT(Pieces(Split(kLlama3), "٣٤٥٦½"),
              ElementsAre("٣٤٥", "٦½"));  // \p{N} is not only ASCII
}

TEST(PreTokenizer, BlanksAndNewlines) {
  EXPECT_THAT(Pieces(Split(kGpt2), "a  b \n\n c  "),
              ElementsAre("a", " ", " b", " \n\n", " c", "  "));
  EXPECT_THAT(Pieces(Split(kLlama3), "a  b \n\n c  "),
              ElementsAre("a", " ", " b", " \n\n", " c", "  "));
  EXPECT_THAT(Pieces(Split(kLlama3), "x;\r\n\r\ny"), ElementsAre("x", ";\r\n\r\n", "y"));
  EXPECT_THAT(Pieces(Split(kGpt2), "x;\r\n\r\ny"), ElementsAre("x", ";", "\r\n\r", "\n", "y"));
  EXPECT_THAT(Pieces(Split(kQwen2), "\t\tif"), ElementsAre("\t", "\tif"));
}

TEST(PreTokenizer, ScriptsEmojiAndMarks) {
  EXPECT_THAT(Pieces(Split(kLlama3), "北京 东京。"), ElementsAre("北京", " 东京", "。"));
  EXPECT_THAT(Pieces(Split(kQwen2), "hi 🙂👍"), ElementsAre("hi", " 🙂👍"));
  // A combining mark is not a letter: it ends the word it belongs to and may begin the next one.
  EXPECT_THAT(Pieces(Split(kGpt2), "cafe\u0301s"), ElementsAre("cafe", "\u0301", "s"));
  EXPECT_THAT(Pieces(Split(kLlama3), "cafe\u0301s"), ElementsAre("cafe", "\u0301s"));
}

TEST(PreTokenizer, ByteLevelSpellsBytes) {
  const json plain = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  EXPECT_THAT(Pieces(plain, "a é\n"), ElementsAre("a", "ĠÃ©", "Ċ"));
  const json prefix = {{"type", "ByteLevel"}, {"add_prefix_space", true}};
  EXPECT_THAT(Pieces(prefix, "a b"), ElementsAre("Ġa", "Ġb"));
  EXPECT_THAT(Pieces(prefix, " a"), ElementsAre("Ġa"));
  const json whole = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  EXPECT_THAT(Pieces(whole, "a b"), ElementsAre("aĠb"));
}

TEST(PreTokenizer, MetaspacePrependsByItsScheme) {
  const auto metaspace = [](const char* scheme, bool split) {
    return json{
        {"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", scheme}, {"split", split}};
  };
  EXPECT_THAT(Pieces(metaspace("always", true), "a  b"), ElementsAre("▁a", "▁", "▁b"));
  EXPECT_THAT(Pieces(metaspace("always", false), " a b"), ElementsAre("▁a▁b"));
  EXPECT_THAT(Pieces(metaspace("never", true), "a b"), ElementsAre("a", "▁b"));
  EXPECT_THAT(Pieces(metaspace("first", true), "a"), ElementsAre("▁a"));
  EXPECT_THAT(Pieces(metaspace("first", true), "a", /*at_text_start=*/false), ElementsAre("a"));
  // Files from before prepend_scheme.
  EXPECT_THAT(Pieces({{"type", "Metaspace"}, {"add_prefix_space", false}}, "a b"),
              ElementsAre("a", "▁b"));
}

TEST(PreTokenizer, SequenceCutsPiecesFurther) {
  const json digits = {{"type", "Digits"}, {"individual_digits", true}};
  const json sequence = {{"type", "Sequence"}, {"pretokenizers", {digits, Split(kGpt2)}}};
  EXPECT_THAT(Pieces(sequence, "v12 x"), ElementsAre("v", "1", "2", " x"));
}

TEST(PreTokenizer, AgreesWithTheReference) {
  const json& vectors = testing::ReferenceVectors();
  ASSERT_FALSE(vectors["splits"].empty());
  for (const json& split : vectors["splits"]) {
    for (size_t i = 0; i < vectors["texts"].size(); ++i) {
      const std::string text = vectors["texts"][i];
      EXPECT_EQ(Pieces(split["pre_tokenizer"], text), split["pieces"][i].get<Strings>())
          << split["name"] << " on " << vectors["texts"][i];
    }
  }
}

TEST(PreTokenizer, BadPartsAreNamed) {
  EXPECT_THAT(ParsePreTokenizer({{"type", "BertPreTokenizer"}}).status().ToString(),
              HasSubstr("UNIMPLEMENTED: pre_tokenizer type \"BertPreTokenizer\""));
  EXPECT_THAT(ParsePreTokenizer({{"type", 3}}).status().ToString(),
              HasSubstr("pre_tokenizer.type must be a string"));
  EXPECT_THAT(ParsePreTokenizer(Split("(a")).status().ToString(), HasSubstr("does not compile"));
  EXPECT_THAT(ParsePreTokenizer(Split("a", "Sideways")).status().ToString(), HasSubstr("Sideways"));
  json deep = {{"type", "WhitespaceSplit"}};
  for (int i = 0; i < 100; ++i) deep = {{"type", "Sequence"}, {"pretokenizers", {deep}}};
  EXPECT_THAT(ParsePreTokenizer(deep).status().ToString(), HasSubstr("nest deeper"));
}

}  // namespace
}  // namespace kvasir
