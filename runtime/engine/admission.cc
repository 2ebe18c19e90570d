#include "runtime/engine/admission.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace kvasir {

AdmissionTicket::~AdmissionTicket() {
  if (limiter_ == nullptr) return;
  limiter_->requests_ -= 1;
  limiter_->tokens_ -= tokens_;
}

absl::StatusOr<AdmissionTicket> AdmissionLimiter::Admit(int64_t tokens) {
  // Add first, look after: two threads that meet here may both be refused, never both slip past the
  // bound.
  const int64_t requests_now = requests_.fetch_add(1) + 1;
  const int64_t tokens_now = tokens_.fetch_add(tokens) + tokens;
  AdmissionTicket ticket(this, tokens);
  if (requests_now > max_requests_) {
    return absl::ResourceExhaustedError(absl::StrCat("the queue is full: ", requests_now - 1,
                                                     " requests wait, the limit is ", max_requests_,
                                                     "; try again later"));
  }
  if (tokens_now > max_tokens_ && requests_now > 1) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", tokens_now - tokens,
                     " prompt tokens wait, this request brings about ", tokens, ", the limit is ",
                     max_tokens_, "; try again later"));
  }
  return ticket;
}

}  // namespace kvasir
