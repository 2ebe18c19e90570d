// NgramDrafter: guesses that what followed the newest few tokens before will follow them again
// (prompt lookup: Saxena, "Prompt Lookup Decoding", 2023). Right where a text quotes, edits or
// repeats what it has seen.
//
// Of the last kMaxCandidates places that end with the same kKeyTokens tokens as the history, the
// one with the longest common end is continued, of equals the newest; a place so new that it
// reaches the history's end is continued with the guess itself, so a loop goes on.
//
// The index grows with the history: amortised O(1) per token, and 8 to 16 bytes for each, so a
// sequence's context bounds it. Propose costs at most kMaxCandidates comparisons of
// kMaxMatchTokens. Not thread safe.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/engine/speculation/drafter.h"

namespace kvasir {

class NgramIndex : public DraftState {
 public:
  // Two tokens repeat by chance all the time; with three a guess is worth a row more often than
  // not.
  static constexpr int32_t kKeyTokens = 3;
  static constexpr int32_t kMaxCandidates = 16;
  static constexpr int32_t kMaxMatchTokens = 32;

  // DraftAsk's.
  std::vector<TokenId> Propose(absl::Span<const TokenId> history, int32_t max_tokens);

  int64_t index_bytes() const;

 private:
  // Places are the positions of keys' last tokens.
  void Index(absl::Span<const TokenId> history);
  void Insert(absl::Span<const TokenId> history, int32_t place);
  size_t BucketOf(absl::Span<const TokenId> history, int32_t place) const;

  int32_t indexed_ = 0;          // places below are in the index
  std::vector<int32_t> newest_;  // [buckets, a power of two] the newest place of a hash, or -1
  std::vector<int32_t> older_;   // [places] the place before with the same hash, or -1
};

class NgramDrafter : public Drafter {
 public:
  std::unique_ptr<DraftState> NewState(const Sequence& sequence) override;
  bool Propose(absl::Span<DraftAsk> asks) override;
  bool is_free() const override { return true; }
};

}  // namespace kvasir
