// Foreign files and foreign texts: each fault gets its status and a message that names it; nothing
// crashes.
#include "runtime/tokenizer/tokenizer.h"

#include <atomic>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/tokenizer/incremental_detokenizer.h"
#include "tests/tokenizer/tiny_tokenizer.h"

namespace kvasir {
namespace {

using ::nlohmann::json;
using testing::AddedTokenJson;
using testing::BpeFile;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::MustDecode;
using testing::MustEncode;
using testing::MustLoad;

std::string LoadError(const std::string& text, const std::string& config = "") {
  const auto tokenizer = Tokenizer::FromJson(text, config);
  EXPECT_FALSE(tokenizer.ok()) << text.substr(0, 200);
  return tokenizer.status().ToString();
}

TEST(TokenizerJson, BrokenFilesAreRefused) {
  EXPECT_THAT(LoadError(""), HasSubstr("INVALID_ARGUMENT: tokenizer.json: EOF"));
  EXPECT_THAT(LoadError("{\"model\": {"), HasSubstr("line 1 column"));
  EXPECT_THAT(LoadError("[]"), HasSubstr("tokenizer.json"));
  EXPECT_THAT(LoadError("{}"), HasSubstr("Model missing"));
  EXPECT_THAT(LoadError("{\"model\": \"\xff\"}"), HasSubstr("tokenizer.json"));
  EXPECT_THAT(LoadError(std::string(1'000'000, '[')), HasSubstr("tokenizer.json"));
  EXPECT_THAT(
      LoadError(R"({"model":)" + std::string(200'000, '[') + std::string(200'000, ']') + "}"),
      HasSubstr("recursion limit"));
}

TEST(TokenizerJson, WrongValuesAreRefused) {
  const json good = BpeFile({"a", "b", "ab"}, {{"a", "b"}});
  const auto with = [&](const char* pointer, const json& value) {
    json file = good;
    file[json::json_pointer(pointer)] = value;
    return LoadError(file.dump());
  };
  EXPECT_THAT(with("/model/type", "Nothing"), HasSubstr("tokenizer.json"));
  EXPECT_THAT(with("/model/vocab", "x"), HasSubstr("tokenizer.json"));
  EXPECT_THAT(with("/model/vocab/a", -1), HasSubstr("tokenizer.json"));
  EXPECT_THAT(with("/model/vocab/a", 2'000'000'000),
              HasSubstr("the id 2000000000; ids must be below 2097152"));
  EXPECT_THAT(with("/added_tokens", json::array({5})), HasSubstr("tokenizer.json"));
  // The library would give the token another id in silence.
  EXPECT_THAT(with("/added_tokens", json::array({AddedTokenJson(7, "x", true)})),
              HasSubstr("\"x\" has the id 7, but beside the model's vocabulary it would get 3"));
  EXPECT_THAT(with("/added_tokens", json::array({AddedTokenJson(2, "a", true)})),
              HasSubstr("\"a\" has the id 2"));
  EXPECT_THAT(LoadError(BpeFile({}, {}).dump()), HasSubstr("vocabulary is empty"));
}

TEST(TokenizerJson, ConfigNamesBosAndEos) {
  json file = BpeFile({"a", "<s>", "</s>"}, {});
  const std::string config =
      R"({"bos_token":{"content":"<s>"},"eos_token":"</s>","add_bos_token":true})";
  const auto tokenizer = MustLoad(file, config);
  EXPECT_EQ(tokenizer->bos_token_id(), 1);
  EXPECT_EQ(tokenizer->eos_token_id(), 2);
  EXPECT_THAT(MustEncode(*tokenizer, "a", /*add_special_tokens=*/true), ElementsAre(1, 0));
  EXPECT_THAT(MustEncode(*tokenizer, "a", /*add_special_tokens=*/false), ElementsAre(0));
  EXPECT_THAT(
      MustEncode(*MustLoad(file, R"({"eos_token":"</s>","add_eos_token":true})"), "a", true),
      ElementsAre(0, 2));
  EXPECT_EQ(MustLoad(file, R"({"bos_token":null,"eos_token":"<gone>"})")->eos_token_id(),
            std::nullopt);
  EXPECT_THAT(LoadError(file.dump(), R"({"add_bos_token":true})"),
              HasSubstr("bos_token is missing"));
  EXPECT_THAT(LoadError(file.dump(), R"({"bos_token":7})"),
              HasSubstr("tokenizer_config.json: bos_token"));
  EXPECT_THAT(LoadError(file.dump(), "[1]"), HasSubstr("tokenizer_config.json must be an object"));
  EXPECT_THAT(LoadError(file.dump(), "{"), HasSubstr("tokenizer_config.json: EOF"));
}

TEST(TokenizerJson, TokensThatOnlyTheConfigLists) {
  const json file = BpeFile({"a", "b"}, {});
  const std::string config = R"({"added_tokens_decoder":{
      "3":{"content":"<y>","special":false},"2":{"content":"<x>","special":true}}})";
  const auto tokenizer = MustLoad(file, config);
  EXPECT_EQ(tokenizer->vocab_size(), 4);
  EXPECT_TRUE(tokenizer->IsSpecial(2));
  EXPECT_FALSE(tokenizer->IsSpecial(3));
  EXPECT_THAT(MustEncode(*tokenizer, "a<x><y>b", false, /*parse_special_tokens=*/true),
              ElementsAre(0, 2, 3, 1));
  EXPECT_EQ(MustDecode(*tokenizer, {0, 2, 3, 1}, /*skip_special_tokens=*/true), "a<y>b");
  EXPECT_THAT(LoadError(file.dump(), R"({"added_tokens_decoder":{"9":{"content":"<x>"}}})"),
              HasSubstr("added_tokens_decoder: \"<x>\" has the id 9"));
  EXPECT_THAT(LoadError(file.dump(), R"({"added_tokens_decoder":{"x":{"content":"<x>"}}})"),
              HasSubstr("added_tokens_decoder[\"x\"]"));
}

// What belongs to training must not cut or change a prompt.
TEST(TokenizerJson, TruncationPaddingAndDropoutAreIgnored) {
  json file = BpeFile({"a", "b", "ab"}, {{"a", "b"}});
  file["truncation"] = {
      {"direction", "Right"}, {"max_length", 1}, {"strategy", "LongestFirst"}, {"stride", 0}};
  file["padding"] = {{"strategy", {{"Fixed", 9}}},
                     {"direction", "Right"},
                     {"pad_to_multiple_of", nullptr},
                     {"pad_id", 0},
                     {"pad_type_id", 0},
                     {"pad_token", "a"}};
  file["model"]["dropout"] = 0.9;
  const auto tokenizer = MustLoad(file);
  for (int i = 0; i < 50; ++i) {
    ASSERT_THAT(MustEncode(*tokenizer, "abab", /*add_special_tokens=*/true), ElementsAre(2, 2));
  }
}

TEST(Tokenizer, BadTextIsRefusedWithItsPlace) {
  const auto tokenizer = MustLoad(BpeFile({"a"}, {}));
  const auto error = [&](const std::string& text) {
    const auto ids = tokenizer->Encode(text, {});
    EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
    return ids.status().ToString();
  };
  EXPECT_THAT(error("aaa\xc3("), HasSubstr("not valid UTF-8 at byte 3 of 5"));
  EXPECT_THAT(error(std::string(Tokenizer::kMaxTextBytes + 1, 'a')),
              HasSubstr("8388609 bytes; the limit is 8388608"));
  EXPECT_THAT(MustEncode(*tokenizer, ""), ElementsAre());
}

TEST(Tokenizer, BadIdsAreRefused) {
  const auto tokenizer = MustLoad(BpeFile({"a"}, {}));
  for (const TokenId id : {-1, 1, 1 << 30}) {
    const auto text = tokenizer->Decode({0, id}, false);
    EXPECT_THAT(text.status().ToString(),
                HasSubstr("at position 1 is outside the vocabulary, [0, 1)"));
    EXPECT_EQ(tokenizer->TokenBytes(id), "");
    EXPECT_EQ(tokenizer->IdToToken(id), "");
    EXPECT_FALSE(tokenizer->IsSpecial(id));
    EXPECT_FALSE(tokenizer->Has(id));
  }
}

TEST(Tokenizer, HolesInTheVocabularyHaveNoText) {
  json file = BpeFile({"a", "b"}, {});
  file["model"]["vocab"]["c"] = 9;
  const auto tokenizer = MustLoad(file);
  EXPECT_EQ(tokenizer->vocab_size(), 10);
  EXPECT_EQ(MustDecode(*tokenizer, {0, 5, 1, 9}), "abc");
  EXPECT_FALSE(tokenizer->Has(5));
  EXPECT_EQ(tokenizer->TokenToId("c"), 9);
  EXPECT_EQ(tokenizer->TokenToId("d"), std::nullopt);
  EXPECT_EQ(tokenizer->IdToToken(9), "c");
}

TEST(Tokenizer, TokenBytesAreWhatATokenAddsToRunningText) {
  for (const json& entry : testing::ReferenceVectors()["tokenizers"]) {
    const auto tokenizer = MustLoad(entry["tokenizer"]);
    ASSERT_NE(tokenizer, nullptr);
    const std::vector<TokenId> ids = MustEncode(*tokenizer, "the naïve 北京 🙂 end");
    const std::string text = MustDecode(*tokenizer, ids);
    std::string joined;
    for (const TokenId id : ids) joined += std::string(tokenizer->TokenBytes(id));
    // The first token alone may lose its blank.
    EXPECT_TRUE(joined == text || joined == " " + text) << entry["name"] << ": " << joined;
  }
}

TEST(Tokenizer, ACatastrophicPatternIsAnErrorOfTheRequest) {
  json file = BpeFile({"a", "!"}, {});
  file["pre_tokenizer"] = {{"type", "Split"},
                           {"pattern", {{"Regex", "(?:a|a)+(?:b|!!)"}}},
                           {"behavior", "Isolated"},
                           {"invert", false}};
  const auto tokenizer = MustLoad(file);
  EXPECT_THAT(tokenizer->Encode(std::string(100, 'a') + "!", {}).status().ToString(),
              HasSubstr("INVALID_ARGUMENT: the text cannot be encoded"));
  EXPECT_THAT(MustEncode(*tokenizer, "aa"), ElementsAre(0, 0));
}

// The longest text of the worst characters for the patterns in use: blanks before no newline.
TEST(Tokenizer, LongRunsOfBlanksStayWithinTheMatchLimit) {
  for (const json& entry : testing::ReferenceVectors()["tokenizers"]) {
    const auto tokenizer = MustLoad(entry["tokenizer"]);
    for (const char* end : {"", "x", "\n"}) {
      const std::string text = std::string(1 << 18, ' ') + end;
      const auto ids = tokenizer->Encode(text, {});
      EXPECT_TRUE(ids.ok()) << entry["name"] << ids.status();
    }
  }
}

// A model's vocabulary may hold the name of a special token, where a whole piece of text finds it.
TEST(Tokenizer, OrdinaryTextNeverBecomesASpecialToken) {
  json file = BpeFile({"<", "s", ">", "<s>", "a"}, {});
  file["model"]["ignore_merges"] = true;
  file["added_tokens"] = json::array({AddedTokenJson(3, "<s>", true)});
  const auto tokenizer = MustLoad(file);
  EXPECT_THAT(MustEncode(*tokenizer, "<s>", false, /*parse_special_tokens=*/false),
              ElementsAre(0, 1, 2));
  EXPECT_THAT(MustEncode(*tokenizer, "<s>", false, /*parse_special_tokens=*/true), ElementsAre(3));
}

TEST(Tokenizer, PlainSpansHoldNoSpecialToken) {
  json file = BpeFile({"<", "s", ">", "a", "<s>", "<t>", "t"}, {});
  file["added_tokens"] =
      json::array({AddedTokenJson(4, "<s>", true), AddedTokenJson(5, "<t>", false)});
  const auto tokenizer = MustLoad(file);
  const auto encode = [&](std::vector<Tokenizer::TextSpan> plain) {
    return *tokenizer->Encode(
        "<s>a<s><t><s>",
        {.add_special_tokens = false, .parse_special_tokens = true, .plain = std::move(plain)});
  };
  EXPECT_THAT(encode({}), ElementsAre(4, 3, 4, 5, 4));
  EXPECT_THAT(encode({{4, 7}}), ElementsAre(4, 3, 0, 1, 2, 5, 4));
  EXPECT_THAT(encode({{6, 7}}), ElementsAre(4, 3, 0, 1, 2, 5, 4));
  // Tokens that are not special are recognised everywhere.
  EXPECT_THAT(encode({{0, 13}}), ElementsAre(0, 1, 2, 3, 0, 1, 2, 5, 0, 1, 2));
  EXPECT_EQ(tokenizer
                ->Encode("<s>", {.add_special_tokens = false,
                                 .parse_special_tokens = true,
                                 .plain = {{2, 3}, {0, 1}}})
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
}

// With and without spans, what is special apart from them must come out alike.
TEST(Tokenizer, PlainSpansChangeNothingElse) {
  for (const json& entry : testing::ReferenceVectors()["tokenizers"]) {
    const auto tokenizer = MustLoad(entry["tokenizer"]);
    for (const std::string text : testing::ReferenceVectors()["texts"]) {
      const Tokenizer::EncodeOptions without = {.add_special_tokens = true,
                                                .parse_special_tokens = true};
      Tokenizer::EncodeOptions with = without;
      with.plain = {{text.size(), text.size()}};  // touches nothing
      const auto expected = tokenizer->Encode(text, without);
      const bool forged = std::any_of(expected->begin(), expected->end(),
                                      [&](TokenId id) { return tokenizer->IsSpecial(id); });
      if (forged && entry["tokenizer"]["model"]["type"] == "Unigram") continue;
      EXPECT_EQ(*tokenizer->Encode(text, with), *expected) << entry["name"] << ": " << text;
    }
  }
}

TEST(Tokenizer, EncodingCanBeCancelled) {
  const auto tokenizer = MustLoad(testing::ReferenceVectors()["tokenizers"][0]["tokenizer"]);
  int asked = 0;
  Tokenizer::EncodeOptions options;
  options.cancelled = [&] { return ++asked > 3; };
  const std::string text = "one two three four five six seven eight";
  EXPECT_EQ(tokenizer->Encode(text, options).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(asked, 4);
  options.cancelled = [] { return false; };
  EXPECT_EQ(*tokenizer->Encode(text, options), *tokenizer->Encode(text, {}));
}

TEST(Tokenizer, LoadSaysWhichFile) {
  const auto folder = std::filesystem::path(::testing::TempDir()) / "kvasir_tokenizer_load";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  EXPECT_EQ(Tokenizer::Load(folder.string()).status().code(), absl::StatusCode::kNotFound);
  std::ofstream(folder / "tokenizer.model") << "nothing";
  EXPECT_THAT(Tokenizer::Load(folder.string()).status().ToString(),
              HasSubstr("/tokenizer.model: tokenizer.model"));
  std::ofstream(folder / "tokenizer.json") << "{}";
  EXPECT_THAT(Tokenizer::Load(folder.string()).status().ToString(),
              HasSubstr("/tokenizer.json: tokenizer.json: Model missing"));
  std::ofstream(folder / "tokenizer.json") << BpeFile({"a"}, {}).dump();
  EXPECT_TRUE(Tokenizer::Load(folder.string()).ok());
  std::ofstream(folder / "tokenizer_config.json") << R"({"bos_token":"a"})";
  EXPECT_EQ((*Tokenizer::Load(folder.string()))->bos_token_id(), 0);
}

TEST(GgufVocabulary, ContradictionsAreRefused) {
  GgufVocabulary vocabulary;
  vocabulary.model = "gpt2";
  vocabulary.pre = "qwen2";
  vocabulary.tokens = {"a", "b", "ab"};
  vocabulary.merges = {"a b"};
  const auto error = [&] { return Tokenizer::FromGguf(vocabulary).status().ToString(); };
  ASSERT_TRUE(Tokenizer::FromGguf(vocabulary).ok());
  EXPECT_THAT(MustEncode(**Tokenizer::FromGguf(vocabulary), "ab"), ElementsAre(2));
  vocabulary.pre = "unheard-of";
  EXPECT_THAT(error(), HasSubstr("UNIMPLEMENTED: the vocabulary splits texts by "
                                 "tokenizer.ggml.pre \"unheard-of\""));
  vocabulary.pre = "qwen2";
  vocabulary.bos_id = 3;
  EXPECT_THAT(error(), HasSubstr("the bos token has the id 3, the vocabulary 3 tokens"));
  vocabulary.bos_id = std::nullopt;
  vocabulary.merges = {"ab"};
  EXPECT_THAT(error(), HasSubstr("the merge \"ab\" has no two parts"));
  vocabulary.merges = {};
  const std::vector<int32_t> types = {1, 1};
  vocabulary.token_types = types;
  EXPECT_THAT(error(), HasSubstr("2 token types stand beside 3 tokens"));
  vocabulary.token_types = {};
  vocabulary.model = "rwkv";
  EXPECT_THAT(error(), HasSubstr("UNIMPLEMENTED: tokenizer.ggml.model is \"rwkv\""));
  vocabulary.model = "gpt2";
  vocabulary.tokens = {};
  EXPECT_THAT(error(), HasSubstr("the vocabulary has 0 tokens"));
}

// Damage to real files: any result but a crash is right.
TEST(TokenizerJson, RandomDamageNeverCrashes) {
  std::mt19937 random(17);
  for (const json& entry : testing::ReferenceVectors()["tokenizers"]) {
    const std::string good = entry["tokenizer"].dump();
    for (int round = 0; round < 25; ++round) {
      std::string text = good;
      // Mostly the part before the vocabulary, where the structure is.
      const size_t range = round % 3 == 0 ? text.size() : std::min<size_t>(text.size(), 3000);
      for (int i = 0; i < 3; ++i)
        text[random() % range] = static_cast<char>("\"{}[]:,019-aez\\ "[random() % 16]);
      const auto tokenizer = Tokenizer::FromJson(text, "");
      if (tokenizer.ok()) (*tokenizer)->Encode("some text <s> é", {}).IgnoreError();
    }
  }
}

// 10^5 calls from eight threads, each with the answer that one thread gets.
TEST(Tokenizer, ManyThreadsEncodeAlike) {
  const json& entry = testing::ReferenceVectors()["tokenizers"][2];
  const auto tokenizer = MustLoad(entry["tokenizer"]);
  const std::string text = "Once upon a time, 1234 🙂 don't\n\n";
  const std::vector<TokenId> expected = MustEncode(*tokenizer, text);
  std::vector<std::thread> threads;
  std::atomic<int> differing = 0;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 6250; ++i) {
        const auto ids = tokenizer->Encode(text, {false, false});
        if (!ids.ok() || *ids != expected || *tokenizer->Decode(*ids, false) != text) ++differing;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(differing, 0);
}

}  // namespace
}  // namespace kvasir
