#include "kvcache/spill/kv_spill.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <limits>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

absl::Status Validate(const KvSpillConfig& config) {
  if (config.directory.empty()) {
    return absl::InvalidArgumentError("spill: no directory given");
  }
  for (const auto& [name, value] :
       {std::pair<const char*, int64_t>{"max_directory_bytes", config.max_directory_bytes},
        {"max_queue_bytes", config.max_queue_bytes},
        {"max_queue_jobs", config.max_queue_jobs}}) {
    if (value < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("spill: ", name, " is ", value, ", must be at least 1"));
    }
  }
  return absl::OkStatus();
}

bool IsDamage(const absl::Status& status) { return status.code() == absl::StatusCode::kDataLoss; }

bool IsForeign(const absl::Status& status) {
  return status.code() == absl::StatusCode::kFailedPrecondition;
}

absl::Status CheckTarget(absl::Span<const absl::Span<uint8_t>> target, int64_t payload_bytes) {
  int64_t target_bytes = 0;
  for (const auto& part : target) target_bytes += static_cast<int64_t>(part.size());
  if (target_bytes == payload_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("spill: the payload has ", payload_bytes,
                                                 " bytes, the memory for it ", target_bytes));
}

SpilledSequence Describe(const SpillHeader& header) {
  return {
      .metadata = header.metadata, .tokens = header.tokens, .payload_bytes = header.payload_bytes};
}

}  // namespace

// ---- opening and closing ----

absl::Status KvSpill::CheckDirectory(const std::string& directory, bool shared) {
  return SpillDirectory::Check(directory,
                               shared ? SpillDirectory::Use::kShared : SpillDirectory::Use::kAlone);
}

absl::StatusOr<std::unique_ptr<KvSpill>> KvSpill::Open(KvSpillConfig config) {
  if (absl::Status status = Validate(config); !status.ok()) return status;
  const auto use = config.shared ? SpillDirectory::Use::kShared : SpillDirectory::Use::kAlone;
  std::vector<SpillDirectory> directories;
  KVASIR_ASSIGN_OR_RETURN(SpillDirectory top, SpillDirectory::Open(config.directory, use));
  directories.push_back(std::move(top));
  if (config.shared) {
    const uint64_t contents =
        SpillContents(config.layout_fingerprint, SpillFingerprint(config.model_fingerprint));
    KVASIR_ASSIGN_OR_RETURN(
        SpillDirectory own,
        SpillDirectory::Open(
            absl::StrCat(config.directory, "/", absl::Hex(contents, absl::kZeroPad16)), use));
    directories.push_back(std::move(own));
  }
  std::unique_ptr<KvSpill> spill(new KvSpill(std::move(config), std::move(directories)));
  if (spill->shared()) {
    KVASIR_ASSIGN_OR_RETURN(spill->claims_, SessionClaims::Open(spill->directory_fd_));
    spill->TidyShared(0);
  } else {
    KVASIR_RETURN_IF_ERROR(spill->ScanDirectory());
  }
  try {
    spill->writer_ = std::thread(&KvSpill::WriterLoop, spill.get());
  } catch (const std::system_error& error) {
    return absl::UnavailableError(absl::StrCat(
        "spill: cannot start the writer thread: ", error.what(), "; raise the limit of processes"));
  }
  return spill;
}

KvSpill::KvSpill(KvSpillConfig config, std::vector<SpillDirectory> directories)
    : config_(std::move(config)),
      directories_(std::move(directories)),
      directory_fd_(directories_.back().fd()),
      model_fingerprint_(SpillFingerprint(config_.model_fingerprint)) {}

KvSpill::~KvSpill() {
  {
    AnnotatedLock lock(&mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  if (writer_.joinable()) writer_.join();
}

absl::StatusOr<SpillFileReader> KvSpill::OpenOurs(const std::string& name) const {
  auto reader = SpillFileReader::Open(directory_fd_, name);
  if (!reader.ok()) return reader;
  const SpillHeader& header = reader->header();
  if (header.layout_fingerprint != config_.layout_fingerprint ||
      header.model_fingerprint != model_fingerprint_) {
    return absl::FailedPreconditionError(
        absl::StrCat("spill file ", name, ": it belongs to another model or KV block format"));
  }
  if (SpillFileName(header.id) != name) {
    return absl::DataLossError(
        absl::StrCat("spill file ", name, ": it holds another session than its name says"));
  }
  return reader;
}

absl::Status KvSpill::ScanDirectory() {
  AnnotatedLock lock(&mutex_);
  // Files that nobody knows of would be found by a later start, as if their sessions had not gone
  // on since.
  KVASIR_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                          directories_.back().Names(std::numeric_limits<size_t>::max()));
  std::vector<std::pair<std::string, SpillIndex::Entry>> found;
  const auto remove = [&](const std::string& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const absl::Status status = RemoveSpillFile(directory_fd_, name);
    if (!status.ok()) NoteLoss(SpillLoss::Cause::kNotRemoved, "", status.message());
  };
  for (const std::string& name : names) {
    if (IsSpillTemporaryName(name)) remove(name);
    if (!IsSpillFileName(name)) continue;
    const auto reader = OpenOurs(name);
    if (reader.ok()) {
      found.push_back({reader->header().id,
                       {.metadata = reader->header().metadata,
                        .num_tokens = static_cast<int>(reader->header().tokens.size()),
                        .bytes = reader->file_bytes(),
                        .time = reader->modified(),
                        .identity = reader->identity()}});
      continue;
    }
    const absl::Status& status = reader.status();
    if (!IsDamage(status) && !IsForeign(status)) {
      NoteLoss(SpillLoss::Cause::kUnreadable, "",
               absl::StrCat(status.message(), "; the file is left as it is"));
      struct stat file;
      const bool known = fstatat(directory_fd_, name.c_str(), &file, AT_SYMLINK_NOFOLLOW) == 0;
      counters_.bytes += unreadable_[name] = known ? file.st_size : 0;
      ++counters_.files;
      continue;
    }
    NoteLoss(IsDamage(status) ? SpillLoss::Cause::kDamaged : SpillLoss::Cause::kForeign, "",
             absl::StrCat(status.message(), "; the file is removed"));
    ++(IsDamage(status) ? counters_.damaged_total : counters_.dropped_total);
    remove(name);
  }
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.second.time < b.second.time; });
  for (auto& [id, entry] : found) AddFile(id, std::move(entry));
  MakeRoom(0);
  return absl::OkStatus();
}

// ---- reading ----

absl::StatusOr<SpilledSequence> KvSpill::Restore(absl::string_view id, PayloadTarget target,
                                                 const std::atomic<bool>* abandoned) {
  std::shared_ptr<const Job> job;
  {
    AnnotatedLock lock(&mutex_);
    job = FindJob(id);
  }
  if (job == nullptr) return RestoreFromFile(std::string(id), target, abandoned);

  // Not on the disk yet. The job is immutable and shared, so the writer may finish with it
  // meanwhile.
  SpilledSequence sequence = Describe(job->header);
  const auto memory = target(sequence);
  if (!memory.ok()) return memory.status();
  if (auto s = CheckTarget(*memory, sequence.payload_bytes); !s.ok()) return s;
  const uint8_t* next = job->payload.data();
  for (const auto& part : *memory) {
    std::copy_n(next, part.size(), part.data());
    next += part.size();
  }
  ++counters_.restored_total;
  counters_.restored_bytes_total += sequence.payload_bytes;
  return sequence;
}

absl::StatusOr<SpilledSequence> KvSpill::RestoreFromFile(const std::string& id,
                                                         PayloadTarget target,
                                                         const std::atomic<bool>* abandoned) {
  const absl::Status not_found = absl::NotFoundError("spill: no such session");
  uint64_t order = 0;
  {
    AnnotatedLock lock(&mutex_);
    const SpillIndex::Entry* const entry = index_.Find(id);
    if (entry == nullptr) return not_found;
    order = entry->order;
  }
  // Without the lock: a removal meanwhile only takes the name away, the open file stays readable.
  absl::Status status;
  if (auto reader = OpenOurs(SpillFileName(id)); reader.ok()) {
    SpilledSequence sequence = Describe(reader->header());
    const auto memory = target(sequence);
    if (!memory.ok()) return memory.status();
    if (auto s = CheckTarget(*memory, sequence.payload_bytes); !s.ok()) return s;
    status = reader->ReadPayload(*memory, config_.read, abandoned);
    if (status.ok()) {
      ++counters_.restored_total;
      counters_.restored_bytes_total += sequence.payload_bytes;
      return sequence;
    }
  } else {
    status = reader.status();
  }
  const bool vanished = absl::IsNotFound(status);
  if (!vanished && !IsDamage(status) && !IsForeign(status)) return status;

  AnnotatedLock lock(&mutex_);
  const SpillIndex::Entry* const entry = index_.Find(id);
  // Unless a newer file has taken the name: that one is somebody else's to judge.
  if (entry != nullptr && entry->order == order) {
    RemoveFile(id);
    ++counters_.damaged_total;
  }
  if (vanished) return status;
  return absl::DataLossError(absl::StrCat(status.message(), "; the file is removed"));
}

// ---- the index ----

bool KvSpill::Remove(absl::string_view id) {
  AnnotatedLock lock(&mutex_);
  bool removed = CancelJobs(id);
  removed = RemoveFile(std::string(id)) || removed;
  if (shared()) {
    const std::string stem = SpillFileStem(id);
    // The marker first: whoever dies between the two leaves a session, not the loss of one.
    (void)RemoveSpillFile(directory_fd_, SpillMarkerName(stem));
    (void)RemoveName(SpillFileName(id));
    pushed_out_.erase(id);
    claims_->LetGo(stem);
  }
  return removed;
}

bool KvSpill::Contains(absl::string_view id) const {
  AnnotatedLock lock(&mutex_);
  return FindJob(id) != nullptr || index_.Find(id) != nullptr;
}

std::vector<SpilledInfo> KvSpill::List() const {
  AnnotatedLock lock(&mutex_);
  std::vector<SpilledInfo> list;
  for (const auto& [order, id] : index_.by_age()) {
    if (FindJob(id) != nullptr) continue;  // about to be replaced
    const SpillIndex::Entry& entry = *index_.Find(id);
    list.push_back({.id = id,
                    .metadata = entry.metadata,
                    .num_tokens = entry.num_tokens,
                    .bytes = entry.bytes,
                    .time = entry.time});
  }
  std::vector<std::shared_ptr<const Job>> jobs;
  if (writing_ != nullptr) jobs.push_back(writing_);
  jobs.insert(jobs.end(), queue_.begin(), queue_.end());
  for (const auto& job : jobs) {
    if (FindJob(job->header.id) != job) continue;  // cancelled, or replaced by a later one
    list.push_back({.id = job->header.id,
                    .metadata = job->header.metadata,
                    .num_tokens = static_cast<int>(job->header.tokens.size()),
                    .bytes = SpillFileBytes(job->header),
                    .time = job->time,
                    .queued = true});
  }
  return list;
}

std::vector<SpillLoss> KvSpill::TakeLosses() {
  AnnotatedLock lock(&mutex_);
  has_losses_ = false;
  return std::exchange(losses_, {});
}

void KvSpill::NoteLoss(SpillLoss::Cause cause, absl::string_view id, absl::string_view message) {
  if (losses_.size() >= kMaxUntakenLosses) return;
  losses_.push_back({cause, std::string(id), std::string(message)});
  has_losses_ = true;
}

KvSpillStats KvSpill::stats() const {
  return {.files = counters_.files,
          .bytes = counters_.bytes,
          .queued_jobs = counters_.queued_jobs,
          .queued_bytes = counters_.queued_bytes,
          .written_total = counters_.written_total,
          .written_bytes_total = counters_.written_bytes_total,
          .restored_total = counters_.restored_total,
          .restored_bytes_total = counters_.restored_bytes_total,
          .damaged_total = counters_.damaged_total,
          .dropped_total = counters_.dropped_total};
}

bool KvSpill::RemoveFile(const std::string& id) {
  const SpillIndex::Entry* const entry = index_.Find(id);
  const std::optional<int64_t> unreadable_bytes = TakeUnreadable(id);
  if (entry == nullptr && !unreadable_bytes.has_value()) return false;
  const int64_t bytes = entry != nullptr ? entry->bytes : *unreadable_bytes;
  if (shared()) WriteMarker(SpillFileStem(id), {});
  if (const absl::Status status = RemoveName(SpillFileName(id)); status.ok()) {
    --counters_.files;
    counters_.bytes -= bytes;
  } else {
    // It stays, and is counted until it is tried again, or replaced.
    unreadable_[SpillFileName(id)] = bytes;
    if (entry != nullptr) NoteLoss(SpillLoss::Cause::kNotRemoved, "", status.message());
  }
  index_.Erase(id);
  return true;
}

absl::Status KvSpill::RemoveName(const std::string& name) {
  const absl::Status status =
      RemoveSpillFile(directory_fd_, name, released_.size() < kMaxReleased ? &released_ : nullptr);
  changed_.NotifyAll();
  return status;
}

std::optional<int64_t> KvSpill::TakeUnreadable(const std::string& id) {
  const auto file = unreadable_.empty() ? unreadable_.end() : unreadable_.find(SpillFileName(id));
  if (file == unreadable_.end()) return std::nullopt;
  const int64_t bytes = file->second;
  unreadable_.erase(file);
  return bytes;
}

void KvSpill::AddFile(const std::string& id, SpillIndex::Entry entry) {
  ++counters_.files;
  counters_.bytes += entry.bytes;
  if (const std::optional<int64_t> replaced_bytes = TakeUnreadable(id)) {
    --counters_.files;
    counters_.bytes -= *replaced_bytes;
  }
  if (const SpillIndex::Entry* const replaced = index_.Find(id)) {
    --counters_.files;
    counters_.bytes -= replaced->bytes;
  }
  index_.Put(id, std::move(entry));
}

void KvSpill::MakeRoom(int64_t bytes) {
  // A disk that lets go of none shall not cost every session that can still be read from it.
  constexpr size_t kMaxKept = 2;
  const size_t kept = unreadable_.size();
  while (index_.files() > 0 && counters_.bytes + bytes > config_.max_directory_bytes &&
         unreadable_.size() < kept + kMaxKept) {
    const std::string id = index_.by_age().begin()->second;
    RemoveFile(id);
    ++counters_.dropped_total;
    // One that a queued state replaces is no loss.
    if (FindJob(id) == nullptr) {
      NoteLoss(SpillLoss::Cause::kPushedOut, id,
               absl::StrCat("spill: pushed out by newer sessions; the directory may hold ",
                            config_.max_directory_bytes, " bytes"));
    }
  }
}

}  // namespace kvasir
