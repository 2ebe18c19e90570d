#include "server/process/hub_models.h"

#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "hub/model_pull.h"
#include "server/telemetry/logging.h"

namespace kvasir {
namespace {

// A download takes minutes: a line now and then shows that it moves.
constexpr absl::Duration kProgressInterval = absl::Seconds(5);

using Visitor = std::function<absl::Status(const HubReference& reference, std::string* path)>;

// Every path that is a name on a hub; errors get the model's name.
absl::Status ForEachName(DaemonConfig* config, const Visitor& visit) {
  for (ModelConfig& model : config->models) {
    for (std::string* path : {&model.path, &model.speculation.draft_model}) {
      if (!IsHubReference(*path)) continue;
      KVASIR_ASSIGN_OR_RETURN(const HubReference reference, ParseHubReference(*path));
      if (const absl::Status status = visit(reference, path); !status.ok()) {
        return absl::Status(status.code(),
                            absl::StrCat("model '", model.name, "': ", status.message()));
      }
    }
  }
  return absl::OkStatus();
}

void LogPlan(const PullPlan& plan) {
  LogInfo("pulling model", {{"from", plan.reference.Text()},
                            {"commit", plan.commit},
                            {"cache", plan.cache},
                            {"files", static_cast<int64_t>(plan.files.size())},
                            {"total_bytes", plan.total_bytes},
                            {"missing_bytes", plan.missing_bytes},
                            {"free_disk_bytes", plan.free_disk_bytes},
                            {"weight_bytes", plan.weight_bytes},
                            {"memory_bytes", plan.memory_bytes}});
  if (plan.weight_bytes > plan.memory_bytes) {
    LogWarning("the weights as stored are more than the memory; see --weights",
               {{"from", plan.reference.Text()},
                {"weight_bytes", plan.weight_bytes},
                {"memory_bytes", plan.memory_bytes}});
  }
  if (!plan.other_models.empty()) {
    LogInfo("the repository has other files, by a :PATTERN",
            {{"from", plan.reference.Text()}, {"files", absl::StrJoin(plan.other_models, ",")}});
  }
}

}  // namespace

bool NamesHubModels(const DaemonConfig& config) {
  for (const ModelConfig& model : config.models) {
    if (IsHubReference(model.path) || IsHubReference(model.speculation.draft_model)) return true;
  }
  return false;
}

absl::Status FindHubModels(DaemonConfig* config, std::vector<std::string>* missing) {
  if (!NamesHubModels(*config)) return absl::OkStatus();
  KVASIR_ASSIGN_OR_RETURN(const HubSettings settings, ReadHubSettings());
  return ForEachName(config, [&](const HubReference& reference, std::string* path) {
    absl::StatusOr<PulledModel> found = FindPulledModel(settings, reference);
    if (found.ok()) {
      *path = std::move(found->path);
      return absl::OkStatus();
    }
    if (settings.offline) {
      return absl::Status(found.status().code(),
                          absl::StrCat(found.status().message(),
                                       "; HF_HUB_OFFLINE is set, so it is not downloaded"));
    }
    missing->push_back(absl::StrCat(reference.Text(), " is not in the cache ", settings.cache,
                                    "; kvasird downloads it from ", settings.endpoint,
                                    " when it starts, before it looks at what is in it"));
    return absl::OkStatus();
  });
}

absl::Status PullHubModels(DaemonConfig* config,
                           const std::function<void(const std::string& status)>& moving,
                           const std::atomic<bool>* cancelled) {
  if (!NamesHubModels(*config)) return absl::OkStatus();
  KVASIR_ASSIGN_OR_RETURN(const HubSettings settings, ReadHubSettings());
  return ForEachName(config, [&](const HubReference& reference, std::string* path) -> absl::Status {
    const absl::Time started = SteadyNow();
    absl::Time last = started;
    PullOptions options;
    options.user_agent = "kvasird/" KVASIR_VERSION;
    options.planned = LogPlan;
    options.cancelled = cancelled;
    options.note = [&](const std::string& message) {
      LogWarning("pulling model", {{"from", reference.Text()}, {"note", message}});
    };
    options.progress = [&](int64_t done, int64_t total, const std::string& file) {
      const absl::Time now = SteadyNow();
      if (now - last < kProgressInterval) return;
      last = now;
      const std::string progress = absl::StrFormat("%.0f%%", 100.0 * done / total);
      LogInfo("pulling model",
              {{"from", reference.Text()}, {"progress", progress}, {"file", file}});
      moving(absl::StrCat("pulling ", reference.Text(), ", ", progress));
    };
    KVASIR_ASSIGN_OR_RETURN(PulledModel pulled, PullModel(settings, reference, options));
    LogInfo("pulled model", {{"from", reference.Text()},
                             {"commit", pulled.commit},
                             {"path", pulled.path},
                             {"downloaded_bytes", pulled.downloaded_bytes},
                             {"seconds", absl::ToDoubleSeconds(SteadyNow() - started)}});
    *path = std::move(pulled.path);
    return absl::OkStatus();
  });
}

}  // namespace kvasir
