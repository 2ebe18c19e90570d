#include "hub/retry.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "base/steady_time.h"

namespace kvasir {
namespace {

constexpr char kMark[] = "kvasir/retry_pause";
// How soon a wait notices that it is cancelled.
constexpr absl::Duration kTick = absl::Milliseconds(50);

std::optional<absl::Duration> MarkOf(const absl::Status& status) {
  const auto mark = status.GetPayload(kMark);
  if (!mark.has_value()) {
    return absl::IsUnavailable(status) ? std::optional(absl::ZeroDuration()) : std::nullopt;
  }
  absl::Duration pause = absl::ZeroDuration();
  absl::ParseDuration(std::string(*mark), &pause);
  return pause;
}

}  // namespace

absl::Status WorthAnotherTry(absl::Status status, absl::Duration pause) {
  status.SetPayload(kMark, absl::Cord(absl::FormatDuration(pause)));
  return status;
}

Retry::Retry(RetryPolicy policy, const std::atomic<bool>* cancelled, Note note)
    : policy_(policy), cancelled_(cancelled), note_(std::move(note)) {}

absl::Status Retry::Run(const std::function<absl::Status(bool* progress)>& attempt) {
  int failures = 0;
  while (true) {
    bool progress = false;
    absl::Status status = attempt(&progress);
    const std::optional<absl::Duration> asked = MarkOf(status);
    if (!asked.has_value()) return status;
    status.ErasePayload(kMark);
    failures = progress ? 1 : failures + 1;
    if (failures >= policy_.attempts) {
      return absl::Status(status.code(), absl::StrCat(status.message(), " (tried ", failures,
                                                      failures == 1 ? " time)" : " times)"));
    }
    absl::Duration pause = policy_.first_pause * (1 << std::min(failures - 1, 16));
    pause = std::max(std::min(pause, policy_.longest_pause), *asked);
    if (pause > policy_.longest_pause) {
      return absl::Status(status.code(),
                          absl::StrCat(status.message(), "; it asks to wait ",
                                       absl::FormatDuration(pause), ", try again then"));
    }
    if (note_) {
      note_(absl::StrCat(status.message(), "; trying again in ", absl::FormatDuration(pause)));
    }
    KVASIR_RETURN_IF_ERROR(Pause(pause));
  }
}

absl::Status Retry::Pause(absl::Duration pause) const {
  const absl::Time end = SteadyNow() + pause;
  while (SteadyNow() < end) {
    if (cancelled_ != nullptr && cancelled_->load()) return absl::CancelledError("interrupted");
    absl::SleepFor(std::min(kTick, end - SteadyNow()));
  }
  return absl::OkStatus();
}

}  // namespace kvasir
