// How long files have stood as they are, as far as this process has seen: by the monotonic clock,
// from the first look that found a file under its name with its stamp. The stamp itself tells only
// one state of a file from the next, because the clock of whoever wrote it may have been set since,
// by a day or for good: by stamps, a clock that is put right makes everything too old at once.
//
// So nothing counts as older than it is; what a former process saw does not count.
//
// Not thread safe: one thread looks.
#pragma once

#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"

namespace kvasir {

class SeenFiles {
 public:
  // Begins a look, at SteadyNow's time: files that the former one did not meet are forgotten.
  void BeginLook(absl::Time now) {
    now_ = now;
    former_ = std::exchange(seen_, {});
  }
  // For how long `name` has had this stamp. Zero when it is met for the first time.
  absl::Duration Age(const std::string& name, absl::Time stamp) {
    const auto before = former_.find(name);
    const bool same = before != former_.end() && before->second.stamp == stamp;
    const Seen& seen = seen_[name] = {stamp, same ? before->second.since : now_};
    return now_ - seen.since;
  }

 private:
  struct Seen {
    absl::Time stamp;  // of the file
    absl::Time since;
  };
  absl::Time now_;
  absl::flat_hash_map<std::string, Seen> seen_, former_;
};

}  // namespace kvasir
