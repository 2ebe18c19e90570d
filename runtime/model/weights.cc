#include "runtime/model/weights.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "runtime/model/loading/weight_builder.h"

namespace kvasir {

absl::StatusOr<std::unique_ptr<ModelWeights>> BuildWeights(
    const ModelSpec& spec, const TensorMap& map, ComputeType compute_type, WeightSource* source,
    const std::function<bool(double)>& progress, std::optional<WeightFormat> quantize_to) {
  return WeightBuilder(spec, map, compute_type, source, progress, quantize_to).Build();
}

size_t ModelWeights::head_bytes() const {
  size_t bytes = lm_head->packed_bytes();
  if (head_project != nullptr) bytes += head_project->packed_bytes();
  for (const auto& project : altup_unproject) bytes += project->packed_bytes();
  return bytes;
}

std::optional<WeightFormat> QuantizedFormat(std::optional<WeightFormat> quantize_to,
                                            const WeightId& id, int64_t cols) {
  if (!quantize_to || id.bias) return std::nullopt;
  switch (id.role) {
    case WeightRole::kRouter:
    case WeightRole::kSharedSwitch:
    case WeightRole::kKeyUp:
    case WeightRole::kValueUp:
      return std::nullopt;
    case WeightRole::kEmbedding:
    case WeightRole::kHead:
      quantize_to = WeightFormat::kQ8_0;
      break;
    default:
      break;
  }
  // Rows that are no whole blocks of 256 or 64 take those of 32.
  if (cols % Info(*quantize_to).block_elements != 0) quantize_to = WeightFormat::kQ8_0;
  if (cols == 1 || cols % Info(*quantize_to).block_elements != 0) return std::nullopt;
  return quantize_to;
}

size_t EstimateWeightBytes(const ModelSpec& spec, ComputeType compute_type,
                           std::optional<WeightFormat> quantize_to) {
  const size_t element_bytes = compute_type == ComputeType::kF32    ? 4
                               : compute_type == ComputeType::kBf16 ? 2
                                                                    : 1;
  size_t bytes = 0;
  for (const WeightShape& weight : WeightShapes(spec)) {
    const size_t values = static_cast<size_t>(weight.rows) * static_cast<size_t>(weight.cols);
    const auto format = QuantizedFormat(quantize_to, weight.id, weight.cols);
    if (format && (weight.id.role != WeightRole::kEmbedding || spec.head.tied)) {
      bytes += static_cast<size_t>(weight.rows * RowBytes(*format, weight.cols));
      continue;
    }
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

uint64_t EstimateHeldBytes(const ModelSpec& spec, ComputeType compute_type, uint64_t file_bytes,
                           std::optional<WeightFormat> quantize_to) {
  const uint64_t wanted = EstimateWeightBytes(spec, compute_type, quantize_to);
  const uint64_t effective =
      EstimateWeightBytes(spec, EffectiveComputeType(compute_type), quantize_to);
  return std::min(effective, std::max(wanted, file_bytes));
}

}  // namespace kvasir
