#include "runtime/engine/speculation/ngram_drafter.h"

#include <algorithm>

namespace kvasir {
namespace {

constexpr size_t kFewestBuckets = 256;

// How many tokens before and at `a` and `b` are equal, `b` being the later one.
int32_t CommonEnd(absl::Span<const TokenId> history, int32_t a, int32_t b) {
  const int32_t most = std::min(a + 1, NgramIndex::kMaxMatchTokens);
  int32_t length = 0;
  while (length < most && history[a - length] == history[b - length]) ++length;
  return length;
}

}  // namespace

size_t NgramIndex::BucketOf(absl::Span<const TokenId> history, int32_t place) const {
  uint64_t hash = 0;
  for (int32_t i = 0; i < kKeyTokens; ++i) {
    hash = (hash ^ static_cast<uint32_t>(history[place - i])) * 0x9e3779b97f4a7c15u;
  }
  return static_cast<size_t>(hash >> 32) & (newest_.size() - 1);
}

void NgramIndex::Insert(absl::Span<const TokenId> history, int32_t place) {
  int32_t& newest = newest_[BucketOf(history, place)];
  older_[place] = newest;
  newest = place;
}

// All but the newest place, which is what is looked for.
void NgramIndex::Index(absl::Span<const TokenId> history) {
  const auto end = static_cast<int32_t>(history.size()) - 1;
  if (indexed_ > end) indexed_ = 0, newest_.clear();  // not the history of before
  older_.resize(std::max(end, 0), -1);
  if (static_cast<size_t>(std::max(end, 0)) > newest_.size()) {
    size_t buckets = std::max(kFewestBuckets, newest_.size());
    while (buckets < static_cast<size_t>(end)) buckets *= 2;
    newest_.assign(buckets, -1);
    indexed_ = 0;
  }
  if (newest_.empty()) newest_.assign(kFewestBuckets, -1);
  for (int32_t place = std::max(indexed_, kKeyTokens - 1); place < end; ++place) {
    Insert(history, place);
  }
  indexed_ = std::max(end, 0);
}

std::vector<TokenId> NgramIndex::Propose(absl::Span<const TokenId> history, int32_t max_tokens) {
  std::vector<TokenId> draft;
  const auto size = static_cast<int32_t>(history.size());
  if (size <= kKeyTokens || max_tokens <= 0) return draft;
  Index(history);

  int32_t best_place = -1, best_length = kKeyTokens - 1;  // shorter ones share a hash only
  int32_t place = newest_[BucketOf(history, size - 1)];
  for (int32_t i = 0; i < kMaxCandidates && place >= 0; ++i, place = older_[place]) {
    const int32_t length = CommonEnd(history, place, size - 1);
    if (length > best_length) best_place = place, best_length = length;
  }
  if (best_place < 0) return draft;
  for (int32_t i = 1; i <= max_tokens; ++i) {
    const int32_t from = best_place + i;
    draft.push_back(from < size ? history[from] : draft[from - size]);
  }
  return draft;
}

int64_t NgramIndex::index_bytes() const {
  return static_cast<int64_t>((newest_.capacity() + older_.capacity()) * sizeof(int32_t));
}

std::unique_ptr<DraftState> NgramDrafter::NewState(const Sequence&) {
  return std::make_unique<NgramIndex>();
}

bool NgramDrafter::Propose(absl::Span<DraftAsk> asks) {
  for (DraftAsk& ask : asks) {
    ask.draft = static_cast<NgramIndex*>(ask.state)->Propose(ask.history, ask.max_tokens);
  }
  return true;
}

}  // namespace kvasir
