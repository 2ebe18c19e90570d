// How the next token is chosen. Plain values, already checked (request_validation states ranges and
// defaults).
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "runtime/tokenizer/token_id.h"

namespace kvasir {

struct SamplingParams {
  float temperature = 1.0f;  // 0 = greedy
  float top_p = 1.0f;        // (0, 1]
  int32_t top_k = 0;         // 0 = all
  float min_p = 0.0f;        // [0, 1]
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  std::vector<std::pair<TokenId, float>> logit_bias;
  uint64_t seed = 0;
};

// A token with its log-probability under the model's own distribution (softmax of the raw logits,
// before penalties, temperature and cuts).
struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0;
  std::vector<std::pair<TokenId, float>> alternatives;  // likeliest first; ties: lower id first
};

}  // namespace kvasir
