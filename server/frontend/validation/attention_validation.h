// The `attention` of a request, from the wire to what the engine takes: a part of
// request_validation. Stateless, thread safe.
#pragma once

#include <cstdint>
#include <memory>

#include "kvasir/v1/generation.pb.h"
#include "runtime/ops/sparse/attention_method.h"
#include "server/config/attention_policy.h"
#include "server/frontend/validation/field_violations.h"

namespace kvasir {

// What a model is, as far as attention's limits depend on it.
struct AttentionLimits {
  int32_t head_dim = 0;
  int32_t max_context_tokens = 0;
};

// Null: dense attention. Adds to `violations` every field that breaks a limit of the API, of the
// model or of the operator's policy.
std::shared_ptr<const AttentionMethod> CheckAttention(const v1::Attention& attention,
                                                      const AttentionPolicy& policy,
                                                      const AttentionLimits& limits,
                                                      Violations* violations);

}  // namespace kvasir
