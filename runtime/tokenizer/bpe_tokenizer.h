// BpeTokenizer: byte pair encoding by ranked merges. Serves byte-level vocabularies (GPT-2, Llama
// 3, Qwen) and SentencePiece BPE ones (Llama 2, Mistral), whose tokenizer.json spells them as
// merges with byte fallback.
//
// Immutable; Encode() is safe from any thread. A piece of n characters costs O(n log n), however
// long: a whole text is one piece when a file has no pre-tokenizer.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json_fwd.hpp"
#include "runtime/tokenizer/tokenizer_model.h"
#include "runtime/tokenizer/vocabulary.h"

namespace kvasir {

class BpeTokenizer : public TokenizerModel {
 public:
  // `model` is the "model" of a tokenizer.json, `vocabulary` was made from it and outlives the
  // result; `is_special` [vocabulary.size()]. Errors: InvalidArgument, Unimplemented (dropout,
  // subword prefixes and suffixes).
  static absl::StatusOr<std::unique_ptr<BpeTokenizer>> FromJson(
      const nlohmann::json& model, const Vocabulary& vocabulary,
      const std::vector<bool>& is_special);

  // A character that is neither in the vocabulary nor covered by byte fallback or unk_token is
  // dropped, as in the reference tokenizer. Never fails.
  absl::Status Encode(const PreTokens& tokens, std::vector<TokenId>* ids) const override;

 private:
  struct Merge {
    uint32_t rank;  // the lower the earlier; a rank names one pair
    TokenId result;
  };
  class Word;

  BpeTokenizer(const Vocabulary& vocabulary, const std::vector<bool>& is_special);

  absl::Status ReadOptions(const nlohmann::json& model);
  absl::Status ReadMerges(const nlohmann::json& merges);
  absl::Status AddMerge(size_t index, absl::string_view left, absl::string_view right);
  void PrepareCharacters();
  void FindJoinableSymbols();

  std::optional<TokenId> IdOfCharacter(absl::string_view character) const;
  bool MayJoin(TokenId left, TokenId right) const;
  void EncodePiece(absl::string_view piece, Word* word, std::vector<TokenId>* ids) const;

  const Vocabulary& vocabulary_;
  const std::vector<bool>& is_special_;  // [vocabulary_.size()]

  // Constant after FromJson().
  absl::flat_hash_map<uint64_t, Merge> merges_;  // left id << 32 | right id
  // Pairs of single characters (keys as above) that some merge can bring together; between any
  // other two a piece can be cut without changing the result. That makes words of a SentencePiece
  // text, which comes as one piece. Unused when merges_name_symbols_: then merges start from more
  // than characters.
  absl::flat_hash_set<uint64_t> joinable_;
  bool merges_name_symbols_ = false;
  // Ids of the characters below U+0800, which is all of the byte-level alphabet; -1 where there is
  // none.
  std::array<TokenId, 0x800> low_character_ids_;
  std::array<TokenId, 256> byte_ids_;  // of "<0xXX>"; -1 where there is none
  std::optional<TokenId> unk_id_;
  bool fuse_unk_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
};

}  // namespace kvasir
