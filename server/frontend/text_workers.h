// The threads that work on text for the front doors: what reads requests, renders templates,
// encodes prompts and waits for compiled grammars runs here, never on a thread that serves sockets.
//
// Two lanes, each with threads and a queue of its own. Texts of at most kLongTextBytes never wait
// for longer ones, and the long lane's threads yield the CPU to every other thread of the process.
// Within a lane tenants take turns by bytes, not by requests: start-time fair queueing (Goyal, Vin
// and Cheng, SIGCOMM 1996). A tenant with a hundred long prompts thus puts off another tenant's
// long prompt by those that run already, and its short ones not at all.
//
// The queue is bounded in jobs and bytes, and no tenant may hold more of it than it leaves free
// (Choudhury and Hahne's dynamic threshold): one that floods it fills a half, and leaves the rest
// to others.
//
//   NewJob -> Post -> [waits] -> run(OK) on a lane's thread
//                        '-----> run(why not): refused, cancelled, late
//
// Thread safe. Outlives every use of its jobs.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/config/text_limits.h"

namespace kvasir {

class TextWorkers;

// One piece of work on text, held by who posted it, for cancelling, and by who does it, for being
// told. Thread safe.
class TextJob {
 public:
  // Nobody wants the result any more; `why` is what the first call says. A job that waits ends
  // before this returns: its `run` is called from here. One that runs sees cancelled().
  void Cancel(absl::Status why = absl::CancelledError("the client went away"));

  // To be asked while working: cancelled, or the deadline is over.
  bool cancelled() const;
  // What the client is told when cancelled(): why, or DeadlineExceeded.
  absl::Status reason() const;

 private:
  friend class TextWorkers;
  using Run = std::function<void(const absl::Status& turn, const TextJob& job)>;

  TextJob(TextWorkers* workers, std::string tenant, size_t bytes, absl::Time deadline,
          std::string request_id);

  TextWorkers* const workers_;
  const std::string tenant_;
  const std::string request_id_;
  const size_t bytes_;
  const absl::Time created_;
  const absl::Time deadline_;

  std::atomic<bool> cancelled_{false};
  mutable absl::Mutex mutex_;
  absl::Status why_ ABSL_GUARDED_BY(mutex_);

  // The workers', under their mutex.
  std::pair<uint64_t, uint64_t> place_;  // in its lane's queue
  bool waiting_ = false;
};

class TextWorkers {
 public:
  // Longer texts take the long lane: some 10 ms of encoding.
  static constexpr size_t kLongTextBytes = 32 << 10;

  using Run = TextJob::Run;

  explicit TextWorkers(const TextLimits& limits);
  // Ends what waits with Unavailable, and waits for what runs. Nothing may be posted any more.
  ~TextWorkers();
  TextWorkers(const TextWorkers&) = delete;
  TextWorkers& operator=(const TextWorkers&) = delete;

  // `bytes`: of all that is to be read; the work takes time in proportion to it. `deadline`:
  // beyond it the job is dropped. `request_id`: for Cancel(); empty: it has none.
  std::shared_ptr<TextJob> NewJob(std::string tenant, size_t bytes, absl::Time deadline,
                                  std::string request_id = "");

  // Has `run` called exactly once, without a lock held: with OK on a thread of a lane, or with the
  // reason why there is nothing to do, on any thread: a refusal (ResourceExhausted) before Post
  // returns, Cancelled or what Cancel() said, DeadlineExceeded, Unavailable. Never blocks. Once for
  // each job.
  void Post(std::shared_ptr<TextJob> job, Run run);

  // Cancels what waits or runs under a tenant's request id, which is not empty; false when nothing
  // does.
  bool Cancel(absl::string_view tenant, absl::string_view request_id, const absl::Status& why);
  // Cancels all that waits or runs.
  void CancelAll(const absl::Status& why);

  // Nothing waits and nothing runs.
  bool idle() const;
  size_t waiting() const;

 private:
  friend class TextJob;

  struct Waiting {
    std::shared_ptr<TextJob> job;
    Run run;
  };
  struct Lane {
    // By start tag, then by arrival.
    std::map<std::pair<uint64_t, uint64_t>, Waiting> queue;
    uint64_t now = 0;                                   // the start tag of the last that began
    absl::flat_hash_map<std::string, uint64_t> finish;  // by tenant: the tag after its last job
  };
  struct Held {
    size_t jobs = 0;
    size_t bytes = 0;
  };

  Lane& LaneOf(const TextJob& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return job.bytes_ > kLongTextBytes ? long_ : short_;
  }
  // OK when there is room for the job.
  absl::Status CheckRoom(const TextJob& job) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Enqueue(std::shared_ptr<TextJob> job, Run run) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Out of the queue, and off the accounts.
  Waiting Remove(const TextJob& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // All that waits or runs.
  std::vector<std::shared_ptr<TextJob>> Jobs() const;
  // Ends it if it waits.
  void Withdraw(const TextJob& job);
  void Work(Lane* lane, bool yields);
  void Stop();

  const TextLimits limits_;

  mutable absl::Mutex mutex_;
  Lane short_ ABSL_GUARDED_BY(mutex_);
  Lane long_ ABSL_GUARDED_BY(mutex_);
  Held all_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, Held> held_ ABSL_GUARDED_BY(mutex_);  // by tenant; not 0
  absl::flat_hash_set<std::shared_ptr<TextJob>> running_ ABSL_GUARDED_BY(mutex_);
  uint64_t arrivals_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::vector<std::thread> threads_;  // last: they use all of the above
};

}  // namespace kvasir
