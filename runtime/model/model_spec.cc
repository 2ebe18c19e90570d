#include "runtime/model/model_spec.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "runtime/model/weight_roles.h"
#include "runtime/ops/layers/delta_net.h"
#include "runtime/ops/layers/short_convolution.h"

namespace kvasir {
namespace {

// What a layer without attention keeps per sequence.
int64_t StateFloats(const LayerSpec& layer, int hidden_size) {
  if (const DeltaNetSpec* net = layer.delta_net()) {
    return DeltaNetShape{.key_heads = net->key_heads,
                         .value_heads = net->value_heads,
                         .key_dim = net->key_dim,
                         .value_dim = net->value_dim,
                         .conv_kernel = net->conv_kernel}
        .StateFloats();
  }
  return ShortConvolution::StateFloats(layer.short_conv()->kernel, hidden_size);
}

}  // namespace

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

std::vector<int32_t> ModelSpec::PlainQueryHeads() const {
  std::vector<int32_t> heads;
  for (const LayerSpec& layer : layers) {
    const AttentionSpec* attention = layer.attention();
    heads.push_back(attention != nullptr && attention->has_plain_scores() ? attention->query_heads
                                                                          : 0);
  }
  return heads;
}

int ModelSpec::short_context_tokens() const {
  int tokens = std::numeric_limits<int>::max();
  for (const RopeSpec& rope : ropes) {
    if (rope.scaling == RopeSpec::Scaling::kLongRope)
      tokens = std::min(tokens, rope.original_max_positions);
  }
  return tokens;
}

int64_t ModelSpec::num_parameters() const {
  int64_t count = 0;
  for (const WeightShape& weight : WeightShapes(*this)) count += weight.rows * weight.cols;
  return count;
}

void ModelSpec::OpenWindows(int32_t context_tokens) {
  const int32_t longest =
      context_tokens > 0 ? std::min(context_tokens, max_positions) : max_positions;
  for (LayerSpec& layer : layers) {
    AttentionSpec* const a = layer.attention();
    if (a != nullptr && a->window >= longest) a->window = 0;
  }
}

absl::StatusOr<KvLayout> ModelSpec::MakeKvLayout(KvElementType element_type, int block_tokens,
                                                 KvColumns k_columns) const {
  KvLayoutSpec layout;
  for (int layer = 0; layer < num_layers(); ++layer) {
    if (layers[layer].attention() == nullptr) {
      layout.layers.push_back({.kind = KvLayerKind::kState,
                               .state_bytes = StateFloats(layers[layer], hidden_size) *
                                              static_cast<int64_t>(sizeof(float))});
      continue;
    }
    const AttentionSpec& a = attention(layer);
    KvLayerSpec kv{.owner = a.kv_owner,
                   .kv_heads = a.kv_heads,
                   .k_dim = a.head_dim,
                   .v_dim = a.v_head_dim,
                   .window = a.window,
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
  layout.k_columns = k_columns;
  return KvLayout::Create(std::move(layout));
}

std::string ModelSpec::SharingName() const {
  // Neither the element type nor the block size has a part in the name.
  const absl::StatusOr<KvLayout> layout =
      MakeKvLayout(KvElementType::kBf16, KvLayoutSpec().block_tokens);
  return layout.ok() ? SharingSchemeName(*layout, query_heads(), sharing_rule) : "invalid";
}

}  // namespace kvasir
