// KvSpill's way to the disk: the queue, and the thread that writes what is in it.
#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/background_work.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "kvcache/spill/kv_spill.h"

namespace kvasir {
namespace {

// How often a shared directory is looked through.
constexpr std::chrono::milliseconds kTidyPeriod(5000);

}  // namespace

bool KvSpill::SpillAsync(absl::string_view id, absl::string_view metadata,
                         absl::Span<const int32_t> tokens, std::vector<uint8_t> payload) {
  auto job = std::make_shared<Job>();
  job->header = {.layout_fingerprint = config_.layout_fingerprint,
                 .model_fingerprint = model_fingerprint_,
                 .id = std::string(id),
                 .metadata = std::string(metadata),
                 .tokens = {tokens.begin(), tokens.end()},
                 .payload_bytes = static_cast<int64_t>(payload.size())};
  job->payload = std::move(payload);
  job->time = absl::Now();
  const bool valid = !id.empty() && id.size() <= kMaxSpillIdBytes &&
                     metadata.size() <= kMaxSpillMetadataBytes && !tokens.empty() &&
                     !job->payload.empty() &&
                     SpillFileBytes(job->header) <= config_.max_directory_bytes;
  if (!valid) {
    ++counters_.dropped_total;
    return false;
  }

  AnnotatedLock lock(&mutex_);
  int64_t jobs = 1;
  int64_t bytes = job->header.payload_bytes;
  if (writing_ != nullptr) {
    ++jobs;
    bytes += writing_->header.payload_bytes;
  }
  for (const auto& queued : queue_) {
    if (queued->header.id == id) continue;  // replaced below
    ++jobs;
    bytes += queued->header.payload_bytes;
  }
  if (jobs > config_.max_queue_jobs || bytes > config_.max_queue_bytes) {
    ++counters_.dropped_total;
    return false;
  }
  RemoveQueued(id);
  CountQueued(*job, +1);
  queue_.push_back(std::move(job));
  changed_.NotifyAll();
  return true;
}

void KvSpill::WriterLoop() {
  WorkBesideSteps();
  absl::Time tidied = SteadyNow();
  while (true) {
    std::shared_ptr<const Job> job;
    std::vector<ReleasedFile> released;
    int64_t bytes = 0;
    {
      AnnotatedLock lock(&mutex_);
      if (std::exchange(releasing_, false)) changed_.NotifyAll();
      while (queue_.empty() && released_.empty() && !stopping_) {
        if (!shared()) {
          changed_.Wait(&mutex_);
        } else if (SteadyNow() - tidied < absl::FromChrono(kTidyPeriod)) {
          changed_.WaitFor(&mutex_, absl::FromChrono(kTidyPeriod));
        } else {
          break;
        }
      }
      if (queue_.empty() && released_.empty() && stopping_) return;
      if (!queue_.empty()) {
        job = std::move(queue_.front());
        queue_.pop_front();
        writing_ = job;
        writing_cancelled_ = false;
        bytes = SpillFileBytes(job->header);
        if (!shared()) {
          // Old and new state are on the disk side by side for a moment; the limit holds then too.
          if (counters_.bytes + bytes > config_.max_directory_bytes) RemoveFile(job->header.id);
          MakeRoom(bytes);
        }
      }
      released.swap(released_);
      releasing_ = !released.empty();
    }
    released.clear();
    // Before each write: what others wrote counts too.
    if (shared() && (job != nullptr || SteadyNow() - tidied >= absl::FromChrono(kTidyPeriod))) {
      TidyShared(bytes);
      tidied = SteadyNow();
    }
    if (job == nullptr) continue;
    const std::string& id = job->header.id;
    absl::Status status;
    if (counters_.bytes + bytes > config_.max_directory_bytes) {
      status = absl::ResourceExhaustedError(absl::StrCat(
          "spill: the directory has ", counters_.bytes.load(), " of its ",
          config_.max_directory_bytes, " bytes in ",
          shared() ? "use by sessions that are in turns" : "files that could not be removed"));
    } else {
      status = Write(*job);
    }
    if (!status.ok()) {
      {
        AnnotatedLock lock(&mutex_);
        RemoveFile(id);  // an older state
        // Whoever removed it meanwhile has lost nothing.
        if (!writing_cancelled_) NoteLoss(SpillLoss::Cause::kWriteFailed, id, status.message());
        writing_cancelled_ = true;
        ++counters_.dropped_total;
      }
      if (config_.on_write_error) config_.on_write_error(id, status);
    }
    AnnotatedLock lock(&mutex_);
    writing_ = nullptr;
    CountQueued(*job, -1);
    changed_.NotifyAll();
  }
}

absl::Status KvSpill::Write(const Job& job) {
  const std::string& id = job.header.id;
  const std::string stem = SpillFileStem(id);
  const std::string temporary = SpillTemporaryName(stem);
  KVASIR_ASSIGN_OR_RETURN(
      const SpillChecksum identity,
      WriteSpillTemporary(directory_fd_, temporary, job.header, job.payload, job.time));
  {
    // Under the lock, so that who cancels the job knows that nothing of it is found afterwards.
    AnnotatedLock lock(&mutex_);
    if (writing_cancelled_) {
      (void)RemoveSpillFile(directory_fd_, temporary);
      return absl::OkStatus();
    }
    KVASIR_RETURN_IF_ERROR(PublishSpillFile(directory_fd_, temporary, SpillFileName(id)));
    AddFile(id, {.metadata = job.header.metadata,
                 .num_tokens = static_cast<int>(job.header.tokens.size()),
                 .bytes = SpillFileBytes(job.header),
                 .time = job.time,
                 .identity = identity});
  }
  // The name itself must survive a crash too.
  KVASIR_RETURN_IF_ERROR(SyncSpillDirectory(directory_fd_));
  AnnotatedLock lock(&mutex_);
  ++counters_.written_total;
  counters_.written_bytes_total += SpillFileBytes(job.header);
  if (shared() && !writing_cancelled_) {
    (void)RemoveSpillFile(directory_fd_, SpillMarkerName(stem));
    claims_->LetGo(stem);
  }
  return absl::OkStatus();
}

void KvSpill::Flush() {
  AnnotatedLock lock(&mutex_);
  while (!queue_.empty() || writing_ != nullptr || !released_.empty() || releasing_)
    changed_.Wait(&mutex_);
}

std::shared_ptr<const KvSpill::Job> KvSpill::FindJob(absl::string_view id) const {
  for (const auto& job : queue_) {
    if (job->header.id == id) return job;
  }
  const bool writing = writing_ != nullptr && !writing_cancelled_ && writing_->header.id == id;
  return writing ? writing_ : nullptr;
}

bool KvSpill::RemoveQueued(absl::string_view id) {
  for (auto it = queue_.begin(); it != queue_.end(); ++it) {
    if ((*it)->header.id != id) continue;
    CountQueued(**it, -1);
    queue_.erase(it);  // at most one per id
    changed_.NotifyAll();
    return true;
  }
  return false;
}

bool KvSpill::CancelJobs(absl::string_view id) {
  bool cancelled = RemoveQueued(id);
  if (writing_ != nullptr && writing_->header.id == id && !writing_cancelled_) {
    writing_cancelled_ = true;
    cancelled = true;
  }
  return cancelled;
}

void KvSpill::CountQueued(const Job& job, int sign) {
  counters_.queued_jobs += sign;
  counters_.queued_bytes += sign * job.header.payload_bytes;
}

}  // namespace kvasir
