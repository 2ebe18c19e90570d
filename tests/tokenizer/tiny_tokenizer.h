// Hand-made tokenizer.json texts for tests, and the committed vectors of the reference
// implementation.
#pragma once

#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer/tokenizer.h"
#include "tests/test_models.h"

namespace kvasir::testing {

inline std::string ReadTextFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << "cannot read " << path;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// What tests/tokenizer/make_tokenizer_vectors.py wrote.
inline const nlohmann::json& ReferenceVectors() {
  static const auto* const vectors = new nlohmann::json(
      nlohmann::json::parse(ReadTextFile(SourceRoot() / "tests/golden/tokenizer_vectors.json")));
  return *vectors;
}

// A BPE file with nothing but a model: ids are positions in `tokens`.
inline nlohmann::json BpeFile(const std::vector<std::string>& tokens,
                              const std::vector<std::pair<std::string, std::string>>& merges) {
  nlohmann::json vocab = nlohmann::json::object();
  for (size_t id = 0; id < tokens.size(); ++id) vocab[tokens[id]] = id;
  return {{"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}},
          {"decoder", {{"type", "Fuse"}}}};
}

inline nlohmann::json AddedTokenJson(int id, const std::string& content, bool special) {
  return {{"id", id},        {"content", content}, {"special", special},  {"normalized", false},
          {"lstrip", false}, {"rstrip", false},    {"single_word", false}};
}

inline std::unique_ptr<Tokenizer> MustLoad(const nlohmann::json& file,
                                           const std::string& config = "") {
  auto tokenizer = Tokenizer::FromJson(file.dump(), config);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

inline std::vector<TokenId> MustEncode(const Tokenizer& tokenizer, const std::string& text,
                                       bool add_special_tokens = false,
                                       bool parse_special_tokens = false) {
  auto ids = tokenizer.Encode(text, {add_special_tokens, parse_special_tokens});
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.ok() ? *std::move(ids) : std::vector<TokenId>();
}

inline std::string MustDecode(const Tokenizer& tokenizer, const std::vector<TokenId>& ids,
                              bool skip_special_tokens = false) {
  auto text = tokenizer.Decode(ids, skip_special_tokens);
  EXPECT_TRUE(text.ok()) << text.status();
  return text.ok() ? *std::move(text) : "";
}

}  // namespace kvasir::testing
