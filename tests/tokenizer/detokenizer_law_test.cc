// The law of incremental_detokenizer.h as a property: of random ids, special tokens and broken
// UTF-8 among them, the text in a stream is the text of the whole, wherever the prompt ends.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"
#include "runtime/tokenizer/gguf_text.h"
#include "runtime/tokenizer/incremental_detokenizer.h"
#include "runtime/tokenizer/utf8.h"
#include "tests/tokenizer/tiny_tokenizer.h"

namespace kvasir {
namespace {

using ::nlohmann::json;
using testing::AddedTokenJson;
using testing::BpeFile;
using testing::MustLoad;
using Ids = std::vector<TokenId>;

constexpr TokenId kSeparator = 0;  // a token without text, in the vocabulary below
constexpr TokenId kNone = -1;      // no token

constexpr char kReplaceBar[] = R"({"type":"Replace","pattern":{"String":"▁"},"content":" "})";
constexpr char kByteFallback[] = R"({"type":"ByteFallback"})";
constexpr char kFuse[] = R"({"type":"Fuse"})";

json Chain(const std::vector<std::string>& parts) {
  json chain = {{"type", "Sequence"}, {"decoders", json::array()}};
  for (const std::string& part : parts) chain["decoders"].push_back(json::parse(part));
  return chain;
}

std::vector<json> Decoders() {
  const auto strip = [](const char* content, int start, int stop) {
    return json({{"type", "Strip"}, {"content", content}, {"start", start}, {"stop", stop}}).dump();
  };
  const auto replace = [](const char* kind, const char* pattern, const char* content) {
    return json({{"type", "Replace"}, {"pattern", {{kind, pattern}}}, {"content", content}}).dump();
  };
  const std::string byte_level =
      R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true})";
  const auto metaspace = [](const char* scheme) {
    return json(
        {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", scheme}, {"split", true}});
  };
  return {
      nullptr,
      json::parse(byte_level),
      Chain({kReplaceBar, kByteFallback, kFuse, strip(" ", 1, 0)}),
      Chain({kReplaceBar, kByteFallback, kFuse}),
      Chain({kByteFallback, metaspace("always").dump()}),
      metaspace("always"),
      metaspace("first"),
      metaspace("never"),
      json::parse(R"({"type":"WordPiece","prefix":"##","cleanup":true})"),
      json::parse(R"({"type":"WordPiece","prefix":"##","cleanup":false})"),
      json::parse(R"({"type":"BPEDecoder","suffix":"</w>"})"),
      json::parse(
          R"({"type":"CTC","pad_token":"<pad>","word_delimiter_token":"|","cleanup":true})"),
      json::parse(kFuse),
      Chain({kFuse, kReplaceBar, strip(" ", 1, 0)}),
      Chain({kFuse, strip(" ", 2, 1)}),
      Chain({kFuse, strip("x", 0, 3)}),
      Chain({kFuse, replace("String", "xyxx", "京")}),
      Chain({kFuse, replace("String", "aab", ""), metaspace("never").dump()}),
      Chain({replace("String", "xy", "z"), strip("a", 1, 0), kFuse}),
      Chain({replace("Regex", "[a-b]+", "c"), kByteFallback, kFuse, strip(" ", 1, 1)}),
      Chain({kFuse, replace("Regex", "[xy]", "京")}),
      Chain({byte_level, strip(" ", 1, 0), replace("String", "京", "🙂")}),
      Chain({Chain({kReplaceBar, kByteFallback}).dump(), Chain({kFuse}).dump()}),
  };
}

// `bytes` in GPT-2's byte-level alphabet.
std::string ByteLevelName(const std::string& bytes) {
  std::string name;
  for (const char byte : bytes) {
    const auto code = static_cast<uint8_t>(byte);
    const auto is_itself = [](int b) { return (b > 32 && b < 127) || (b > 160 && b != 173); };
    uint32_t others = 0;
    for (int b = 0; b < code; ++b) others += !is_itself(b);
    AppendUtf8(is_itself(code) ? code : 256 + others, &name);
  }
  return name;
}

// What the decoders look at, and parts of characters in both spellings of bytes.
json Vocabulary() {
  std::vector<std::string> tokens = {
      "",   "a",   "b",   "ab",    "aa", "x",    "xy",     "xx",    "y",     " ",
      "  ", "▁",   "▁▁a", "▁b",    "##", "##ab", "a</w>",  "</w>b", "</w>",  ".",
      "!",  "n't", "'s",  "<pad>", "|",  "京",   "\uFFFD", "<0x4>", "<0xZZ>"};
  for (const int byte :
       {0x20, 0x41, 0x80, 0x82, 0x99, 0x9F, 0xA0, 0xBD, 0xC3, 0xE4, 0xED, 0xF0, 0xFF}) {
    tokens.push_back(absl::StrFormat("<0x%02X>", byte));
  }
  for (const char* bytes :
       {"\xE4", "\xE4\xBD", "\xBD", "\xA0", "\xA0 ", " \xE4\xBD", "\xF0\x9F", "\x9F", "\x99\x82",
        "\x82", "\xFF", "\xA0\xF0", "\x80\x80\xE4", "\xED\xA0", "\xE4\xBD\xA0", " "}) {
    const std::string name = ByteLevelName(bytes);
    if (std::find(tokens.begin(), tokens.end(), name) == tokens.end()) tokens.push_back(name);
  }
  json file = BpeFile(tokens, {});
  const int size = static_cast<int>(tokens.size());
  file["added_tokens"] =
      json::array({AddedTokenJson(size, "<s>", true), AddedTokenJson(size + 1, "</s>", true),
                   AddedTokenJson(size + 2, "<tool é>", false)});
  return file;
}

std::optional<std::string> ByteOf(const Tokenizer& tokenizer, TokenId id) {
  const absl::string_view name = tokenizer.IdToToken(id);
  if (name.size() != 6 || !absl::StartsWith(name, "<0x") || name[5] != '>' ||
      !absl::ascii_isxdigit(name[3]) || !absl::ascii_isxdigit(name[4])) {
    return std::nullopt;
  }
  return absl::HexStringToBytes(name.substr(3, 2));
}

// Without what is skipped; and, with byte fallback, as the law reads broken runs: as if `separator`
// stood in front of the byte that breaks one.
Ids AsRead(const Tokenizer& tokenizer, const Ids& ids, bool skip_special, bool byte_fallback,
           TokenId separator) {
  Ids read;
  std::string run;
  const auto end_run = [&] {
    const size_t whole = FindInvalidUtf8(run).value_or(0);
    if (whole > 0) {
      read.insert(read.end() - static_cast<std::ptrdiff_t>(run.size() - whole), separator);
    }
    run.clear();
  };
  for (const TokenId id : ids) {
    if (skip_special && tokenizer.IsSpecial(id)) continue;
    const auto byte = byte_fallback ? ByteOf(tokenizer, id) : std::nullopt;
    if (!byte.has_value()) end_run();
    read.push_back(id);
    if (byte.has_value()) run += *byte;
  }
  end_run();
  return read;
}

std::string Streamed(const Tokenizer& tokenizer, const Ids& ids, bool skip_special, size_t prompt) {
  IncrementalDetokenizer detokenizer(&tokenizer, skip_special);
  detokenizer.Seed(absl::MakeSpan(ids).subspan(0, prompt));
  std::string text;
  for (size_t i = prompt; i < ids.size(); ++i) {
    const std::string part = detokenizer.Append(ids[i]);
    EXPECT_EQ(FindInvalidUtf8(part), std::nullopt);
    text += part;
  }
  return text + detokenizer.Flush();
}

// What `whole` has beyond the prompt's text. Where that ends in a character's midst, the character
// counts to the rest.
std::optional<std::string> Beyond(std::string before, const std::string& whole) {
  for (int pending = 0; pending < 4; ++pending) {
    if (absl::StartsWith(whole, before)) return whole.substr(before.size());
    if (!absl::EndsWith(before, kReplacementCharacter)) break;
    before.resize(before.size() - kReplacementCharacter.size());
  }
  return std::nullopt;  // the decoder has rewritten what it had
}

std::string Names(const Tokenizer& tokenizer, const Ids& ids) {
  std::string names;
  for (const TokenId id : ids) absl::StrAppend(&names, "[", tokenizer.IdToToken(id), "]");
  return names;
}

TEST(DetokenizerLaw, HoldsForEveryDecoderAndPrompt) {
  std::mt19937 random(7);
  for (const json& decoder : Decoders()) {
    json file = Vocabulary();
    file["decoder"] = decoder;
    const auto tokenizer = MustLoad(file);
    ASSERT_NE(tokenizer, nullptr);
    ASSERT_EQ(tokenizer->IdToToken(kSeparator), "");
    const bool byte_fallback = absl::StrContains(decoder.dump(), "ByteFallback");
    int compared = 0, beyond = 0;
    for (int round = 0; round < 400; ++round) {
      // A few kinds of token in each round: long runs and repetitions.
      Ids kinds(1 + random() % 8), ids(random() % 40);
      for (TokenId& id : kinds)
        id = 1 + static_cast<TokenId>(random() % (tokenizer->vocab_size() - 1));
      for (TokenId& id : ids) id = kinds[random() % kinds.size()];
      const bool skip_special = round % 2 == 0;
      const auto text = [&](const Ids& of) {
        return tokenizer->Decode(AsRead(*tokenizer, of, skip_special, byte_fallback, kSeparator),
                                 false);
      };
      const auto whole = text(ids);
      if (!whole.ok()) continue;  // Strip fails on texts that are too short for it
      ++compared;
      ASSERT_EQ(Streamed(*tokenizer, ids, skip_special, 0), *whole)
          << decoder << " " << Names(*tokenizer, ids);
      if (round % 5 != 0) continue;
      for (size_t prompt = 1; prompt < ids.size(); ++prompt) {
        const auto before = text({ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(prompt)});
        const auto expected = before.ok() ? Beyond(*before, *whole) : std::nullopt;
        if (!expected.has_value()) continue;
        ++beyond;
        ASSERT_EQ(Streamed(*tokenizer, ids, skip_special, prompt), *expected)
            << decoder << " " << Names(*tokenizer, ids) << " prompt " << prompt;
      }
    }
    EXPECT_GT(compared, 100) << decoder;
    EXPECT_GT(beyond, 100) << decoder;
  }
}

// Without byte fallback the law has no exception at all, and with it none for a run that is UTF-8.
TEST(DetokenizerLaw, AByteThatBreaksARunLeavesTheCharactersBeforeIt) {
  json file = Vocabulary();
  file["decoder"] = Chain({kByteFallback, kFuse});
  const auto tokenizer = MustLoad(file);
  const auto id = [&](const char* name) { return *tokenizer->TokenToId(name); };
  const Ids character = {id("<0xE4>"), id("<0xBD>"), id("<0xA0>")};
  const auto with = [&](Ids tail) {
    Ids ids = character;
    ids.insert(ids.end(), tail.begin(), tail.end());
    return ids;
  };
  EXPECT_EQ(Streamed(*tokenizer, with({id("<0x41>")}), true, 0), "你A");
  const Ids broken = with({id("<0xE4>"), id("<0x41>"), id("<0x41>"), id("a"), id("<0x41>")});
  EXPECT_EQ(*tokenizer->Decode(broken, true), "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDaA");
  EXPECT_EQ(Streamed(*tokenizer, broken, true, 0), "你\uFFFD\uFFFD\uFFFDaA");
  // The prompt's broken run goes on in the output, however long it is.
  Ids long_run(100, id("<0xFF>"));
  long_run.push_back(id("<0x41>"));
  EXPECT_EQ(Streamed(*tokenizer, long_run, true, 100), "\uFFFD");
}

// A stage that rewrites its whole text forgets its begin, and goes on.
TEST(DetokenizerLaw, ALongTextThroughARegularExpression) {
  json file = Vocabulary();
  file["decoder"] =
      Chain({kFuse, R"({"type":"Replace","pattern":{"Regex":"[xy]"},"content":"京"})"});
  const auto tokenizer = MustLoad(file);
  const Ids ids(1'000, *tokenizer->TokenToId("xy"));
  EXPECT_EQ(Streamed(*tokenizer, ids, true, 0), *tokenizer->Decode(ids, true));
}

class DetokenizerVocabulary : public ::testing::TestWithParam<const char*> {};

TEST_P(DetokenizerVocabulary, HoldsForARealOne) {
  const char* shared = std::getenv("KVASIR_SHARED");
  const std::filesystem::path file =
      std::filesystem::path(shared != nullptr ? shared
                                              : (testing::SourceRoot() / "../shared").string()) /
      "text/vocab" / absl::StrCat("ggml-vocab-", GetParam(), ".gguf");
  if (!std::filesystem::exists(file)) {
    GTEST_SKIP() << file << " IS NOT ON THIS MACHINE; set KVASIR_SHARED";
  }
  auto loaded = LoadGgufText(file.string(), "");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Tokenizer& tokenizer = *loaded->tokenizer;
  // Tokens that are no whole characters, special tokens, and all the others.
  Ids broken, special, word;
  for (TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string bytes(tokenizer.TokenBytes(id));
    if (tokenizer.IsSpecial(id))
      special.push_back(id);
    else if (ByteOf(tokenizer, id).has_value() || FindInvalidUtf8(bytes).has_value())
      broken.push_back(id);
    else if (tokenizer.Has(id))
      word.push_back(id);
  }
  ASSERT_FALSE(broken.empty());
  ASSERT_FALSE(special.empty());
  const auto a_byte = tokenizer.TokenToId("<0xE4>");
  const bool byte_fallback =
      a_byte.has_value() && *tokenizer.Decode({*a_byte}, false) == kReplacementCharacter;
  std::mt19937 random(11);
  for (int round = 0; round < 600; ++round) {
    Ids ids = {word[random() % word.size()]};
    const size_t size = random() % 40;
    while (ids.size() < size) {
      const uint32_t kind = random() % 8;
      const Ids& from = kind == 0 ? special : kind < 3 ? word : broken;
      ids.push_back(from[random() % from.size()]);
    }
    const bool skip_special = round % 2 == 0;
    // Behind a word, beyond which no run goes, the parts of a broken run are read apart.
    const std::string head = *tokenizer.Decode({ids[0]}, false);
    std::string whole = head;
    Ids part = {ids[0]};
    Ids read = AsRead(tokenizer, ids, skip_special, byte_fallback, kNone);
    read.push_back(kNone);
    for (size_t i = 1; i < read.size(); ++i) {
      if (read[i] != kNone) {
        part.push_back(read[i]);
        continue;
      }
      whole += tokenizer.Decode(part, false)->substr(head.size());
      part.resize(1);
    }
    ASSERT_EQ(Streamed(tokenizer, ids, skip_special, 0), whole) << Names(tokenizer, ids);
  }
}

INSTANTIATE_TEST_SUITE_P(Shared, DetokenizerVocabulary,
                         ::testing::Values("deepseek-llm", "falcon", "gemma-4", "gpt-2",
                                           "llama-bpe", "llama-spm", "phi-3", "qwen2", "qwen35",
                                           "starcoder"),
                         [](const auto& info) {
                           return absl::StrReplaceAll(info.param, {{"-", "_"}});
                         });

}  // namespace
}  // namespace kvasir
