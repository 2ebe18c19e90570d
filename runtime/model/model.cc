#include "runtime/model/model.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/cpu_topology.h"
#include "base/status_macros.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/hf_config.h"
#include "runtime/model/loading/checkpoint.h"
#include "runtime/model/loading/random_weights.h"
#include "runtime/model/loading/tensor_inventory.h"
#include "runtime/model/weights.h"
#include "runtime/ops/matmul.h"

namespace kvasir {
namespace {

// Before an hour of loading, not after it.
absl::Status CheckMemory(const ModelSpec& spec, ComputeType compute_type) {
  const uint64_t needed = EstimateWeightBytes(spec, compute_type);
  const uint64_t usable = UsableMemoryBytes();
  if (needed <= usable) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the weights need ", needed >> 20, " MiB, but this process may use ", usable >> 20,
      " MiB; choose a smaller weight type (int8 needs half of bf16), a smaller model or a larger "
      "memory limit"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> Model::Load(const std::string& folder,
                                                   const Options& options) {
  KVASIR_ASSIGN_OR_RETURN(ModelSpec spec, LoadHfConfig(folder));
  KVASIR_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(folder));
  const auto has = [&checkpoint](const std::string& name) { return checkpoint->Has(name); };
  KVASIR_ASSIGN_OR_RETURN(TensorMap map, MapTensors(spec, has));
  AdoptBiases(*checkpoint, map, &spec);
  KVASIR_ASSIGN_OR_RETURN(map, MapTensors(spec, has));
  KVASIR_RETURN_IF_ERROR(CheckTensors(*checkpoint, map, spec));
  const ComputeType compute_type = EffectiveComputeType(options.compute_type);
  KVASIR_RETURN_IF_ERROR(CheckMemory(spec, compute_type));
  KVASIR_ASSIGN_OR_RETURN(
      std::unique_ptr<ModelWeights> weights,
      BuildWeights(spec, map, compute_type, checkpoint.get(), options.progress));
  return std::unique_ptr<Model>(new Model(std::move(spec), compute_type, std::move(weights)));
}

absl::StatusOr<std::unique_ptr<Model>> Model::Random(const ModelSpec& spec, const Options& options,
                                                     uint64_t seed) {
  // Also refuses a spec whose sharing table contradicts itself.
  KVASIR_RETURN_IF_ERROR(
      spec.MakeKvLayout(KvElementType::kBf16, KvLayoutSpec().block_tokens).status());
  const ComputeType compute_type = EffectiveComputeType(options.compute_type);
  KVASIR_RETURN_IF_ERROR(CheckMemory(spec, compute_type));
  KVASIR_ASSIGN_OR_RETURN(const TensorMap map, MapTensors(spec, nullptr));
  RandomWeights source(spec.num_layers(), seed);
  KVASIR_ASSIGN_OR_RETURN(std::unique_ptr<ModelWeights> weights,
                          BuildWeights(spec, map, compute_type, &source, options.progress));
  return std::unique_ptr<Model>(new Model(spec, compute_type, std::move(weights)));
}

Model::Model(ModelSpec spec, ComputeType compute_type, std::unique_ptr<ModelWeights> weights)
    : spec_(std::move(spec)), compute_type_(compute_type), weights_(std::move(weights)) {}

Model::~Model() = default;

size_t Model::weight_bytes() const { return weights_->bytes(); }

}  // namespace kvasir
