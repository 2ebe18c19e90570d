// Whole tokenizers: the models' own goldens, and the committed vectors of the reference
// implementation.
#include <algorithm>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/tokenizer/tokenizer.h"
#include "tests/tokenizer/tiny_tokenizer.h"

namespace kvasir {
namespace {

using ::nlohmann::json;
using testing::MustDecode;
using testing::MustEncode;
using testing::MustLoad;
using Ids = std::vector<TokenId>;

// All the tale models have one tokenizer.
std::string TaleFolder() {
  const std::string folder = testing::ModelFolder("tale-7m-mha");
  return folder.empty() ? testing::ModelFolder(testing::kBundledModel) : folder;
}

std::unique_ptr<Tokenizer> LoadTale() {
  auto tokenizer = Tokenizer::Load(TaleFolder());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

TEST(TokenizerGolden, EncodesTheTaleCases) {
  const auto tokenizer = LoadTale();
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->vocab_size(), 4096);
  EXPECT_EQ(tokenizer->bos_token_id(), 0);
  EXPECT_EQ(tokenizer->eos_token_id(), 0);
  const json golden = json::parse(
      testing::ReadTextFile(testing::SourceRoot() / "tests/golden/tokenizer_golden.json"));
  ASSERT_FALSE(golden["cases"].empty());
  for (const json& item : golden["cases"]) {
    const std::string text = item["text"];
    const Ids ids = item["ids"].get<Ids>(), plain = item["ids_plain"].get<Ids>();
    EXPECT_EQ(MustEncode(*tokenizer, text, false, /*parse_special_tokens=*/true), ids) << text;
    EXPECT_EQ(MustEncode(*tokenizer, text, false, /*parse_special_tokens=*/false), plain) << text;
    Ids with_bos = {0};
    with_bos.insert(with_bos.end(), ids.begin(), ids.end());
    EXPECT_EQ(MustEncode(*tokenizer, text, /*add_special_tokens=*/true, true), with_bos);
    EXPECT_EQ(MustDecode(*tokenizer, ids), text);
    EXPECT_EQ(MustDecode(*tokenizer, plain, /*skip_special_tokens=*/true), text);
  }
}

TEST(TokenizerGolden, EncodesTheModelsPrompts) {
  const std::string folder = testing::ModelFolder("tale-7m-mha");
  if (folder.empty()) GTEST_SKIP() << "tale-7m-mha is not here: its golden.json was not tested";
  const auto tokenizer = LoadTale();
  const json golden = json::parse(testing::ReadTextFile(folder + "/golden.json"));
  for (const json& prompt : golden["prompts"]) {
    EXPECT_EQ(MustEncode(*tokenizer, prompt["text"], /*add_special_tokens=*/true, true),
              prompt["ids"].get<Ids>());
    EXPECT_EQ(MustDecode(*tokenizer, prompt["greedy_ids"].get<Ids>()),
              prompt["greedy_text"].get<std::string>());
  }
}

TEST(TokenizerGolden, HeldOutTextHasTheKnownTokensAndComesBack) {
  const std::string folder = testing::ModelFolder("tale-7m-mha"),
                    path = testing::CorpusFile("test.txt");
  if (folder.empty() || path.empty())
    GTEST_SKIP() << "the corpus is not here: its round trip was not tested";
  const auto tokenizer = LoadTale();
  const json nll = json::parse(testing::ReadTextFile(folder + "/golden.json"))["nll"];
  const std::string text = testing::ReadTextFile(path);
  const Ids ids =
      MustEncode(*tokenizer, text, /*add_special_tokens=*/true, /*parse_special_tokens=*/true);
  EXPECT_EQ(static_cast<int>(ids.size()), nll["test_tokens_total"].get<int>());
  EXPECT_EQ(Ids(ids.begin(), ids.begin() + 16), nll["first_16_ids"].get<Ids>());
  EXPECT_TRUE(MustDecode(*tokenizer, Ids(ids.begin() + 1, ids.end())) == text);
  EXPECT_TRUE(MustDecode(*tokenizer, MustEncode(*tokenizer, text)) == text);
}

TEST(TokenizerGolden, AgreesWithTheReference) {
  const json& vectors = testing::ReferenceVectors();
  ASSERT_GE(vectors["tokenizers"].size(), 11u);
  for (const json& entry : vectors["tokenizers"]) {
    const auto tokenizer = MustLoad(entry["tokenizer"]);
    ASSERT_NE(tokenizer, nullptr) << entry["name"];
    for (size_t i = 0; i < vectors["texts"].size(); ++i) {
      const std::string text = vectors["texts"][i];
      EXPECT_EQ(MustEncode(*tokenizer, text, true, true), entry["ids"][i].get<Ids>())
          << entry["name"] << text;
      const Ids plain = entry["ids_plain"][i].get<Ids>();
      // With Unigram the reference lets ordinary text spell control tokens; that difference is on
      // purpose.
      const bool forged = std::any_of(plain.begin(), plain.end(), [&](TokenId id) {
        return tokenizer->IsSpecial(id) && tokenizer->IdToToken(id) != "<unk>";
      });
      if (forged) continue;
      EXPECT_EQ(MustEncode(*tokenizer, text, false, false), plain) << entry["name"] << text;
    }
    for (size_t i = 0; i < entry["decodes"].size(); ++i) {
      const json& decode = entry["decodes"][i];
      const Ids ids = (decode.contains("ids") ? decode["ids"] : entry["ids"][i]).get<Ids>();
      EXPECT_EQ(MustDecode(*tokenizer, ids), decode["text"].get<std::string>())
          << entry["name"] << decode;
      EXPECT_EQ(MustDecode(*tokenizer, ids, /*skip_special_tokens=*/true),
                decode.value("text_without_special", decode["text"].get<std::string>()))
          << entry["name"] << decode;
    }
  }
}

}  // namespace
}  // namespace kvasir
