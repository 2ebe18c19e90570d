#include "server/telemetry/request_log.h"

#include <string>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace kvasir {
namespace {

struct Finished {
  GenerationRequest request;
  FinishedEvent outcome;
  RequestSummary summary;

  Finished() {
    request.id = "r-1";
    request.prompt = {4242, 4243};
    outcome.status = absl::OkStatus();
    outcome.completions.resize(1);
    outcome.completions[0].reason = FinishReason::kStop;
    outcome.usage.prompt_tokens = 2;
    outcome.usage.cached_tokens = 1;
    outcome.usage.completion_tokens = 9;
    outcome.usage.kv_bytes_peak = 65536;
    outcome.usage.queue_time = absl::Milliseconds(1);
    outcome.usage.time_to_first_token = absl::Milliseconds(25);
    outcome.usage.total_time = absl::Seconds(1.5);
    summary.request = &request;
    summary.outcome = &outcome;
  }
};

TEST(RequestLog, TextLine) {
  const Finished finished;
  EXPECT_EQ(FormatLogBody(LogFormat::kText, "request finished",
                          RequestLogFields("tale", finished.summary)),
            "request finished id=r-1 tenant=anonymous model=tale prompt_tokens=2 cached_tokens=1 "
            "completion_tokens=9 "
            "kv_peak_bytes=65536 preemptions=0 queue_seconds=0.001 ttft_seconds=0.025 "
            "total_seconds=1.5 finish=stop "
            "code=OK");
}

TEST(RequestLog, JsonLine) {
  Finished finished;
  finished.request.session_id = "s";
  finished.request.tenant = "acme";
  finished.outcome.status = absl::DeadlineExceededError("late");
  const auto line =
      nlohmann::json::parse("{" +
                            FormatLogBody(LogFormat::kJson, "request finished",
                                          RequestLogFields("tale", finished.summary)) +
                            "}");
  EXPECT_EQ(line["event"], "request finished");
  EXPECT_EQ(line["id"], "r-1");
  EXPECT_EQ(line["tenant"], "acme");
  EXPECT_EQ(line["session"], "s");
  EXPECT_EQ(line["kv_peak_bytes"], 65536);
  EXPECT_EQ(line["total_seconds"], 1.5);
  EXPECT_EQ(line["finish"], "deadline");
  EXPECT_EQ(line["code"], "DEADLINE_EXCEEDED");
}

TEST(LogBody, NothingBreaksTheLine) {
  const std::string nasty = "a\"b\\c\nd=e \x01 ünï";
  const std::string text =
      FormatLogBody(LogFormat::kText, "event\nwith break", {{"key", nasty}, {"empty", ""}});
  EXPECT_EQ(text, "event\\nwith break key=\"a\\\"b\\\\c\\nd=e \\u0001 ünï\" empty=\"\"");
  const auto json = nlohmann::json::parse(
      "{" + FormatLogBody(LogFormat::kJson, "event", {{"key", nasty}, {"inf", 1 / 0.0}}) + "}");
  EXPECT_EQ(json["key"], nasty);
  EXPECT_TRUE(json["inf"].is_null());
}

}  // namespace
}  // namespace kvasir
