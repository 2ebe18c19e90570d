// SessionService and AdminService over a real engine.
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/engine/refusal.h"
#include "server/frontend/request_outcome.h"
#include "server/grpc/admin_service.h"
#include "server/grpc/session_service.h"
#include "tests/server/error_details.h"
#include "tests/server/test_daemon.h"

namespace kvasir {
namespace {

using ::kvasir::testing::Answer;
using ::kvasir::testing::Generate;
using ::kvasir::testing::GreedyRequest;
using ::kvasir::testing::ReadAll;
using ::kvasir::testing::TestDaemon;
using ::kvasir::testing::ViolationOf;
using ::testing::HasSubstr;

class SessionAdminTest : public ::testing::Test {
 protected:
  Answer Turn(const std::string& session, const std::string& text, int max_tokens) {
    v1::GenerateRequest request = GreedyRequest(text, max_tokens);
    request.set_session_id(session);
    return Generate(&daemon_, request);
  }

  grpc::Status Get(const std::string& id, v1::Session* session) {
    grpc::ClientContext context;
    v1::GetSessionRequest request;
    request.set_session_id(id);
    return daemon_.sessions()->GetSession(&context, request, session);
  }
  grpc::Status Fork(const std::string& id, const std::string& new_id, v1::Session* session) {
    grpc::ClientContext context;
    v1::ForkSessionRequest request;
    request.set_session_id(id);
    request.set_new_session_id(new_id);
    return daemon_.sessions()->ForkSession(&context, request, session);
  }
  grpc::Status Delete(const std::string& id) {
    grpc::ClientContext context;
    v1::DeleteSessionRequest request;
    request.set_session_id(id);
    v1::DeleteSessionResponse response;
    return daemon_.sessions()->DeleteSession(&context, request, &response);
  }
  v1::ListSessionsResponse List(int limit = 0) {
    grpc::ClientContext context;
    v1::ListSessionsRequest request;
    request.set_limit(limit);
    v1::ListSessionsResponse response;
    EXPECT_TRUE(daemon_.sessions()->ListSessions(&context, request, &response).ok());
    return response;
  }
  v1::GetStatsResponse Stats() {
    grpc::ClientContext context;
    v1::GetStatsResponse response;
    EXPECT_TRUE(daemon_.admin()->GetStats(&context, v1::GetStatsRequest(), &response).ok());
    return response;
  }

  TestDaemon daemon_;
};

TEST_F(SessionAdminTest, ASessionIsKeptContinuedForkedAndDeleted) {
  v1::Session session;
  EXPECT_EQ(Get("chat", &session).error_code(), grpc::StatusCode::NOT_FOUND);

  const Answer first = Turn("chat", "Once upon a time there was a dog", 8);
  ASSERT_TRUE(first.status.ok()) << first.status.error_message();
  ASSERT_TRUE(Get("chat", &session).ok());
  EXPECT_EQ(session.session_id(), "chat");
  EXPECT_EQ(session.model(), testing::kBundledModel);
  EXPECT_EQ(session.state(), v1::SESSION_STATE_IDLE);
  EXPECT_EQ(session.turns(), 1);
  EXPECT_GT(session.kv_bytes_physical(), 0);
  EXPECT_GT(session.expires_in_seconds(), 0);

  const Answer second = Turn("chat", " and then", 4);
  ASSERT_TRUE(second.status.ok()) << second.status.error_message();
  EXPECT_GT(second.accepted.cached_tokens(), 0);  // the first turn was not computed again
  ASSERT_TRUE(Get("chat", &session).ok());
  EXPECT_EQ(session.turns(), 2);

  v1::Session fork;
  ASSERT_TRUE(Fork("chat", "copy", &fork).ok());
  EXPECT_EQ(fork.session_id(), "copy");
  EXPECT_EQ(fork.tokens(), session.tokens());
  EXPECT_EQ(Fork("chat", "copy", &fork).error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(Fork("nobody", "other", &fork).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(List().total(), 2);
  EXPECT_EQ(List(1).sessions_size(), 1);
  EXPECT_EQ(List(1).total(), 2);

  EXPECT_TRUE(Delete("chat").ok());
  EXPECT_EQ(Delete("chat").error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(Delete("copy").ok());
  EXPECT_EQ(List().total(), 0);
  EXPECT_EQ(Stats().models(0).kv_live_bytes(), 0);
}

TEST_F(SessionAdminTest, BadNamesAndLimitsAreInvalidArgument) {
  v1::Session session;
  EXPECT_EQ(Get("a b", &session).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(ViolationOf(Fork("ok", "", &session), "new_session_id"), HasSubstr("128"));
  EXPECT_EQ(Delete("").error_code(), grpc::StatusCode::INVALID_ARGUMENT);

  grpc::ClientContext context;
  v1::ListSessionsRequest list;
  list.set_limit(1001);
  v1::ListSessionsResponse sessions;
  const grpc::Status status = daemon_.sessions()->ListSessions(&context, list, &sessions);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(ViolationOf(status, "limit"), HasSubstr("1001"));

  grpc::ClientContext unknown_context;
  list.set_limit(0);
  list.set_model("nobody");
  EXPECT_EQ(daemon_.sessions()->ListSessions(&unknown_context, list, &sessions).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST_F(SessionAdminTest, ABusySessionRefusesASecondTurnAndDeletion) {
  v1::GenerateRequest request = GreedyRequest("Once upon a time", 1500);
  request.set_session_id("busy");
  grpc::ClientContext context;
  const auto reader = daemon_.generation()->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(Turn("busy", "again", 1).status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(Delete("busy").error_code(), grpc::StatusCode::ABORTED);
  v1::Session session;
  EXPECT_EQ(Fork("busy", "copy", &session).error_code(), grpc::StatusCode::ABORTED);
  ASSERT_TRUE(Get("busy", &session).ok());
  EXPECT_EQ(session.state(), v1::SESSION_STATE_BUSY);
  context.TryCancel();
  ReadAll(reader.get());
}

TEST_F(SessionAdminTest, StatsAddUpAndRequestsAreListed) {
  ASSERT_TRUE(Turn("kept", "Once upon a time there was a dog", 8).status.ok());
  grpc::ClientContext context;
  v1::GenerateRequest request = GreedyRequest("The cat", 1500);
  request.set_request_id("running-1");
  request.set_priority(3);
  const auto reader = daemon_.generation()->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  ASSERT_TRUE(reader->Read(&response));

  v1::ListRequestsResponse list;
  grpc::ClientContext list_context;
  ASSERT_TRUE(daemon_.admin()->ListRequests(&list_context, v1::ListRequestsRequest(), &list).ok());
  ASSERT_EQ(list.requests_size(), 1);
  EXPECT_EQ(list.total(), 1);
  EXPECT_EQ(list.requests(0).request_id(), "running-1");
  EXPECT_EQ(list.requests(0).model(), testing::kBundledModel);
  EXPECT_EQ(list.requests(0).priority(), 3);
  EXPECT_GT(list.requests(0).kv_bytes_physical(), 0);
  EXPECT_GT(list.requests(0).generated_tokens(), 0);

  const v1::GetStatsResponse stats = Stats();
  EXPECT_EQ(stats.version(), "1.2.3");
  EXPECT_GT(stats.uptime_seconds(), 0);
  EXPECT_FALSE(stats.draining());
  ASSERT_EQ(stats.models_size(), 1);
  const v1::ModelStats& model = stats.models(0);
  EXPECT_EQ(model.running(), 1);
  EXPECT_EQ(model.sessions(), 1);
  EXPECT_EQ(model.kv_live_bytes() + model.kv_cached_bytes() + model.kv_free_bytes(),
            model.kv_capacity_bytes());
  ASSERT_EQ(model.tenants_size(), 1);
  EXPECT_EQ(model.tenants(0).requests(), 1);
  EXPECT_EQ(model.tenants(0).sessions(), 1);
  EXPECT_GT(model.tenants(0).kv_bytes_proportional(), 0);
  context.TryCancel();
  ReadAll(reader.get());
}

// At rest the sums are exact: only the session's blocks are live.
TEST_F(SessionAdminTest, ProportionalBytesOfTenantsAreTheLiveBytes) {
  ASSERT_TRUE(Turn("one", "Once upon a time there was a dog", 40).status.ok());
  v1::Session fork;
  ASSERT_TRUE(Fork("one", "two", &fork).ok());
  const v1::GetStatsResponse stats = Stats();
  double proportional = 0;
  for (const v1::TenantStats& tenant : stats.models(0).tenants())
    proportional += tenant.kv_bytes_proportional();
  EXPECT_DOUBLE_EQ(proportional, static_cast<double>(stats.models(0).kv_live_bytes()));
  EXPECT_GT(proportional, 0);
}

TEST_F(SessionAdminTest, DrainIsHandedOnAndClosesSessions) {
  grpc::ClientContext context;
  v1::DrainResponse drained;
  EXPECT_TRUE(daemon_.admin()->Drain(&context, v1::DrainRequest(), &drained).ok());
  EXPECT_TRUE(daemon_.draining());
  EXPECT_TRUE(Stats().draining());
  v1::Session session;
  EXPECT_EQ(Get("chat", &session).error_code(), grpc::StatusCode::UNAVAILABLE);
}

// Calls without a stream leave their refusals behind too.
TEST_F(SessionAdminTest, RefusalsAreReportedWithMethodAndReason) {
  v1::Session session;
  EXPECT_EQ(Get("no-such-session", &session).error_code(), grpc::StatusCode::NOT_FOUND);
  const std::vector<RefusedCall> refused = daemon_.observer().refused();
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_EQ(refused[0].method, "GetSession");
  EXPECT_EQ(refused[0].refusal.reason, RefusalReason::kNotFound);
  EXPECT_EQ(refused[0].code, absl::StatusCode::kNotFound);
  EXPECT_FALSE(refused[0].request_id.empty());
}

}  // namespace
}  // namespace kvasir
