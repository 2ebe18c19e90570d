#include "runtime/sampling/logits_processor.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace kvasir {
namespace {

bool InRow(TokenId token, absl::Span<const float> logits) {
  return token >= 0 && static_cast<size_t>(token) < logits.size();
}

void ApplyPenalties(const SamplingParams& params, const TokenCounts& counts,
                    absl::Span<float> logits) {
  for (const TokenCounts::Entry& entry : counts.entries()) {
    if (!InRow(entry.token, logits)) continue;
    float& logit = logits[entry.token];
    // Both signs make the token less likely when the penalty is above 1.
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    if (entry.output_count > 0) {
      logit -= params.frequency_penalty * static_cast<float>(entry.output_count) +
               params.presence_penalty;
    }
  }
}

}  // namespace

bool TokenCounts::Needed(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.frequency_penalty != 0.0f ||
         params.presence_penalty != 0.0f;
}

TokenCounts::TokenCounts(absl::Span<const TokenId> prompt) {
  for (const TokenId token : prompt) EntryOf(token).in_prompt = true;
}

TokenCounts::Entry& TokenCounts::EntryOf(TokenId token) {
  const auto [slot, inserted] = index_.try_emplace(token, static_cast<int32_t>(entries_.size()));
  if (inserted) entries_.push_back({token, false, 0});
  return entries_[slot->second];
}

bool ChangesLogits(const SamplingParams& params, absl::Span<const TokenId> banned) {
  return TokenCounts::Needed(params) || !params.logit_bias.empty() || !banned.empty();
}

void CopyAllowed(absl::Span<const float> logits, absl::Span<const uint32_t> allowed,
                 absl::Span<float> to) {
  KVASIR_CHECK(logits.size() == to.size());
  if (allowed.empty()) {
    std::copy(logits.begin(), logits.end(), to.begin());
    return;
  }
  constexpr size_t kBits = 32;
  KVASIR_CHECK(allowed.size() == (logits.size() + kBits - 1) / kBits);
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  for (size_t word = 0; word < allowed.size(); ++word) {
    const uint32_t bits = allowed[word];
    const size_t begin = word * kBits;
    const size_t end = std::min(begin + kBits, logits.size());
    if (bits == 0) {  // most words of most masks
      std::fill(to.begin() + begin, to.begin() + end, kNever);
      continue;
    }
    for (size_t i = begin; i < end; ++i) to[i] = (bits >> (i - begin)) & 1 ? logits[i] : kNever;
  }
}

void ApplyToLogits(const SamplingParams& params, const TokenCounts* counts,
                   absl::Span<const TokenId> banned, absl::Span<float> logits) {
  if (TokenCounts::Needed(params)) {
    KVASIR_CHECK(counts != nullptr);
    ApplyPenalties(params, *counts, logits);
  }
  for (const auto& [token, bias] : params.logit_bias) {
    if (InRow(token, logits)) logits[token] += bias;
  }
  for (const TokenId token : banned) {
    if (InRow(token, logits)) logits[token] = -std::numeric_limits<float>::infinity();
  }
}

}  // namespace kvasir
