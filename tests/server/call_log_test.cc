// The log lines of refused calls: what they say, what they must not, and how many there are.
#include "server/telemetry/call_log.h"

#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/recording_call_observer.h"

namespace kvasir {
namespace {

std::vector<std::string>* lines() {
  static auto* const lines = new std::vector<std::string>;
  return lines;
}

void Keep(absl::string_view event, const std::vector<LogField>& fields) {
  lines()->push_back(FormatLogBody(LogFormat::kText, event, fields));
}

TEST(CallLog, SaysWhoWasRefusedAndWhy) {
  lines()->clear();
  testing::RecordingCallObserver metrics;
  CallLog log(&metrics, Keep);
  log.OnRefused(DescribeRefusal(
      "Generate", "r1", "tale", "team-a",
      RefusalError({RefusalReason::kRate, "tokens_per_minute", "team-a", absl::Seconds(2)},
                   "SECRET")));
  log.OnRefused(DescribeRefusal("GetSession", "r2", "", "?", absl::UnauthenticatedError("SECRET")));
  EXPECT_THAT(*lines(), ::testing::ElementsAre(
                            "call refused method=Generate id=r1 tenant=team-a reason=rate "
                            "code=RESOURCE_EXHAUSTED model=tale limit=tokens_per_minute "
                            "retry_after_seconds=2",
                            "call refused method=GetSession id=r2 tenant=? reason=unauthenticated "
                            "code=UNAUTHENTICATED"));
  EXPECT_THAT(metrics.rejected(), ::testing::ElementsAre("rate", "unauthenticated"));
}

TEST(CallLog, AFloodOfRefusalsIsNoFloodOfLines) {
  lines()->clear();
  testing::RecordingCallObserver metrics;
  CallLog log(&metrics, Keep);
  const absl::Time start = absl::Now();
  for (int i = 0; i < 10'000; ++i) {
    log.OnRefused(DescribeRefusal("Generate", "r", "", "?", absl::UnauthenticatedError("")));
  }
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  // Each second that began may add its lines and one that counts those left out.
  EXPECT_LE(static_cast<double>(lines()->size()),
            (seconds + 1) * (CallLog::kMaxLinesPerSecond + 1));
  EXPECT_EQ(metrics.rejected().size(), 10'000u);
}

}  // namespace
}  // namespace kvasir
