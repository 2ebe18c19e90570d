#include "server/frontend/text_workers.h"

#include <pthread.h>
#include <sys/resource.h>

#include <algorithm>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/steady_time.h"
#include "runtime/engine/refusal.h"
#include "server/frontend/call_deadline.h"

namespace kvasir {
namespace {

// What a job costs its tenant beside its bytes: parsing, rendering and a place in the queue.
constexpr size_t kJobBytes = 1 << 10;

// The long lane's share of a core beside threads that compute is a tenth of theirs (Linux gives a
// thread 10 levels nicer 110 of 1024): its texts cost a step little, and still come through.
constexpr int kLongTextNiceness = 10;

}  // namespace

TextJob::TextJob(TextWorkers* workers, std::string tenant, size_t bytes, absl::Time deadline,
                 std::string request_id)
    : workers_(workers),
      tenant_(std::move(tenant)),
      request_id_(std::move(request_id)),
      bytes_(bytes),
      created_(SteadyNow()),
      deadline_(deadline) {}

void TextJob::Cancel(absl::Status why) {
  KVASIR_CHECK(!why.ok());
  {
    absl::MutexLock lock(&mutex_);
    if (why_.ok()) why_ = std::move(why);
  }
  cancelled_.store(true, std::memory_order_release);
  workers_->Withdraw(*this);
}

bool TextJob::cancelled() const {
  return cancelled_.load(std::memory_order_acquire) || SteadyNow() > deadline_;
}

absl::Status TextJob::reason() const {
  absl::MutexLock lock(&mutex_);
  // The transport cancels calls whose deadline passes.
  if ((why_.ok() || absl::IsCancelled(why_)) && DeadlineIsOver(created_, deadline_)) {
    return absl::DeadlineExceededError(
        "the deadline passed before the request was read; allow more time");
  }
  return why_.ok() ? absl::CancelledError("the work is not wanted any more") : why_;
}

TextWorkers::TextWorkers(const TextLimits& limits) : limits_(limits) {
  KVASIR_CHECK(limits.threads >= 1 && limits.long_threads >= 1);
  const auto start = [this](const char* name, Lane* lane, bool yields) {
    threads_.emplace_back([this, lane, yields] { Work(lane, yields); });
    pthread_setname_np(threads_.back().native_handle(), name);
  };
  try {
    for (int i = 0; i < limits.threads; ++i) start("text", &short_, /*yields=*/false);
    for (int i = 0; i < limits.long_threads; ++i) start("long_text", &long_, /*yields=*/true);
  } catch (const std::system_error&) {
    Stop();  // those that there are
    throw;
  }
}

TextWorkers::~TextWorkers() {
  CancelAll(DrainingError());
  Stop();
}

void TextWorkers::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  for (std::thread& thread : threads_) thread.join();
}

std::shared_ptr<TextJob> TextWorkers::NewJob(std::string tenant, size_t bytes, absl::Time deadline,
                                             std::string request_id) {
  return std::shared_ptr<TextJob>(
      new TextJob(this, std::move(tenant), bytes, deadline, std::move(request_id)));
}

void TextWorkers::Post(std::shared_ptr<TextJob> job, Run run) {
  absl::Status refusal;
  {
    absl::MutexLock lock(&mutex_);
    // Asked under the lock: a Cancel() that comes later finds the job in the queue.
    if (job->cancelled()) {
      refusal = job->reason();
    } else {
      refusal = CheckRoom(*job);
    }
    if (refusal.ok()) return Enqueue(std::move(job), std::move(run));
  }
  run(refusal, *job);
}

absl::Status TextWorkers::CheckRoom(const TextJob& job) const {
  const auto found = held_.find(job.tenant_);
  const Held held = found == held_.end() ? Held() : found->second;
  const auto refuse = [&](const char* limit, size_t waiting, size_t held_here, size_t most) {
    return RefusalError(
        {.reason = RefusalReason::kQueueFull, .limit = limit, .retry_after = absl::Seconds(1)},
        absl::StrCat(waiting, " of ", most, " (", limit, ") wait to be read, ", held_here,
                     " of them this caller's, who may hold no more than it leaves free; send "
                     "fewer at a time"));
  };
  // Both sums are of what waits already: an empty queue takes whatever the transport let in.
  if (all_.jobs > 0 && held.jobs + all_.jobs >= limits_.max_waiting) {
    return refuse("text.max_waiting", all_.jobs, held.jobs, limits_.max_waiting);
  }
  if (all_.bytes > 0 && held.bytes + all_.bytes + job.bytes_ > limits_.max_waiting_bytes) {
    return refuse("text.max_waiting_bytes", all_.bytes, held.bytes, limits_.max_waiting_bytes);
  }
  return absl::OkStatus();
}

void TextWorkers::Enqueue(std::shared_ptr<TextJob> job, Run run) {
  Lane& lane = LaneOf(*job);
  uint64_t& finish = lane.finish[job->tenant_];
  const uint64_t start = std::max(lane.now, finish);
  finish = start + job->bytes_ + kJobBytes;
  job->place_ = {start, arrivals_++};
  job->waiting_ = true;
  for (Held* held : {&all_, &held_[job->tenant_]}) {
    ++held->jobs;
    held->bytes += job->bytes_;
  }
  const auto place = job->place_;
  lane.queue.emplace(place, Waiting{std::move(job), std::move(run)});
}

TextWorkers::Waiting TextWorkers::Remove(const TextJob& job) {
  Lane& lane = LaneOf(job);
  const auto found = lane.queue.find(job.place_);
  KVASIR_CHECK(found != lane.queue.end());
  Waiting removed = std::move(found->second);
  lane.queue.erase(found);
  removed.job->waiting_ = false;
  const auto held = held_.find(job.tenant_);
  for (Held* each : {&all_, &held->second}) {
    --each->jobs;
    each->bytes -= job.bytes_;
  }
  if (held->second.jobs == 0) held_.erase(held);
  if (lane.queue.empty()) {
    // Nobody is behind or ahead of anybody; and the table stays as small as what waits.
    lane.finish.clear();
    lane.now = 0;
  }
  return removed;
}

void TextWorkers::Withdraw(const TextJob& job) {
  Waiting withdrawn;
  {
    absl::MutexLock lock(&mutex_);
    if (!job.waiting_) return;
    withdrawn = Remove(job);
  }
  withdrawn.run(job.reason(), job);
}

std::vector<std::shared_ptr<TextJob>> TextWorkers::Jobs() const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<TextJob>> jobs(running_.begin(), running_.end());
  for (const Lane* lane : {&short_, &long_}) {
    for (const auto& [place, waiting] : lane->queue) jobs.push_back(waiting.job);
  }
  return jobs;
}

bool TextWorkers::Cancel(absl::string_view tenant, absl::string_view request_id,
                         const absl::Status& why) {
  KVASIR_CHECK(!request_id.empty());
  bool found = false;
  for (const auto& job : Jobs()) {
    if (job->tenant_ != tenant || job->request_id_ != request_id) continue;
    job->Cancel(why);
    found = true;
  }
  return found;
}

void TextWorkers::CancelAll(const absl::Status& why) {
  for (const auto& job : Jobs()) job->Cancel(why);
}

bool TextWorkers::idle() const {
  absl::MutexLock lock(&mutex_);
  return all_.jobs == 0 && running_.empty();
}

size_t TextWorkers::waiting() const {
  absl::MutexLock lock(&mutex_);
  return all_.jobs;
}

void TextWorkers::Work(Lane* lane, bool yields) {
  // Linux keeps niceness by thread. Where it may not be set, texts cost steps a little more.
  if (yields) setpriority(PRIO_PROCESS, 0, kLongTextNiceness);
  const auto has_work = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !lane->queue.empty();
  };
  while (true) {
    Waiting next;
    {
      absl::MutexLock lock(&mutex_, absl::Condition(&has_work));
      if (lane->queue.empty()) return;
      const auto first = lane->queue.begin();
      lane->now = first->first.first;
      next = Remove(*first->second.job);
      running_.insert(next.job);
    }
    next.run(next.job->cancelled() ? next.job->reason() : absl::OkStatus(), *next.job);
    next.run = nullptr;  // what it holds goes before the job counts as done
    absl::MutexLock lock(&mutex_);
    running_.erase(next.job);
  }
}

}  // namespace kvasir
