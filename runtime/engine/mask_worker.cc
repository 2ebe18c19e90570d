#include "runtime/engine/mask_worker.h"

#include <system_error>
#include <utility>

#include "absl/time/clock.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "base/steady_time.h"

namespace kvasir {

MaskWorker::~MaskWorker() {
  if (!thread_.joinable()) return;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void MaskWorker::Start(std::vector<Sequence*> sequences) {
  if (sequences.empty()) return;
  if (!thread_.joinable()) {
    try {
      thread_ = std::thread([this] { Run(); });
    } catch (const std::system_error&) {
      // The limit of processes: Finish computes all of them, and the next step tries again.
    }
  }
  absl::MutexLock lock(&mutex_);
  KVASIR_CHECK(AllDone());
  sequences_ = std::move(sequences);
  next_ = done_ = 0;
}

void MaskWorker::Finish() {
  absl::MutexLock lock(&mutex_);
  while (next_ < sequences_.size()) ComputeOne();
  mutex_.Await(absl::Condition(this, &MaskWorker::AllDone));
  masks_total_ += static_cast<int64_t>(sequences_.size());
  mask_time_total_ += std::exchange(time_, absl::ZeroDuration());
  sequences_.clear();
  next_ = done_ = 0;
}

void MaskWorker::Run() {
  absl::MutexLock lock(&mutex_);
  while (true) {
    mutex_.Await(absl::Condition(this, &MaskWorker::HasWork));
    if (stopping_) return;
    ComputeOne();
  }
}

void MaskWorker::ComputeOne() {
  Sequence* const sequence = sequences_[next_++];
  mutex_.Unlock();
  const absl::Time begin = SteadyNow();
  sequence->allowed.resize(MaskWords(static_cast<size_t>(vocab_size_)));
  absl::Status status = sequence->matcher->FillMask(absl::MakeSpan(sequence->allowed));
  if (!status.ok()) sequence->grammar_status = std::move(status);
  const absl::Duration took = SteadyNow() - begin;
  mutex_.Lock();
  time_ += took;
  ++done_;
}

}  // namespace kvasir
