// MaskWorker: computes which tokens the grammars of a step's sequences allow next, in the shadow of
// the forward pass that computes their logits.
//
// Owned and called by the engine thread. It has one thread of its own, started with the first
// sequence that has a grammar; Finish() helps with what is left.
#pragma once

#include <cstddef>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runtime/engine/sequence.h"

namespace kvasir {

class MaskWorker {
 public:
  // vocab_size: bits of a mask.
  explicit MaskWorker(int32_t vocab_size) : vocab_size_(vocab_size) {}
  ~MaskWorker();
  MaskWorker(const MaskWorker&) = delete;
  MaskWorker& operator=(const MaskWorker&) = delete;

  // Begins with `sequences`, each with a matcher and there once; they are the worker's until
  // Finish() has returned. Each gets `allowed`, or the error in `grammar_status`.
  void Start(std::vector<Sequence*> sequences);

  // Returns when all of them are done.
  void Finish();

  // Since the start: masks computed, and the time that it took whoever computed them.
  int64_t masks_total() const { return masks_total_; }
  absl::Duration mask_time_total() const { return mask_time_total_; }

 private:
  void Run();
  // Computes the next mask. The lock is not held while it does.
  void ComputeOne() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || next_ < sequences_.size();
  }
  bool AllDone() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return done_ == sequences_.size(); }

  const int32_t vocab_size_;

  // The engine thread's.
  int64_t masks_total_ = 0;
  absl::Duration mask_time_total_;

  absl::Mutex mutex_;
  std::vector<Sequence*> sequences_ ABSL_GUARDED_BY(mutex_);
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;  // of sequences_, the first that nobody took yet
  size_t done_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Duration time_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace kvasir
