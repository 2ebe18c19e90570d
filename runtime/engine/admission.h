// The bound on waiting requests, in requests and in prompt tokens, taken before a prompt is
// tokenised: an overloaded daemon does no work for what it refuses.
//
// AdmissionLimiter: thread safe, lock free. AdmissionTicket: one place in the queue, move-only;
// returns its place when it dies, that is when the request is first scheduled or ends before. The
// limiter must outlive its tickets.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"

namespace kvasir {

class AdmissionLimiter;

class AdmissionTicket {
 public:
  AdmissionTicket() = default;
  AdmissionTicket(AdmissionTicket&& other) noexcept { *this = std::move(other); }
  AdmissionTicket& operator=(AdmissionTicket&& other) noexcept {
    std::swap(limiter_, other.limiter_);
    std::swap(tokens_, other.tokens_);
    return *this;
  }
  ~AdmissionTicket();

 private:
  friend class AdmissionLimiter;
  AdmissionTicket(AdmissionLimiter* limiter, int64_t tokens) : limiter_(limiter), tokens_(tokens) {}

  AdmissionLimiter* limiter_ = nullptr;
  int64_t tokens_ = 0;
};

class AdmissionLimiter {
 public:
  AdmissionLimiter(int64_t max_requests, int64_t max_tokens)
      : max_requests_(max_requests), max_tokens_(max_tokens) {}

  // ResourceExhausted, with the queue's length and limit, when either bound would be passed. An
  // empty queue admits one request of any length.
  absl::StatusOr<AdmissionTicket> Admit(int64_t tokens);

  int64_t waiting_requests() const { return requests_; }
  int64_t waiting_tokens() const { return tokens_; }

 private:
  friend class AdmissionTicket;

  const int64_t max_requests_;
  const int64_t max_tokens_;
  std::atomic<int64_t> requests_{0};
  std::atomic<int64_t> tokens_{0};
};

}  // namespace kvasir
