// How often something that may come right is tried again, and how long is waited in between. Not
// thread safe.
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace kvasir {

struct RetryPolicy {
  int attempts = 5;                               // in a row without progress
  absl::Duration first_pause = absl::Seconds(1);  // doubles each time
  // A server that asks for a longer pause is told to the user instead.
  absl::Duration longest_pause = absl::Seconds(120);
};

// Marks `status` as one that a pause may heal. `pause`: what the server asks for; zero = nothing.
absl::Status WorthAnotherTry(absl::Status status, absl::Duration pause = absl::ZeroDuration());

class Retry {
 public:
  using Note = std::function<void(const std::string& message)>;

  // `cancelled` may be null; `note` is told of each pause.
  Retry(RetryPolicy policy, const std::atomic<bool>* cancelled, Note note);

  // Calls `attempt` until it returns something else than Unavailable or a status that is
  // WorthAnotherTry, or the policy gives up: then the last status, without its mark. An attempt
  // that sets *progress begins the count anew. Cancelled while it waits.
  absl::Status Run(const std::function<absl::Status(bool* progress)>& attempt);

  void set_attempts(int attempts) { policy_.attempts = attempts; }

 private:
  absl::Status Pause(absl::Duration pause) const;

  RetryPolicy policy_;
  const std::atomic<bool>* const cancelled_;
  const Note note_;
};

}  // namespace kvasir
