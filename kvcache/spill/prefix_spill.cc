#include "kvcache/spill/prefix_spill.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <new>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/background_work.h"
#include "base/status_macros.h"
#include "base/steady_time.h"

namespace kvasir {
namespace {

// A temporary of another replica that has stood for longer was left behind.
constexpr absl::Duration kStale = absl::Minutes(10);
// Looking through a shared folder may take a twentieth of the writer's time.
constexpr int kLookShare = 20;

std::string BytesOf(const BlockDigest& digest) {
  return std::string(reinterpret_cast<const char*>(digest.words.data()), sizeof(digest.words));
}

}  // namespace

// ---- opening and closing ----

absl::StatusOr<std::unique_ptr<PrefixSpill>> PrefixSpill::Open(PrefixSpillConfig config) {
  if (config.max_bytes < 1 || config.max_files < 1 || config.max_queue_bytes < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("spill of prefix blocks: max_bytes is ", config.max_bytes, ", max_files ",
                     config.max_files, ", both must be at least 1; max_queue_bytes is ",
                     config.max_queue_bytes, ", must be at least 0"));
  }
  const uint64_t model = SpillFingerprint(config.model_fingerprint);
  KVASIR_ASSIGN_OR_RETURN(
      PrefixDirectory directory,
      PrefixDirectory::Open(config.spill_directory, SpillContents(config.layout_fingerprint, model),
                            config.shared));
  std::unique_ptr<PrefixSpill> spill(
      new PrefixSpill(std::move(config), model, std::move(directory)));
  if (const int64_t removed = PrefixDirectory::RemoveUnused(spill->config_.spill_directory))
    spill->Fault(absl::StrCat(removed, " files of other models or block formats are removed"));
  spill->Look();
  (void)spill->MakeRoom(0);
  try {
    spill->writer_ = std::thread(&PrefixSpill::WriterLoop, spill.get());
  } catch (const std::system_error& error) {
    return absl::UnavailableError(
        absl::StrCat("spill: cannot start the thread that writes prefix blocks: ", error.what(),
                     "; raise the limit of processes"));
  }
  return spill;
}

PrefixSpill::PrefixSpill(PrefixSpillConfig config, uint64_t model_fingerprint,
                         PrefixDirectory directory)
    : config_(std::move(config)),
      directory_(std::move(directory)),
      model_fingerprint_(model_fingerprint) {}

PrefixSpill::~PrefixSpill() {
  {
    AnnotatedLock lock(&mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  if (writer_.joinable()) writer_.join();
}

void PrefixSpill::Look() {
  AnnotatedLock files_lock(&files_mutex_);
  seen_temporaries_.BeginLook(SteadyNow());
  absl::StatusOr<std::vector<PrefixDirectory::File>> files =
      directory_.Scan(2 * config_.max_files, [&](const std::string& name, absl::Time stamp) {
        return !config_.shared || seen_temporaries_.Age(name, stamp) >= kStale;
      });
  if (!files.ok()) return Fault(files.status().message());
  std::sort(files->begin(), files->end(),
            [](const auto& a, const auto& b) { return a.used < b.used; });
  {
    AnnotatedLock lock(&mutex_);
    index_.clear();
    by_use_.clear();
    not_removed_.clear();
    stats_.files = stats_.bytes = 0;
    for (const PrefixDirectory::File& file : *files) {
      if (file.bytes > 0) Put(file.name, file.bytes);
    }
  }
  // What could only be emptied once, but not removed.
  for (const PrefixDirectory::File& file : *files) {
    if (file.bytes == 0) RemoveFile(file.name);
  }
}

// ---- writing ----

SpillHeader PrefixSpill::HeaderOf(const StoredBlockName& name, const BlockDigest& parent,
                                  absl::Span<const int32_t> tokens, int64_t content_bytes) const {
  return {.layout_fingerprint = config_.layout_fingerprint,
          .model_fingerprint = model_fingerprint_,
          .id = absl::StrCat(BytesOf(name.digest), name.group),
          .metadata = BytesOf(parent),
          .tokens = {tokens.begin(), tokens.end()},
          .payload_bytes = content_bytes};
}

void PrefixSpill::Take(int group, const BlockDigest& digest, const BlockDigest& parent,
                       absl::Span<const int32_t> tokens, absl::Span<const uint8_t> content) {
  const StoredBlockName name{group, digest};
  const auto bytes = static_cast<int64_t>(content.size());
  {
    AnnotatedLock lock(&mutex_);
    if (const auto known = index_.find(name); known != index_.end())
      return Put(name, known->second.bytes);
    if (pending_.contains(name)) return;
    const auto full = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return stats_.queued_bytes + bytes > config_.max_queue_bytes;
    };
    while (patient_ && full() && stats_.queued_bytes > 0 && Clock::now() >= paused_until_)
      changed_.Wait(&mutex_);
    if (full() || Clock::now() < paused_until_) {
      ++stats_.dropped_total;
      return;
    }
  }
  // Only who calls this adds to the queue, so the room is still there.
  auto job = std::make_shared<Job>();
  job->name = name;
  job->header = HeaderOf(name, parent, tokens, bytes);
  try {
    job->content.assign(content.begin(), content.end());
  } catch (const std::bad_alloc&) {
    return Fault(absl::StrCat("no memory for the copy of a block of ", bytes,
                              " bytes, which is not written"));
  }
  AnnotatedLock lock(&mutex_);
  stats_.queued_bytes += bytes;
  pending_[name] = job;
  queue_.push_back(std::move(job));
  changed_.NotifyAll();
}

void PrefixSpill::BePatient() {
  AnnotatedLock lock(&mutex_);
  patient_ = true;
}

void PrefixSpill::WriterLoop() {
  WorkBesideSteps();
  Clock::time_point look_at = Clock::now() + config_.look_period;
  while (true) {
    std::shared_ptr<const Job> job;
    {
      AnnotatedLock lock(&mutex_);
      while (queue_.empty() && !stopping_) {
        if (!config_.shared) {
          changed_.Wait(&mutex_);
        } else if (const auto now = Clock::now(); now < look_at) {
          changed_.WaitFor(&mutex_, absl::FromChrono(look_at - now));
        } else {
          break;
        }
      }
      if (queue_.empty() && stopping_) return;
      if (!queue_.empty()) {
        job = writing_ = std::move(queue_.front());
        queue_.pop_front();
      }
    }
    if (const auto begin = Clock::now(); config_.shared && begin >= look_at) {
      Look();
      (void)MakeRoom(0);
      const auto end = Clock::now();
      look_at = end + std::max<Clock::duration>(config_.look_period, kLookShare * (end - begin));
    }
    if (job == nullptr) continue;
    const absl::Status status = Write(*job);
    if (!status.ok()) {
      Fault(absl::StrCat(status.message(), "; no prefix block is written for ",
                         absl::FormatDuration(absl::FromChrono(config_.pause))));
    }
    AnnotatedLock lock(&mutex_);
    writing_ = nullptr;
    pending_.erase(job->name);
    stats_.queued_bytes -= static_cast<int64_t>(job->content.size());
    if (!status.ok()) {
      paused_until_ = Clock::now() + config_.pause;
      stats_.dropped_total += static_cast<int64_t>(queue_.size());
      queue_.clear();
      pending_.clear();
      stats_.queued_bytes = 0;
    }
    changed_.NotifyAll();
  }
}

absl::Status PrefixSpill::Write(const Job& job) {
  const int64_t bytes = SpillFileBytes(job.header);
  {
    AnnotatedLock lock(&mutex_);
    if (index_.contains(job.name)) return absl::OkStatus();  // another replica's
  }
  if (!MakeRoom(bytes)) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "spill: a prefix block of ", bytes, " bytes does not fit into ", config_.max_bytes,
        " beside files that could not be removed; raise sessions.max_prefix_spill_bytes"));
  }
  const std::string temporary = directory_.TemporaryName(job.name);
  const auto written =
      WriteSpillTemporary(directory_.fd(), temporary, job.header, job.content, absl::Now());
  if (!written.ok()) return written.status();
  AnnotatedLock files_lock(&files_mutex_);
  KVASIR_RETURN_IF_ERROR(
      PublishSpillFile(directory_.fd(), temporary, StoredBlockFileName(job.name)));
  AnnotatedLock lock(&mutex_);
  Put(job.name, bytes);
  ++stats_.written_total;
  return absl::OkStatus();
}

bool PrefixSpill::MakeRoom(int64_t bytes) {
  AnnotatedLock files_lock(&files_mutex_);
  bool tried_again = false;
  while (true) {
    std::optional<StoredBlockName> oldest;
    {
      AnnotatedLock lock(&mutex_);
      const bool fits = stats_.bytes + bytes <= config_.max_bytes &&
                        index_.size() + (bytes > 0 ? 1 : 0) <= config_.max_files;
      if (fits) return true;
      if (!by_use_.empty()) {
        oldest = by_use_.begin()->second;
        ++stats_.pushed_out_total;
      } else if (tried_again || not_removed_.empty()) {
        return false;
      }
    }
    if (!oldest.has_value()) {
      tried_again = true;
      RemoveAgain();
    } else if (!RemoveFile(*oldest)) {
      return false;  // the others can still be read
    }
  }
}

void PrefixSpill::RemoveAgain() {
  std::vector<StoredBlockName> names;
  {
    AnnotatedLock lock(&mutex_);
    for (const auto& [name, bytes] : not_removed_) names.push_back(name);
  }
  for (const StoredBlockName& name : names) {
    if (!RemoveSpillFile(directory_.fd(), StoredBlockFileName(name)).ok()) return;
    AnnotatedLock lock(&mutex_);
    ForgetNotRemoved(name);
  }
}

bool PrefixSpill::RemoveFile(const StoredBlockName& name) {
  int64_t bytes = 0;
  {
    AnnotatedLock lock(&mutex_);
    bytes = Erase(name);
  }
  const absl::Status status = RemoveSpillFile(directory_.fd(), StoredBlockFileName(name));
  if (status.ok()) return true;
  Fault(status.message());
  // It stays, and is counted until it is tried again, or replaced.
  AnnotatedLock lock(&mutex_);
  ForgetNotRemoved(name);
  not_removed_[name] = bytes;
  ++stats_.files;
  stats_.bytes += bytes;
  return false;
}

void PrefixSpill::ForgetNotRemoved(const StoredBlockName& name) {
  const auto kept = not_removed_.find(name);
  if (kept == not_removed_.end()) return;
  --stats_.files;
  stats_.bytes -= kept->second;
  not_removed_.erase(kept);
}

void PrefixSpill::Flush() {
  AnnotatedLock lock(&mutex_);
  while (!queue_.empty() || writing_ != nullptr) changed_.Wait(&mutex_);
}

// ---- reading ----

bool PrefixSpill::Stored(const StoredBlockName& name) const {
  return index_.contains(name) || pending_.contains(name);
}

bool PrefixSpill::Has(int group, const BlockDigest& digest) const {
  AnnotatedLock lock(&mutex_);
  return Stored({group, digest});
}

absl::Status PrefixSpill::Read(int group, const BlockDigest& digest, const BlockDigest& parent,
                               absl::Span<const int32_t> tokens, absl::Span<uint8_t> content,
                               const std::atomic<bool>* abandoned) {
  const StoredBlockName name{group, digest};
  const SpillHeader wanted = HeaderOf(name, parent, tokens, static_cast<int64_t>(content.size()));
  std::shared_ptr<const Job> job;
  {
    AnnotatedLock lock(&mutex_);
    if (!Stored(name)) return absl::NotFoundError("spill: no such prefix block");
    if (const auto pending = pending_.find(name); pending != pending_.end()) job = pending->second;
  }
  const std::string file = StoredBlockFileName(name);
  absl::Status status;
  if (job == nullptr) {
    status = ReadFile(file, wanted, content, abandoned);
  } else if (job->header.metadata == wanted.metadata && job->header.tokens == wanted.tokens &&
             job->content.size() == content.size()) {
    std::copy(job->content.begin(), job->content.end(), content.begin());
  } else {
    return absl::NotFoundError("spill: no such prefix block");
  }
  if (absl::IsCancelled(status)) return status;
  if (status.ok()) {
    // For the order after a restart, and for other replicas; without it a file only looks older.
    if (job == nullptr) {
      // The kernel's own stamps move in ticks of milliseconds.
      const timespec now[] = {absl::ToTimespec(absl::Now()), absl::ToTimespec(absl::Now())};
      (void)utimensat(directory_.fd(), file.c_str(), now, AT_SYMLINK_NOFOLLOW);
    }
    AnnotatedLock lock(&mutex_);
    if (const auto entry = index_.find(name); entry != index_.end()) Put(name, entry->second.bytes);
    ++stats_.read_total;
    return status;
  }
  if (absl::IsNotFound(status)) {
    AnnotatedLock files_lock(&files_mutex_);
    AnnotatedLock lock(&mutex_);
    (void)Erase(name);
    // Of several replicas, another may have needed the room.
    if (config_.shared) return status;
  } else {
    AnnotatedLock files_lock(&files_mutex_);
    RemoveFile(name);
  }
  Fault(absl::StrCat(status.message(), absl::IsNotFound(status) ? "" : "; the file is removed"));
  return status;
}

absl::Status PrefixSpill::ReadFile(const std::string& file, const SpillHeader& wanted,
                                   absl::Span<uint8_t> content,
                                   const std::atomic<bool>* abandoned) const {
  KVASIR_ASSIGN_OR_RETURN(SpillFileReader reader, SpillFileReader::Open(directory_.fd(), file));
  const SpillHeader& header = reader.header();
  const auto foreign = [&](const char* what) {
    return absl::DataLossError(absl::StrCat("spill file ", file, ": it is of another ", what));
  };
  if (header.layout_fingerprint != wanted.layout_fingerprint ||
      header.model_fingerprint != wanted.model_fingerprint ||
      header.payload_bytes != wanted.payload_bytes) {
    return foreign("model or KV block format");
  }
  if (header.id != wanted.id) return foreign("block than its name says");
  if (header.metadata != wanted.metadata || header.tokens != wanted.tokens)
    return foreign("prompt than its name says");
  const absl::Status status = reader.ReadPayload({content}, config_.read, abandoned);
  if (status.ok() || absl::IsCancelled(status)) return status;
  return absl::Status(status.code(), absl::StrCat("spill file ", file, ": ", status.message()));
}

// ---- the index ----

void PrefixSpill::Put(const StoredBlockName& name, int64_t bytes) {
  (void)Erase(name);
  ForgetNotRemoved(name);
  ++stats_.files;
  stats_.bytes += bytes;
  by_use_[next_order_] = name;
  index_[name] = {.bytes = bytes, .order = next_order_++};
}

int64_t PrefixSpill::Erase(const StoredBlockName& name) {
  const auto entry = index_.find(name);
  if (entry == index_.end()) return 0;
  const int64_t bytes = entry->second.bytes;
  --stats_.files;
  stats_.bytes -= bytes;
  by_use_.erase(entry->second.order);
  index_.erase(entry);
  return bytes;
}

void PrefixSpill::Fault(absl::string_view message) {
  {
    AnnotatedLock lock(&mutex_);
    ++stats_.failed_total;
    if (faults_.size() < kMaxUntakenFaults) faults_.emplace_back(message);
    has_faults_ = true;
  }
  if (config_.on_fault) config_.on_fault();
}

std::vector<std::string> PrefixSpill::TakeFaults() {
  AnnotatedLock lock(&mutex_);
  has_faults_ = false;
  return std::exchange(faults_, {});
}

PrefixSpillStats PrefixSpill::stats() const {
  AnnotatedLock lock(&mutex_);
  return stats_;
}

}  // namespace kvasir
