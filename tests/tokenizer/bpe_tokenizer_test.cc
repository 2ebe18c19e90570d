// Byte pair encoding against a naive twin, and its options one by one.
#include "runtime/tokenizer/bpe_tokenizer.h"

#include <algorithm>
#include <map>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/tokenizer/tiny_tokenizer.h"

namespace kvasir {
namespace {

using ::nlohmann::json;
using testing::BpeFile;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::MustDecode;
using testing::MustEncode;
using testing::MustLoad;

using Merges = std::vector<std::pair<std::string, std::string>>;

// The definition: among all neighbours take the pair of the lowest rank, leftmost first, until none
// merges.
std::vector<std::string> MergeNaively(std::vector<std::string> symbols, const Merges& merges) {
  while (true) {
    size_t best_rank = merges.size(), best_at = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      for (size_t rank = 0; rank < best_rank; ++rank) {
        if (merges[rank].first == symbols[i] && merges[rank].second == symbols[i + 1]) {
          best_rank = rank;
          best_at = i;
        }
      }
    }
    if (best_rank == merges.size()) return symbols;
    symbols[best_at] += symbols[best_at + 1];
    symbols.erase(symbols.begin() + best_at + 1);
  }
}

TEST(BpeTokenizer, MergesLikeTheNaiveTwin) {
  std::mt19937 random(11);
  for (int round = 0; round < 150; ++round) {
    const std::vector<std::string> alphabet = {"a", "b", "é", "北"};
    std::vector<std::string> tokens = alphabet;
    Merges merges;
    const int wanted = 1 + random() % 40;
    for (int i = 0; i < wanted; ++i) {
      const std::string left = tokens[random() % tokens.size()],
                        right = tokens[random() % tokens.size()];
      const std::pair<std::string, std::string> merge = {left, right};
      if (left.size() + right.size() > 24 || std::count(merges.begin(), merges.end(), merge))
        continue;
      merges.push_back(merge);
      // Two merges may make one token, from different halves.
      if (!std::count(tokens.begin(), tokens.end(), left + right)) tokens.push_back(left + right);
    }
    const auto tokenizer = MustLoad(BpeFile(tokens, merges));
    ASSERT_NE(tokenizer, nullptr);
    for (int i = 0; i < 20; ++i) {
      std::vector<std::string> symbols;
      std::string text;
      const int length = random() % 120;
      // Few letters, long runs: overlapping candidates and stale heap entries abound.
      for (int j = 0; j < length; ++j) {
        symbols.push_back(alphabet[random() % (1 + round % alphabet.size())]);
        text += symbols.back();
      }
      std::vector<TokenId> expected;
      for (const std::string& symbol : MergeNaively(symbols, merges)) {
        expected.push_back(*tokenizer->TokenToId(symbol));
      }
      ASSERT_EQ(MustEncode(*tokenizer, text), expected) << text;
      ASSERT_EQ(MustDecode(*tokenizer, expected), text);
    }
  }
}

// One piece of a megabyte: quadratic merging would not end within the test's time limit.
TEST(BpeTokenizer, OneHugePieceIsNotQuadratic) {
  const auto tokenizer = MustLoad(BpeFile({"a", "aa", "aaaa", "b"}, {{"a", "a"}, {"aa", "aa"}}));
  const std::vector<TokenId> ids = MustEncode(*tokenizer, std::string(1 << 20, 'a'));
  EXPECT_EQ(ids, std::vector<TokenId>((1 << 20) / 4, 2));
}

TEST(BpeTokenizer, ReadsMergesInBothForms) {
  json file = BpeFile({"a", "b", "ab"}, {});
  for (const json& merges : {json::parse(R"(["a b"])"), json::parse(R"([["a", "b"]])"),
                             json::parse(R"(["#version: 0.2", "a b"])")}) {
    file["model"]["merges"] = merges;
    EXPECT_THAT(MustEncode(*MustLoad(file), "aba"), ElementsAre(2, 0)) << merges;
  }
  // Only pairs can name tokens with blanks.
  json blanks = BpeFile({" ", "a", " a"}, {{" ", "a"}});
  EXPECT_THAT(MustEncode(*MustLoad(blanks), " a a"), ElementsAre(2, 2));
  for (const json& merges : {json::parse(R"(["a  b"])"), json::parse(R"(["ab"])"),
                             json::parse(R"([["a"]])"), json::parse(R"([1])")}) {
    file["model"]["merges"] = merges;
    EXPECT_THAT(Tokenizer::FromJson(file.dump(), "").status().ToString(),
                HasSubstr("model.merges[0]"));
  }
}

TEST(BpeTokenizer, IgnoreMergesTakesWholePiecesFirst) {
  json file = BpeFile({"a", "b", "c", "abc", "<s>"}, {});
  file["added_tokens"] = json::array({testing::AddedTokenJson(4, "<s>", true)});
  EXPECT_THAT(MustEncode(*MustLoad(file), "abc"), ElementsAre(0, 1, 2));
  file["model"]["ignore_merges"] = true;
  EXPECT_THAT(MustEncode(*MustLoad(file), "abc"), ElementsAre(3));
  // Text cannot forge a special token, though it stands in the vocabulary.
  EXPECT_THAT(MustEncode(*MustLoad(file), "<s>"), ElementsAre());
}

TEST(BpeTokenizer, UnknownCharacters) {
  json file = BpeFile({"<unk>", "a"}, {});
  EXPECT_THAT(MustEncode(*MustLoad(file), "xay"),
              ElementsAre(1));  // dropped, as the reference does
  file["model"]["unk_token"] = "<unk>";
  EXPECT_THAT(MustEncode(*MustLoad(file), "xyaz"), ElementsAre(0, 0, 1, 0));
  file["model"]["fuse_unk"] = true;
  EXPECT_THAT(MustEncode(*MustLoad(file), "xyaz"), ElementsAre(0, 1, 0));
  file["model"]["unk_token"] = "<gone>";
  EXPECT_THAT(Tokenizer::FromJson(file.dump(), "").status().ToString(), HasSubstr("<gone>"));
}

TEST(BpeTokenizer, ByteFallbackSpellsCharactersOutsideTheVocabulary) {
  json file = BpeFile({"<unk>", "a", "<0xC3>", "<0xA9>"}, {});
  file["model"]["unk_token"] = "<unk>";
  file["model"]["byte_fallback"] = true;
  file["decoder"] =
      json::parse(R"({"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"}]})");
  const auto tokenizer = MustLoad(file);
  EXPECT_THAT(MustEncode(*tokenizer, "aéa"), ElementsAre(1, 2, 3, 1));
  EXPECT_EQ(MustDecode(*tokenizer, {1, 2, 3, 1}), "aéa");
  EXPECT_THAT(MustEncode(*tokenizer, "è"),
              ElementsAre(0));  // <0xA8> is missing: the whole is unknown
}

// Pieces are cut where no merge can reach across; merges that start from byte or unknown tokens
// reach further than their names say.
TEST(BpeTokenizer, MergesOfByteAndUnknownTokensApply) {
  json file = BpeFile({"<unk>", "a", "<0xC3>", "<0xA9>", "<0xC3><0xA9>", "a<0xC3><0xA9>", "<unk>a"},
                      {{"<0xC3>", "<0xA9>"}, {"a", "<0xC3><0xA9>"}, {"<unk>", "a"}});
  file["model"]["unk_token"] = "<unk>";
  file["model"]["byte_fallback"] = true;
  const auto tokenizer = MustLoad(file);
  EXPECT_THAT(MustEncode(*tokenizer, "aéé"), ElementsAre(5, 4));
  EXPECT_THAT(MustEncode(*tokenizer, "xaa"), ElementsAre(6, 1));
}

TEST(BpeTokenizer, RefusesWhatItDoesNotDo) {
  json file = BpeFile({"a", "b"}, {});
  file["model"]["continuing_subword_prefix"] = "##";
  EXPECT_EQ(Tokenizer::FromJson(file.dump(), "").status().code(), absl::StatusCode::kUnimplemented);
  file["model"]["continuing_subword_prefix"] = "";
  file["model"]["dropout"] = 0.1;
  EXPECT_EQ(Tokenizer::FromJson(file.dump(), "").status().code(), absl::StatusCode::kUnimplemented);
  file["model"]["dropout"] = 0.0;
  EXPECT_NE(MustLoad(file), nullptr);
  file["model"]["merges"] = json::parse(R"([["a", "b"]])");
  EXPECT_THAT(Tokenizer::FromJson(file.dump(), "").status().ToString(),
              HasSubstr("model.merges[0] needs the token \"ab\""));
}

}  // namespace
}  // namespace kvasir
