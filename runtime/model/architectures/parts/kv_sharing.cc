#include "runtime/model/architectures/parts/kv_sharing.h"

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

// One config key's statement about all layers.
struct Claim {
  LayerSharingRule rule = LayerSharingRule::kNone;
  std::string text;
  std::vector<int> owner;  // [num_layers]
};

std::vector<int> ClaOwners(int num_layers, int factor) {
  std::vector<int> owner(num_layers);
  for (int layer = 0; layer < num_layers; ++layer) owner[layer] = layer - layer % factor;
  return owner;
}

std::vector<int> MlkvOwners(int num_layers, int num_kv_layers) {
  std::vector<int> owner(num_layers, 0);
  // In double as the checkpoints' makers compute it, so that a product just below a whole number
  // falls alike.
  const double layers_per_group = static_cast<double>(num_layers) / num_kv_layers;
  for (int i = 0; i + 1 < num_kv_layers; ++i) {
    const int begin = static_cast<int>((i + 1) * layers_per_group);
    for (int layer = begin; layer < num_layers; ++layer) owner[layer] = begin;
  }
  return owner;
}

absl::StatusOr<Claim> ParsePattern(const JsonFields& config, int num_layers) {
  KVASIR_ASSIGN_OR_RETURN(std::vector<int> owner,
                          config.IntList("sharing_pattern", num_layers, 0, num_layers - 1));
  if (owner.size() != static_cast<size_t>(num_layers)) {
    return config.Wrong("sharing_pattern", absl::StrCat("must have one owner for each of the ",
                                                        num_layers, " layers"));
  }
  for (int layer = 0; layer < num_layers; ++layer) {
    if (owner[layer] > layer || owner[owner[layer]] != owner[layer]) {
      return config.Wrong(
          "sharing_pattern",
          absl::StrCat("but layer ", layer, " cannot read the K/V of layer ", owner[layer],
                       ": an owner must not come later and must own its K/V"));
    }
  }
  return Claim{LayerSharingRule::kExplicit, "sharing_pattern", std::move(owner)};
}

absl::StatusOr<std::vector<Claim>> ParseClaims(const JsonFields& config, int num_layers) {
  std::vector<Claim> claims;
  if (config.Has("sharing_pattern")) {
    KVASIR_ASSIGN_OR_RETURN(Claim claim, ParsePattern(config, num_layers));
    claims.push_back(std::move(claim));
  }
  // Published models carry a stale cla_share_factor beside use_cla: false, so only use_cla counts.
  KVASIR_ASSIGN_OR_RETURN(const bool use_cla, config.BoolOr("use_cla", false));
  if (use_cla) {
    KVASIR_ASSIGN_OR_RETURN(const int64_t factor, config.Int("cla_share_factor", 1, num_layers));
    claims.push_back(Claim{LayerSharingRule::kCla,
                           absl::StrCat("use_cla, cla_share_factor ", factor),
                           ClaOwners(num_layers, static_cast<int>(factor))});
  }
  if (config.Has("num_key_value_layers")) {
    KVASIR_ASSIGN_OR_RETURN(const int64_t kv_layers,
                            config.Int("num_key_value_layers", 1, num_layers));
    claims.push_back(Claim{LayerSharingRule::kMlkv,
                           absl::StrCat("num_key_value_layers ", kv_layers),
                           MlkvOwners(num_layers, static_cast<int>(kv_layers))});
  }
  return claims;
}

AttentionSpec& AttentionOf(ModelSpec* spec, int layer) {
  return std::get<AttentionSpec>(spec->layers[layer].mixer);
}

absl::Status ParseKvHeads(const JsonFields& config, ModelSpec* spec) {
  const int layers = spec->num_layers();
  const int query_heads = spec->attention(0).query_heads;
  const char* key = config.Has("num_key_value_heads_per_layer") ? "num_key_value_heads_per_layer"
                                                                : "num_key_value_heads";
  for (int layer = 0; layer < layers; ++layer) AttentionOf(spec, layer).kv_heads = query_heads;
  if (!config.Has(key)) return absl::OkStatus();
  KVASIR_ASSIGN_OR_RETURN(const std::vector<int> heads,
                          config.IntList(key, layers, 1, query_heads));
  const bool is_list = config.At(key).is_array();
  if (is_list && heads.size() != static_cast<size_t>(layers)) {
    return config.Wrong(key,
                        absl::StrCat("must have one number for each of the ", layers, " layers"));
  }
  for (int layer = 0; layer < layers; ++layer) {
    const int kv_heads = is_list ? heads[layer] : heads[0];
    if (query_heads % kv_heads != 0) {
      return config.Wrong(key, absl::StrCat("but must divide the ", query_heads, " query heads"));
    }
    AttentionOf(spec, layer).kv_heads = kv_heads;
    const int owner = spec->attention(layer).kv_owner;
    const int owner_heads = spec->attention(owner).kv_heads;
    if (kv_heads != owner_heads) {
      return config.Wrong(key, absl::StrCat("but layer ", layer, " reads the K/V of layer ", owner,
                                            " and so must have as many KV heads: ", owner_heads,
                                            ", not ", kv_heads));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ParseKvSharing(const JsonFields& config, ModelSpec* spec) {
  // Other families' keys; one of them shares its name with MLKV's but counts differently.
  for (const char* key : {"swiftkv", "num_kv_shared_layers", "num_kv_reuse_layers",
                          "kv_reuse_group", "yoco_cross_layers"}) {
    if (config.Has(key) && config.At(key) != false && config.At(key) != 0) {
      return absl::UnimplementedError(
          absl::StrCat(config.file(), ": ", key,
                       " asks for a K/V sharing scheme that is not supported; CLA "
                       "(use_cla), MLKV (num_key_value_layers) and sharing_pattern are"));
    }
  }
  std::vector<int> owner = ClaOwners(spec->num_layers(), 1);
  KVASIR_ASSIGN_OR_RETURN(std::vector<Claim> claims, ParseClaims(config, spec->num_layers()));
  for (size_t i = 1; i < claims.size(); ++i) {
    if (claims[i].owner == claims[0].owner) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(config.file(), ": ", claims[0].text, " gives the layers the K/V owners [",
                     absl::StrJoin(claims[0].owner, ", "), "], but ", claims[i].text, " gives [",
                     absl::StrJoin(claims[i].owner, ", "), "]; keep one of them"));
  }
  if (!claims.empty()) {
    const bool shares = claims[0].owner != owner;
    owner = std::move(claims[0].owner);
    spec->sharing_claim = std::move(claims[0].text);
    if (shares) spec->sharing_rule = claims[0].rule;
  }
  for (int layer = 0; layer < spec->num_layers(); ++layer) {
    AttentionOf(spec, layer).kv_owner = owner[layer];
  }
  return ParseKvHeads(config, spec);
}

}  // namespace kvasir
