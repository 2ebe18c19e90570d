#include "runtime/model/loading/model_package.h"

#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/formats/gguf_file.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/gguf/gguf_config.h"
#include "runtime/model/gguf/gguf_names.h"
#include "runtime/model/gguf/gguf_tensors.h"
#include "runtime/model/hf_config.h"
#include "runtime/model/loading/checkpoint.h"
#include "runtime/model/loading/tensor_inventory.h"
#include "runtime/model/quantized/quantization_config.h"
#include "runtime/model/quantized/quantized_tensors.h"
#include "runtime/model/weights.h"

namespace kvasir {
namespace {

// The map of a spec, where `has` tells which tensors there are.
using MapMaker = std::function<absl::StatusOr<TensorMap>(
    const ModelSpec& spec, const std::function<bool(const std::string&)>& has)>;

absl::StatusOr<ModelPackage> HoldTogether(ModelSpec spec, std::unique_ptr<StoredTensors> tensors,
                                          const MapMaker& make_map, uint64_t file_bytes,
                                          bool is_plain) {
  const auto has = [&tensors](const std::string& name) { return tensors->Has(name); };
  KVASIR_ASSIGN_OR_RETURN(TensorMap map, make_map(spec, has));
  AdoptBiases(*tensors, map, &spec);
  KVASIR_ASSIGN_OR_RETURN(map, make_map(spec, has));
  KVASIR_RETURN_IF_ERROR(CheckTensors(*tensors, map, spec));
  return ModelPackage{std::move(spec), std::move(map), std::move(tensors), file_bytes, is_plain};
}

// Quantisers write the linear modules of their own framework's kind; GPT-2's stand transposed.
absl::Status CheckQuantizedArchitecture(const ModelSpec& spec) {
  if (!absl::StartsWith(spec.architecture, "GPT2")) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("config.json: quantization_config is not served for ", spec.architecture,
                   ", whose weights are stored transposed; use the unquantised checkpoint"));
}

absl::StatusOr<ModelPackage> OpenFolder(const std::string& folder) {
  KVASIR_ASSIGN_OR_RETURN(ModelSpec spec, LoadHfConfig(folder));
  KVASIR_ASSIGN_OR_RETURN(const QuantizationConfig quantization, LoadQuantizationConfig(folder));
  KVASIR_ASSIGN_OR_RETURN(std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(folder));
  const uint64_t file_bytes = checkpoint->file_bytes();
  if (quantization.method == QuantizationConfig::Method::kNone) {
    return HoldTogether(std::move(spec), std::move(checkpoint), MapTensors, file_bytes,
                        /*is_plain=*/true);
  }
  KVASIR_RETURN_IF_ERROR(CheckQuantizedArchitecture(spec));
  KVASIR_ASSIGN_OR_RETURN(std::unique_ptr<QuantizedTensors> quantized,
                          QuantizedTensors::Create(quantization, std::move(checkpoint)));
  return HoldTogether(std::move(spec), std::move(quantized), MapTensors, file_bytes,
                      /*is_plain=*/false);
}

absl::StatusOr<ModelSpec> ReadSpec(const GgufFile& file) {
  KVASIR_ASSIGN_OR_RETURN(const GgufConfig config, ReadGgufConfig(file));
  return ParseHfConfig(config.config.dump(), config.generation_config.dump());
}

absl::StatusOr<ModelPackage> OpenGguf(const std::string& path) {
  KVASIR_ASSIGN_OR_RETURN(GgufFile file, GgufFile::Open(path));
  absl::StatusOr<ModelSpec> spec = ReadSpec(file);
  if (!spec.ok()) {
    return absl::Status(spec.status().code(), absl::StrCat(path, ": ", spec.status().message()));
  }
  KVASIR_ASSIGN_OR_RETURN(const Architecture architecture,
                          FindGgufArchitecture(file.architecture()));
  const MapMaker make_map = [&architecture](const ModelSpec& of, const auto& has) {
    return TensorMap::Create(GgufNames(architecture.gguf, of), of, has);
  };
  const uint64_t file_bytes = file.file_bytes();
  return HoldTogether(*std::move(spec), std::make_unique<GgufTensors>(std::move(file)), make_map,
                      file_bytes, /*is_plain=*/false);
}

}  // namespace

absl::StatusOr<ModelPackage> ModelPackage::Open(const std::string& path) {
  return absl::EndsWith(path, ".gguf") ? OpenGguf(path) : OpenFolder(path);
}

uint64_t ModelPackage::HeldBytes(ComputeType compute_type,
                                 std::optional<WeightFormat> quantize_to) const {
  return is_plain ? EstimateHeldBytes(spec, compute_type, file_bytes, quantize_to) : file_bytes;
}

}  // namespace kvasir
