// GenerationClient against a real gRPC server in this process whose replies the test writes.
#include "client/generation_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/synchronization/notification.h"
#include "client/call_error.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"

namespace kvasir {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using ServerStream = grpc::ServerWriter<v1::GenerateResponse>;

class ScriptedService final : public v1::GenerationService::Service {
 public:
  std::function<grpc::Status(grpc::ServerContext*, const v1::GenerateRequest&, ServerStream*)>
      generate;

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        ServerStream* stream) override {
    return generate(context, *request, stream);
  }
  grpc::Status Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override {
    for (const char c : request->text()) response->add_token_ids(c);
    return grpc::Status::OK;
  }
};

v1::GenerateResponse AcceptedMessage() {
  v1::GenerateResponse response;
  response.mutable_accepted()->set_request_id("r");
  response.mutable_accepted()->set_prompt_tokens(3);
  return response;
}

v1::GenerateResponse DeltaMessage(int32_t index, const std::string& text, int32_t token_id) {
  v1::GenerateResponse response;
  response.mutable_delta()->set_index(index);
  response.mutable_delta()->set_text(text);
  response.mutable_delta()->add_token_ids(token_id);
  return response;
}

v1::GenerateResponse FinalMessage(int completions) {
  v1::GenerateResponse response;
  for (int i = 0; i < completions; ++i) {
    v1::Completion* completion = response.mutable_final()->add_completions();
    completion->set_index(i);
    completion->set_finish_reason(v1::FINISH_REASON_LENGTH);
  }
  response.mutable_final()->mutable_usage()->set_prompt_tokens(3);
  return response;
}

class GenerationClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    GenerationClient::Options options;
    options.target = "127.0.0.1:" + std::to_string(port);
    client_ = std::make_unique<GenerationClient>(options);
  }
  void TearDown() override { server_->Shutdown(std::chrono::system_clock::now()); }

  // Streams deltas until the client is gone.
  static grpc::Status StreamForever(grpc::ServerContext* context, ServerStream* stream) {
    stream->Write(AcceptedMessage());
    while (!context->IsCancelled() && stream->Write(DeltaMessage(0, "x", 1))) {
    }
    return grpc::Status::CANCELLED;
  }

  ScriptedService service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<GenerationClient> client_;
};

TEST_F(GenerationClientTest, PutsTheStreamTogetherPerCompletion) {
  service_.generate = [](grpc::ServerContext*, const v1::GenerateRequest&, ServerStream* stream) {
    stream->Write(AcceptedMessage());
    for (int position = 1; position <= 2; ++position) {
      v1::GenerateResponse response;
      response.mutable_prompt_logprobs()->set_first_position(position);
      response.mutable_prompt_logprobs()->add_tokens()->set_token_id(10 + position);
      stream->Write(response);
    }
    stream->Write(DeltaMessage(0, "a", 1));
    stream->Write(DeltaMessage(1, "b", 2));
    stream->Write(DeltaMessage(0, "c", 3));
    stream->Write(FinalMessage(2));
    return grpc::Status::OK;
  };
  std::vector<std::string> deltas;
  const auto result = client_->Generate({}, {}, [&](const v1::Delta& delta) {
    deltas.push_back(delta.text());
    return true;
  });
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(deltas, ElementsAre("a", "b", "c"));
  EXPECT_EQ(result->accepted.prompt_tokens(), 3);
  ASSERT_EQ(result->prompt_logprobs.size(), 2u);
  EXPECT_EQ(result->prompt_logprobs[1].token_id(), 12);
  ASSERT_EQ(result->outputs.size(), 2u);
  EXPECT_EQ(result->outputs[0].text, "ac");
  EXPECT_THAT(result->outputs[0].token_ids, ElementsAre(1, 3));
  EXPECT_EQ(result->outputs[1].text, "b");
  EXPECT_EQ(result->outputs[1].end.finish_reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(GenerationClientTest, SendsTheRequestIdAsMetadata) {
  std::string seen;
  service_.generate = [&](grpc::ServerContext* context, const v1::GenerateRequest&,
                          ServerStream* stream) {
    const auto it = context->client_metadata().find("x-request-id");
    if (it != context->client_metadata().end()) seen.assign(it->second.data(), it->second.size());
    stream->Write(FinalMessage(1));
    return grpc::Status::OK;
  };
  CallOptions options;
  options.request_id = "req-7";
  ASSERT_TRUE(client_->Generate({}, options).ok());
  EXPECT_EQ(seen, "req-7");
}

TEST_F(GenerationClientTest, TheCallbackCanStopTheStream) {
  service_.generate = [](grpc::ServerContext* context, const v1::GenerateRequest&,
                         ServerStream* stream) { return StreamForever(context, stream); };
  int deltas = 0;
  const auto result = client_->Generate({}, {}, [&](const v1::Delta&) { return ++deltas < 5; });
  EXPECT_EQ(result.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(deltas, 5);
}

TEST_F(GenerationClientTest, ACancellerStopsARunningStreamAndLaterOnes) {
  service_.generate = [](grpc::ServerContext* context, const v1::GenerateRequest&,
                         ServerStream* stream) { return StreamForever(context, stream); };
  Canceller canceller;
  CallOptions options;
  options.canceller = &canceller;
  absl::Notification streaming;
  std::thread cancel([&] {
    streaming.WaitForNotification();
    canceller.Cancel();
  });
  const auto result = client_->Generate({}, options, [&](const v1::Delta&) {
    if (!streaming.HasBeenNotified()) streaming.Notify();
    return true;
  });
  cancel.join();
  EXPECT_EQ(result.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(client_->Generate({}, options).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(client_->Tokenize({}, options).status().code(), absl::StatusCode::kCancelled);
}

TEST_F(GenerationClientTest, TheTimeoutBecomesTheCallsDeadline) {
  service_.generate = [](grpc::ServerContext* context, const v1::GenerateRequest&,
                         ServerStream* stream) { return StreamForever(context, stream); };
  CallOptions options;
  options.timeout = absl::Milliseconds(50);
  EXPECT_EQ(client_->Generate({}, options).status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(GenerationClientTest, AStreamWithoutFinalIsAnError) {
  service_.generate = [](grpc::ServerContext*, const v1::GenerateRequest&, ServerStream* stream) {
    stream->Write(DeltaMessage(0, "a", 1));
    return grpc::Status::OK;
  };
  const auto result = client_->Generate({});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("final"));
}

TEST_F(GenerationClientTest, AnIndexOutOfRangeAllocatesNothing) {
  service_.generate = [](grpc::ServerContext*, const v1::GenerateRequest&, ServerStream* stream) {
    stream->Write(DeltaMessage(INT32_MAX, "a", 1));
    stream->Write(DeltaMessage(-5, "b", 2));
    stream->Write(FinalMessage(1));
    return grpc::Status::OK;
  };
  const auto result = client_->Generate({});
  ASSERT_TRUE(result.ok());
  EXPECT_LE(result->outputs.size(), 64u);
  EXPECT_EQ(result->outputs[0].text, "b");
}

TEST_F(GenerationClientTest, UnaryCallsAndMissingMethods) {
  v1::TokenizeRequest request;
  request.set_text("AB");
  const auto ids = client_->Tokenize(request);
  ASSERT_TRUE(ids.ok());
  EXPECT_THAT(*ids, ElementsAre('A', 'B'));
  EXPECT_EQ(client_->ListModels().status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(client_->GetStats().status().code(), absl::StatusCode::kUnimplemented);
}

TEST_F(GenerationClientTest, HealthSaysServingNotServingAndUnknown) {
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  ASSERT_NE(health, nullptr);
  health->SetServingStatus("kvasir.v1.GenerationService", true);
  EXPECT_TRUE(client_->WaitUntilServing("kvasir.v1.GenerationService", absl::Seconds(10)).ok());
  health->SetServingStatus("kvasir.v1.GenerationService", false);
  EXPECT_EQ(client_->CheckHealth("kvasir.v1.GenerationService", absl::Seconds(10)).code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(client_->CheckHealth("no.such.Service", absl::Seconds(10)).code(),
            absl::StatusCode::kNotFound);
  const absl::Status late =
      client_->WaitUntilServing("kvasir.v1.GenerationService", absl::Milliseconds(150));
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(late.message()), HasSubstr("NOT_SERVING"));
}

TEST(GenerationClientAlone, NobodyListeningIsUnavailable) {
  GenerationClient::Options options;
  options.target = "127.0.0.1:1";
  GenerationClient client(options);
  EXPECT_EQ(client.ListModels().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(client.Generate({}).status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace kvasir
