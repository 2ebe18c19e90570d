// Packs the weights of a model, layer by layer, from a source: the work behind BuildWeights. Used
// once, by one thread.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/model/weights.h"

namespace kvasir {

class WeightBuilder {
 public:
  WeightBuilder(const ModelSpec& spec, const TensorMap& map, ComputeType compute_type,
                WeightSource* source, const std::function<bool(double)>& progress,
                std::optional<WeightFormat> quantize_to)
      : spec_(spec),
        map_(map),
        compute_type_(compute_type),
        source_(*source),
        progress_(progress),
        quantize_to_(quantize_to),
        total_(static_cast<double>(spec.num_parameters())) {}

  absl::StatusOr<std::unique_ptr<ModelWeights>> Build();

 private:
  absl::Status BuildModel();
  absl::Status BuildLayer(int layer, LayerWeights* weights);
  absl::Status BuildAttention(int layer, const AttentionSpec& spec, AttentionWeights* weights);
  absl::Status BuildLatent(int layer, const AttentionSpec& spec, AttentionWeights* weights);
  absl::Status BuildDeltaNet(int layer, DeltaNetWeights* weights);
  absl::Status BuildShortConv(int layer, ShortConvWeights* weights);
  absl::Status BuildExperts(int layer, const MoeSpec& spec, MoeWeights* weights);
  absl::Status BuildAltUp(int layer, AltUpWeights* weights);

  // Each of these leaves its target alone when the model has no such weight.
  // The weights stacked over their rows into one product; `type` instead of the compute type.
  absl::Status Product(std::initializer_list<WeightId> ids, std::unique_ptr<Linear>* linear);
  absl::Status Product(absl::Span<const WeightId> ids, ComputeType type,
                       std::unique_ptr<Linear>* linear);
  absl::Status Vector(const WeightId& id, AlignedBuffer<float>* values);  // f32, row-major
  absl::Status Norm(const WeightId& id, NormWeights* norm);
  // `product`: made from the same values, unless null.
  absl::Status Table(const WeightId& id, std::unique_ptr<Embedding>* table,
                     std::unique_ptr<Linear>* product = nullptr);
  absl::Status Mlp(const WeightId& gate, const WeightId& up, const WeightId& down,
                   MlpWeights* weights);

  // Quantises values that stay plain otherwise, as QuantizedFormat says.
  void Quantize(const WeightId& id, PartValues* values) const;
  void Count(Linear* linear);
  void CountBytes(absl::string_view format, size_t bytes);
  // The weight has been packed: its stored bytes may leave memory. Cancelled when who watches says
  // so.
  absl::Status Done(const WeightId& id);

  const ModelSpec& spec_;
  const TensorMap& map_;
  const ComputeType compute_type_;
  WeightSource& source_;
  const std::function<bool(double)>& progress_;
  const std::optional<WeightFormat> quantize_to_;
  const double total_;
  double done_ = 0;
  std::unique_ptr<ModelWeights> weights_;
};

}  // namespace kvasir
