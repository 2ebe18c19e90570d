// kvasir pull: a model by its name on a hub, into the cache that Hugging Face's tools share.
#include <atomic>
#include <csignal>
#include <iostream>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "client/byte_text.h"
#include "client/commands/command.h"
#include "client/interrupt_watcher.h"
#include "client/json_output.h"
#include "client/progress_bar.h"
#include "hub/model_pull.h"

namespace kvasir {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kDescription[] =
    "Downloads what serving a model needs from a hub (huggingface.co, or $HF_ENDPOINT) into the "
    "cache that Hugging Face's\n"
    "tools share, and prints where it is. MODEL is hf:ORG/REPO, or only ORG/REPO; @REVISION names "
    "a branch, tag or\n"
    "commit, :PATTERN a GGUF file by a word of its name (hf:ORG/REPO-GGUF:Q4_K_M), its whole name, "
    "or a name with *.\n"
    "What an earlier pull began is gone on with; checksums are checked. kvasird --model "
    "NAME=hf:ORG/REPO does the same\n"
    "before it serves.\n\n"
    "environment: HF_HOME or HF_HUB_CACHE (the cache; default ~/.cache/huggingface/hub), HF_TOKEN, "
    "HF_ENDPOINT,\n"
    "HF_HUB_OFFLINE=1 (only looks into the cache), https_proxy and no_proxy, SSL_CERT_FILE";

struct PullFlags {
  std::optional<bool> progress;
  bool verify = false;
  bool dry_run = false;
};

std::string Size(int64_t bytes) { return ByteText(static_cast<double>(bytes)); }

// What is about to happen, before the first byte of it.
std::string PlanText(const PullPlan& plan) {
  std::string text = absl::StrFormat(
      "%s, commit %s: %d files, %s; %s to download into %s (%s free)\n", plan.reference.Text(),
      plan.commit.substr(0, 12), plan.files.size(), Size(plan.total_bytes),
      Size(plan.missing_bytes), plan.cache, Size(plan.free_disk_bytes));
  absl::StrAppendFormat(&text, "weights as stored: %s; this machine may use %s of memory%s\n",
                        Size(plan.weight_bytes), Size(plan.memory_bytes),
                        plan.weight_bytes > plan.memory_bytes
                            ? ": too little, unless kvasird --weights makes them smaller"
                            : "");
  if (!plan.other_models.empty()) {
    absl::StrAppend(&text, "also there, by a :PATTERN: ", absl::StrJoin(plan.other_models, ", "),
                    "\n");
  }
  return text;
}

Json ToJson(const PulledModel& pulled, const PullPlan& plan, absl::Duration duration) {
  Json files = Json::array();
  for (const RepoFile& file : pulled.files) {
    Json each = {{"path", file.path}, {"bytes", file.size_bytes}};
    if (!file.digest.empty()) each["digest"] = file.digest;
    files.push_back(std::move(each));
  }
  return {{"model", plan.reference.Text()},
          {"path", pulled.path},
          {"commit", pulled.commit},
          {"files", std::move(files)},
          {"total_bytes", pulled.total_bytes},
          {"missing_bytes", plan.missing_bytes},
          {"downloaded_bytes", pulled.downloaded_bytes},
          {"weight_bytes", plan.weight_bytes},
          {"seconds", absl::ToDoubleSeconds(duration)}};
}

}  // namespace

int RunPull(const Arguments& arguments) {
  CommandLine line("pull", "[flags] MODEL", kDescription, CommandLine::Reach::kThisMachine);
  PullFlags flags;
  line.flags().Add("dry_run", "say what would be downloaded, and stop", &flags.dry_run);
  line.flags().Add("verify", "check the files in the cache too, and download wrong ones again",
                   &flags.verify);
  line.flags().Add("progress", "=false hides the progress bar on standard error", &flags.progress);
  if (const auto exit_code = line.Parse(arguments)) return *exit_code;
  if (line.positional().size() != 1) return line.UsageError("takes one MODEL");
  const absl::StatusOr<HubReference> reference = ParseHubReference(line.positional()[0]);
  if (!reference.ok()) return line.UsageError(std::string(reference.status().message()));
  const absl::StatusOr<HubSettings> settings = ReadHubSettings();
  if (!settings.ok()) return line.Fail(settings.status());

  std::signal(SIGPIPE, SIG_IGN);  // a hub that hangs up is an error of the call
  InterruptWatcher interrupts;
  std::atomic<bool> cancelled = false;
  interrupts.SetAction([&] { cancelled = true; });
  const absl::Time start = absl::Now();
  PullPlan plan;
  plan.reference = *reference;
  std::optional<ProgressBar> bar;
  PullOptions options;
  options.user_agent = "kvasir/" KVASIR_VERSION;
  options.verify = flags.verify;
  options.dry_run = flags.dry_run;
  options.cancelled = &cancelled;
  options.planned = [&](const PullPlan& made) {
    plan = made;
    std::cerr << PlanText(plan);
    const bool shown = flags.progress.value_or(true) && plan.missing_bytes > 0 && !flags.dry_run;
    bar.emplace("pull", plan.total_bytes, shown);
  };
  options.progress = [&](int64_t done, int64_t total, const std::string& file) {
    if (bar) bar->Set(done, file);
  };
  options.note = [](const std::string& message) {
    std::cerr << "kvasir pull: " << message << std::endl;
  };
  const absl::StatusOr<PulledModel> pulled = PullModel(*settings, *reference, options);
  bar.reset();
  if (!pulled.ok()) {
    if (!absl::IsCancelled(pulled.status())) return line.Fail(pulled.status());
    line.Fail(absl::CancelledError(
        "interrupted; what is downloaded stays, and the next pull goes on from there"));
    return kExitInterrupted;
  }
  if (line.json()) {
    std::cout << DumpJson(ToJson(*pulled, plan, absl::Now() - start)) << std::endl;
  } else if (!flags.dry_run) {
    std::cout << pulled->path << std::endl;
  }
  return kExitOk;
}

}  // namespace kvasir
