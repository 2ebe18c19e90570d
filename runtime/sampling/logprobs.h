// Log-probabilities of single tokens under the model's own distribution, the softmax of the raw
// logits: what `logprobs`, `prompt_logprobs` and scoring report. Stateless; safe from any thread.
#pragma once

#include "absl/types/span.h"
#include "runtime/sampling/sampling_params.h"
#include "runtime/tokenizer/token_id.h"

namespace kvasir {

// `target`'s log-probability and the `num_alternatives` likeliest tokens (fewer when fewer have a
// probability above zero; `target` may be among them). Reads the row twice, sorts nothing but the
// alternatives. logits: [vocab], target inside. NaN counts as -infinity, +infinity as the largest
// float; when no logit is above -infinity there is no distribution: the log-probability is
// -infinity and there are no alternatives.
TokenLogprob LogprobOf(absl::Span<const float> logits, TokenId target, int num_alternatives);

}  // namespace kvasir
