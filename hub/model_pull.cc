#include "hub/model_pull.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/cpu_topology.h"
#include "base/regular_file.h"
#include "base/status_macros.h"
#include "hub/blob_download.h"
#include "hub/file_digest.h"
#include "hub/file_selection.h"
#include "hub/hub_api.h"
#include "hub/hub_cache.h"
#include "hub/web_client.h"

namespace kvasir {
namespace {

constexpr size_t kMaxIndexBytes = size_t{16} << 20;
// Who has the model already need not wait long for a hub that is away.
constexpr int kAttemptsWithModel = 2;

std::string PathOf(const HubCache& cache, const std::string& commit, const FileSelection& chosen) {
  return absl::StrCat(cache.SnapshotFolder(commit), chosen.gguf.empty() ? "" : "/", chosen.gguf);
}

// One pull under way.
class Pull {
 public:
  Pull(const HubSettings& settings, const HubReference& reference, const PullOptions& options)
      : reference_(reference),
        options_(options),
        cache_(settings.cache, reference.repo),
        http_(ClientOptions(settings, options)),
        retry_(options.retry, options.cancelled, options.note),
        api_(&settings, &http_, &retry_) {}

  absl::StatusOr<PulledModel> Run() {
    KVASIR_ASSIGN_OR_RETURN(commit_, api_.FindCommit(reference_.repo, reference_.revision));
    KVASIR_ASSIGN_OR_RETURN(std::vector<RepoFile> listed, api_.ListFiles(reference_.repo, commit_));
    // The index of the weights is needed to know how much there is.
    const auto read = [&](const RepoFile& file) -> absl::StatusOr<std::string> {
      KVASIR_RETURN_IF_ERROR(Get(file));
      return ReadRegularFile(absl::StrCat(cache_.SnapshotFolder(commit_), "/", file.path),
                             kMaxIndexBytes);
    };
    KVASIR_ASSIGN_OR_RETURN(
        chosen_, SelectFiles(reference_.repo, std::move(listed), reference_.pattern, read));
    KVASIR_RETURN_IF_ERROR(Plan());
    PulledModel pulled;
    pulled.path = PathOf(cache_, commit_, chosen_);
    pulled.commit = commit_;
    pulled.files = chosen_.files;
    pulled.total_bytes = total_bytes_;
    if (options_.dry_run) return pulled;
    for (const RepoFile& file : chosen_.files) {
      KVASIR_RETURN_IF_ERROR(Get(file));
      done_bytes_ += file.size_bytes;
    }
    // Last, so that offline the old commit is found until the new one is whole. A cache that only
    // others may write is no reason to fail when it has everything.
    if (const absl::Status status = cache_.SetRevision(reference_.revision, commit_);
        !status.ok() && downloaded_bytes_ > 0) {
      return status;
    }
    pulled.downloaded_bytes = downloaded_bytes_;
    return pulled;
  }

  Retry& retry() { return retry_; }

 private:
  static WebClient::Options ClientOptions(const HubSettings& settings, const PullOptions& options) {
    WebClient::Options client;
    client.ca_file = settings.ca_file;
    client.ca_folder = settings.ca_folder;
    client.user_agent = options.user_agent;
    client.cancelled = options.cancelled;
    return client;
  }

  // Says what is to come; ResourceExhausted when it cannot fit.
  absl::Status Plan() {
    PullPlan plan;
    plan.reference = reference_;
    plan.commit = commit_;
    plan.cache = cache_.folder();
    plan.files = chosen_.files;
    plan.other_models = chosen_.others;
    plan.weight_bytes = chosen_.weight_bytes;
    plan.memory_bytes = static_cast<int64_t>(UsableMemoryBytes());
    for (const RepoFile& file : chosen_.files) {
      plan.total_bytes += file.size_bytes;
      if (cache_.HasFile(commit_, file) || cache_.HasBlob(file)) continue;
      plan.missing_bytes += file.size_bytes - cache_.PartialBytes(file);
    }
    total_bytes_ = plan.total_bytes;
    KVASIR_ASSIGN_OR_RETURN(plan.free_disk_bytes, cache_.FreeBytes());
    if (options_.planned) options_.planned(plan);
    if (plan.missing_bytes > plan.free_disk_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat(reference_.Text(), " needs ", plan.missing_bytes, " more bytes in ",
                       cache_.folder(), ", but its disk has ", plan.free_disk_bytes,
                       " free; make room, or set HF_HUB_CACHE to a folder on another disk"));
    }
    return absl::OkStatus();
  }

  // Has the file in the snapshot.
  absl::Status Get(const RepoFile& file) {
    if (options_.verify) KVASIR_RETURN_IF_ERROR(DropIfWrong(file));
    if (cache_.HasFile(commit_, file)) {
      Report(file, file.size_bytes);
      return absl::OkStatus();
    }
    if (!cache_.HasBlob(file)) {
      int64_t before = cache_.PartialBytes(file);
      BlobDownload download;
      download.api = &api_;
      download.cache = &cache_;
      download.retry = &retry_;
      download.repo = reference_.repo;
      download.commit = commit_;
      download.cancelled = options_.cancelled;
      download.note = options_.note;
      download.progress = [&](int64_t file_bytes) {
        // Begun anew, it is less than before.
        downloaded_bytes_ += file_bytes > before ? file_bytes - before : file_bytes;
        before = file_bytes;
        Report(file, file_bytes);
      };
      KVASIR_RETURN_IF_ERROR(download.Run(file));
    }
    KVASIR_RETURN_IF_ERROR(cache_.Link(commit_, file));
    Report(file, file.size_bytes);
    return absl::OkStatus();
  }

  // Removes a blob whose content is not what its name says, so that it is downloaded.
  absl::Status DropIfWrong(const RepoFile& file) {
    if (!cache_.HasBlob(file)) return absl::OkStatus();
    const std::string path = cache_.BlobPath(file.digest);
    const absl::Status status = CheckDigest(path, file.digest, options_.cancelled);
    if (!absl::IsDataLoss(status)) return status;
    if (options_.note) {
      options_.note(
          absl::StrCat(file.path, " in the cache is wrong and is deleted: ", status.message()));
    }
    if (std::remove(path.c_str()) != 0) return CacheError(errno, absl::StrCat("delete ", path));
    return absl::OkStatus();
  }

  void Report(const RepoFile& file, int64_t file_bytes) {
    if (options_.progress && total_bytes_ > 0) {
      options_.progress(done_bytes_ + file_bytes, total_bytes_, file.path);
    }
  }

  const HubReference& reference_;
  const PullOptions& options_;
  const HubCache cache_;
  WebClient http_;
  Retry retry_;
  HubApi api_;

  std::string commit_;
  FileSelection chosen_;
  int64_t total_bytes_ = 0;  // 0 until it is known
  int64_t done_bytes_ = 0;   // of files that are done
  int64_t downloaded_bytes_ = 0;
};

}  // namespace

absl::StatusOr<PulledModel> FindPulledModel(const HubSettings& settings,
                                            const HubReference& reference) {
  const HubCache cache(settings.cache, reference.repo);
  PulledModel pulled;
  KVASIR_ASSIGN_OR_RETURN(pulled.commit, cache.FindCommit(reference.revision));
  KVASIR_ASSIGN_OR_RETURN(std::vector<RepoFile> files, cache.ListSnapshot(pulled.commit));
  const auto read = [&](const RepoFile& file) {
    return ReadRegularFile(absl::StrCat(cache.SnapshotFolder(pulled.commit), "/", file.path),
                           kMaxIndexBytes);
  };
  absl::StatusOr<FileSelection> chosen =
      SelectFiles(reference.repo, std::move(files), reference.pattern, read);
  if (!chosen.ok()) {
    return absl::Status(chosen.status().code(),
                        absl::StrCat("the cache ", settings.cache, " has not all of ",
                                     reference.Text(), ": ", chosen.status().message()));
  }
  for (const RepoFile& file : chosen->files) pulled.total_bytes += file.size_bytes;
  pulled.path = PathOf(cache, pulled.commit, *chosen);
  pulled.files = std::move(chosen->files);
  return pulled;
}

absl::StatusOr<PulledModel> PullModel(const HubSettings& settings, const HubReference& reference,
                                      const PullOptions& options) {
  absl::StatusOr<PulledModel> cached = FindPulledModel(settings, reference);
  if (settings.offline) {
    if (cached.ok()) return cached;
    return absl::Status(cached.status().code(),
                        absl::StrCat(cached.status().message(),
                                     "; HF_HUB_OFFLINE is set, so it is not downloaded"));
  }
  Pull pull(settings, reference, options);
  if (cached.ok()) pull.retry().set_attempts(std::min(kAttemptsWithModel, options.retry.attempts));
  absl::StatusOr<PulledModel> pulled = pull.Run();
  if (!pulled.ok() && absl::IsUnavailable(pulled.status()) && cached.ok() && !options.verify) {
    if (options.note) {
      options.note(absl::StrCat(pulled.status().message(), "; taking what the cache has of ",
                                reference.Text(), ", commit ", cached->commit));
    }
    return cached;
  }
  return pulled;
}

}  // namespace kvasir
