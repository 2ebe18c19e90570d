#include "runtime/model/weight_roles.h"

namespace kvasir {
namespace {

class Lister {
 public:
  explicit Lister(const ModelSpec& spec) : spec_(spec), hidden_(spec.hidden_size) {}

  std::vector<WeightShape> List() {
    AddModel();
    for (layer_ = 0; layer_ < spec_.num_layers(); ++layer_) AddLayer(spec_.layers[layer_]);
    layer_ = -1;
    AddNorm(WeightRole::kFinalNorm, spec_.head.norm, hidden_);
    if (spec_.embedding.size > 0) Add(WeightRole::kHeadProject, spec_.embedding.size, hidden_);
    if (!spec_.head.tied) {
      Add(WeightRole::kHead, spec_.vocab_size, EmbeddingSize(), spec_.head.bias);
    }
    return std::move(list_);
  }

 private:
  int64_t EmbeddingSize() const {
    return spec_.embedding.size > 0 ? spec_.embedding.size : hidden_;
  }

  void Add(WeightRole role, int64_t rows, int64_t cols, bool bias = false, int index = 0) {
    list_.push_back({{role, layer_, index, false}, rows, cols});
    if (bias) list_.push_back({{role, layer_, index, true}, rows, 1});
  }

  void AddNorm(WeightRole role, const NormSpec& norm, int64_t size) {
    if (norm.kind == NormKind::kNone || !norm.has_weight) return;
    Add(role, size, 1, norm.has_bias);
  }

  void AddModel() {
    Add(WeightRole::kEmbedding, spec_.vocab_size, EmbeddingSize());
    if (spec_.embedding.learned_positions) {
      Add(WeightRole::kPositions, int64_t{spec_.max_positions} + spec_.embedding.position_offset,
          hidden_);
    }
    if (spec_.embedding.size > 0) Add(WeightRole::kEmbeddingProject, hidden_, spec_.embedding.size);
    AddNorm(WeightRole::kEmbeddingNorm, spec_.embedding.norm, hidden_);
    const PerLayerEmbeddingSpec& per_layer = spec_.per_layer_embedding;
    if (per_layer.size > 0) {
      const int64_t values = int64_t{spec_.num_layers()} * per_layer.size;
      Add(WeightRole::kPerLayerTable, per_layer.vocab_size, values);
      Add(WeightRole::kPerLayerModelProject, values, hidden_);
      Add(WeightRole::kPerLayerModelNorm, per_layer.size, 1);
    }
    for (int stream = 1; stream < spec_.altup.streams; ++stream) {
      Add(WeightRole::kAltUpProject, hidden_, hidden_, false, stream - 1);
      Add(WeightRole::kAltUpUnproject, hidden_, hidden_, false, stream - 1);
    }
  }

  void AddLayer(const LayerSpec& layer) {
    AddNorms(layer);
    if (layer.attention() != nullptr) AddAttention(*layer.attention());
    if (layer.delta_net() != nullptr) AddDeltaNet(*layer.delta_net());
    if (layer.short_conv() != nullptr) {
      const ShortConvSpec& conv = *layer.short_conv();
      Add(WeightRole::kConvIn, 3 * hidden_, hidden_, conv.bias);
      Add(WeightRole::kConv, conv.kernel, hidden_);
      if (conv.bias) list_.push_back({{WeightRole::kConv, layer_, 0, true}, hidden_, 1});
      Add(WeightRole::kConvOut, hidden_, hidden_, conv.bias);
    }
    AddMlp(layer.feed_forward.dense);
    if (layer.feed_forward.moe) AddExperts(*layer.feed_forward.moe, layer.norm);
    if (layer.layer_scale) Add(WeightRole::kLayerScale, 1, 1);
    if (spec_.per_layer_embedding.size > 0) {
      Add(WeightRole::kPerLayerGate, spec_.per_layer_embedding.size, hidden_);
      Add(WeightRole::kPerLayerProject, hidden_, spec_.per_layer_embedding.size);
      Add(WeightRole::kPerLayerNorm, hidden_, 1);
    }
    if (spec_.altup.streams > 0) AddAltUp(spec_.altup);
  }

  void AddNorms(const LayerSpec& layer) {
    const NormPlacement placement = layer.placement;
    const bool after = placement == NormPlacement::kPost || placement == NormPlacement::kAfterAdd;
    const bool both = placement == NormPlacement::kBoth;
    if (!after) AddNorm(WeightRole::kMixerNorm, layer.norm, hidden_);
    if (after || both) AddNorm(WeightRole::kMixerPostNorm, layer.norm, hidden_);
    if (!after && placement != NormPlacement::kParallelOne) {
      AddNorm(WeightRole::kMlpNorm, layer.norm, hidden_);
    }
    if (after || both) AddNorm(WeightRole::kMlpPostNorm, layer.norm, hidden_);
  }

  void AddAttention(const AttentionSpec& attention) {
    const bool owner = attention.kv_owner == layer_;
    const int64_t heads = attention.query_heads;
    const int64_t query_size = heads * attention.head_dim;
    if (attention.latent) {
      AddLatent(attention, *attention.latent);
    } else {
      Add(WeightRole::kQuery, (attention.output_gate ? 2 : 1) * query_size, hidden_,
          attention.q_bias);
      if (owner) {
        Add(WeightRole::kKey, attention.kv_size(), hidden_, attention.k_bias);
        if (!attention.v_is_k) {
          Add(WeightRole::kValue, int64_t{attention.kv_heads} * attention.v_head_dim, hidden_,
              attention.v_bias);
        }
      }
    }
    Add(WeightRole::kOutput, hidden_, heads * attention.v_head_dim, attention.o_bias);
    if (attention.qk_norm.span != QkNormSpec::Span::kNone) {
      const auto size = [&](int64_t all_heads) {
        return attention.qk_norm.span == QkNormSpec::Span::kHead ? attention.head_dim
                                                                 : all_heads * attention.head_dim;
      };
      AddNorm(WeightRole::kQueryNorm, attention.qk_norm.norm, size(heads));
      if (owner || attention.k_norm_in_query) {
        AddNorm(WeightRole::kKeyNorm, attention.qk_norm.norm, size(attention.kv_heads));
      }
    }
    if (attention.sinks) Add(WeightRole::kSinks, heads, 1);
  }

  void AddLatent(const AttentionSpec& attention, const LatentSpec& latent) {
    const int64_t query_size = int64_t{attention.query_heads} * (latent.nope_dim + latent.rope_dim);
    if (latent.q_rank > 0) {
      Add(WeightRole::kQueryLatent, latent.q_rank, hidden_, attention.q_bias);
      AddNorm(WeightRole::kQueryLatentNorm, latent.norm, latent.q_rank);
      Add(WeightRole::kQuery, query_size, latent.q_rank);
    } else {
      Add(WeightRole::kQuery, query_size, hidden_);
    }
    Add(WeightRole::kKvLatent, latent.kv_rank + latent.rope_dim, hidden_, attention.k_bias);
    AddNorm(WeightRole::kKvLatentNorm, latent.norm, latent.kv_rank);
    for (int head = 0; head < attention.query_heads; ++head) {
      Add(WeightRole::kKeyUp, latent.kv_rank, latent.nope_dim, false, head);
      Add(WeightRole::kValueUp, latent.v_dim, latent.kv_rank, false, head);
    }
  }

  void AddDeltaNet(const DeltaNetSpec& net) {
    const int64_t values = int64_t{net.value_heads} * net.value_dim;
    Add(WeightRole::kDeltaIn, net.conv_channels() + values + 2 * int64_t{net.value_heads}, hidden_);
    Add(WeightRole::kDeltaConv, net.conv_kernel, net.conv_channels());
    Add(WeightRole::kDeltaDecay, net.value_heads, 1);
    Add(WeightRole::kDeltaDtBias, net.value_heads, 1);
    AddNorm(WeightRole::kDeltaNorm, net.norm, net.value_dim);
    Add(WeightRole::kDeltaOut, hidden_, values);
  }

  void AddMlp(const DenseMlpSpec& mlp) {
    if (mlp.width == 0) return;
    if (mlp.gated) Add(WeightRole::kGate, mlp.width, hidden_, mlp.bias);
    Add(WeightRole::kUp, mlp.width, hidden_, mlp.bias);
    Add(WeightRole::kDown, hidden_, mlp.width, mlp.bias);
  }

  void AddExperts(const MoeSpec& moe, const NormSpec& norm) {
    Add(WeightRole::kRouter, moe.experts, hidden_, moe.router_bias);
    if (moe.choice_bias) Add(WeightRole::kChoiceBias, moe.experts, 1);
    if (moe.router_norm) Add(WeightRole::kRouterScale, hidden_, 1);
    if (moe.per_expert_scale) Add(WeightRole::kExpertScale, moe.experts, 1);
    for (int expert = 0; expert < moe.experts; ++expert) {
      Add(WeightRole::kExpertGate, moe.width, hidden_, moe.bias, expert);
      Add(WeightRole::kExpertUp, moe.width, hidden_, moe.bias, expert);
      Add(WeightRole::kExpertDown, hidden_, moe.width, moe.bias, expert);
    }
    if (moe.shared_width > 0) {
      Add(WeightRole::kSharedGate, moe.shared_width, hidden_);
      Add(WeightRole::kSharedUp, moe.shared_width, hidden_);
      Add(WeightRole::kSharedDown, hidden_, moe.shared_width);
      if (moe.shared_gate) Add(WeightRole::kSharedSwitch, 1, hidden_);
    }
    if (moe.beside_dense) {
      AddNorm(WeightRole::kExpertsPreNorm, norm, hidden_);
      AddNorm(WeightRole::kExpertsPostNorm, norm, hidden_);
      AddNorm(WeightRole::kDensePostNorm, norm, hidden_);
    }
  }

  void AddAltUp(const AltUpSpec& altup) {
    const int64_t streams = altup.streams;
    Add(WeightRole::kAltUpCorrection, streams, streams);
    Add(WeightRole::kAltUpPrediction, streams * streams, streams);
    Add(WeightRole::kAltUpRouter, streams, hidden_);
    Add(WeightRole::kAltUpRouterNorm, hidden_, 1);
    if (altup.scale_corrected) Add(WeightRole::kAltUpOutputScale, hidden_, 1);
    if (altup.laurel_rank > 0) {
      Add(WeightRole::kLaurelLeft, altup.laurel_rank, hidden_);
      Add(WeightRole::kLaurelRight, hidden_, altup.laurel_rank);
      Add(WeightRole::kLaurelNorm, hidden_, 1);
    }
  }

  const ModelSpec& spec_;
  const int64_t hidden_;
  int layer_ = -1;
  std::vector<WeightShape> list_;
};

}  // namespace

std::vector<WeightShape> WeightShapes(const ModelSpec& spec) { return Lister(spec).List(); }

}  // namespace kvasir
