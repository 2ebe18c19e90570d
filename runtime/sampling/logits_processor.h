// Changes to a row of logits that concern single tokens: penalties, bias and bans. Only the tokens
// concerned are touched, so a step costs as many memory accesses as the sequence has distinct
// tokens, never the vocabulary.
//
// TokenCounts is one completion's state, owned by it; not thread safe. The functions are stateless.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "runtime/sampling/sampling_params.h"
#include "runtime/tokenizer/token_id.h"

namespace kvasir {

// Which tokens a completion has seen: in its prompt (whether), in its output (how often). Copyable:
// completions of one prompt start from a copy.
class TokenCounts {
 public:
  struct Entry {
    TokenId token;
    bool in_prompt;
    int32_t output_count;
  };

  // Whether any penalty of `params` asks for counts. Without, a request need not keep them.
  static bool Needed(const SamplingParams& params);

  TokenCounts() = default;
  explicit TokenCounts(absl::Span<const TokenId> prompt);

  // One generated token more. O(1).
  void Add(TokenId token) { ++EntryOf(token).output_count; }

  // Each distinct token once, in order of first appearance.
  absl::Span<const Entry> entries() const { return entries_; }

 private:
  Entry& EntryOf(TokenId token);

  std::vector<Entry> entries_;  // dense, because it is walked for every token
  absl::flat_hash_map<TokenId, int32_t> index_;
};

// Whether ApplyToLogits would change anything: without, the caller saves the copy of the row.
bool ChangesLogits(const SamplingParams& params, absl::Span<const TokenId> banned);

// `to` = `logits` (both [vocab]), -infinity for every token whose bit in `allowed` is not set
// (SampleRequest::allowed); an empty `allowed` allows all.
void CopyAllowed(absl::Span<const float> logits, absl::Span<const uint32_t> allowed,
                 absl::Span<float> to);

// Changes `logits` ([vocab]) in this order:
//   1. repetition penalty: tokens of prompt or output; positive logits are divided by it, negative
//   ones multiplied
//      (Keskar et al., CTRL, 2019; as in Hugging Face transformers and vLLM);
//   2. frequency penalty x occurrences and presence penalty: subtracted for tokens of the output
//   (as OpenAI);
//   3. logit_bias: added, after the penalties, so that a bias means the same however often the
//   token appeared;
//   4. banned tokens: -infinity, whatever came before.
// `counts` may be null when TokenCounts::Needed(params) is false. Ids outside the row are ignored:
// an end-of-sequence id of a generation_config.json need not be in the model's vocabulary.
void ApplyToLogits(const SamplingParams& params, const TokenCounts* counts,
                   absl::Span<const TokenId> banned, absl::Span<float> logits);

}  // namespace kvasir
