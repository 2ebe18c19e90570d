// Streaming must say what decoding the whole says, and only in whole characters.
#include "runtime/tokenizer/incremental_detokenizer.h"

#include <random>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "runtime/tokenizer/utf8.h"
#include "tests/tokenizer/tiny_tokenizer.h"

namespace kvasir {
namespace {

using ::nlohmann::json;
using testing::MustDecode;
using testing::MustEncode;
using testing::MustLoad;

std::string Stream(const Tokenizer& tokenizer, const std::vector<TokenId>& ids, bool skip_special,
                   const std::vector<TokenId>& seed = {}) {
  IncrementalDetokenizer detokenizer(&tokenizer, skip_special);
  detokenizer.Seed(seed);
  std::string text;
  for (const TokenId id : ids) {
    const std::string part = detokenizer.Append(id);
    EXPECT_EQ(FindInvalidUtf8(part), std::nullopt);
    text += part;
  }
  return text + detokenizer.Flush();
}

std::unique_ptr<Tokenizer> ReferenceTokenizer(const std::string& name) {
  for (const json& entry : testing::ReferenceVectors()["tokenizers"]) {
    if (entry["name"] == name) return MustLoad(entry["tokenizer"]);
  }
  ADD_FAILURE() << "no vectors for " << name;
  return nullptr;
}

TEST(IncrementalDetokenizer, ConcatenationIsDecodeForRandomIds) {
  std::mt19937 random(3);
  for (const json& entry : testing::ReferenceVectors()["tokenizers"]) {
    const auto tokenizer = MustLoad(entry["tokenizer"]);
    ASSERT_NE(tokenizer, nullptr);
    const bool byte_fallback =
        entry["tokenizer"]["decoder"].dump().find("ByteFallback") != std::string::npos;
    for (int round = 0; round < 400; ++round) {
      std::vector<TokenId> ids(random() % 30);
      // Byte tokens lie low in every one of these vocabularies: half of the rounds are mostly
      // broken UTF-8.
      const int range =
          round % 2 == 0 ? tokenizer->vocab_size() : std::min(tokenizer->vocab_size(), 280);
      for (TokenId& id : ids) {
        do {
          id = static_cast<TokenId>(random() % range);
          // ByteFallback judges a run of byte tokens as a whole, which a stream cannot wait for.
        } while (byte_fallback && absl::StartsWith(tokenizer->IdToToken(id), "<0x"));
      }
      for (const bool skip_special : {false, true}) {
        const std::string whole = MustDecode(*tokenizer, ids, skip_special);
        ASSERT_EQ(FindInvalidUtf8(whole), std::nullopt);
        ASSERT_EQ(Stream(*tokenizer, ids, skip_special), whole) << entry["name"];
      }
    }
  }
}

// A prompt in front: what is streamed is what Decode(prompt + ids) has beyond Decode(prompt).
TEST(IncrementalDetokenizer, SeededStreamContinuesThePrompt) {
  const std::vector<std::string> texts = {
      "Once upon a time 🙂 there was", "naïve 北京", "a  b   c\n\n d",
      // Longer than what is decoded again with each token.
      "北京欢迎你。東京タワー🙂🙂🙂👩‍👩‍👧 한국어 "
      "नमस्ते"};
  for (const json& entry : testing::ReferenceVectors()["tokenizers"]) {
    const auto tokenizer = MustLoad(entry["tokenizer"]);
    for (const std::string& text : texts) {
      const std::vector<TokenId> ids = MustEncode(*tokenizer, text);
      const std::string whole = MustDecode(*tokenizer, ids);
      for (size_t cut = 0; cut < ids.size(); ++cut) {
        const std::vector<TokenId> prompt(ids.begin(), ids.begin() + cut);
        const std::string before = MustDecode(*tokenizer, prompt);
        if (whole.compare(0, before.size(), before) != 0) continue;  // cut inside a character
        const std::string streamed =
            Stream(*tokenizer, {ids.begin() + cut, ids.end()}, false, prompt);
        ASSERT_EQ(before + streamed, whole) << entry["name"] << " cut at " << cut;
      }
    }
  }
}

// A replacement character that the model wrote is a character like others.
TEST(IncrementalDetokenizer, AWrittenReplacementCharacterIsNotUnfinished) {
  for (const json& entry : testing::ReferenceVectors()["tokenizers"]) {
    const auto tokenizer = MustLoad(entry["tokenizer"]);
    for (const char* text :
         {"\uFFFD", "\uFFFD\uFFFD京\uFFFD", "abc 北京\uFFFD\uFEFF\U0010FFFF\uFFFD d",
          "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD x"}) {
      const std::vector<TokenId> ids = MustEncode(*tokenizer, text);
      EXPECT_EQ(Stream(*tokenizer, ids, false), MustDecode(*tokenizer, ids)) << entry["name"];
    }
  }
}

TEST(IncrementalDetokenizer, HoldsASplitEmojiBackUntilItIsWhole) {
  const auto tokenizer = ReferenceTokenizer("gpt2");
  const std::vector<TokenId> ids = MustEncode(*tokenizer, "🙂!");
  ASSERT_EQ(ids.size(), 5u);  // four bytes and the mark
  IncrementalDetokenizer detokenizer(tokenizer.get(), false);
  EXPECT_EQ(detokenizer.Append(ids[0]), "");
  EXPECT_EQ(detokenizer.Append(ids[1]), "");
  EXPECT_EQ(detokenizer.Append(ids[2]), "");
  EXPECT_EQ(detokenizer.Append(ids[3]), "🙂");
  EXPECT_EQ(detokenizer.Append(ids[4]), "!");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST(IncrementalDetokenizer, AnUnfinishedCharacterBecomesOneReplacement) {
  const auto tokenizer = ReferenceTokenizer("gpt2");
  const std::vector<TokenId> ids = MustEncode(*tokenizer, "🙂");
  EXPECT_EQ(Stream(*tokenizer, {ids[0], ids[1], ids[2]}, false), "\uFFFD");
  EXPECT_EQ(Stream(*tokenizer, {ids[0], ids[0], ids[1], ids[2], ids[3]}, false), "\uFFFD🙂");
  EXPECT_EQ(Stream(*tokenizer, {ids[1], ids[2]}, false), "\uFFFD\uFFFD");
}

TEST(IncrementalDetokenizer, ACharacterBegunByThePromptComesOutWhole) {
  const auto tokenizer = ReferenceTokenizer("gpt2");
  const std::vector<TokenId> ids = MustEncode(*tokenizer, "x🙂");
  EXPECT_EQ(Stream(*tokenizer, {ids.begin() + 3, ids.end()}, false, {ids.begin(), ids.begin() + 3}),
            "🙂");
}

TEST(IncrementalDetokenizer, SentencePieceKeepsTheBlankAfterAPrompt) {
  for (const char* name : {"llama2", "unigram_bytes", "bpe_unk_fused"}) {
    const auto tokenizer = ReferenceTokenizer(name);
    const std::vector<TokenId> prompt = MustEncode(*tokenizer, "the");
    const std::vector<TokenId> next = MustEncode(*tokenizer, "and");
    EXPECT_EQ(Stream(*tokenizer, next, true), "and") << name;
    EXPECT_EQ(Stream(*tokenizer, next, true, prompt), " and") << name;
  }
}

TEST(IncrementalDetokenizer, StripAtTheEndHoldsItsCharactersBack) {
  json file = testing::BpeFile({"a", " ", "  "}, {});
  file["decoder"] = json::parse(R"({"type":"Sequence","decoders":[{"type":"Fuse"},
      {"type":"Strip","content":" ","start":1,"stop":2}]})");
  const auto tokenizer = MustLoad(file);
  IncrementalDetokenizer detokenizer(tokenizer.get(), false);
  EXPECT_EQ(detokenizer.Append(2), "");  // one of two stripped, the other may be the end
  EXPECT_EQ(detokenizer.Append(0), " a");
  EXPECT_EQ(detokenizer.Append(2), "");
  EXPECT_EQ(detokenizer.Append(1), " ");  // at most two can be stripped
  EXPECT_EQ(detokenizer.Append(0), "  a");
  EXPECT_EQ(detokenizer.Append(1), "");
  EXPECT_EQ(detokenizer.Flush(), "");
  EXPECT_EQ(MustDecode(*tokenizer, {2, 0, 2, 1, 0, 1}), " a   a");
}

TEST(IncrementalDetokenizer, IdsWithoutATokenHaveNoText) {
  const auto tokenizer = ReferenceTokenizer("gpt2");
  EXPECT_EQ(Stream(*tokenizer, {tokenizer->vocab_size() + 5, -1}, false), "");
}

}  // namespace
}  // namespace kvasir
