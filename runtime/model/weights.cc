#include "runtime/model/weights.h"

#include <malloc.h>

#include <initializer_list>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/status_macros.h"
#include "runtime/model/tensor_inventory.h"

namespace kvasir {
namespace {

// One of the stored matrices that make up a product.
struct Part {
  absl::string_view name;  // "self_attn.q_proj", without .weight
  int64_t rows = 0;
  bool bias = false;
};

class Builder {
 public:
  Builder(const ModelSpec& spec, ComputeType compute_type, WeightSource* source,
          const std::function<void(double)>& progress)
      : spec_(spec),
        compute_type_(compute_type),
        source_(*source),
        progress_(progress),
        total_(static_cast<double>(spec.num_parameters())) {}

  absl::StatusOr<std::unique_ptr<ModelWeights>> Build() {
    auto weights = std::make_unique<ModelWeights>();
    // The two tables first: they are the largest tensors, and their stored form beside the packed
    // one would set the peak if everything else were packed already.
    KVASIR_RETURN_IF_ERROR(BuildEmbedding(weights.get()));
    if (!spec_.tied_embeddings) KVASIR_RETURN_IF_ERROR(BuildHead(weights.get()));
    weights->layers.resize(spec_.num_layers);
    for (int layer = 0; layer < spec_.num_layers; ++layer) {
      KVASIR_RETURN_IF_ERROR(BuildLayer(layer, &weights->layers[layer]));
      // The allocator keeps packing's freed scratch (75 MiB for a 1B model) unless it is told not
      // to.
      malloc_trim(0);
    }
    KVASIR_ASSIGN_OR_RETURN(weights->final_norm, Norm("model.norm.weight"));
    return weights;
  }

 private:
  absl::Status BuildEmbedding(ModelWeights* weights) {
    const std::string name = "model.embed_tokens.weight";
    KVASIR_ASSIGN_OR_RETURN(const StoredMatrix table,
                            source_.Get(name, spec_.vocab_size, spec_.hidden_size));
    weights->embedding = std::make_unique<Embedding>(table, compute_type_);
    if (spec_.tied_embeddings) {
      KVASIR_ASSIGN_OR_RETURN(weights->lm_head, Linear::Create({table}, {}, compute_type_));
    }
    Done(name, table);
    return absl::OkStatus();
  }

  absl::Status BuildHead(ModelWeights* weights) {
    const std::string name = "lm_head.weight";
    KVASIR_ASSIGN_OR_RETURN(const StoredMatrix table,
                            source_.Get(name, spec_.vocab_size, spec_.hidden_size));
    KVASIR_ASSIGN_OR_RETURN(weights->lm_head, Linear::Create({table}, {}, compute_type_));
    Done(name, table);
    return absl::OkStatus();
  }

  absl::Status BuildLayer(int layer, LayerWeights* weights) {
    const int64_t hidden = spec_.hidden_size;
    const int64_t query_size = int64_t{spec_.num_query_heads} * spec_.head_dim;
    const int64_t kv_size = int64_t{spec_.kv_heads[layer]} * spec_.head_dim;
    const Part q = {"self_attn.q_proj", query_size, spec_.attention_bias};
    const Part k = {"self_attn.k_proj", kv_size, spec_.attention_bias};
    const Part v = {"self_attn.v_proj", kv_size, spec_.attention_bias};
    const bool is_owner = spec_.owner[layer] == layer;
    const bool is_last_owner = layer == LastOwnerLayer(spec_);

    KVASIR_ASSIGN_OR_RETURN(weights->attention_norm,
                            Norm(LayerTensorName(layer, "input_layernorm.weight")));
    if (is_owner && !is_last_owner) {
      KVASIR_ASSIGN_OR_RETURN(weights->qkv, Product(layer, {q, k, v}, hidden));
    } else {
      KVASIR_ASSIGN_OR_RETURN(weights->q, Product(layer, {q}, hidden));
    }
    if (is_last_owner) {
      KVASIR_ASSIGN_OR_RETURN(weights->kv, Product(layer, {k, v}, hidden));
    }
    KVASIR_ASSIGN_OR_RETURN(
        weights->o,
        Product(layer, {{"self_attn.o_proj", hidden, spec_.attention_output_bias}}, query_size));

    KVASIR_ASSIGN_OR_RETURN(weights->mlp_norm,
                            Norm(LayerTensorName(layer, "post_attention_layernorm.weight")));
    KVASIR_ASSIGN_OR_RETURN(weights->gate_up,
                            Product(layer,
                                    {{"mlp.gate_proj", spec_.intermediate_size, spec_.mlp_bias},
                                     {"mlp.up_proj", spec_.intermediate_size, spec_.mlp_bias}},
                                    hidden));
    KVASIR_ASSIGN_OR_RETURN(
        weights->down,
        Product(layer, {{"mlp.down_proj", hidden, spec_.mlp_bias}}, spec_.intermediate_size));
    return absl::OkStatus();
  }

  absl::StatusOr<AlignedBuffer<float>> Norm(const std::string& name) {
    KVASIR_ASSIGN_OR_RETURN(const StoredMatrix stored, source_.Get(name, spec_.hidden_size, 1));
    AlignedBuffer<float> norm(spec_.hidden_size);
    WidenToFloat(stored.data, stored.type, spec_.hidden_size, norm.data());
    Done(name, stored);
    return norm;
  }

  // The parts stacked into one product.
  absl::StatusOr<std::unique_ptr<Linear>> Product(int layer, std::initializer_list<Part> parts,
                                                  int64_t in) {
    std::vector<StoredMatrix> matrices;
    std::vector<StoredMatrix> biases;
    std::vector<std::pair<std::string, StoredMatrix>> used;
    bool has_bias = false;
    for (const Part& part : parts) {
      const std::string weight = LayerTensorName(layer, absl::StrCat(part.name, ".weight"));
      KVASIR_ASSIGN_OR_RETURN(const StoredMatrix matrix, source_.Get(weight, part.rows, in));
      matrices.push_back(matrix);
      used.emplace_back(weight, matrix);
      StoredMatrix bias;
      if (part.bias) {
        const std::string name = LayerTensorName(layer, absl::StrCat(part.name, ".bias"));
        KVASIR_ASSIGN_OR_RETURN(bias, source_.Get(name, part.rows, 1));
        used.emplace_back(name, bias);
        has_bias = true;
      }
      biases.push_back(bias);
    }
    if (!has_bias) biases.clear();
    KVASIR_ASSIGN_OR_RETURN(std::unique_ptr<Linear> linear,
                            Linear::Create(matrices, biases, compute_type_));
    for (const auto& [name, matrix] : used) Done(name, matrix);
    return linear;
  }

  // The tensor has been packed: its stored bytes may leave memory.
  void Done(const std::string& name, const StoredMatrix& tensor) {
    source_.Release(name);
    done_ += static_cast<double>(tensor.rows) * static_cast<double>(tensor.cols);
    if (progress_) progress_(done_ / total_);
  }

  const ModelSpec& spec_;
  const ComputeType compute_type_;
  WeightSource& source_;
  const std::function<void(double)>& progress_;
  const double total_;
  double done_ = 0;
};

}  // namespace

size_t ModelWeights::bytes() const {
  size_t bytes = embedding->bytes() + final_norm.size() * sizeof(float);
  for (const LayerWeights& layer : layers) {
    bytes += (layer.attention_norm.size() + layer.mlp_norm.size()) * sizeof(float);
  }
  for (const Linear* linear : linears()) bytes += linear->packed_bytes();
  return bytes;
}

std::vector<Linear*> ModelWeights::linears() const {
  std::vector<Linear*> all;
  for (const LayerWeights& layer : layers) {
    for (const auto* linear :
         {&layer.qkv, &layer.q, &layer.kv, &layer.o, &layer.gate_up, &layer.down}) {
      if (*linear != nullptr) all.push_back(linear->get());
    }
  }
  all.push_back(lm_head.get());
  return all;
}

int LastOwnerLayer(const ModelSpec& spec) {
  int last = 0;
  for (int layer = 0; layer < spec.num_layers; ++layer) {
    if (spec.owner[layer] == layer) last = layer;
  }
  return last;
}

absl::StatusOr<std::unique_ptr<ModelWeights>> BuildWeights(
    const ModelSpec& spec, ComputeType compute_type, WeightSource* source,
    const std::function<void(double)>& progress) {
  return Builder(spec, compute_type, source, progress).Build();
}

size_t EstimateWeightBytes(const ModelSpec& spec, ComputeType compute_type) {
  const size_t element_bytes = compute_type == ComputeType::kF32    ? 4
                               : compute_type == ComputeType::kBf16 ? 2
                                                                    : 1;
  const size_t table = static_cast<size_t>(spec.vocab_size) * spec.hidden_size;
  size_t packed = static_cast<size_t>(spec.num_parameters());
  if (!spec.tied_embeddings) packed -= table;  // looked up, not multiplied with
  return packed * element_bytes + table * sizeof(bf16);
}

}  // namespace kvasir
