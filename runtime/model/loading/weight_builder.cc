#include "runtime/model/loading/weight_builder.h"

#include <malloc.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "runtime/ops/quantized/quantize_matrix.h"

namespace kvasir {

using enum WeightRole;

namespace {

// Its errors say of which tensors it was to be made.
absl::StatusOr<std::unique_ptr<Linear>> CreateLinear(const std::vector<StoredMatrix>& matrices,
                                                     const std::vector<StoredMatrix>& biases,
                                                     ComputeType type, const TensorMap& map,
                                                     const std::vector<WeightId>& weights) {
  absl::StatusOr<std::unique_ptr<Linear>> linear = Linear::Create(matrices, biases, type);
  if (linear.ok()) return linear;
  std::string names;
  for (const WeightId& id : weights) {
    if (id.bias) continue;
    absl::StrAppend(&names, names.empty() ? "" : ", ", map.NameOf(id));
  }
  return absl::Status(linear.status().code(),
                      absl::StrCat("weight ", names, ": ", linear.status().message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelWeights>> WeightBuilder::Build() {
  weights_ = std::make_unique<ModelWeights>();
  // The tables first: they are the largest tensors, and their stored form beside the packed one
  // would set the peak if everything else were packed already.
  KVASIR_RETURN_IF_ERROR(BuildModel());
  weights_->layers.resize(spec_.num_layers());
  for (int layer = 0; layer < spec_.num_layers(); ++layer) {
    KVASIR_RETURN_IF_ERROR(BuildLayer(layer, &weights_->layers[layer]));
    // The allocator keeps packing's freed scratch (75 MiB for a 1B model) unless it is told not to.
    malloc_trim(0);
  }
  return std::move(weights_);
}

absl::Status WeightBuilder::BuildModel() {
  ModelWeights& w = *weights_;
  KVASIR_RETURN_IF_ERROR(Table({kEmbedding}, &w.embedding, spec_.head.tied ? &w.lm_head : nullptr));
  KVASIR_RETURN_IF_ERROR(Product({{kHead}}, &w.lm_head));
  KVASIR_RETURN_IF_ERROR(Table({kPositions}, &w.positions));
  KVASIR_RETURN_IF_ERROR(Table({kPerLayerTable}, &w.per_layer_table));
  KVASIR_RETURN_IF_ERROR(Product({{kEmbeddingProject}}, &w.embedding_project));
  KVASIR_RETURN_IF_ERROR(Norm({kEmbeddingNorm}, &w.embedding_norm));
  KVASIR_RETURN_IF_ERROR(Norm({kFinalNorm}, &w.final_norm));
  KVASIR_RETURN_IF_ERROR(Product({{kHeadProject}}, &w.head_project));
  KVASIR_RETURN_IF_ERROR(Product({{kPerLayerModelProject}}, &w.per_layer_project));
  KVASIR_RETURN_IF_ERROR(Norm({kPerLayerModelNorm}, &w.per_layer_norm));
  const int others = std::max(0, spec_.altup.streams - 1);
  w.altup_project.resize(others);
  w.altup_unproject.resize(others);
  for (int i = 0; i < others; ++i) {
    KVASIR_RETURN_IF_ERROR(Product({{kAltUpProject, -1, i}}, &w.altup_project[i]));
    KVASIR_RETURN_IF_ERROR(Product({{kAltUpUnproject, -1, i}}, &w.altup_unproject[i]));
  }
  return absl::OkStatus();
}

absl::Status WeightBuilder::BuildLayer(int layer, LayerWeights* weights) {
  const LayerSpec& spec = spec_.layers[layer];
  KVASIR_RETURN_IF_ERROR(Norm({kMixerNorm, layer}, &weights->mixer_norm));
  KVASIR_RETURN_IF_ERROR(Norm({kMixerPostNorm, layer}, &weights->mixer_post_norm));
  KVASIR_RETURN_IF_ERROR(Norm({kMlpNorm, layer}, &weights->mlp_norm));
  KVASIR_RETURN_IF_ERROR(Norm({kMlpPostNorm, layer}, &weights->mlp_post_norm));
  if (const AttentionSpec* attention = spec.attention()) {
    AttentionWeights& mixer = weights->mixer.emplace<AttentionWeights>();
    KVASIR_RETURN_IF_ERROR(BuildAttention(layer, *attention, &mixer));
  } else if (spec.delta_net() != nullptr) {
    KVASIR_RETURN_IF_ERROR(BuildDeltaNet(layer, &weights->mixer.emplace<DeltaNetWeights>()));
  } else {
    KVASIR_RETURN_IF_ERROR(BuildShortConv(layer, &weights->mixer.emplace<ShortConvWeights>()));
  }
  KVASIR_RETURN_IF_ERROR(Mlp({kGate, layer}, {kUp, layer}, {kDown, layer}, &weights->mlp));
  if (spec.feed_forward.moe) {
    weights->moe = std::make_unique<MoeWeights>();
    KVASIR_RETURN_IF_ERROR(BuildExperts(layer, *spec.feed_forward.moe, weights->moe.get()));
  }
  if (spec.layer_scale) {
    AlignedBuffer<float> scale;
    KVASIR_RETURN_IF_ERROR(Vector({kLayerScale, layer}, &scale));
    weights->layer_scale = scale[0];
  }
  KVASIR_RETURN_IF_ERROR(Product({{kPerLayerGate, layer}}, &weights->per_layer.gate));
  KVASIR_RETURN_IF_ERROR(Product({{kPerLayerProject, layer}}, &weights->per_layer.project));
  KVASIR_RETURN_IF_ERROR(Norm({kPerLayerNorm, layer}, &weights->per_layer.norm));
  if (spec_.altup.streams > 0) {
    weights->altup = std::make_unique<AltUpWeights>();
    KVASIR_RETURN_IF_ERROR(BuildAltUp(layer, weights->altup.get()));
  }
  return absl::OkStatus();
}

absl::Status WeightBuilder::BuildAttention(int layer, const AttentionSpec& spec,
                                           AttentionWeights* weights) {
  const WeightId q = {kQuery, layer}, k = {kKey, layer}, v = {kValue, layer};
  if (spec.latent) {
    KVASIR_RETURN_IF_ERROR(BuildLatent(layer, spec, weights));
  } else if (!spec_.stores(layer)) {
    KVASIR_RETURN_IF_ERROR(Product({q}, &weights->q));
  } else if (layer == spec_.last_storing_layer()) {
    KVASIR_RETURN_IF_ERROR(Product({q}, &weights->q));
    KVASIR_RETURN_IF_ERROR(Product({k, v}, &weights->kv));
  } else {
    KVASIR_RETURN_IF_ERROR(Product({q, k, v}, &weights->qkv));
  }
  KVASIR_RETURN_IF_ERROR(Product({{kOutput, layer}}, &weights->o));
  KVASIR_RETURN_IF_ERROR(Norm({kQueryNorm, layer}, &weights->q_norm));
  KVASIR_RETURN_IF_ERROR(Norm({kKeyNorm, layer}, &weights->k_norm));
  return Vector({kSinks, layer}, &weights->sinks);
}

absl::Status WeightBuilder::BuildLatent(int layer, const AttentionSpec& spec,
                                        AttentionWeights* weights) {
  KVASIR_RETURN_IF_ERROR(Product({{kQueryLatent, layer}}, &weights->q_a));
  KVASIR_RETURN_IF_ERROR(Norm({kQueryLatentNorm, layer}, &weights->q_a_norm));
  KVASIR_RETURN_IF_ERROR(Product({{kQuery, layer}}, &weights->q));
  KVASIR_RETURN_IF_ERROR(Product({{kKvLatent, layer}}, &weights->kv_a));
  KVASIR_RETURN_IF_ERROR(Norm({kKvLatentNorm, layer}, &weights->kv_a_norm));
  weights->k_up.resize(spec.query_heads);
  weights->v_up.resize(spec.query_heads);
  for (int head = 0; head < spec.query_heads; ++head) {
    KVASIR_RETURN_IF_ERROR(Product({{kKeyUp, layer, head}}, &weights->k_up[head]));
    KVASIR_RETURN_IF_ERROR(Product({{kValueUp, layer, head}}, &weights->v_up[head]));
  }
  return absl::OkStatus();
}

absl::Status WeightBuilder::BuildDeltaNet(int layer, DeltaNetWeights* weights) {
  KVASIR_RETURN_IF_ERROR(Product({{kDeltaIn, layer}}, &weights->in));
  KVASIR_RETURN_IF_ERROR(Vector({kDeltaConv, layer}, &weights->conv));
  KVASIR_RETURN_IF_ERROR(Vector({kDeltaDecay, layer}, &weights->decay));
  KVASIR_RETURN_IF_ERROR(Vector({kDeltaDtBias, layer}, &weights->dt_bias));
  KVASIR_RETURN_IF_ERROR(Norm({kDeltaNorm, layer}, &weights->norm));
  return Product({{kDeltaOut, layer}}, &weights->out);
}

absl::Status WeightBuilder::BuildShortConv(int layer, ShortConvWeights* weights) {
  KVASIR_RETURN_IF_ERROR(Product({{kConvIn, layer}}, &weights->in));
  KVASIR_RETURN_IF_ERROR(Vector({kConv, layer}, &weights->conv));
  KVASIR_RETURN_IF_ERROR(Vector({kConv, layer, 0, /*bias=*/true}, &weights->conv_bias));
  return Product({{kConvOut, layer}}, &weights->out);
}

absl::Status WeightBuilder::BuildExperts(int layer, const MoeSpec& spec, MoeWeights* weights) {
  const WeightId router[] = {{kRouter, layer}};
  KVASIR_RETURN_IF_ERROR(Product(router, ComputeType::kF32, &weights->router));
  KVASIR_RETURN_IF_ERROR(Vector({kChoiceBias, layer}, &weights->choice_bias));
  KVASIR_RETURN_IF_ERROR(Vector({kRouterScale, layer}, &weights->router_scale));
  KVASIR_RETURN_IF_ERROR(Vector({kExpertScale, layer}, &weights->expert_scale));
  weights->experts.resize(spec.experts);
  const size_t pass_bytes = weights_->pass_bytes_;
  for (int e = 0; e < spec.experts; ++e) {
    KVASIR_RETURN_IF_ERROR(Mlp({kExpertGate, layer, e}, {kExpertUp, layer, e},
                               {kExpertDown, layer, e}, &weights->experts[e]));
  }
  KVASIR_RETURN_IF_ERROR(
      Mlp({kSharedGate, layer}, {kSharedUp, layer}, {kSharedDown, layer}, &weights->shared));
  weights_->pass_bytes_ = pass_bytes;  // what experts read is counted when they are chosen
  KVASIR_RETURN_IF_ERROR(Product({{kSharedSwitch, layer}}, &weights->shared_gate));
  KVASIR_RETURN_IF_ERROR(Norm({kExpertsPreNorm, layer}, &weights->pre_norm));
  KVASIR_RETURN_IF_ERROR(Norm({kExpertsPostNorm, layer}, &weights->post_norm));
  return Norm({kDensePostNorm, layer}, &weights->dense_post_norm);
}

absl::Status WeightBuilder::BuildAltUp(int layer, AltUpWeights* weights) {
  KVASIR_RETURN_IF_ERROR(Vector({kAltUpCorrection, layer}, &weights->correction));
  KVASIR_RETURN_IF_ERROR(Vector({kAltUpPrediction, layer}, &weights->prediction));
  KVASIR_RETURN_IF_ERROR(Vector({kAltUpRouter, layer}, &weights->router));
  KVASIR_RETURN_IF_ERROR(Norm({kAltUpRouterNorm, layer}, &weights->router_norm));
  KVASIR_RETURN_IF_ERROR(Vector({kAltUpOutputScale, layer}, &weights->output_scale));
  KVASIR_RETURN_IF_ERROR(Product({{kLaurelLeft, layer}}, &weights->laurel_left));
  KVASIR_RETURN_IF_ERROR(Product({{kLaurelRight, layer}}, &weights->laurel_right));
  return Norm({kLaurelNorm, layer}, &weights->laurel_norm);
}

absl::Status WeightBuilder::Mlp(const WeightId& gate, const WeightId& up, const WeightId& down,
                                MlpWeights* weights) {
  KVASIR_RETURN_IF_ERROR(Product({gate, up}, &weights->gate_up));
  return Product({down}, &weights->down);
}

absl::Status WeightBuilder::Product(std::initializer_list<WeightId> ids,
                                    std::unique_ptr<Linear>* linear) {
  return Product(absl::MakeConstSpan(ids.begin(), ids.size()), compute_type_, linear);
}

absl::Status WeightBuilder::Product(absl::Span<const WeightId> ids, ComputeType type,
                                    std::unique_ptr<Linear>* linear) {
  std::vector<PartValues> values;  // keeps what the matrices below point to
  std::vector<StoredMatrix> matrices;
  std::vector<StoredMatrix> biases;
  std::vector<WeightId> used;
  bool has_bias = false;
  for (WeightId id : ids) {
    if (!map_.Has(id)) continue;
    const MappedWeight& weight = map_.At(id);
    for (const StoredPart& part : weight.parts) {
      KVASIR_ASSIGN_OR_RETURN(PartValues got, source_.Get(id, part));
      Quantize(id, &got);
      matrices.push_back(got.matrix);
      values.push_back(std::move(got));
    }
    used.push_back(id);
    id.bias = true;
    if (!map_.Has(id)) {
      biases.resize(matrices.size());
      continue;
    }
    has_bias = true;
    KVASIR_CHECK(map_.At(id).parts.size() == weight.parts.size());
    for (const StoredPart& part : map_.At(id).parts) {
      KVASIR_ASSIGN_OR_RETURN(PartValues got, source_.Get(id, part));
      biases.push_back(got.matrix);
      values.push_back(std::move(got));
    }
    used.push_back(id);
  }
  if (matrices.empty()) return absl::OkStatus();
  if (!has_bias) biases.clear();
  KVASIR_ASSIGN_OR_RETURN(*linear, CreateLinear(matrices, biases, type, map_, used));
  Count(linear->get());
  for (const WeightId& id : used) {
    KVASIR_RETURN_IF_ERROR(Done(id));
  }
  return absl::OkStatus();
}

absl::Status WeightBuilder::Vector(const WeightId& id, AlignedBuffer<float>* values) {
  if (!map_.Has(id)) return absl::OkStatus();
  const MappedWeight& weight = map_.At(id);
  values->Resize(static_cast<size_t>(weight.rows * weight.cols));
  float* to = values->data();
  for (const StoredPart& part : weight.parts) {
    KVASIR_ASSIGN_OR_RETURN(const PartValues got, source_.Get(id, part));
    for (int64_t r = 0; r < part.rows; ++r, to += part.cols) StoredRow(got.matrix, r, to);
  }
  CountBytes("f32", values->size() * sizeof(float));
  return Done(id);
}

absl::Status WeightBuilder::Norm(const WeightId& id, NormWeights* norm) {
  KVASIR_RETURN_IF_ERROR(Vector(id, &norm->weight));
  WeightId bias = id;
  bias.bias = true;
  return Vector(bias, &norm->bias);
}

absl::Status WeightBuilder::Table(const WeightId& id, std::unique_ptr<Embedding>* table,
                                  std::unique_ptr<Linear>* product) {
  if (!map_.Has(id)) return absl::OkStatus();
  const MappedWeight& weight = map_.At(id);
  KVASIR_CHECK(weight.parts.size() == 1);
  KVASIR_ASSIGN_OR_RETURN(PartValues got, source_.Get(id, weight.parts[0]));
  if (product != nullptr) {
    Quantize(id, &got);
    KVASIR_ASSIGN_OR_RETURN(*product, CreateLinear({got.matrix}, {}, compute_type_, map_, {id}));
    Count(product->get());
  }
  if (product != nullptr && (*product)->has_rows()) {
    *table = std::make_unique<Embedding>(product->get());
  } else {
    *table = std::make_unique<Embedding>(got.matrix, compute_type_);
    CountBytes(Info((*table)->type()).name, (*table)->bytes());
  }
  return Done(id);
}

void WeightBuilder::Count(Linear* linear) {
  weights_->linears_.push_back(linear);
  weights_->bytes_ += linear->packed_bytes();
  weights_->pass_bytes_ += linear->packed_bytes();
  linear->CountBytes(&weights_->bytes_by_format_);
}

void WeightBuilder::CountBytes(absl::string_view format, size_t bytes) {
  weights_->bytes_ += bytes;
  weights_->bytes_by_format_[format] += bytes;
}

void WeightBuilder::Quantize(const WeightId& id, PartValues* values) const {
  const auto format = QuantizedFormat(quantize_to_, id, values->matrix.cols);
  if (!format || Info(values->matrix.type).is_block()) return;
  values->owned = QuantizeMatrix(values->matrix, *format);
  values->matrix.data = values->owned.data();
  values->matrix.type = *format;
}

absl::Status WeightBuilder::Done(const WeightId& id) {
  const MappedWeight& weight = map_.At(id);
  for (const StoredPart& part : weight.parts) source_.Release(part);
  done_ += static_cast<double>(weight.rows) * static_cast<double>(weight.cols);
  if (progress_ && !progress_(done_ / total_)) {
    return absl::CancelledError("the model is wanted no more");
  }
  return absl::OkStatus();
}

}  // namespace kvasir
