#include "server/process/startup_checks.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/compute_team.h"
#include "base/mapped_pages.h"
#include "base/regular_file.h"
#include "base/status_macros.h"
#include "hub/hub_reference.h"
#include "kvcache/spill/kv_spill.h"
#include "runtime/model/loading/model_package.h"
#include "server/frontend/listening_sockets.h"
#include "server/frontend/response/response_format.h"
#include "server/identity/tenant_directory.h"
#include "server/identity/tls_files.h"
#include "server/process/hub_models.h"
#include "server/process/model_loading.h"

namespace kvasir {
namespace {

namespace fs = std::filesystem;

// "org/name" without a folder of that name: what people paste from a model hub.
bool LooksLikeHubId(const std::string& path) {
  const size_t slash = path.find('/');
  return slash != std::string::npos && slash > 0 && slash + 1 < path.size() &&
         path.find('/', slash + 1) == std::string::npos && path[0] != '.' && path[0] != '~';
}

absl::Status Fault(absl::string_view message) { return absl::InvalidArgumentError(message); }

// A file that cannot be opened is a fault of the configuration, unless the process is at a limit.
absl::Status FaultOfOpening(const absl::Status& status) {
  if (absl::IsResourceExhausted(status) || absl::IsUnavailable(status)) {
    return absl::ResourceExhaustedError(absl::StrCat(
        status.message(),
        "; that is a limit of this process or machine: raise LimitNOFILE (ulimit -n), or memory"));
  }
  return Fault(absl::StrCat(status.message(), absl::IsPermissionDenied(status)
                                                  ? "; give the daemon's user the right to"
                                                  : ""));
}

absl::StatusOr<std::string> FirstBytes(const std::string& path, size_t count) {
  const absl::StatusOr<int> fd = OpenRegularFile(path);
  if (!fd.ok()) return FaultOfOpening(fd.status());
  std::string bytes(count, '\0');
  const ssize_t got = read(*fd, bytes.data(), bytes.size());
  close(*fd);
  bytes.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
  return bytes;
}

// OK when the file can be read.
absl::Status FaultOfFile(const std::string& path) {
  KVASIR_ASSIGN_OR_RETURN(const std::string beginning, FirstBytes(path, 24));
  // It stands where the weights would be after a clone without git-lfs.
  if (absl::StartsWith(beginning, "version https://git-lfs")) {
    return Fault(absl::StrCat(
        path, " is a Git LFS pointer, not the file itself; fetch it with: git lfs pull"));
  }
  return absl::OkStatus();
}

absl::Status FaultOfTokenizer(const std::string& folder) {
  for (const char* name : {"/tokenizer.json", "/tokenizer.model"}) {
    std::error_code error;
    if (fs::exists(folder + name, error)) return FaultOfFile(folder + name);
  }
  return Fault(
      absl::StrCat(folder,
                   " has neither tokenizer.json nor tokenizer.model; download all files of the "
                   "model, not its weights alone"));
}

absl::Status FaultOfFolder(const std::string& folder) {
  if (const absl::Status fault = FaultOfFile(folder + "/config.json"); !fault.ok()) {
    return absl::Status(
        fault.code(),
        absl::StrCat(fault.message(),
                     absl::IsInvalidArgument(fault)
                         ? "; a model folder holds config.json, *.safetensors and a tokenizer, "
                           "as Hugging Face publishes them"
                         : ""));
  }
  bool weights = false;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->path().extension() != ".safetensors") continue;
    weights = true;
    KVASIR_RETURN_IF_ERROR(FaultOfFile(entry->path().string()));
  }
  if (error) {
    return FaultOfOpening(
        absl::ErrnoToStatus(error.value(), absl::StrCat(folder, " cannot be listed")));
  }
  if (!weights && fs::exists(folder + "/model.safetensors.index.json", error)) {
    return Fault(absl::StrCat(folder,
                              " holds an index of weights but none of the *.safetensors that it "
                              "names; finish the download"));
  }
  if (!weights) {
    return Fault(absl::StrCat(folder,
                              " holds no *.safetensors; weights in other formats (*.bin, *.pth) "
                              "are not read: convert them to safetensors"));
  }
  return FaultOfTokenizer(folder);
}

absl::Status FaultOfPath(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0) {
    const std::string reason = std::strerror(errno);
    if (errno == ENOENT && LooksLikeHubId(path)) {
      return Fault(absl::StrCat("'", path,
                                "' is no folder here; it looks like a model's name on a "
                                "hub; to download it from there, give hf:",
                                path));
    }
    return Fault(absl::StrCat("'", path, "' cannot be opened: ", reason,
                              errno == ENOENT ? "; give the folder that holds config.json" : ""));
  }
  if (S_ISDIR(status.st_mode)) return FaultOfFolder(path);
  KVASIR_RETURN_IF_ERROR(FaultOfFile(path));
  KVASIR_ASSIGN_OR_RETURN(const std::string magic, FirstBytes(path, 4));
  const bool gguf = magic == "GGUF";
  if (gguf && !absl::EndsWith(path, ".gguf")) {
    return Fault(absl::StrCat("'", path, "' is a GGUF file, but its name does not end in .gguf"));
  }
  if (gguf) return absl::OkStatus();
  return Fault(absl::StrCat("'", path,
                            "' is a file but no GGUF; give a GGUF file, or the folder "
                            "that holds config.json and *.safetensors"));
}

absl::StatusOr<ModelOutline> OutlineOf(const std::string& path, ComputeType compute_type,
                                       std::optional<WeightFormat> quantize_to) {
  const ReadsCheck reads;
  const absl::StatusOr<ModelPackage> package = ModelPackage::Open(path);
  KVASIR_RETURN_IF_ERROR(reads.Status(absl::StrCat("a file in ", path)));
  KVASIR_RETURN_IF_ERROR(package.status());
  return ModelOutline{package->spec,
                      static_cast<int64_t>(package->HeldBytes(compute_type, quantize_to))};
}

// `outlines` gets one for each model that may load.
void CheckModels(const DaemonConfig& config, CheckDepth depth, std::vector<StartupFault>* faults,
                 std::vector<ModelOutline>* outlines) {
  for (const ModelConfig& model : config.models) {
    if (IsHubReference(model.path)) continue;  // still to be downloaded
    absl::StatusOr<ModelOutline> outline = CheckModelFiles(model);
    if (!outline.ok()) {
      faults->push_back({ExitCode::kModelLoad, std::string(outline.status().message())});
      continue;
    }
    outlines->push_back(*std::move(outline));
    if (depth != CheckDepth::kText) continue;
    if (const absl::Status status = CheckModelText(model); !status.ok()) {
      faults->push_back(
          {ExitCode::kModelLoad, absl::StrCat("model '", model.name, "': ", status.message())});
    }
  }
}

void CheckSpill(const DaemonConfig& config, std::vector<StartupFault>* faults) {
  std::set<std::string> seen;
  for (const ModelConfig& model : config.models) {
    const std::string& directory = model.engine.spill_directory;
    if (directory.empty() || !seen.insert(directory).second) continue;
    if (const absl::Status status =
            KvSpill::CheckDirectory(directory, model.engine.share_spill_directory);
        !status.ok()) {
      faults->push_back(
          {ExitCode::kModelLoad, absl::StrCat("model '", model.name, "': ", status.message())});
    }
  }
}

// Whether weights, headroom and pools fit the memory, by the same sum as after loading.
void CheckPools(const DaemonConfig& config, const std::vector<ModelOutline>& outlines,
                std::vector<StartupFault>* faults) {
  std::vector<const ModelSpec*> specs;
  int64_t weight_bytes = 0;
  for (const ModelOutline& outline : outlines) {
    specs.push_back(&outline.spec);
    weight_bytes += outline.weight_bytes;
  }
  const absl::Status status = PlanPoolsOf(config.models, specs, weight_bytes).status();
  if (status.ok()) return;
  const ExitCode code =
      absl::IsResourceExhausted(status) ? ExitCode::kMemory : ExitCode::kBadConfig;
  faults->push_back({code, std::string(status.message())});
}

// Listens and gives back; together, so that two fields that name one port are found too.
void CheckPorts(const DaemonConfig& config, std::vector<StartupFault>* faults) {
  std::vector<std::pair<const char*, const HostPort*>> doors = {{"server.listen", &config.listen}};
  if (config.http_listen) doors.emplace_back("http.listen", &*config.http_listen);
  if (config.metrics_listen) doors.emplace_back("metrics.listen", &*config.metrics_listen);
  std::vector<ListeningSockets> taken;
  for (const auto& [field, address] : doors) {
    absl::StatusOr<ListeningSockets> sockets = ListeningSockets::Open(
        *address, absl::StrCat("choose another ", field, ", or port 0 for any free one"));
    if (sockets.ok()) {
      taken.push_back(*std::move(sockets));
    } else {
      faults->push_back({ExitCode::kListen, absl::StrCat(field, ": ", sockets.status().message())});
    }
  }
}

// Key files, and tenants that no caller can be: they would lock out whoever believes to be them.
void CheckTenants(const DaemonConfig& config, std::vector<StartupFault>* faults) {
  const auto tenants = TenantDirectory::Load(config.tenants);
  if (!tenants.ok()) {
    faults->push_back({ExitCode::kBadConfig, std::string(tenants.status().message())});
  }
  if (!config.authentication.trusted_header.empty()) return;  // a proxy names them
  for (const TenantConfig& tenant : config.tenants) {
    if (tenant.key_digests.empty() && tenant.key_file.empty() &&
        tenant.certificate_subjects.empty()) {
      faults->push_back(
          {ExitCode::kBadConfig, absl::StrCat("tenant ", tenant.id,
                                              " can be nobody; give it key_sha256, key_file or "
                                              "certificate_subjects, or set "
                                              "server.authentication.trusted_header")});
    }
  }
}

// Libraries abort when a start has no descriptor left for what they need once.
void CheckDescriptors(std::vector<StartupFault>* faults) {
  constexpr rlim_t kMinDescriptors = 64;
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_max >= kMinDescriptors) return;
  faults->push_back(
      {ExitCode::kListen, absl::StrCat("this process may open ", limit.rlim_max,
                                       " files, but needs descriptors for ", kMinDescriptors,
                                       " at least; raise the limit of open files (ulimit -n, "
                                       "LimitNOFILE)")});
}

// Of the doors and of what stands behind them, beside the compute team's.
constexpr int kMinThreads = 40;

// Nor threads.
void CheckThreadLimit(const DaemonConfig& config, std::vector<StartupFault>* faults) {
  const absl::Status status = CheckThreads(kMinThreads + config.threads);
  if (!status.ok()) faults->push_back({ExitCode::kListen, std::string(status.message())});
}

// Nor room for the threads' stacks and heaps: glibc reserves 64 MiB for each of up to eight heaps a
// core, and no thread has two.
void CheckRoom(const DaemonConfig& config, std::vector<StartupFault>* faults) {
  constexpr int64_t kMiB = int64_t{1} << 20;
  const int64_t threads = kMinThreads + config.threads;
  const int64_t heaps = std::min<int64_t>(threads, 8 * std::thread::hardware_concurrency());
  const absl::Status status = CheckAddressSpace((8 * threads + 64 * heaps + 256) * kMiB);
  if (!status.ok()) faults->push_back({ExitCode::kMemory, std::string(status.message())});
}

}  // namespace

// What loading finds out before it reads weights: a configuration that makes no sense, an unknown
// architecture, missing tensors.
absl::StatusOr<ModelOutline> CheckModelFiles(const ModelConfig& model) {
  const auto of_model = [&](const absl::Status& status, absl::string_view of = "") {
    return absl::Status(status.code(),
                        absl::StrCat("model '", model.name, "': ", of, status.message()));
  };
  absl::Status fault = FaultOfPath(model.path);
  struct stat status;
  if (!fault.ok() && stat(model.path.c_str(), &status) != 0 && errno == ENOENT) {
    return of_model(absl::NotFoundError(fault.message()));
  }
  if (fault.ok() && !model.chat_template_file.empty()) {
    fault = FaultOfFile(model.chat_template_file);
  }
  if (fault.ok() && !model.tool_format.empty()) {
    fault = MakeResponseFormat(model.tool_format, /*reasoning=*/false).status();
  }
  if (!fault.ok()) return of_model(fault);
  absl::StatusOr<ModelOutline> outline =
      OutlineOf(model.path, model.compute_type, model.quantize_to);
  if (!outline.ok()) return of_model(outline.status());
  outline->spec.OpenWindows(model.engine.max_context_tokens);

  const std::string& draft = model.speculation.draft_model;
  if (draft.empty() || IsHubReference(draft)) return outline;
  const std::string of_draft = "speculation.draft: ";
  fault = FaultOfPath(draft);
  if (!fault.ok()) return of_model(fault, of_draft);
  const absl::StatusOr<ModelOutline> guesses =
      OutlineOf(draft, model.compute_type, /*quantize_to=*/std::nullopt);
  if (!guesses.ok()) return of_model(guesses.status(), of_draft);
  outline->weight_bytes += guesses->weight_bytes + model.engine.draft_kv_capacity_bytes;
  return outline;
}

std::vector<StartupFault> CheckSurroundings(const DaemonConfig& configured, CheckDepth depth,
                                            std::vector<std::string>* notes) {
  std::vector<StartupFault> faults;
  CheckDescriptors(&faults);
  CheckThreadLimit(configured, &faults);
  CheckRoom(configured, &faults);
  DaemonConfig config = configured;
  std::vector<std::string> missing;
  if (const absl::Status status = FindHubModels(&config, &missing); !status.ok()) {
    faults.push_back({ExitCode::kModelLoad, std::string(status.message())});
  }
  if (notes != nullptr) *notes = std::move(missing);
  std::vector<ModelOutline> outlines;
  CheckTenants(config, &faults);
  CheckModels(config, depth, &faults, &outlines);
  if (config.tls.enabled()) {
    if (const absl::Status status = CheckTlsFiles(config.tls); !status.ok()) {
      faults.push_back({ExitCode::kListen, std::string(status.message())});
    }
  }
  CheckSpill(config, &faults);
  if (outlines.size() == config.models.size()) CheckPools(config, outlines, &faults);
  CheckPorts(config, &faults);
  return faults;
}

}  // namespace kvasir
