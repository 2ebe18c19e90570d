// Foreign files and foreign texts: each fault gets its status and a message that names it; nothing
// crashes.
#include "runtime/tokenizer/tokenizer_json.h"

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

TEST(TokenizerJson, BrokenJsonIsRefused) {
  EXPECT_THAT(LoadError(""), HasSubstr("INVALID_ARGUMENT: tokenizer.json is not valid JSON"));
  EXPECT_THAT(LoadError("{\"model\": {"), HasSubstr("line 1, column 12"));
  EXPECT_THAT(LoadError("[]"), HasSubstr("must be an object"));
  EXPECT_THAT(LoadError("{}"), HasSubstr("model is missing"));
  EXPECT_THAT(LoadError("{\"model\": \"\xff\"}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(LoadError(std::string(1'000'000, '[')), HasSubstr("not valid JSON"));
  EXPECT_THAT(
      LoadError(R"({"model":)" + std::string(200'000, '[') + std::string(200'000, ']') + "}"),
      HasSubstr("must be an object"));
}

TEST(TokenizerJson, WrongTypesNameTheirPlace) {
  const json good = BpeFile({"a", "b", "ab"}, {{"a", "b"}});
  const auto with = [&](const char* pointer, const json& value) {
    json file = good;
    file[json::json_pointer(pointer)] = value;
    return LoadError(file.dump());
  };
  EXPECT_THAT(with("/model/type", 1), HasSubstr("model.type must be a string, not another number"));
  EXPECT_THAT(with("/model/type", "WordPiece"),
              HasSubstr("UNIMPLEMENTED: model type \"WordPiece\""));
  EXPECT_THAT(with("/model/vocab", "x"), HasSubstr("model.vocab must be"));
  EXPECT_THAT(with("/model/vocab", json::object()), HasSubstr("vocabulary is empty"));
  EXPECT_THAT(with("/model/vocab/a", "x"), HasSubstr("model.vocab[\"a\"]"));
  EXPECT_THAT(with("/model/vocab/a", 1.5), HasSubstr("model.vocab[\"a\"]"));
  EXPECT_THAT(with("/model/vocab/a", -1), HasSubstr("has id -1"));
  EXPECT_THAT(with("/model/vocab/a", 1), HasSubstr("id 1 stands for both"));
  EXPECT_THAT(with("/model/vocab/a", 2'000'000'000),
              HasSubstr("2000000000; ids must be in [0, 2097152)"));
  EXPECT_THAT(with("/model/vocab/a", 18'000'000'000'000'000'000u), HasSubstr("model.vocab[\"a\"]"));
  EXPECT_THAT(with("/model/merges", nullptr), HasSubstr("model.merges is missing"));
  EXPECT_THAT(with("/model/byte_fallback", "yes"),
              HasSubstr("model.byte_fallback must be a boolean"));
  EXPECT_THAT(with("/added_tokens", json::object()), HasSubstr("added_tokens must be an array"));
  EXPECT_THAT(with("/added_tokens", json::array({5})), HasSubstr("added_tokens[0]"));
  EXPECT_THAT(with("/added_tokens", json::array({AddedTokenJson(-4, "x", true)})),
              HasSubstr("added_tokens[0].id is -4"));
  EXPECT_THAT(with("/added_tokens", json::array({AddedTokenJson(0, "x", true)})),
              HasSubstr("id 0 stands for both"));
  EXPECT_THAT(with("/added_tokens", json::array({AddedTokenJson(7, "a", true)})),
              HasSubstr("has the ids 0 and 7"));
  EXPECT_THAT(with("/added_tokens", json::array({AddedTokenJson(7, std::string(5000, 'x'), true)})),
              HasSubstr("has 5000 bytes; the limit is 1024"));
  EXPECT_THAT(with("/decoder", {{"type", "CTC"}}),
              HasSubstr("UNIMPLEMENTED: decoder type \"CTC\""));
  EXPECT_THAT(with("/decoder", json::parse(R"({"type":"Sequence","decoders":[{"type":"Fuse"},
      {"type":"Replace","pattern":{"String":"a"},"content":"b"}]})")),
              HasSubstr("UNIMPLEMENTED: decoder \"Replace\" after Fuse"));
  EXPECT_THAT(with("/decoder", {{"type", "Strip"}, {"start", -1}}), HasSubstr("decoder.start"));
  EXPECT_THAT(with("/post_processor", {{"type", "BertProcessing"}}), HasSubstr("BertProcessing"));
}

TEST(TokenizerJson, TemplatesAreChecked) {
  json file = BpeFile({"a", "<s>"}, {});
  const auto with = [&](const char* single, const char* special) {
    file["post_processor"] = {{"type", "TemplateProcessing"},
                              {"single", json::parse(single)},
                              {"special_tokens", json::parse(special)}};
    return file.dump();
  };
  const char* const bos_then_text = R"([{"SpecialToken":{"id":"<s>"}},{"Sequence":{"id":"A"}}])";
  EXPECT_THAT(LoadError(with(bos_then_text, "{}")), HasSubstr("<s> is missing"));
  EXPECT_THAT(LoadError(with(bos_then_text, R"({"<s>":{"ids":[9]}})")), HasSubstr("the id 9"));
  EXPECT_THAT(LoadError(with(bos_then_text, R"({"<s>":{"ids":[-1]}})")), HasSubstr("the id -1"));
  EXPECT_THAT(LoadError(with("[]", "{}")), HasSubstr("no Sequence"));
  EXPECT_THAT(LoadError(with(R"([{"Sequence":{}},{"Sequence":{}}])", "{}")),
              HasSubstr("one Sequence"));
  EXPECT_TRUE(Tokenizer::FromJson(with(bos_then_text, R"({"<s>":{"ids":[1]}})"), "").ok());
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

  // A template is the last word, whatever the config says.
  file["post_processor"] =
      json::parse(R"({"type":"TemplateProcessing","single":[{"Sequence":{"id":"A"}}],
                                           "special_tokens":{}})");
  EXPECT_THAT(MustEncode(*MustLoad(file, config), "a", true), ElementsAre(0));

  file.erase("post_processor");
  EXPECT_THAT(
      MustEncode(*MustLoad(file, R"({"eos_token":"</s>","add_eos_token":true})"), "a", true),
      ElementsAre(0, 2));
  EXPECT_EQ(MustLoad(file, R"({"bos_token":null,"eos_token":"<gone>"})")->eos_token_id(),
            std::nullopt);
  EXPECT_THAT(LoadError(file.dump(), R"({"add_bos_token":true})"),
              HasSubstr("bos_token is missing"));
  EXPECT_THAT(LoadError(file.dump(), R"({"bos_token":7})"),
              HasSubstr("tokenizer_config.json.bos_token"));
  EXPECT_THAT(LoadError(file.dump(), "[1]"), HasSubstr("tokenizer_config.json must be an object"));
  EXPECT_THAT(LoadError(file.dump(), "{"), HasSubstr("tokenizer_config.json is not valid JSON"));
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
    EXPECT_FALSE(tokenizer->IsSpecial(id));
  }
}

TEST(Tokenizer, HolesInTheVocabularyHaveNoText) {
  json file = BpeFile({"a", "b"}, {});
  file["added_tokens"] = json::array({AddedTokenJson(9, "<x>", true)});
  const auto tokenizer = MustLoad(file);
  EXPECT_EQ(tokenizer->vocab_size(), 10);
  EXPECT_EQ(MustDecode(*tokenizer, {0, 5, 1, 9}), "ab<x>");
  EXPECT_EQ(MustDecode(*tokenizer, {0, 5, 1, 9}, /*skip_special_tokens=*/true), "ab");
  EXPECT_TRUE(tokenizer->IsSpecial(9));
  EXPECT_EQ(tokenizer->TokenToId("<x>"), 9);
  EXPECT_EQ(tokenizer->IdToToken(9), "<x>");
}

TEST(Tokenizer, ACatastrophicPatternIsAnErrorOfTheRequest) {
  json file = BpeFile({"a", "!"}, {});
  file["pre_tokenizer"] = {
      {"type", "Split"}, {"pattern", {{"Regex", "(?:a+)+$"}}}, {"behavior", "Isolated"}};
  const auto tokenizer = MustLoad(file);
  EXPECT_THAT(tokenizer->Encode(std::string(100, 'a') + "!", {}).status().ToString(),
              HasSubstr("INVALID_ARGUMENT: the tokenizer's pattern"));
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

TEST(Tokenizer, LoadSaysWhichFile) {
  const auto folder = std::filesystem::path(::testing::TempDir()) / "kvasir_tokenizer_load";
  std::filesystem::create_directories(folder);
  std::filesystem::remove(folder / "tokenizer.json");
  std::filesystem::remove(folder / "tokenizer_config.json");
  EXPECT_EQ(Tokenizer::Load(folder.string()).status().code(), absl::StatusCode::kNotFound);
  std::ofstream(folder / "tokenizer.json") << "{}";
  EXPECT_THAT(Tokenizer::Load(folder.string()).status().ToString(),
              HasSubstr("tokenizer.json: model is missing"));
  std::ofstream(folder / "tokenizer.json") << BpeFile({"a"}, {}).dump();
  EXPECT_TRUE(Tokenizer::Load(folder.string()).ok());
  std::ofstream(folder / "tokenizer_config.json") << R"({"bos_token":"a"})";
  EXPECT_EQ((*Tokenizer::Load(folder.string()))->bos_token_id(), 0);
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

TEST(Tokenizer, ManyThreadsEncodeAlike) {
  const json& entry = testing::ReferenceVectors()["tokenizers"][2];
  const auto tokenizer = MustLoad(entry["tokenizer"]);
  const std::string text = "Once upon a time, 1234 🙂 don't\n\n";
  const std::vector<TokenId> expected = MustEncode(*tokenizer, text);
  std::vector<std::thread> threads;
  std::atomic<int> differing = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
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
