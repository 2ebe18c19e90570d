// Sampler: chooses the next token of a sequence from a row of logits.
//
// Stages, in this order:
//   tokens that are not allowed -> penalties, bias, bans (logits_processor.h) -> greedy, when the
//   temperature is 0: the largest logit, of equals the lowest id -> temperature -> top_k -> top_p
//   over what top_k left, renormalised -> min_p -> draw.
// This is the order of Hugging Face transformers' warpers. vLLM differs in two places: it adds
// logit_bias before the penalties, and it cuts by min_p before top_p, which then counts mass among
// the survivors only.
//
// The vocabulary is never sorted. Greedy is one vectorised pass and a plain temperature two. With
// cuts, a bound that no survivor can be below (from block maxima for top_k; from the mass that all
// tokens below it could have for top_p; the ratio itself for min_p) leaves a short list of
// candidates, in id order; only a flat row makes it long, and then the cut is still linear
// (mass_cut.h).
//
// The draw inverts the distribution's sum, in id order, with one number that depends on (seed,
// completion index, output position) alone: the same logits give the same token, alone or batched,
// on any thread, after preemption.
//
// Logits that are no number: NaN counts as -infinity (never chosen), +infinity as the largest
// finite float.
//
// Owns scratch of about 20 bytes per token of the vocabulary. Not thread safe: one per compute
// thread.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "base/aligned_buffer.h"
#include "runtime/sampling/logits_processor.h"
#include "runtime/sampling/logprobs.h"
#include "runtime/sampling/mass_cut.h"
#include "runtime/sampling/sampling_params.h"
#include "runtime/tokenizer/token_id.h"

namespace kvasir {

// Temperatures below this are greedy: their inverse would leave the range of float, and no two
// different logits of a real row are close enough to be told apart by it. vLLM draws the same line.
inline constexpr float kSmallestTemperature = 1e-5f;

// Borrows everything for the length of the call.
struct SampleRequest {
  const SamplingParams* params = nullptr;
  const TokenCounts* counts = nullptr;  // null when TokenCounts::Needed(*params) is false
  int32_t completion_index = 0;
  int32_t output_position = 0;          // tokens generated before this one
  std::optional<int32_t> num_logprobs;  // absent: no log-probability; n: and that many alternatives
  absl::Span<const TokenId> banned;     // never chosen, e.g. end-of-sequence before min_tokens
  // Not empty: bit i % 32 of word i / 32 says whether token i may be chosen. [(vocab + 31) / 32]
  absl::Span<const uint32_t> allowed;
};

struct SampleResult {
  TokenId token = 0;
  std::optional<TokenLogprob> logprob;  // of the raw logits
  // False when no logit was above -infinity (a model that computes NaN, or no token allowed):
  // token is then 0 and means nothing. The request should fail.
  bool valid = true;
};

class Sampler {
 public:
  // vocab_size >= 1.
  explicit Sampler(int vocab_size);

  // logits: [vocab], raw and unchanged afterwards. Does not allocate after warm-up, but for the
  // alternatives.
  SampleResult Sample(absl::Span<const float> logits, const SampleRequest& request);

 private:
  // Row, maximum and scale of one call, after penalties.
  struct Row {
    absl::Span<const float> logits;  // [vocab]
    float max;                       // finite
    float inverse_temperature;
  };

  TokenId FirstOfMaximum(const Row& row) const;
  TokenId DrawFromRow(const Row& row, double uniform);
  TokenId DrawFromCandidates(const Row& row, const SamplingParams& params, double uniform);
  float TopKBound(int32_t top_k);
  double SumExp(const Row& row);
  void KeepTopK(int32_t top_k);

  const size_t vocab_size_;
  AlignedBuffer<float> adjusted_;      // [vocab], the row after penalties
  std::vector<float> block_maxima_;    // [blocks]
  std::vector<float> block_sums_;      // [blocks]
  std::vector<float> ordered_maxima_;  // [blocks]
  size_t num_candidates_ = 0;
  AlignedBuffer<float> candidates_;  // [vocab + slack] logits, in id order; num_candidates_ are set
  AlignedBuffer<TokenId> ids_;       // [vocab + slack]
  AlignedBuffer<float> weights_;     // [vocab] exp of the scaled distance to the maximum
  MassCutFinder cut_finder_;
};

}  // namespace kvasir
