#include "runtime/model/model.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/cpu_topology.h"
#include "base/status_macros.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/gguf/gguf_config.h"
#include "runtime/model/gguf/gguf_names.h"
#include "runtime/model/gguf/gguf_tensors.h"
#include "runtime/model/hf_config.h"
#include "runtime/model/loading/checkpoint.h"
#include "runtime/model/loading/random_weights.h"
#include "runtime/model/loading/tensor_inventory.h"
#include "runtime/model/model_outline.h"
#include "runtime/model/quantized/quantization_config.h"
#include "runtime/model/quantized/quantized_tensors.h"
#include "runtime/model/weights.h"
#include "runtime/ops/matmul.h"

namespace kvasir {
namespace {

// Before an hour of loading, not after it.
absl::Status CheckMemory(uint64_t needed) {
  const uint64_t usable = UsableMemoryBytes();
  if (needed <= usable) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the weights need ", needed >> 20, " MiB, but this process may use ", usable >> 20,
      " MiB; choose a smaller weight type (int8 needs half of bf16), a smaller model or a larger "
      "memory limit"));
}

// Quantisers write the linear modules of their own framework's kind; GPT-2's stand transposed.
absl::Status CheckQuantizedArchitecture(const ModelSpec& spec) {
  if (!absl::StartsWith(spec.architecture, "GPT2")) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("config.json: quantization_config is not served for ", spec.architecture,
                   ", whose weights are stored transposed; use the unquantised checkpoint"));
}

absl::StatusOr<ModelSpec> LoadGgufSpec(const GgufFile& file) {
  KVASIR_ASSIGN_OR_RETURN(const GgufConfig config, ReadGgufConfig(file));
  return ParseHfConfig(config.config.dump(), config.generation_config.dump());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> Model::Load(const std::string& path,
                                                   const Options& options) {
  if (absl::EndsWith(path, ".gguf")) return LoadGguf(path, options);
  KVASIR_ASSIGN_OR_RETURN(ModelSpec spec, LoadHfConfig(path));
  KVASIR_ASSIGN_OR_RETURN(const QuantizationConfig quantization, LoadQuantizationConfig(path));
  KVASIR_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(path));
  const bool is_quantized = quantization.method != QuantizationConfig::Method::kNone;
  std::unique_ptr<QuantizedTensors> quantized;
  if (is_quantized) {
    KVASIR_RETURN_IF_ERROR(CheckQuantizedArchitecture(spec));
    KVASIR_ASSIGN_OR_RETURN(quantized, QuantizedTensors::Create(quantization, checkpoint.get()));
  }
  StoredTensors* const tensors =
      is_quantized ? static_cast<StoredTensors*>(quantized.get()) : checkpoint.get();
  const auto has = [tensors](const std::string& name) { return tensors->Has(name); };
  KVASIR_ASSIGN_OR_RETURN(TensorMap map, MapTensors(spec, has));
  AdoptBiases(*tensors, map, &spec);
  KVASIR_ASSIGN_OR_RETURN(map, MapTensors(spec, has));
  const uint64_t needed = is_quantized
                              ? checkpoint->file_bytes()
                              : EstimateHeldBytes(spec, options.compute_type,
                                                  checkpoint->file_bytes(), options.quantize_to);
  return Build(std::move(spec), map, needed, tensors, options);
}

absl::StatusOr<std::unique_ptr<Model>> Model::LoadGguf(const std::string& path,
                                                       const Options& options) {
  KVASIR_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(path));
  absl::StatusOr<ModelSpec> spec = LoadGgufSpec(file);
  if (!spec.ok()) {
    return absl::Status(spec.status().code(), absl::StrCat(path, ": ", spec.status().message()));
  }
  GgufTensors tensors(&file);
  const auto has = [&tensors](const std::string& name) { return tensors.Has(name); };
  KVASIR_ASSIGN_OR_RETURN(const Architecture architecture,
                          FindGgufArchitecture(file.architecture()));
  const TensorNames names = GgufNames(architecture.gguf, *spec);
  KVASIR_ASSIGN_OR_RETURN(TensorMap map, TensorMap::Create(names, *spec, has));
  AdoptBiases(tensors, map, &*spec);
  KVASIR_ASSIGN_OR_RETURN(map, TensorMap::Create(names, *spec, has));
  return Build(*std::move(spec), map, file.file_bytes(), &tensors, options);
}

absl::StatusOr<std::unique_ptr<Model>> Model::Build(ModelSpec spec, const TensorMap& map,
                                                    uint64_t needed_bytes, StoredTensors* tensors,
                                                    const Options& options) {
  KVASIR_RETURN_IF_ERROR(CheckTensors(*tensors, map, spec));
  KVASIR_RETURN_IF_ERROR(CheckMemory(needed_bytes));
  spec.OpenWindows(options.max_context_tokens);
  // The products choose what they really compute in.
  KVASIR_ASSIGN_OR_RETURN(std::unique_ptr<ModelWeights> weights,
                          BuildWeights(spec, map, options.compute_type, tensors, options.progress,
                                       options.quantize_to));
  return std::unique_ptr<Model>(
      new Model(std::move(spec), EffectiveComputeType(options.compute_type), std::move(weights)));
}

absl::StatusOr<std::unique_ptr<Model>> Model::Random(const ModelSpec& spec, const Options& options,
                                                     uint64_t seed) {
  // Also refuses a spec whose sharing table contradicts itself.
  KVASIR_RETURN_IF_ERROR(
      spec.MakeKvLayout(KvElementType::kBf16, KvLayoutSpec().block_tokens).status());
  // Random weights are bf16.
  const uint64_t needed =
      EstimateHeldBytes(spec, options.compute_type, /*file_bytes=*/0, options.quantize_to);
  KVASIR_RETURN_IF_ERROR(CheckMemory(needed));
  KVASIR_ASSIGN_OR_RETURN(const TensorMap map, MapTensors(spec, nullptr));
  RandomWeights source(spec.num_layers(), seed);
  KVASIR_ASSIGN_OR_RETURN(std::unique_ptr<ModelWeights> weights,
                          BuildWeights(spec, map, options.compute_type, &source, options.progress,
                                       options.quantize_to));
  return std::unique_ptr<Model>(
      new Model(spec, EffectiveComputeType(options.compute_type), std::move(weights)));
}

Model::Model(ModelSpec spec, ComputeType compute_type, std::unique_ptr<ModelWeights> weights)
    : spec_(std::move(spec)), compute_type_(compute_type), weights_(std::move(weights)) {}

Model::~Model() = default;

size_t Model::weight_bytes() const { return weights_->bytes(); }

std::map<std::string, int64_t> Model::weight_bytes_by_format() const {
  std::map<std::string, int64_t> bytes;
  for (const auto& [format, count] : weights_->bytes_by_format()) {
    bytes.emplace(format, static_cast<int64_t>(count));
  }
  return bytes;
}

}  // namespace kvasir
