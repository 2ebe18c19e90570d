#include "runtime/model/architectures/parts/experts.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/loading/tensor_forms.h"

namespace kvasir {
namespace {

constexpr int64_t kMaxExperts = 4096;

void PutExperts(const MoeSpec& moe, LayerSpec* layer) {
  layer->feed_forward.dense.width = 0;
  layer->feed_forward.moe = moe;
}

}  // namespace

absl::StatusOr<MoeSpec> ReadExperts(const JsonFields& config, const char* width_key,
                                    Activation activation) {
  MoeSpec moe;
  KVASIR_ASSIGN_OR_RETURN(const char* const count_key,
                          OneKey(config, {"num_experts", "num_local_experts", "n_routed_experts"}));
  KVASIR_ASSIGN_OR_RETURN(moe.experts, config.Int(count_key, 1, kMaxExperts));
  KVASIR_ASSIGN_OR_RETURN(const char* const chosen_key,
                          OneKey(config, {"num_experts_per_tok", "top_k_experts"}));
  KVASIR_ASSIGN_OR_RETURN(moe.chosen, config.Int(chosen_key, 1, moe.experts));
  KVASIR_ASSIGN_OR_RETURN(moe.width, config.Int(width_key, 1, kMaxIntermediate));
  moe.activation = activation;
  return moe;
}

absl::Status PutExpertsBehindDense(const JsonFields& config, const MoeSpec& moe, ModelSpec* spec) {
  KVASIR_ASSIGN_OR_RETURN(const int64_t dense,
                          config.IntOr("first_k_dense_replace", 0, 0, kMaxLayers));
  KVASIR_ASSIGN_OR_RETURN(const int64_t step, config.IntOr("moe_layer_freq", 1, 1, kMaxLayers));
  if (step != 1) return RefuseKey(config, "moe_layer_freq", "1 is");
  for (int layer = static_cast<int>(dense); layer < spec->num_layers(); ++layer) {
    PutExperts(moe, &spec->layers[layer]);
  }
  return absl::OkStatus();
}

absl::Status PutExpertsBySteps(const JsonFields& config, const MoeSpec& moe, ModelSpec* spec) {
  KVASIR_ASSIGN_OR_RETURN(const int64_t step, config.IntOr("decoder_sparse_step", 1, 1, INT32_MAX));
  std::vector<int> dense;
  if (config.Has("mlp_only_layers") && config.At("mlp_only_layers") != nlohmann::json::array()) {
    KVASIR_ASSIGN_OR_RETURN(dense, config.IntList("mlp_only_layers", kMaxLayers, 0, kMaxLayers));
  }
  for (int layer = 0; layer < spec->num_layers(); ++layer) {
    const bool only = std::find(dense.begin(), dense.end(), layer) != dense.end();
    if (!only && (layer + 1) % step == 0) PutExperts(moe, &spec->layers[layer]);
  }
  return absl::OkStatus();
}

void PutExpertsEverywhere(const MoeSpec& moe, ModelSpec* spec) {
  for (LayerSpec& layer : spec->layers) PutExperts(moe, &layer);
}

absl::Status ReadGroupedSigmoidRouter(const JsonFields& config, MoeSpec* moe) {
  moe->score = MoeSpec::Score::kSigmoid;
  moe->choice_bias = true;
  KVASIR_ASSIGN_OR_RETURN(moe->renormalize, config.BoolOr("norm_topk_prob", true));
  KVASIR_ASSIGN_OR_RETURN(const double scale,
                          config.NumberOr("routed_scaling_factor", 1.0, 1e-6, 1e6));
  moe->weight_scale = static_cast<float>(scale);
  KVASIR_ASSIGN_OR_RETURN(moe->groups, config.IntOr("n_group", 1, 1, moe->experts));
  KVASIR_ASSIGN_OR_RETURN(moe->groups_chosen, config.IntOr("topk_group", 1, 1, moe->groups));
  if (moe->experts % moe->groups != 0) {
    return config.Wrong("n_group", absl::StrCat("but must divide the ", moe->experts, " experts"));
  }
  const int in_groups = moe->experts / moe->groups;
  moe->group_score_top = std::min(2, in_groups);
  if (moe->chosen > moe->groups_chosen * in_groups) {
    return config.Wrong("num_experts_per_tok",
                        absl::StrCat("but the ", moe->groups_chosen, " chosen groups have only ",
                                     moe->groups_chosen * in_groups, " experts"));
  }
  return absl::OkStatus();
}

void AddExpertNames(absl::string_view shared, TensorNames* names) {
  using enum WeightRole;
  const std::string mlp = "layers.{}.mlp.";
  const std::string experts = mlp + "experts.";
  names->Set(kRouter, mlp + "gate")
      .SetRaw(kChoiceBias, mlp + "gate.e_score_correction_bias")
      .Set(kExpertGate, experts + "{i}.gate_proj")
      .Or(kExpertGate, experts + "gate_up_proj", "", StackedGateUpForm())
      .Set(kExpertUp, experts + "{i}.up_proj")
      .Or(kExpertUp, experts + "gate_up_proj", "", StackedGateUpForm())
      .Set(kExpertDown, experts + "{i}.down_proj")
      .Or(kExpertDown, experts + "down_proj", "", StackedForm());
  if (shared.empty()) return;
  const std::string base = absl::StrCat(mlp, shared);
  names->Set(kSharedGate, base + ".gate_proj")
      .Set(kSharedUp, base + ".up_proj")
      .Set(kSharedDown, base + ".down_proj")
      .Set(kSharedSwitch, mlp + "shared_expert_gate");
}

}  // namespace kvasir
