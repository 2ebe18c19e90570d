// SentencePieceUnigram: SentencePiece's unigram model. Of all ways to cut a piece into vocabulary
// entries it takes the one with the highest sum of scores (Viterbi). SentencePiece's BPE
// vocabularies are BpeTokenizer's.
//
// Immutable; Encode() is safe from any thread. A piece of n bytes costs O(n * longest token).
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json_fwd.hpp"
#include "runtime/tokenizer/byte_trie.h"
#include "runtime/tokenizer/tokenizer_model.h"
#include "runtime/tokenizer/vocabulary.h"

namespace kvasir {

class SentencePieceUnigram : public TokenizerModel {
 public:
  // `model` is the "model" of a tokenizer.json, `vocabulary` was made from it; `is_special`
  // [vocabulary.size()]. Borrows nothing. Errors: InvalidArgument.
  //
  // Special tokens and, with byte fallback, byte tokens are never matched in text by their names: a
  // text cannot forge "</s>", and "<0x41>" typed by a user comes back as typed. (SentencePiece does
  // the same; the reference reader of tokenizer.json does not.)
  static absl::StatusOr<std::unique_ptr<SentencePieceUnigram>> FromJson(
      const nlohmann::json& model, const Vocabulary& vocabulary,
      const std::vector<bool>& is_special);

  // Characters without a token become bytes (byte fallback) or, a run at a time, the unknown token.
  // Errors: InvalidArgument for such characters when the model has neither.
  absl::Status Encode(const PreTokens& tokens, std::vector<TokenId>* ids) const override;

 private:
  SentencePieceUnigram() = default;

  // The best way found to the end of one prefix of a piece.
  struct Arrival {
    double score;
    uint32_t from;  // where its last token begins
    TokenId token;  // kUnknown: a character without a token
  };
  static constexpr TokenId kUnknown = -1;

  void FindBestPath(absl::string_view piece, std::vector<Arrival>* arrivals) const;
  absl::Status AppendUnknown(absl::string_view run, std::vector<TokenId>* ids) const;

  // Constant after FromJson().
  ByteTrie trie_;              // token -> id
  std::vector<double> score_;  // [ids of the model]
  double unknown_score_ = 0;
  std::optional<TokenId> unk_id_;
  bool byte_fallback_ = false;           // only when all 256 byte tokens exist
  std::array<TokenId, 256> byte_ids_{};  // valid with byte_fallback_
};

}  // namespace kvasir
