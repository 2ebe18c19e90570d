#include "runtime/model/loading/tensor_inventory.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

// What config.json says about the K/V of a layer, for messages.
std::string OwnerClaim(const ModelSpec& spec, int layer) {
  const std::string rule =
      spec.sharing_claim.empty() ? "no sharing between layers" : spec.sharing_claim;
  if (spec.stores(layer)) {
    return absl::StrCat("config.json (", rule, ") says that layer ", layer, " has its own K/V");
  }
  return absl::StrCat("config.json (", rule, ") says that layer ", layer,
                      " reads the K/V of layer ", spec.attention(layer).kv_owner);
}

// The owner table against the layers that have K and V projections.
absl::Status CheckOwners(const StoredTensors& checkpoint, const TensorMap& map,
                         const ModelSpec& spec) {
  for (int layer = 0; layer < spec.num_layers(); ++layer) {
    if (spec.layers[layer].attention() == nullptr || spec.attention(layer).latent) continue;
    const bool is_owner = spec.stores(layer);
    for (const WeightRole role : {WeightRole::kKey, WeightRole::kValue}) {
      if (role == WeightRole::kValue && spec.attention(layer).v_is_k) continue;
      const std::string name = map.NameOf({role, layer});
      if (checkpoint.Has(name) == is_owner || map.MayBeIgnored(name)) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          OwnerClaim(spec, layer), ", but the checkpoint ", is_owner ? "lacks " : "has ", name,
          "; correct the sharing keys of config.json or use the checkpoint they belong to"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

void AdoptBiases(const StoredTensors& checkpoint, const TensorMap& map, ModelSpec* spec) {
  // The first layer that has the part answers for all.
  const auto has = [&](WeightRole role) {
    for (int layer = 0; layer < spec->num_layers(); ++layer) {
      if (!map.Has({role, layer})) continue;
      return checkpoint.Has(map.NameOf({role, layer, 0, /*bias=*/true}));
    }
    return false;
  };
  const bool q = has(WeightRole::kQuery), k = has(WeightRole::kKey), v = has(WeightRole::kValue);
  const bool o = has(WeightRole::kOutput), up = has(WeightRole::kUp);
  for (LayerSpec& layer : spec->layers) {
    layer.feed_forward.dense.bias |= up;
    AttentionSpec* attention = std::get_if<AttentionSpec>(&layer.mixer);
    if (attention == nullptr || attention->latent) continue;
    attention->q_bias |= q;
    attention->k_bias |= k;
    attention->v_bias |= v;
    attention->o_bias |= o;
  }
}

absl::Status CheckTensors(const StoredTensors& checkpoint, const TensorMap& map,
                          const ModelSpec& spec) {
  KVASIR_RETURN_IF_ERROR(CheckOwners(checkpoint, map, spec));
  const std::map<std::string, std::vector<int64_t>> expected = map.StoredShapes();
  for (const auto& [name, shape] : expected) {
    KVASIR_RETURN_IF_ERROR(checkpoint.Check(name, shape));
  }
  for (const std::string& name : checkpoint.Names()) {
    if (expected.count(name) > 0 || map.MayBeIgnored(name)) continue;
    // What a tied head would be made from stands in the embeddings already.
    if (spec.head.tied && name == map.NameOf({WeightRole::kHead})) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "the checkpoint has tensor ", name, ", which has no place in a ", spec.architecture, " of ",
        spec.num_layers(), " layers as config.json describes it"));
  }
  return absl::OkStatus();
}

}  // namespace kvasir
