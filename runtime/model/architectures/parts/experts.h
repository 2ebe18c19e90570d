// Mixtures of experts: the settings that their configs share, and the names under which checkpoints
// store experts, one by one or stacked. Pure functions, thread safe.
#pragma once

#include "absl/status/statusor.h"
#include "runtime/model/json_fields.h"
#include "runtime/model/loading/tensor_map.h"
#include "runtime/model/model_spec.h"

namespace kvasir {

// Counts and width; `width_key` names the width of one expert.
absl::StatusOr<MoeSpec> ReadExperts(const JsonFields& config, const char* width_key,
                                    Activation activation);

// Which layers have experts instead of a dense MLP: from first_k_dense_replace on (DeepSeek's
// rule).
absl::Status PutExpertsBehindDense(const JsonFields& config, const MoeSpec& moe, ModelSpec* spec);
// Every decoder_sparse_step-th, without those of mlp_only_layers (Qwen's rule).
absl::Status PutExpertsBySteps(const JsonFields& config, const MoeSpec& moe, ModelSpec* spec);
// All of them.
void PutExpertsEverywhere(const MoeSpec& moe, ModelSpec* spec);

// DeepSeek V3's router: sigmoid, a bias for the choice alone, groups of experts.
absl::Status ReadGroupedSigmoidRouter(const JsonFields& config, MoeSpec* moe);

// mlp.gate, mlp.experts.E.{gate,up,down}_proj or stacked, and the shared expert as `shared`.
void AddExpertNames(absl::string_view shared, TensorNames* names);

}  // namespace kvasir
