#include "runtime/model/weights.h"

#include <utility>

#include "base/status_macros.h"
#include "runtime/model/loading/weight_builder.h"

namespace kvasir {

absl::StatusOr<std::unique_ptr<ModelWeights>> BuildWeights(
    const ModelSpec& spec, const TensorMap& map, ComputeType compute_type, WeightSource* source,
    const std::function<void(double)>& progress) {
  return WeightBuilder(spec, map, compute_type, source, progress).Build();
}

size_t EstimateWeightBytes(const ModelSpec& spec, ComputeType compute_type) {
  const size_t element_bytes = compute_type == ComputeType::kF32    ? 4
                               : compute_type == ComputeType::kBf16 ? 2
                                                                    : 1;
  size_t bytes = 0;
  for (const WeightShape& weight : WeightShapes(spec)) {
    const size_t values = static_cast<size_t>(weight.rows) * static_cast<size_t>(weight.cols);
    switch (weight.id.role) {
      // Tables that are looked up; the embeddings are multiplied with too when the head is tied.
      case WeightRole::kEmbedding:
        bytes += values * sizeof(bf16) + (spec.head.tied ? values * element_bytes : 0);
        break;
      case WeightRole::kPositions:
      case WeightRole::kPerLayerTable:
        bytes += values * sizeof(bf16);
        break;
      case WeightRole::kRouter:
        bytes += values * sizeof(float);
        break;
      default:
        bytes += values * (weight.cols == 1 ? sizeof(float) : element_bytes);
    }
  }
  return bytes;
}

}  // namespace kvasir
