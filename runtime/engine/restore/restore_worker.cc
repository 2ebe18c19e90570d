#include "runtime/engine/restore/restore_worker.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/background_work.h"
#include "base/check.h"
#include "base/parallel.h"
#include "runtime/engine/model_runner.h"

namespace kvasir {

absl::Status RestoreWorker::Start(std::shared_ptr<RestoreJob> job) {
  KVASIR_CHECK(has_room());
  if (!thread_.joinable()) {
    try {
      thread_ = std::thread([this] { Run(); });
    } catch (const std::system_error& error) {
      return absl::UnavailableError(absl::StrCat("cannot start the thread that restores sessions: ",
                                                 error.what(), "; raise the limit of processes"));
    }
  }
  ++jobs_;
  AnnotatedLock lock(&mutex_);
  queue_.push_back(std::move(job));
  changed_.NotifyAll();
  return absl::OkStatus();
}

void RestoreWorker::Abandon(RestoreJob* job) {
  job->abandoned = true;
  AnnotatedLock lock(&mutex_);
  const auto queued = std::find_if(queue_.begin(), queue_.end(),
                                   [&](const auto& other) { return other.get() == job; });
  if (queued == queue_.end()) return;
  done_.push_back(std::move(*queued));
  queue_.erase(queued);
  has_done_ = true;
}

std::vector<std::shared_ptr<RestoreJob>> RestoreWorker::TakeDone() {
  if (!has_done_) return {};
  AnnotatedLock lock(&mutex_);
  has_done_ = false;
  jobs_ -= static_cast<int>(done_.size());
  return std::exchange(done_, {});
}

void RestoreWorker::Stop() {
  {
    AnnotatedLock lock(&mutex_);
    stopping_ = true;
    if (reading_ != nullptr) reading_->abandoned = true;
    for (auto& job : queue_) done_.push_back(std::move(job));
    queue_.clear();
    if (!done_.empty()) has_done_ = true;
    changed_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

void RestoreWorker::Run() {
  WorkBesideSteps();
  const SerialScope serial;  // beside the steps' team, not with one of its own
  while (true) {
    std::shared_ptr<RestoreJob> job;
    {
      AnnotatedLock lock(&mutex_);
      while (queue_.empty() && !stopping_) changed_.Wait(&mutex_);
      if (queue_.empty()) return;
      job = reading_ = std::move(queue_.front());
      queue_.pop_front();
    }
    Restore(job.get());
    {
      AnnotatedLock lock(&mutex_);
      reading_ = nullptr;
      done_.push_back(std::move(job));
      has_done_ = true;
    }
    wake_();
  }
}

void RestoreWorker::RestoreBlocks(RestoreJob* job) const {
  std::vector<BlockId> full_blocks;
  for (const KvCacheManager::StoredBlock& block : job->blocks) {
    const absl::Status status = prefixes_->Read(block.group, block.digest, block.parent,
                                                block.tokens, block.content, &job->abandoned);
    if (!status.ok()) break;
    ++job->blocks_read;
    if (block.group == job->column_group) full_blocks.push_back(block.block);
  }
  if (!full_blocks.empty()) forward_->FillKeyColumns(full_blocks);
}

void RestoreWorker::Restore(RestoreJob* job) const {
  if (!job->blocks.empty()) return RestoreBlocks(job);
  job->restored = spill_->Restore(
      job->id,
      [&](const SpilledSequence& spilled) -> absl::StatusOr<std::vector<absl::Span<uint8_t>>> {
        if (static_cast<int>(spilled.tokens.size()) == job->num_tokens) return job->memory;
        return absl::DataLossError(absl::StrCat("the file holds K/V of ", spilled.tokens.size(),
                                                " tokens, not of ", job->num_tokens));
      },
      &job->abandoned);
  if (job->restored.ok() && !job->full_blocks.empty() && !job->abandoned)
    forward_->FillKeyColumns(job->full_blocks);
  if (job->restored.ok() && job->abandoned) job->restored = absl::CancelledError("abandoned");
}

}  // namespace kvasir
