// From the configuration to served models in stages: read text, read weights, size the KV pools,
// start the engines. Runs in the daemon's main thread before anything is served, and in that of the
// model manager for one model beside others; every stage blocks and logs its progress. Error
// messages name the model and its folder.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/config/server_config.h"
#include "server/frontend/model_registry.h"
#include "server/process/kv_pool_plan.h"
#include "server/telemetry/metrics.h"

namespace kvasir {

using ServedModels = std::vector<std::unique_ptr<ServedModel>>;

// What a start would say of the model's tokenizer, chat template and, where it has one, its draft
// model's vocabulary; reads them. Errors: those of Tokenizer::Load and ChatTemplate::Load;
// InvalidArgument for vocabularies that differ.
absl::Status CheckModelText(const ModelConfig& config);

// Reads the text side of all models, then all weights, in the order of the configuration; the
// engines are still absent. Errors: those of CheckModelText and Model::Load; FailedPrecondition for
// files that change meanwhile.
absl::StatusOr<ServedModels> LoadCheckpoints(const DaemonConfig& config);

struct PlannedPool {
  KvPool pool;
  int64_t bytes_per_token = 0;
};

// The pools of models with these specs, in the order of `configs`, beside weights of `weight_bytes`
// in all. Errors: those of PlanKvPools and ModelSpec::MakeKvLayout.
absl::StatusOr<std::vector<PlannedPool>> PlanPoolsOf(const std::vector<ModelConfig>& configs,
                                                     const std::vector<const ModelSpec*>& specs,
                                                     int64_t weight_bytes);

// Sizes the pools from what the weights leave of the memory: fills engine.kv_capacity_bytes of each
// of `configs`, which are in the order of `models`. ResourceExhausted with the whole sum when they
// do not fit. `held_bytes`: of the memory, by models that are there already.
absl::Status SizeKvPools(const ServedModels& models, std::vector<ModelConfig>* configs,
                         int64_t held_bytes = 0);

// Starts the engines and moves the models into `registry`; shows them in `metrics`, which must
// outlive them. Errors: those of Engine::Create; Internal when a checkpoint cannot be fingerprinted
// for its spill directory.
absl::Status StartEngines(const std::vector<ModelConfig>& configs, ServedModels models,
                          Metrics* metrics, ModelRegistry* registry);

// All stages for one model beside others that hold `held_bytes` of the memory already. `progress`
// is told the share of the weights read, and ends the load (Cancelled) by returning false. The
// threads that read weights give way to those that serve.
absl::StatusOr<std::unique_ptr<ServedModel>> LoadBesideOthers(
    ModelConfig config, int64_t held_bytes, const std::function<bool(double)>& progress,
    Metrics* metrics);

}  // namespace kvasir
