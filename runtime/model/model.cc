#include "runtime/model/model.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/cpu_topology.h"
#include "base/status_macros.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/loading/model_package.h"
#include "runtime/model/loading/random_weights.h"
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

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> Model::Load(const std::string& path,
                                                   const Options& options) {
  KVASIR_ASSIGN_OR_RETURN(ModelPackage package, ModelPackage::Open(path));
  KVASIR_RETURN_IF_ERROR(CheckMemory(package.HeldBytes(options.compute_type, options.quantize_to)));
  ModelSpec& spec = package.spec;
  spec.OpenWindows(options.max_context_tokens);
  // The products choose what they really compute in.
  KVASIR_ASSIGN_OR_RETURN(
      std::unique_ptr<ModelWeights> weights,
      BuildWeights(spec, package.map, options.compute_type, package.tensors.get(), options.progress,
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
