#include "runtime/conversion/target_model.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/hf_config.h"
#include "runtime/model/loading/tensor_inventory.h"

namespace kvasir {
namespace {

absl::Status Refuse(const SourceModel& source, absl::string_view reason) {
  return absl::UnimplementedError(
      absl::StrCat(source.spec.architecture, " in ", source.folder,
                   " cannot be converted to fewer K/V heads or layers: ", reason));
}

// Whether a weight is one whole tensor, row by row in whatever order.
bool IsWholeTensor(const MappedWeight& weight) {
  if (weight.parts.size() != 1) return false;
  StoredPart part = weight.parts[0];
  part.row_order.clear();
  return part.contiguous() && part.offset == 0 && !part.shape.empty() && part.shape[0] == part.rows;
}

absl::Status CheckAttention(const SourceModel& source, int layer) {
  const AttentionSpec* const attention = source.spec.layers[layer].attention();
  if (attention == nullptr) {
    return Refuse(source, absl::StrCat("layer ", layer, " keeps a state and has no K/V"));
  }
  if (attention->latent) return Refuse(source, "all heads share one latent row already");
  if (attention->v_is_k) return Refuse(source, "its V is its K");
  if (!source.spec.stores(layer)) return absl::OkStatus();
  for (const WeightRole role : {WeightRole::kKey, WeightRole::kValue}) {
    if (!IsWholeTensor(source.map->At({role, layer}))) {
      return Refuse(source, absl::StrCat("tensor ", source.map->NameOf({role, layer}),
                                         " is no matrix of its own: K and V must be stored apart "
                                         "from Q, one row per output"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckHeads(const SourceModel& source, int layer, int kv_heads) {
  const AttentionSpec& attention = source.spec.attention(layer);
  if (kv_heads < 1 || attention.kv_heads % kv_heads != 0) {
    return absl::InvalidArgumentError(
        kv_heads > attention.kv_heads
            ? absl::StrCat("kv_heads is ", kv_heads, ", but layer ", layer, " of ", source.folder,
                           " has only ", attention.kv_heads, " K/V heads")
            : absl::StrCat("kv_heads is ", kv_heads, ", but must divide the ", attention.kv_heads,
                           " K/V heads of ", source.folder));
  }
  const QkNormSpec::Span span = attention.qk_norm.span;
  if (kv_heads != attention.kv_heads && span != QkNormSpec::Span::kNone &&
      span != QkNormSpec::Span::kHead) {
    return Refuse(source, span == QkNormSpec::Span::kWhole
                              ? "the norm of K spans all its heads"
                              : "the norm of K has weights of its own for each head");
  }
  return absl::OkStatus();
}

absl::Status CheckRecipe(const SourceModel& source, const SharingRecipe& recipe) {
  const int num_layers = source.spec.num_layers();
  if (recipe.cla_factor && recipe.mlkv_layers) {
    return absl::InvalidArgumentError("cla and mlkv exclude each other; give one of them");
  }
  if (recipe.cla_factor && (*recipe.cla_factor < 2 || *recipe.cla_factor > num_layers)) {
    return absl::InvalidArgumentError(absl::StrCat("cla is ", *recipe.cla_factor,
                                                   ", but a share factor for ", source.folder,
                                                   " is from 2 to its ", num_layers, " layers"));
  }
  if (recipe.mlkv_layers && (*recipe.mlkv_layers < 1 || *recipe.mlkv_layers >= num_layers)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "mlkv is ", *recipe.mlkv_layers, ", but the K/V layers of ", source.folder,
        " can be from 1 to ", num_layers - 1, ", fewer than its ", num_layers, " layers"));
  }
  if (recipe.layers && !recipe.cla_factor && !recipe.mlkv_layers) {
    return absl::InvalidArgumentError("a way to merge layers needs cla or mlkv");
  }
  for (int layer = 0; layer < num_layers; ++layer) {
    KVASIR_RETURN_IF_ERROR(CheckAttention(source, layer));
    if (recipe.kv_heads) KVASIR_RETURN_IF_ERROR(CheckHeads(source, layer, *recipe.kv_heads));
  }
  return absl::OkStatus();
}

void RewriteConfig(const SharingRecipe& recipe, nlohmann::ordered_json* config) {
  if (recipe.kv_heads) {
    (*config)["num_key_value_heads"] = *recipe.kv_heads;
    config->erase("num_key_value_heads_per_layer");
  }
  if (!recipe.cla_factor && !recipe.mlkv_layers) return;
  for (const char* key :
       {"sharing_pattern", "use_cla", "cla_share_factor", "num_key_value_layers"}) {
    config->erase(key);
  }
  if (recipe.cla_factor) {
    (*config)["use_cla"] = true;
    (*config)["cla_share_factor"] = *recipe.cla_factor;
  } else {
    (*config)["num_key_value_layers"] = *recipe.mlkv_layers;
  }
}

// Layers that read the same K/V must want the same of it.
absl::Status CheckGroupMember(const SourceModel& source, int owner, int layer) {
  const AttentionSpec& a = source.spec.attention(owner);
  const AttentionSpec& b = source.spec.attention(layer);
  const auto differs = [&](absl::string_view what) {
    return Refuse(source, absl::StrCat("layers ", owner, " and ", layer,
                                       " would share K/V, but differ in ", what));
  };
  if (a.window != b.window) return differs("their window");
  if (a.rope != b.rope) return differs("the rotation of K");
  if (a.head_dim != b.head_dim || a.v_head_dim != b.v_head_dim) return differs("their head size");
  if (a.qk_norm.span != b.qk_norm.span) return differs("the norm of K");
  return absl::OkStatus();
}

// What the config's reader made of the new config, held against what was asked for.
absl::Status CheckTarget(const SourceModel& source, const SharingRecipe& recipe,
                         const TargetModel& target) {
  bool changed = false;
  for (int layer = 0; layer < source.spec.num_layers(); ++layer) {
    const AttentionSpec& before = source.spec.attention(layer);
    const AttentionSpec& after = target.spec.attention(layer);
    if (recipe.kv_heads && after.kv_heads != *recipe.kv_heads) {
      return Refuse(source, "its config has no num_key_value_heads");
    }
    changed |= after.kv_heads != before.kv_heads || after.kv_owner != before.kv_owner;
    if (after.reads_unrotated_k != before.reads_unrotated_k) {
      return Refuse(source, "its borrowers would read K as it was before rotation");
    }
    KVASIR_RETURN_IF_ERROR(CheckGroupMember(source, after.kv_owner, layer));
    const int group = target.spec.attention(before.kv_owner).kv_owner;
    if (group != after.kv_owner || !source.spec.stores(after.kv_owner)) {
      return absl::InvalidArgumentError(
          absl::StrCat("layer ", layer, " of ", source.folder, " reads the K/V of layer ",
                       before.kv_owner, " (", source.spec.sharing_claim,
                       "), which the new sharing would tear apart: it would "
                       "read layer ",
                       after.kv_owner));
    }
  }
  const bool shares = recipe.cla_factor || recipe.mlkv_layers;
  if (shares && target.spec.sharing_rule == LayerSharingRule::kNone) {
    return Refuse(source, "its config cannot say that layers share K/V");
  }
  if (!recipe.empty() && !changed) {
    return absl::InvalidArgumentError(absl::StrCat(
        source.folder, " shares its K/V like that already (", source.spec.SharingName(), ", ",
        source.spec.attention(0).kv_heads, " K/V heads); there is nothing to convert"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TargetModel> PlanTarget(const SourceModel& source, const SharingRecipe& recipe) {
  TargetModel target;
  target.config = source.config;
  if (!recipe.empty()) {
    KVASIR_RETURN_IF_ERROR(CheckRecipe(source, recipe));
    RewriteConfig(recipe, &target.config);
  }
  KVASIR_ASSIGN_OR_RETURN(target.spec,
                          ParseHfConfig(target.config.dump(), source.generation_config));
  if (!recipe.empty()) KVASIR_RETURN_IF_ERROR(CheckTarget(source, recipe, target));
  const auto has = [&](const std::string& name) { return source.Has(name); };
  KVASIR_ASSIGN_OR_RETURN(target.map, MapTensors(target.spec, has));
  AdoptBiases(*source.checkpoint, *target.map, &target.spec);
  KVASIR_ASSIGN_OR_RETURN(target.map, MapTensors(target.spec, has));

  target.merged_layers.resize(target.spec.num_layers());
  for (int layer = 0; layer < target.spec.num_layers(); ++layer) {
    if (source.spec.layers[layer].attention() == nullptr || !source.spec.stores(layer)) continue;
    target.merged_layers[target.spec.attention(layer).kv_owner].push_back(layer);
  }
  return target;
}

}  // namespace kvasir
