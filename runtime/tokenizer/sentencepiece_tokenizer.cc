#include "runtime/tokenizer/sentencepiece_tokenizer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer/json_access.h"
#include "runtime/tokenizer/utf8.h"

namespace kvasir {
namespace {

using nlohmann::json;

// How much worse than the worst token a character without one is: SentencePiece's constant.
constexpr double kUnknownPenalty = 10.0;

}  // namespace

absl::StatusOr<std::unique_ptr<SentencePieceUnigram>> SentencePieceUnigram::FromJson(
    const json& model, const Vocabulary& vocabulary, const std::vector<bool>& is_special) {
  std::unique_ptr<SentencePieceUnigram> unigram(new SentencePieceUnigram());
  KVASIR_ASSIGN_OR_RETURN(const json* entries, GetArray(model, "vocab", "model"));
  const int64_t size = static_cast<int64_t>(entries->size());

  KVASIR_ASSIGN_OR_RETURN(const int64_t unk_id, GetIntOr(model, "unk_id", "model", -1));
  if (FindMember(model, "unk_id") != nullptr) {
    if (unk_id < 0 || unk_id >= size) {
      return absl::InvalidArgumentError(
          absl::StrCat("model.unk_id is ", unk_id, ", but model.vocab has ids in [0, ", size, ")"));
    }
    unigram->unk_id_ = static_cast<TokenId>(unk_id);
  }

  KVASIR_ASSIGN_OR_RETURN(unigram->byte_fallback_,
                          GetBoolOr(model, "byte_fallback", "model", false));
  for (int byte = 0; byte < 256 && unigram->byte_fallback_; ++byte) {
    const std::optional<TokenId> id = vocabulary.IdOfByte(static_cast<uint8_t>(byte));
    if (!id.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("model.byte_fallback needs the 256 tokens <0x00> to <0xFF>; that of byte ",
                       byte, " is missing"));
    }
    unigram->byte_ids_[byte] = *id;
  }

  std::vector<ByteTrie::Entry> searchable;
  double lowest = std::numeric_limits<double>::infinity();
  unigram->score_.reserve(entries->size());
  for (TokenId id = 0; id < size; ++id) {
    const json& entry = (*entries)[id];  // [name, score]; the name was read into the vocabulary
    if (!entry.is_array() || entry.size() != 2 || !entry[1].is_number()) {
      return absl::InvalidArgumentError(
          absl::StrCat("model.vocab[", id, "] must be [\"token\", score]"));
    }
    const double score = entry[1].get<double>();
    if (!std::isfinite(score)) {
      return absl::InvalidArgumentError(
          absl::StrCat("model.vocab[", id, "] has the score ", score, "; scores must be finite"));
    }
    unigram->score_.push_back(score);
    lowest = std::min(lowest, score);
    const absl::string_view name = vocabulary.NameOf(id);
    const bool is_byte = unigram->byte_fallback_ && ByteOfByteToken(name).has_value();
    if (!is_byte && !is_special[id]) searchable.emplace_back(name, id);
  }
  unigram->unknown_score_ = (size > 0 ? lowest : 0) - kUnknownPenalty;
  unigram->trie_ = ByteTrie(std::move(searchable));
  return unigram;
}

absl::Status SentencePieceUnigram::Encode(const PreTokens& tokens,
                                          std::vector<TokenId>* ids) const {
  std::vector<Arrival> arrivals;
  std::vector<Arrival*> path;
  for (const TextSpan span : tokens.pieces) {
    const absl::string_view piece = tokens.Piece(span);
    FindBestPath(piece, &arrivals);
    path.clear();
    for (uint32_t end = static_cast<uint32_t>(piece.size()); end > 0; end = arrivals[end].from) {
      path.push_back(&arrivals[end]);
    }
    std::reverse(path.begin(), path.end());
    for (size_t i = 0; i < path.size();) {
      if (path[i]->token != kUnknown) {
        ids->push_back(path[i++]->token);
        continue;
      }
      const uint32_t begin = path[i]->from;
      while (i < path.size() && path[i]->token == kUnknown) ++i;
      const uint32_t end = i < path.size() ? path[i]->from : static_cast<uint32_t>(piece.size());
      KVASIR_RETURN_IF_ERROR(AppendUnknown(piece.substr(begin, end - begin), ids));
    }
  }
  return absl::OkStatus();
}

void SentencePieceUnigram::FindBestPath(absl::string_view piece,
                                        std::vector<Arrival>* arrivals) const {
  constexpr double kUnreached = -std::numeric_limits<double>::infinity();
  arrivals->assign(piece.size() + 1, {kUnreached, 0, kUnknown});
  (*arrivals)[0].score = 0;
  // Every character's border is reached: a character that is no token itself has the unknown one's
  // edge.
  for (uint32_t begin = 0; begin < piece.size();) {
    const uint32_t character_bytes = CodePointAt(piece, begin).length_bytes;
    const double score_so_far = (*arrivals)[begin].score;
    bool is_token = false;
    const auto arrive = [&](size_t length, double score, TokenId token) {
      Arrival& arrival = (*arrivals)[begin + length];
      if (score > arrival.score) arrival = {score, begin, token};
    };
    trie_.ForEachPrefix(piece.substr(begin), [&](size_t length, TokenId token) {
      arrive(length, score_so_far + score_[token], token);
      is_token |= length == character_bytes;
    });
    if (!is_token) arrive(character_bytes, score_so_far + unknown_score_, kUnknown);
    begin += character_bytes;
  }
}

absl::Status SentencePieceUnigram::AppendUnknown(absl::string_view run,
                                                 std::vector<TokenId>* ids) const {
  if (byte_fallback_) {
    for (const char byte : run) ids->push_back(byte_ids_[static_cast<uint8_t>(byte)]);
    return absl::OkStatus();
  }
  if (!unk_id_.has_value()) {
    constexpr size_t kShownBytes = 40;
    return absl::InvalidArgumentError(absl::StrCat(
        "the vocabulary has no token for \"", absl::CHexEscape(run.substr(0, kShownBytes)),
        "\", no byte fallback and no unknown token; remove these characters"));
  }
  ids->push_back(*unk_id_);
  return absl::OkStatus();
}

}  // namespace kvasir
