#include "runtime/model/model_outline.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/formats/gguf_file.h"
#include "runtime/model/gguf/gguf_config.h"
#include "runtime/model/hf_config.h"
#include "runtime/model/loading/checkpoint.h"
#include "runtime/model/quantized/quantization_config.h"
#include "runtime/model/weights.h"
#include "runtime/ops/matmul.h"

namespace kvasir {
namespace {

absl::StatusOr<ModelOutline> OutlineOfGguf(const std::string& path) {
  KVASIR_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(path));
  const auto read = [&file]() -> absl::StatusOr<ModelSpec> {
    KVASIR_ASSIGN_OR_RETURN(const GgufConfig config, ReadGgufConfig(file));
    return ParseHfConfig(config.config.dump(), config.generation_config.dump());
  };
  absl::StatusOr<ModelSpec> spec = read();
  if (!spec.ok()) {
    return absl::Status(spec.status().code(), absl::StrCat(path, ": ", spec.status().message()));
  }
  return ModelOutline{*std::move(spec), file.file_bytes()};
}

}  // namespace

absl::StatusOr<ModelOutline> ReadModelOutline(const std::string& path, ComputeType compute_type) {
  if (absl::EndsWith(path, ".gguf")) return OutlineOfGguf(path);
  KVASIR_ASSIGN_OR_RETURN(ModelSpec spec, LoadHfConfig(path));
  KVASIR_ASSIGN_OR_RETURN(const QuantizationConfig quantization, LoadQuantizationConfig(path));
  KVASIR_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(path));
  const bool is_quantized = quantization.method != QuantizationConfig::Method::kNone;
  const uint64_t bytes = is_quantized
                             ? checkpoint->file_bytes()
                             : EstimateHeldBytes(spec, compute_type, checkpoint->file_bytes());
  return ModelOutline{std::move(spec), bytes};
}

uint64_t EstimateHeldBytes(const ModelSpec& spec, ComputeType compute_type, uint64_t file_bytes,
                           std::optional<WeightFormat> quantize_to) {
  const uint64_t wanted = EstimateWeightBytes(spec, compute_type, quantize_to);
  const uint64_t effective =
      EstimateWeightBytes(spec, EffectiveComputeType(compute_type), quantize_to);
  return std::min(effective, std::max(wanted, file_bytes));
}

}  // namespace kvasir
