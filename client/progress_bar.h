// A progress bar on stderr: one line rewritten in place on a terminal, a line per tenth of the way
// elsewhere (so that logs show progress too). Thread safe. Ends its line when it dies.
#pragma once

#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace kvasir {

class ProgressBar {
 public:
  // `enabled` false: does nothing.
  ProgressBar(std::string title, int64_t total, bool enabled);
  ~ProgressBar();

  // `note` follows the bar, such as a running mean.
  void Set(int64_t done, const std::string& note) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  const std::string title_;
  const int64_t total_;
  const bool enabled_;
  const bool is_terminal_;
  const absl::Time start_;

  absl::Mutex mutex_;
  int64_t last_tenth_ ABSL_GUARDED_BY(mutex_) = -1;
  absl::Time last_draw_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace kvasir
