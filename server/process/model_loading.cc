#include "server/process/model_loading.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/compute_team.h"
#include "base/cpu_topology.h"
#include "base/mapped_pages.h"
#include "base/mmap_file.h"
#include "base/parallel.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "kvcache/kv_budget.h"
#include "runtime/model/loading/checkpoint_files.h"
#include "runtime/tokenizer/gguf_text.h"
#include "server/frontend/response/response_template.h"
#include "server/process/checkpoint_fingerprint.h"
#include "server/process/file_stamps.h"
#include "server/telemetry/logging.h"
#include "server/telemetry/observer_fanout.h"
#include "server/telemetry/request_log.h"

namespace kvasir {
namespace {

// A large model loads for minutes: a line now and then shows that it moves.
constexpr absl::Duration kProgressInterval = absl::Seconds(2);

// About a tenth of the time of a core that a serving thread wants too.
constexpr int kLoadNiceness = 10;
// For threads of libraries and what requests need, where the process's address space has a limit.
constexpr int64_t kAddressSpaceBesideModels = int64_t{512} << 20;

absl::Status Prefixed(const ModelConfig& config, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat("model '", config.name, "' in ", config.path,
                                                  ": ", status.message()));
}

// "int4_128 512 MiB, bf16 30 MiB"
std::string FormatsText(const Model& model) {
  std::string text;
  for (const auto& [format, bytes] : model.weight_bytes_by_format()) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", format, " ", bytes >> 20, " MiB");
  }
  return text;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& path) {
  if (!absl::EndsWith(path, ".gguf")) return Tokenizer::Load(path);
  KVASIR_ASSIGN_OR_RETURN(GgufText text, LoadGgufText(path, /*template_override=*/""));
  return std::move(text.tokenizer);
}

// A draft model's guesses are ids: they must mean the same tokens to both models.
absl::Status CheckDraftVocabulary(const std::string& draft, const Tokenizer& tokenizer) {
  KVASIR_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> other, LoadTokenizer(draft));
  const int ids = std::min(other->vocab_size(), tokenizer.vocab_size());
  for (TokenId id = 0; id < ids; ++id) {
    if (other->TokenBytes(id) == tokenizer.TokenBytes(id)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("speculation.draft '", draft, "' has another vocabulary: token ", id,
                     " is not the same text in both; use a smaller model of the same family"));
  }
  return absl::OkStatus();
}

// Tokenizer and chat template; a draft model's tokenizer is held against it.
absl::Status LoadText(const ModelConfig& config, ServedModel* served) {
  if (absl::EndsWith(config.path, ".gguf")) {
    KVASIR_ASSIGN_OR_RETURN(GgufText text, LoadGgufText(config.path, config.chat_template_file));
    served->tokenizer = std::move(text.tokenizer);
    served->chat_template = std::move(text.chat_template);
  } else {
    KVASIR_ASSIGN_OR_RETURN(served->tokenizer, Tokenizer::Load(config.path));
    absl::StatusOr<std::unique_ptr<ChatTemplate>> chat_template =
        ChatTemplate::Load(config.path, config.chat_template_file, *served->tokenizer);
    if (chat_template.ok()) {
      served->chat_template = *std::move(chat_template);
    } else if (!absl::IsUnimplemented(chat_template.status())) {
      return chat_template.status();  // there is one, and it is broken
    }
  }
  if (config.speculation.draft_model.empty()) return absl::OkStatus();
  return CheckDraftVocabulary(config.speculation.draft_model, *served->tokenizer);
}

// The response_template of a Hugging Face folder; nothing without one, or with one that is not read
// here, which the log says.
absl::StatusOr<std::optional<ResponseFormat>> OwnResponseTemplate(const ModelConfig& config) {
  if (absl::EndsWith(config.path, ".gguf")) return std::nullopt;
  const absl::StatusOr<MmapFile> file = MmapFile::Open(config.path + "/tokenizer_config.json");
  if (absl::IsNotFound(file.status())) return std::nullopt;
  KVASIR_RETURN_IF_ERROR(file.status());
  absl::StatusOr<std::optional<ResponseFormat>> own = ReadResponseTemplate(
      {reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()});
  if (own.ok()) return *std::move(own);
  LogWarning("the model's response_template is not used",
             {{"model", config.name}, {"why", std::string(own.status().message())}});
  return std::nullopt;
}

// How the model's reasoning and tool calls are told from its text.
absl::Status ChooseResponseFormat(const ModelConfig& config, ServedModel* served) {
  const Tokenizer& tokenizer = *served->tokenizer;
  const std::string source =
      served->chat_template == nullptr ? std::string() : served->chat_template->sources();
  KVASIR_ASSIGN_OR_RETURN(std::optional<ResponseFormat> own, OwnResponseTemplate(config));
  ResponseFormat& format = *served->response_format;
  if (!config.tool_format.empty()) {
    const bool reasoning = source.empty() || absl::StrContains(source, "</think>");
    KVASIR_ASSIGN_OR_RETURN(format, MakeResponseFormat(config.tool_format, reasoning));
  } else if (own.has_value()) {
    format = *std::move(own);
  } else {
    format = DetectResponseFormat(
        source, [&](absl::string_view token) { return tokenizer.TokenToId(token).has_value(); },
        served->model->spec().architecture);
  }
  ChooseWriting(source, &format);
  const std::vector<std::string> markers = format.Markers();
  for (TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
    if (!tokenizer.IsSpecial(id) || tokenizer.IdToToken(id).empty()) continue;
    const absl::string_view token = tokenizer.IdToToken(id);
    if (std::any_of(markers.begin(), markers.end(),
                    [&](const std::string& marker) { return absl::StrContains(marker, token); })) {
      served->response_markers.push_back(id);
    }
  }
  LogInfo("reads answers", {{"model", config.name}, {"tool_format", format.name}});
  return absl::OkStatus();
}

// Of all that a load reads, and of a draft model's too.
FileStamps StampsOf(const ModelConfig& config) {
  std::vector<std::string> files;
  for (const std::string& path : {config.path, config.speculation.draft_model}) {
    if (path.empty()) continue;
    const absl::StatusOr<std::vector<std::string>> listed = CheckpointFiles(path);
    if (listed.ok()) files.insert(files.end(), listed->begin(), listed->end());
  }
  return FileStamps(files);
}

absl::Status LoadDraftModel(const ModelConfig& config, ServedModel* served) {
  const std::string& path = config.speculation.draft_model;
  LogInfo("loading draft model", {{"model", config.name}, {"path", path}});
  Model::Options options;
  options.compute_type = config.compute_type;
  KVASIR_ASSIGN_OR_RETURN(served->draft_model, Model::Load(path, options));
  return absl::OkStatus();
}

// A checkpoint being read, from files that stay what they are meanwhile: weights of two versions
// mixed would give answers of neither. Text is little, so its faults show at once.
class CheckpointLoad {
 public:
  // `config` is borrowed.
  explicit CheckpointLoad(const ModelConfig* config)
      : config_(*config), before_(StampsOf(config_)) {}

  absl::Status ReadText() {
    served_->name = config_.name;
    served_->path = config_.path;
    served_->default_max_tokens = config_.default_max_tokens;
    served_->attention = config_.attention;
    served_->speculation = config_.speculation;
    served_->template_time = config_.template_time;
    return Checked(LoadText(config_, served_.get()));
  }

  // After ReadText.
  absl::StatusOr<std::unique_ptr<ServedModel>> ReadWeights(
      const std::function<bool(double)>& progress = nullptr) {
    KVASIR_RETURN_IF_ERROR(Checked(LoadWeights(progress)));
    if (!(StampsOf(config_) == before_)) {
      return absl::FailedPreconditionError(
          absl::StrCat("a file of it changed while it was read", kRemedy));
    }
    return std::move(served_);
  }

 private:
  static constexpr absl::string_view kRemedy = "; load it again when the folder is whole";

  absl::Status Checked(absl::Status status) const {
    KVASIR_RETURN_IF_ERROR(reads_.Status("a file of it", kRemedy));
    return status;
  }
  absl::Status LoadWeights(const std::function<bool(double)>& progress);

  const ModelConfig& config_;
  const FileStamps before_;
  const ReadsCheck reads_;
  std::unique_ptr<ServedModel> served_ = std::make_unique<ServedModel>();
};

absl::Status CheckpointLoad::LoadWeights(const std::function<bool(double)>& progress) {
  LogInfo("loading model", {{"model", config_.name},
                            {"path", config_.path},
                            {"compute_type", ComputeTypeName(config_.compute_type)},
                            {"weights", config_.weights}});
  const absl::Time started = SteadyNow();
  Model::Options options;
  options.compute_type = config_.compute_type;
  options.quantize_to = config_.quantize_to;
  options.max_context_tokens = config_.engine.max_context_tokens;
  options.progress = [&, last = started](double share) mutable {
    if (progress && !progress(share)) return false;
    const absl::Time now = SteadyNow();
    if (now - last < kProgressInterval) return true;
    last = now;
    LogInfo("loading model",
            {{"model", config_.name}, {"progress", absl::StrFormat("%.0f%%", share * 100)}});
    return true;
  };
  KVASIR_ASSIGN_OR_RETURN(served_->model, Model::Load(config_.path, options));

  KVASIR_RETURN_IF_ERROR(ChooseResponseFormat(config_, served_.get()));

  const ComputeType computed_in = served_->model->compute_type();
  if (computed_in != config_.compute_type) {
    LogWarning("this CPU, or cpu_target, has no AVX-512 BF16: bf16 weights compute in f32",
               {{"model", config_.name}, {"compute_type", ComputeTypeName(computed_in)}});
  }
  const ModelSpec& spec = served_->model->spec();
  for (const std::string& note : spec.notes) LogInfo(note, {{"model", config_.name}});
  LogInfo("loaded model", {{"model", config_.name},
                           {"architecture", spec.architecture},
                           {"sharing", spec.SharingName()},
                           {"parameters", spec.num_parameters()},
                           {"weight_bytes", static_cast<int64_t>(served_->model->weight_bytes())},
                           {"weight_formats", FormatsText(*served_->model)},
                           {"context_tokens", spec.max_positions},
                           {"seconds", absl::ToDoubleSeconds(SteadyNow() - started)}});
  if (config_.speculation.draft_model.empty()) return absl::OkStatus();
  return LoadDraftModel(config_, served_.get());
}

int64_t WeightBytesOf(const ModelConfig& config, const ServedModel& served) {
  int64_t bytes = static_cast<int64_t>(served.model->weight_bytes());
  if (served.draft_model != nullptr) {
    bytes += static_cast<int64_t>(served.draft_model->weight_bytes()) +
             config.engine.draft_kv_capacity_bytes;
  }
  return bytes;
}

// Of weights and pools, as the plan of the memory counts them.
int64_t MemoryOf(const ModelConfig& config, const ServedModel& served) {
  const KvLayout& layout = served.engine->kv_layout();
  const int64_t pool_bytes = served.engine->config().kv_capacity_bytes;
  const int64_t blocks = pool_bytes / static_cast<int64_t>(layout.block_bytes());
  return WeightBytesOf(config, served) + pool_bytes + blocks * KvBookkeepingBytesPerBlock(layout);
}

absl::Status StartEngine(const ModelConfig& config, ServedModel* served, Metrics* metrics) {
  const ModelSpec& spec = served->model->spec();
  EngineConfig engine_config = config.engine;
  if (!engine_config.spill_directory.empty()) {
    const std::string variant = absl::StrCat(ComputeTypeName(served->model->compute_type()),
                                             config.quantize_to ? config.weights : std::string());
    KVASIR_ASSIGN_OR_RETURN(engine_config.model_fingerprint,
                            CheckpointFingerprint(config.path, variant));
  }
  std::vector<std::unique_ptr<EngineObserver>> observers;
  observers.push_back(metrics->MakeEngineObserver(config.name, spec.SharingName()));
  observers.push_back(std::make_unique<RequestLog>(config.name));
  served->observer = std::make_unique<ObserverFanout>(std::move(observers));
  KVASIR_ASSIGN_OR_RETURN(
      served->engine,
      Engine::Create(engine_config, served->model.get(), served->tokenizer.get(),
                     served->observer.get(), Clock::Real(), served->draft_model.get()));

  served->grammars = std::make_unique<GrammarCompiler>(served->tokenizer.get(), spec.vocab_size,
                                                       spec.eos_token_ids, config.grammar);
  const Engine* engine = served->engine.get();
  served->held_bytes = MemoryOf(config, *served);
  ModelFacts facts;
  facts.model = config.name;
  facts.architecture = spec.architecture;
  facts.sharing = spec.SharingName();
  facts.compute_type = ComputeTypeName(served->model->compute_type());
  facts.kv_element_type = KvElementTypeName(engine->kv_layout().element_type());
  facts.parameters = spec.num_parameters();
  facts.weight_bytes = static_cast<int64_t>(served->model->weight_bytes());
  facts.weight_format_bytes = served->model->weight_bytes_by_format();
  facts.context_tokens = engine->config().max_context_tokens;
  facts.block_tokens = engine->kv_layout().block_tokens();
  facts.kv_bytes_per_token_resident =
      static_cast<int64_t>(engine->kv_layout().resident_bytes_per_token());
  facts.kv_bytes_per_token_read = static_cast<int64_t>(engine->kv_layout().read_bytes_per_token());
  const bool spills = !engine_config.spill_directory.empty();
  facts.limits = {
      {"max_running", engine_config.max_running},
      {"max_waiting", engine_config.max_waiting},
      {"max_waiting_tokens", engine_config.max_waiting_tokens},
      {"max_sessions", engine_config.max_sessions},
      {"max_spill_bytes", spills ? engine_config.max_spill_bytes : 0},
      {"max_prefix_spill_bytes", spills ? engine_config.max_prefix_spill_bytes : 0},
  };
  metrics->AddModel(
      std::move(facts), [engine] { return engine->stats(); },
      [grammars = served->grammars.get()] { return grammars->counts(); });
  // Libraries end the process when nothing is left for a thread of theirs.
  return CheckAddressSpace(kAddressSpaceBesideModels);
}

}  // namespace

absl::Status CheckModelText(const ModelConfig& config) {
  ServedModel nobodys;
  return LoadText(config, &nobodys);
}

absl::StatusOr<ServedModels> LoadCheckpoints(const DaemonConfig& config) {
  SetComputeThreads(config.threads);
  ServedModels models;
  const auto load = [&]() -> absl::Status {
    std::vector<CheckpointLoad> loads;
    loads.reserve(config.models.size());
    for (const ModelConfig& model : config.models) {
      loads.emplace_back(&model);
      if (absl::Status status = loads.back().ReadText(); !status.ok())
        return Prefixed(model, status);
    }
    for (size_t i = 0; i < loads.size(); ++i) {
      absl::StatusOr<std::unique_ptr<ServedModel>> loaded = loads[i].ReadWeights();
      if (!loaded.ok()) return Prefixed(config.models[i], loaded.status());
      models.push_back(*std::move(loaded));
    }
    return absl::OkStatus();
  };
  absl::Status status;
  // The main thread must not keep a team beside the engines'.
  RunWithOwnTeam([&] { status = load(); });
  if (!status.ok()) return status;
  return models;
}

absl::StatusOr<std::unique_ptr<ServedModel>> LoadBesideOthers(
    ModelConfig config, int64_t held_bytes, const std::function<bool(double)>& progress,
    Metrics* metrics) {
  absl::StatusOr<std::unique_ptr<ServedModel>> loaded = absl::UnknownError("");
  const pid_t caller = gettid();
  RunWithOwnTeam([&] {
    // This thread, and its team, which begins with the first parallel loop. Not so the engine's,
    // which the caller starts.
    if (gettid() != caller) {
      setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kLoadNiceness);
    }
    CheckpointLoad load(&config);
    if (absl::Status status = load.ReadText(); !status.ok()) {
      loaded = std::move(status);
    } else {
      loaded = load.ReadWeights(progress);
    }
  });
  if (!loaded.ok()) return Prefixed(config, loaded.status());
  ServedModels models;
  models.push_back(*std::move(loaded));
  std::vector<ModelConfig> configs = {std::move(config)};
  KVASIR_RETURN_IF_ERROR(SizeKvPools(models, &configs, held_bytes));
  // Also where it throws.
  absl::Cleanup forget = [&] { metrics->RemoveModel(configs[0].name); };
  if (absl::Status status = StartEngine(configs[0], models[0].get(), metrics); !status.ok()) {
    return Prefixed(configs[0], status);
  }
  std::move(forget).Cancel();
  return std::move(models[0]);
}

absl::StatusOr<std::vector<PlannedPool>> PlanPoolsOf(const std::vector<ModelConfig>& configs,
                                                     const std::vector<const ModelSpec*>& specs,
                                                     int64_t weight_bytes) {
  std::vector<KvLayout> layouts;
  for (size_t i = 0; i < specs.size(); ++i) {
    const EngineConfig& engine = configs[i].engine;
    absl::StatusOr<KvLayout> layout =
        specs[i]->MakeKvLayout(engine.kv_element_type, engine.block_tokens, engine.k_columns);
    if (!layout.ok()) return Prefixed(configs[i], layout.status());
    layouts.push_back(*std::move(layout));
  }
  std::vector<KvPoolDemand> demands;
  for (size_t i = 0; i < specs.size(); ++i) {
    const EngineConfig& engine = configs[i].engine;
    const int32_t model_context = specs[i]->max_positions;
    KvPoolDemand demand;
    demand.model = configs[i].name;
    demand.layout = &layouts[i];
    demand.capacity_bytes = engine.kv_capacity_bytes;
    demand.max_context_tokens = engine.max_context_tokens > 0
                                    ? std::min(engine.max_context_tokens, model_context)
                                    : model_context;
    demand.max_running = engine.max_running;
    demand.max_step_tokens = engine.max_step_tokens;
    demands.push_back(std::move(demand));
  }
  KVASIR_ASSIGN_OR_RETURN(
      std::vector<KvPool> pools,
      PlanKvPools(static_cast<int64_t>(UsableMemoryBytes()), weight_bytes, demands));
  std::vector<PlannedPool> planned;
  for (size_t i = 0; i < pools.size(); ++i) {
    planned.push_back(
        {std::move(pools[i]), static_cast<int64_t>(layouts[i].resident_bytes_per_token())});
  }
  return planned;
}

absl::Status SizeKvPools(const ServedModels& models, std::vector<ModelConfig>* configs,
                         int64_t held_bytes) {
  int64_t weight_bytes = held_bytes;
  std::vector<const ModelSpec*> specs;
  for (size_t i = 0; i < models.size(); ++i) {
    weight_bytes += WeightBytesOf((*configs)[i], *models[i]);
    specs.push_back(&models[i]->model->spec());
  }
  KVASIR_ASSIGN_OR_RETURN(const std::vector<PlannedPool> pools,
                          PlanPoolsOf(*configs, specs, weight_bytes));
  for (size_t i = 0; i < pools.size(); ++i) {
    (*configs)[i].engine.kv_capacity_bytes = pools[i].pool.bytes;
    LogInfo("sized KV pool", {{"model", (*configs)[i].name},
                              {"pool_bytes", pools[i].pool.bytes},
                              {"bytes_per_token", pools[i].bytes_per_token},
                              {"sum", pools[i].pool.explanation}});
  }
  return absl::OkStatus();
}

absl::Status StartEngines(const std::vector<ModelConfig>& configs, ServedModels models,
                          Metrics* metrics, ModelRegistry* registry) {
  for (size_t i = 0; i < models.size(); ++i) {
    if (absl::Status status = StartEngine(configs[i], models[i].get(), metrics); !status.ok()) {
      return Prefixed(configs[i], status);
    }
    KVASIR_RETURN_IF_ERROR(registry->Add(std::move(models[i])));
  }
  return absl::OkStatus();
}

}  // namespace kvasir
