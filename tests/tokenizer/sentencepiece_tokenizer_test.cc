// SentencePiece vocabularies: Unigram against all segmentations of short texts, and a hand-made BPE
// one.
#include "runtime/tokenizer/sentencepiece_tokenizer.h"

#include <algorithm>
#include <functional>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/tokenizer/tiny_tokenizer.h"

namespace kvasir {
namespace {

using ::nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::MustDecode;
using testing::MustEncode;
using testing::MustLoad;

json UnigramFile(const std::vector<std::pair<std::string, double>>& vocab) {
  return {{"model", {{"type", "Unigram"}, {"vocab", vocab}, {"unk_id", 0}}},
          {"decoder", {{"type", "Fuse"}}}};
}

TEST(SentencePieceUnigram, FindsTheBestOfAllSegmentations) {
  std::mt19937 random(5);
  std::uniform_real_distribution<double> score(-12, -1);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::pair<std::string, double>> vocab = {
        {"<unk>", 0.0}, {"a", score(random)}, {"b", score(random)}};
    for (int i = 0; i < 12; ++i) {
      std::string token;
      const int length = 2 + random() % 4;
      for (int j = 0; j < length; ++j) token += static_cast<char>("abc"[random() % 3]);
      const bool known =
          std::any_of(vocab.begin(), vocab.end(), [&](const auto& e) { return e.first == token; });
      if (!known) vocab.emplace_back(token, score(random));
    }
    double lowest = 0;
    for (const auto& [token, value] : vocab) lowest = std::min(lowest, value);
    const auto tokenizer = MustLoad(UnigramFile(vocab));
    ASSERT_NE(tokenizer, nullptr);

    std::string text;
    const int length = 1 + random() % 10;
    for (int j = 0; j < length; ++j)
      text += static_cast<char>("abc"[random() % 3]);  // "c" alone is unknown

    // Tries every way to cut; an unknown character costs ten more than the worst token. Random
    // scores have no ties.
    struct Cut {
      double score;
      std::vector<TokenId> ids;
    };
    std::function<Cut(size_t)> best_from = [&](size_t at) -> Cut {
      if (at == text.size()) return {0, {}};
      Cut best = {-1e30, {}};
      const auto consider = [&](size_t token_bytes, double value, TokenId id) {
        Cut rest = best_from(at + token_bytes);
        if (value + rest.score <= best.score) return;
        best = {value + rest.score, {id}};
        best.ids.insert(best.ids.end(), rest.ids.begin(), rest.ids.end());
      };
      if (text[at] == 'c') consider(1, lowest - 10, 0);
      for (size_t id = 1; id < vocab.size(); ++id) {
        const std::string& token = vocab[id].first;
        if (text.compare(at, token.size(), token) == 0) {
          consider(token.size(), vocab[id].second, static_cast<TokenId>(id));
        }
      }
      return best;
    };
    std::vector<TokenId> expected;
    for (const TokenId id : best_from(0).ids) {
      if (id != 0 || expected.empty() || expected.back() != 0)
        expected.push_back(id);  // runs are one
    }
    ASSERT_EQ(MustEncode(*tokenizer, text), expected) << text;
  }
}

TEST(SentencePieceUnigram, RunsOfUnknownCharactersAreOneToken) {
  const auto tokenizer = MustLoad(UnigramFile({{"<unk>", 0}, {"▁a", -1}, {"a", -2}}));
  EXPECT_THAT(MustEncode(*tokenizer, "北京a東"), ElementsAre(0, 2, 0));
  json without = UnigramFile({{"<unk>", 0}, {"a", -2}});
  without["model"]["unk_id"] = nullptr;
  const auto strict = MustLoad(without);
  EXPECT_EQ(strict->Encode("a北", {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(MustEncode(*strict, "aa"), ElementsAre(1, 1));
}

json UnigramWithBytes() {
  std::vector<std::pair<std::string, double>> vocab = {{"<unk>", 0}, {"</s>", 0}};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    vocab.emplace_back(name, 0.0);
  }
  for (const char* token : {"▁", "▁a", "<", "0", "x", "1", "4", ">", "/", "s"})
    vocab.emplace_back(token, -3);
  json file = UnigramFile(vocab);
  file["model"]["byte_fallback"] = true;
  file["added_tokens"] = json::array({testing::AddedTokenJson(1, "</s>", true)});
  file["pre_tokenizer"] = {{"type", "Metaspace"}, {"prepend_scheme", "always"}};
  file["decoder"] = json::parse(
      R"({"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Metaspace","prepend_scheme":"always"}]})");
  return file;
}

TEST(SentencePieceUnigram, ByteFallbackRoundTripsAnyText) {
  const auto tokenizer = MustLoad(UnigramWithBytes());
  EXPECT_THAT(MustEncode(*tokenizer, "aé"), ElementsAre(259, 2 + 0xC3, 2 + 0xA9));
  for (const std::string text : {"a é 🙂", "<0x41>", "</s>", "a </s> a", "\n\t"}) {
    const std::vector<TokenId> ids = MustEncode(*tokenizer, text);
    EXPECT_EQ(MustDecode(*tokenizer, ids), text);
    EXPECT_EQ(std::count(ids.begin(), ids.end(), 1), 0) << "a text forged </s>";
  }
  EXPECT_THAT(MustEncode(*tokenizer, "</s>", false, /*parse_special_tokens=*/true), ElementsAre(1));
}

TEST(SentencePieceUnigram, BadFilesAreRefused) {
  const auto message = [](const json& file) {
    const auto tokenizer = Tokenizer::FromJson(file.dump(), "");
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
    return tokenizer.status().ToString();
  };
  json file = UnigramFile({{"<unk>", 0}, {"a", -2}});
  file["model"]["unk_id"] = 2;
  EXPECT_THAT(message(file), HasSubstr("model.unk_id is 2"));
  file["model"]["unk_id"] = 0;
  file["model"]["byte_fallback"] = true;
  EXPECT_THAT(message(file), HasSubstr("256 tokens"));
  file["model"]["byte_fallback"] = false;
  file["model"]["vocab"][1] = {"a", "b"};
  EXPECT_THAT(message(file), HasSubstr("model.vocab[1]"));
  file["model"]["vocab"] = {{"a", 1}};
  EXPECT_THAT(message(file), HasSubstr("model.vocab"));
}

// Llama 2's form: the normalizer puts the marks, one piece, byte fallback, and Strip takes the
// first blank away.
TEST(SentencePieceBpe, Llama2Form) {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    tokens.push_back(name);
  }
  for (const char* token : {"▁", "h", "i", "hi", "▁hi", "▁▁"}) tokens.push_back(token);  // 259 ..
  json file = testing::BpeFile(tokens, {{"h", "i"}, {"▁", "hi"}, {"▁", "▁"}});
  file["model"]["byte_fallback"] = true;
  file["model"]["unk_token"] = "<unk>";
  file["model"]["fuse_unk"] = true;
  file["added_tokens"] = json::array(
      {testing::AddedTokenJson(1, "<s>", true), testing::AddedTokenJson(2, "</s>", true)});
  file["normalizer"] =
      json::parse(R"({"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},
      {"type":"Replace","pattern":{"String":" "},"content":"▁"}]})");
  file["decoder"] = json::parse(R"({"type":"Sequence","decoders":[
      {"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},
      {"type":"Strip","content":" ","start":1,"stop":0}]})");
  file["post_processor"] = json::parse(R"({"type":"TemplateProcessing",
      "single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],
      "special_tokens":{"<s>":{"id":"<s>","ids":[1],"tokens":["<s>"]}}})");
  const auto tokenizer = MustLoad(file);
  EXPECT_THAT(MustEncode(*tokenizer, "hi  hi", /*add_special_tokens=*/true),
              ElementsAre(1, 263, 259, 263));
  EXPECT_THAT(MustEncode(*tokenizer, "h🙂"),
              ElementsAre(259, 260, 3 + 0xF0, 3 + 0x9F, 3 + 0x99, 3 + 0x82));
  EXPECT_EQ(MustDecode(*tokenizer, {1, 263, 259, 263}, /*skip_special_tokens=*/true), "hi  hi");
  EXPECT_EQ(MustDecode(*tokenizer, {1, 263}), "<s> hi");
  EXPECT_EQ(MustDecode(*tokenizer, {3 + 0xF0, 3 + 0x9F, 263}), "\uFFFD hi");
  EXPECT_EQ(tokenizer->TokenBytes(263), " hi");
  EXPECT_EQ(tokenizer->TokenBytes(3 + 0xF0), "\xF0");
}

}  // namespace
}  // namespace kvasir
