#include "runtime/tokenizer/bpe_tokenizer.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer/json_access.h"
#include "runtime/tokenizer/utf8.h"

namespace kvasir {
namespace {

using nlohmann::json;

constexpr TokenId kNoId = -1;
constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();

uint64_t PairKey(TokenId left, TokenId right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

// One piece while it is being merged: a linked list of symbols and a heap of the merges that may be
// next. Kept over the pieces of one Encode() call for its buffers.
class BpeTokenizer::Word {
 public:
  explicit Word(const BpeTokenizer& model) : merges_(model.merges_) {}

  bool empty() const { return symbols_.empty(); }
  TokenId last() const { return symbols_.back().id; }
  void Add(TokenId id) { symbols_.push_back({.id = id}); }

  // Applies merges, lowest rank first and leftmost among equals, until none applies; appends the
  // ids and leaves the word empty.
  void MergeInto(std::vector<TokenId>* ids) {
    const int32_t size = static_cast<int32_t>(symbols_.size());
    heap_.clear();
    for (int32_t i = 0; i < size; ++i) {
      symbols_[i].previous = i - 1;
      symbols_[i].next = i + 1 < size ? i + 1 : kNone;
      if (RankPair(i)) heap_.push_back(Candidate(i));
    }
    std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
    while (!heap_.empty()) {
      const uint64_t candidate = heap_.front();
      std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
      heap_.pop_back();
      const int32_t position = static_cast<int32_t>(candidate & 0xFFFFFFFFu);
      // A merge at this place or beside it may have changed the pair since; its rank says so, as
      // every pair has its own rank.
      if (symbols_[position].rank != candidate >> 32) continue;
      MergePairAt(position);
    }
    // The first symbol is never swallowed by one before it.
    for (int32_t i = size > 0 ? 0 : kNone; i != kNone; i = symbols_[i].next) {
      ids->push_back(symbols_[i].id);
    }
    symbols_.clear();
  }

 private:
  static constexpr int32_t kNone = -1;

  struct Symbol {
    TokenId id = 0;
    int32_t previous = kNone;
    int32_t next = kNone;
    uint32_t rank = kNoRank;  // of the pair (this, next)
    TokenId merged = kNoId;   // what that pair becomes
  };

  // Heap order: rank, then position.
  uint64_t Candidate(int32_t position) const {
    return static_cast<uint64_t>(symbols_[position].rank) << 32 | static_cast<uint32_t>(position);
  }

  // Looks up the pair that begins at `position`; false when it does not merge.
  bool RankPair(int32_t position) {
    Symbol& symbol = symbols_[position];
    symbol.rank = kNoRank;
    if (symbol.next == kNone) return false;
    const auto it = merges_.find(PairKey(symbol.id, symbols_[symbol.next].id));
    if (it == merges_.end()) return false;
    symbol.rank = it->second.rank;
    symbol.merged = it->second.result;
    return true;
  }

  void RankAndPush(int32_t position) {
    if (!RankPair(position)) return;
    heap_.push_back(Candidate(position));
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  }

  void MergePairAt(int32_t position) {
    Symbol& symbol = symbols_[position];
    Symbol& swallowed = symbols_[symbol.next];
    symbol.id = symbol.merged;
    symbol.next = swallowed.next;
    swallowed.rank = kNoRank;
    if (symbol.next != kNone) symbols_[symbol.next].previous = position;
    RankAndPush(position);
    if (symbol.previous != kNone) RankAndPush(symbol.previous);
  }

  const absl::flat_hash_map<uint64_t, Merge>& merges_;
  std::vector<Symbol> symbols_;
  std::vector<uint64_t> heap_;  // may hold outdated candidates
};

absl::StatusOr<std::unique_ptr<BpeTokenizer>> BpeTokenizer::FromJson(
    const json& model, const Vocabulary& vocabulary, const std::vector<bool>& is_special) {
  std::unique_ptr<BpeTokenizer> bpe(new BpeTokenizer(vocabulary, is_special));
  KVASIR_RETURN_IF_ERROR(bpe->ReadOptions(model));
  KVASIR_ASSIGN_OR_RETURN(const json* merges, GetArray(model, "merges", "model"));
  KVASIR_RETURN_IF_ERROR(bpe->ReadMerges(*merges));
  bpe->PrepareCharacters();
  bpe->FindJoinableSymbols();
  return bpe;
}

BpeTokenizer::BpeTokenizer(const Vocabulary& vocabulary, const std::vector<bool>& is_special)
    : vocabulary_(vocabulary), is_special_(is_special) {}

absl::Status BpeTokenizer::ReadOptions(const json& model) {
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    KVASIR_ASSIGN_OR_RETURN(const std::string value, GetStringOr(model, affix, "model", ""));
    if (!value.empty()) {
      return absl::UnimplementedError(absl::StrCat("model.", affix, " \"", absl::CHexEscape(value),
                                                   "\" is not supported; only null or \"\" is"));
    }
  }
  const json* dropout = FindMember(model, "dropout");
  if (dropout != nullptr && *dropout != 0) {
    return absl::UnimplementedError(
        "model.dropout is for training and not supported; set it to null in tokenizer.json");
  }
  KVASIR_ASSIGN_OR_RETURN(fuse_unk_, GetBoolOr(model, "fuse_unk", "model", false));
  KVASIR_ASSIGN_OR_RETURN(byte_fallback_, GetBoolOr(model, "byte_fallback", "model", false));
  KVASIR_ASSIGN_OR_RETURN(ignore_merges_, GetBoolOr(model, "ignore_merges", "model", false));
  KVASIR_ASSIGN_OR_RETURN(const std::string unk, GetStringOr(model, "unk_token", "model", ""));
  if (!unk.empty()) {
    unk_id_ = vocabulary_.IdOf(unk);
    if (!unk_id_.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("model.unk_token \"", absl::CHexEscape(unk), "\" is not in the vocabulary"));
    }
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::ReadMerges(const json& merges) {
  merges_.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const json& merge = merges[i];
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      KVASIR_RETURN_IF_ERROR(AddMerge(i, merge[0].get_ref<const std::string&>(),
                                      merge[1].get_ref<const std::string&>()));
      continue;
    }
    if (merge.is_string()) {
      const absl::string_view line = merge.get_ref<const std::string&>();
      if (absl::StartsWith(line, "#version")) continue;  // a merges.txt's first line, copied along
      const size_t blank = line.find(' ');
      if (blank != absl::string_view::npos &&
          line.find(' ', blank + 1) == absl::string_view::npos) {
        KVASIR_RETURN_IF_ERROR(AddMerge(i, line.substr(0, blank), line.substr(blank + 1)));
        continue;
      }
    }
    return absl::InvalidArgumentError(absl::StrCat(
        "model.merges[", i, "] must be \"left right\" with one blank, or [\"left\", \"right\"]"));
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::AddMerge(size_t index, absl::string_view left, absl::string_view right) {
  const std::string result = absl::StrCat(left, right);
  TokenId ids[3];
  const absl::string_view names[3] = {left, right, result};
  for (int i = 0; i < 3; ++i) {
    const std::optional<TokenId> id = vocabulary_.IdOf(names[i]);
    if (!id.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("model.merges[", index, "] needs the token \"",
                                                     absl::CHexEscape(names[i]),
                                                     "\", which the vocabulary lacks"));
    }
    ids[i] = *id;
  }
  // A repeated pair takes its last rank, as in the reference tokenizer.
  merges_[PairKey(ids[0], ids[1])] = {static_cast<uint32_t>(index), ids[2]};
  return absl::OkStatus();
}

void BpeTokenizer::PrepareCharacters() {
  for (uint32_t c = 0; c < low_character_ids_.size(); ++c) {
    std::string character;
    AppendUtf8(c, &character);
    low_character_ids_[c] = vocabulary_.IdOf(character).value_or(kNoId);
  }
  for (int byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] = vocabulary_.IdOfByte(static_cast<uint8_t>(byte)).value_or(kNoId);
  }
}

void BpeTokenizer::FindJoinableSymbols() {
  for (const auto& [key, merge] : merges_) {
    const TokenId left_id = static_cast<TokenId>(key >> 32),
                  right_id = static_cast<TokenId>(key & 0xFFFFFFFFu);
    const absl::string_view left = vocabulary_.NameOf(left_id),
                            right = vocabulary_.NameOf(right_id);
    for (const absl::string_view name : {left, right}) {
      merges_name_symbols_ |= name.empty() ||
                              (byte_fallback_ && ByteOfByteToken(name).has_value()) ||
                              (unk_id_.has_value() && name == vocabulary_.NameOf(*unk_id_));
    }
    if (merges_name_symbols_) return;
    const std::optional<TokenId> last =
        IdOfCharacter(left.substr(PreviousCodePoint(left, left.size())));
    const std::optional<TokenId> first =
        IdOfCharacter(right.substr(0, CodePointAt(right, 0).length_bytes));
    // Without ids for both, no text ever comes to this merge.
    if (last.has_value() && first.has_value()) joinable_.insert(PairKey(*last, *first));
  }
}

bool BpeTokenizer::MayJoin(TokenId left, TokenId right) const {
  return merges_name_symbols_ || joinable_.contains(PairKey(left, right));
}

std::optional<TokenId> BpeTokenizer::IdOfCharacter(absl::string_view character) const {
  const uint32_t code_point = CodePointAt(character, 0).value;
  if (code_point >= low_character_ids_.size()) return vocabulary_.IdOf(character);
  const TokenId id = low_character_ids_[code_point];
  return id == kNoId ? std::nullopt : std::optional<TokenId>(id);
}

absl::Status BpeTokenizer::Encode(const PreTokens& tokens, std::vector<TokenId>* ids) const {
  Word word(*this);
  for (const TextSpan span : tokens.pieces) EncodePiece(tokens.Piece(span), &word, ids);
  return absl::OkStatus();
}

void BpeTokenizer::EncodePiece(absl::string_view piece, Word* word,
                               std::vector<TokenId>* ids) const {
  if (ignore_merges_) {
    const std::optional<TokenId> whole = vocabulary_.IdOf(piece);
    // Text that spells a special token's name does not become it: only AddedTokens decides that.
    if (whole.has_value() && !is_special_[*whole]) {
      ids->push_back(*whole);
      return;
    }
  }
  const auto add = [&](TokenId symbol) {
    if (!word->empty() && !MayJoin(word->last(), symbol)) word->MergeInto(ids);
    word->Add(symbol);
  };
  bool after_unk = false;
  for (size_t offset = 0; offset < piece.size();) {
    const absl::string_view character =
        piece.substr(offset, CodePointAt(piece, offset).length_bytes);
    offset += character.size();
    if (const std::optional<TokenId> id = IdOfCharacter(character)) {
      add(*id);
      after_unk = false;
      continue;
    }
    if (byte_fallback_ && std::all_of(character.begin(), character.end(), [&](char byte) {
          return byte_ids_[static_cast<uint8_t>(byte)] != kNoId;
        })) {
      for (const char byte : character) add(byte_ids_[static_cast<uint8_t>(byte)]);
      after_unk = false;
      continue;
    }
    if (unk_id_.has_value() && !(fuse_unk_ && after_unk)) add(*unk_id_);
    after_unk = true;
  }
  word->MergeInto(ids);
}

}  // namespace kvasir
