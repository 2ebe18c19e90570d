#include "runtime/model/model_spec.h"

#include <algorithm>
#include <utility>

#include "runtime/model/weight_roles.h"

namespace kvasir {

int ModelSpec::last_storing_layer() const {
  int last = 0;
  for (int layer = 0; layer < num_layers(); ++layer) {
    if (stores(layer)) last = layer;
  }
  return last;
}

int ModelSpec::query_heads() const {
  int most = 0;
  for (const LayerSpec& layer : layers) {
    if (layer.attention() != nullptr) most = std::max(most, layer.attention()->query_heads);
  }
  return most;
}

int ModelSpec::head_dim() const {
  int most = 0;
  for (const LayerSpec& layer : layers) {
    if (layer.attention() != nullptr) most = std::max(most, layer.attention()->head_dim);
  }
  return most;
}

int64_t ModelSpec::num_parameters() const {
  int64_t count = 0;
  for (const WeightShape& weight : WeightShapes(*this)) count += weight.rows * weight.cols;
  return count;
}

absl::StatusOr<KvLayout> ModelSpec::MakeKvLayout(KvElementType element_type, int block_tokens,
                                                 SparqKeys sparq_keys) const {
  KvLayoutSpec layout;
  for (int layer = 0; layer < num_layers(); ++layer) {
    const AttentionSpec& a = attention(layer);
    KvLayerSpec kv{.owner = a.kv_owner,
                   .kv_heads = a.kv_heads,
                   .k_dim = a.head_dim,
                   .v_dim = a.v_head_dim,
                   .unrotated_k = a.reads_unrotated_k};
    if (a.latent) {
      kv.latent = true;
      kv.k_dim = a.latent->kv_rank + a.latent->rope_dim;
      kv.v_dim = a.latent->kv_rank;
    }
    layout.layers.push_back(kv);
  }
  layout.element_type = element_type;
  layout.block_tokens = block_tokens;
  layout.sparq_keys = sparq_keys;
  return KvLayout::Create(std::move(layout));
}

std::string ModelSpec::SharingName() const {
  // Neither the element type nor the block size has a part in the name.
  const absl::StatusOr<KvLayout> layout =
      MakeKvLayout(KvElementType::kBf16, KvLayoutSpec().block_tokens);
  return layout.ok() ? SharingSchemeName(*layout, query_heads(), sharing_rule) : "invalid";
}

}  // namespace kvasir
