#include "client/top_view.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/text_table.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvasir {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(PoolBar, ShowsTheParts) {
  EXPECT_EQ(PoolBar(0, 0, 100, 10), "..........");
  EXPECT_EQ(PoolBar(50, 30, 100, 10), "#####+++..");
  EXPECT_EQ(PoolBar(100, 0, 100, 10), "##########");
  // One byte of each is seen, and what is full stays within the bar.
  EXPECT_EQ(PoolBar(1, 1, 1000, 10), "#+........");
  EXPECT_EQ(PoolBar(96, 4, 100, 10), "##########");
  EXPECT_EQ(PoolBar(0, 0, 0, 4), "....");
}

TopSnapshot Look(double uptime_seconds) {
  TopSnapshot look;
  look.taken = absl::UnixEpoch() + absl::Seconds(1000 + uptime_seconds);
  look.server = "far:50051";
  look.stats.set_version("9.9");
  look.stats.set_uptime_seconds(uptime_seconds);
  v1::ModelStats* stats = look.stats.add_models();
  stats->set_model("tale");
  stats->set_running(2);
  stats->set_waiting(1);
  stats->set_sessions(1);
  stats->set_kv_capacity_bytes(100 << 20);
  stats->set_kv_live_bytes(50 << 20);
  stats->set_kv_cached_bytes(25 << 20);
  stats->set_kv_free_bytes(25 << 20);
  stats->set_generated_tokens_total(static_cast<int64_t>(100 * uptime_seconds));
  stats->set_prompt_tokens_total(static_cast<int64_t>(10 * uptime_seconds));
  stats->set_cached_tokens_total(static_cast<int64_t>(5 * uptime_seconds));
  stats->set_kv_bytes_read_total(static_cast<int64_t>(1048576 * uptime_seconds));
  v1::Model model;
  model.set_name("tale");
  model.set_sharing("gqa+cla");
  model.set_kv_bytes_per_token_resident(1024);
  model.set_kv_bytes_per_token_read(2048);
  look.models.push_back(model);
  v1::RequestInfo* request = look.requests.add_requests();
  request->set_request_id("one");
  request->set_model("tale");
  request->set_state("decode");
  request->set_generated_tokens(static_cast<int32_t>(20 * uptime_seconds));
  request->set_kv_bytes_physical(3 << 20);
  request->set_kv_bytes_proportional(1.5 * (1 << 20));
  look.requests.set_total(1);
  v1::Session* session = look.sessions.add_sessions();
  session->set_session_id("chat-1");
  session->set_state(v1::SESSION_STATE_SPILLED);
  session->set_spilled_bytes(5 << 20);
  look.sessions.set_total(1);
  return look;
}

TEST(TopView, ShowsPoolSchemeRequestsAndSessions) {
  const std::string text = RenderTop(Look(10), nullptr, {});
  for (const char* part :
       {"kvasird 9.9 at far:50051, up 10.0s", "gqa+cla, KV per token: 1.0 KiB held, 2.0 KiB read",
        "live 50.0 MiB, cached 25.0 MiB, free 25.0 MiB of 100.0 MiB", "2 running, 1 waiting",
        "tokens/s - generated", "one", "3.0 MiB", "1.5 MiB", "chat-1", "spilled", "5.0 MiB"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
  EXPECT_THAT(text, Not(HasSubstr("\033"))) << "no colours unless asked for";
  EXPECT_THAT(text, Not(HasSubstr("DRAINING")));
}

TEST(TopView, RatesAreDifferences) {
  const TopSnapshot before = Look(10);
  const std::string text = RenderTop(Look(12), &before, {});
  EXPECT_THAT(text, HasSubstr("tokens/s 100 generated, 10.0 prompt (50% cached)"));
  EXPECT_THAT(text, HasSubstr("KV read 1.0 MiB/s"));
  EXPECT_THAT(text, HasSubstr("   20.0 "));  // the request's own
}

TEST(TopView, ARestartedDaemonHasNoRates) {
  const TopSnapshot before = Look(500);
  EXPECT_THAT(RenderTop(Look(2), &before, {}), HasSubstr("tokens/s - generated"));
}

TEST(TopView, ShowsNamedTenantsLargestFirst) {
  TopSnapshot look = Look(10);
  for (const auto& [name, share] :
       std::vector<std::pair<std::string, double>>{{"small", 1e6}, {"large", 9e6}, {"", 2e6}}) {
    v1::TenantStats* tenant = look.stats.mutable_models(0)->add_tenants();
    tenant->set_tenant(name);
    tenant->set_kv_bytes_proportional(share);
  }
  const std::string text = RenderTop(look, nullptr, {});
  EXPECT_LT(text.find("large"), text.find("(anonymous)"));
  EXPECT_LT(text.find("(anonymous)"), text.find("small"));
}

// What a client names may hold anything; a terminal obeys escape sequences.
TEST(TopView, NamesCannotSteerTheTerminal) {
  TopSnapshot look = Look(10);
  look.requests.mutable_requests(0)->set_request_id("\033[2J\nevil\x07");
  look.sessions.mutable_sessions(0)->set_session_id(
      "s\r\x9b"
      "1m");
  const std::string text = RenderTop(look, nullptr, {});
  EXPECT_TRUE(std::all_of(text.begin(), text.end(),
                          [](char c) { return c == '\n' || (c >= ' ' && c <= '~'); }));
  EXPECT_THAT(text, HasSubstr("?[2J?evil?"));
}

// What an operator looks for is there on the narrowest customary terminal.
TEST(TopView, EightyColumnsHaveShareAgeAndPool) {
  TopSnapshot look = Look(10);
  look.requests.mutable_requests(0)->set_age_seconds(77.7);
  look.stats.mutable_models(0)->add_tenants()->set_tenant("a-tenant-with-a-long-name");
  for (const bool color : {false, true}) {
    TopScreen screen;
    screen.columns = 80;
    screen.color = color;
    const std::string text = RenderTop(look, nullptr, screen);
    for (const char* part :
         {"live 50.0 MiB, cached 25.0 MiB, free 25.0 MiB of 100.0 MiB", "KV share", "age",
          "1.5 MiB", "77.7s", "preemptions", "KV read", "on disk", "idle", "share", "sessions"}) {
      EXPECT_THAT(text, HasSubstr(part)) << text;
    }
  }
}

TEST(TextTable, TheLeastImportantColumnsGoFirst) {
  const std::vector<TextTable::Column> columns = {{"name", 12, TextTable::kAlways, true},
                                                  {"one", 5, 1},
                                                  {"two", 5, 2},
                                                  {"ever", 5, TextTable::kAlways}};
  const auto row = [&](int width) {
    return TextTable(columns, 4, width).Row({"abcdefghijklmn", "1", "22", "333333"});
  };
  EXPECT_EQ(row(100), "abcdefghijk~     1    22 3333~");
  EXPECT_EQ(row(22), "abc~     1    22 3333~");
  EXPECT_EQ(row(21), "abcdefgh~    22 3333~");
  EXPECT_EQ(row(15), "abcdefgh~ 3333~");
  EXPECT_EQ(row(10), "abc~ 3333~");
  EXPECT_EQ(row(7), "abc~ 33");
}

TEST(TopView, KeepsToTheScreen) {
  TopSnapshot look = Look(10);
  for (int i = 0; i < 200; ++i) {
    v1::RequestInfo* request = look.requests.add_requests();
    request->set_request_id(absl::StrCat("request-with-a-rather-long-name-", i));
    *look.sessions.add_sessions() = look.sessions.sessions(0);
  }
  look.requests.set_total(201);
  look.sessions.set_total(201);
  for (const int columns : {1, 40, 79, 200}) {
    for (const int rows : {10, 12, 24, 50, 100}) {
      TopScreen screen;
      screen.columns = columns;
      screen.rows = rows;
      const std::vector<std::string> lines =
          absl::StrSplit(RenderTop(look, nullptr, screen), '\n', absl::SkipEmpty());
      const std::string text = RenderTop(look, nullptr, screen);
      EXPECT_LE(std::count(text.begin(), text.end(), '\n'), rows) << columns << "x" << rows;
      for (const std::string& line : lines)
        EXPECT_LE(line.size(), static_cast<size_t>(std::max(columns, 40)));
      if (rows >= 24) {
        EXPECT_THAT(text, HasSubstr("more"));
        EXPECT_THAT(text, HasSubstr("chat-1"));
      }
    }
  }
}

}  // namespace
}  // namespace kvasir
