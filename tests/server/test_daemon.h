// The three services over a real gRPC server and a real engine with the bundled model: what a
// client meets, without the daemon's process around it.
#pragma once

#include <atomic>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "server/grpc/admin_service.h"
#include "server/grpc/generation_service.h"
#include "server/grpc/session_service.h"
#include "tests/server/recording_call_observer.h"
#include "tests/test_models.h"

namespace kvasir::testing {

class TestDaemon {
 public:
  // Loads the model once for each name; `config` needs no name.
  explicit TestDaemon(EngineConfig config = SmallEngine(),
                      const std::vector<std::string>& names = {kBundledModel},
                      const GrammarLimits& grammar_limits = {})
      : grammar_limits_(grammar_limits) {
    for (const std::string& name : names) AddModel(name, config);
    environment_.models = &models_;
    environment_.authenticator = &authenticator_;
    environment_.observer = &observer_;
    environment_.draining = &draining_;
    environment_.stream_writer = &stream_writer_;
    environment_.query_worker = &query_worker_;
    environment_.text_workers = &text_workers_;
    generation_ = std::make_unique<GenerationService>(environment_);
    sessions_ = std::make_unique<SessionService>(environment_);
    admin_ = std::make_unique<AdminService>(environment_, "1.2.3", [this] { draining_ = true; });

    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(generation_.get());
    builder.RegisterService(sessions_.get());
    builder.RegisterService(admin_.get());
    server_ = builder.BuildAndStart();
    channel_ =
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials());
    generation_stub_ = v1::GenerationService::NewStub(channel_);
    session_stub_ = v1::SessionService::NewStub(channel_);
    admin_stub_ = v1::AdminService::NewStub(channel_);
  }

  ~TestDaemon() { server_->Shutdown(std::chrono::system_clock::now()); }

  static EngineConfig SmallEngine() {
    EngineConfig config;
    config.kv_capacity_bytes = 32 << 20;
    config.max_running = 8;
    config.threads = 1;
    return config;
  }

  v1::GenerationService::Stub* generation() { return generation_stub_.get(); }
  v1::SessionService::Stub* sessions() { return session_stub_.get(); }
  v1::AdminService::Stub* admin() { return admin_stub_.get(); }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  Engine& engine() { return *models_.All().front()->engine; }
  const ServiceEnvironment& environment() const { return environment_; }
  RecordingCallObserver& observer() { return observer_; }
  TextWorkers& text_workers() { return text_workers_; }
  std::atomic<bool>& draining() { return draining_; }

 private:
  void AddModel(const std::string& name, EngineConfig config) {
    const std::string folder = ModelFolder(kBundledModel);
    auto served = std::make_unique<ServedModel>();
    served->name = name;
    served->default_max_tokens = 16;
    auto tokenizer = Tokenizer::Load(folder);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    served->tokenizer = *std::move(tokenizer);
    auto model = Model::Load(folder, {});
    ASSERT_TRUE(model.ok()) << model.status();
    served->model = *std::move(model);
    served->grammars =
        std::make_unique<GrammarCompiler>(served->tokenizer.get(), served->model->spec().vocab_size,
                                          served->model->spec().eos_token_ids, grammar_limits_);
    served->observer = std::make_unique<EngineObserver>();
    config.model_name = name;
    auto engine = Engine::Create(config, served->model.get(), served->tokenizer.get(),
                                 served->observer.get());
    ASSERT_TRUE(engine.ok()) << engine.status();
    served->engine = *std::move(engine);
    ASSERT_TRUE(models_.Add(std::move(served)).ok());
  }

  const GrammarLimits grammar_limits_;

  // Everyone may call: there are no tenants.
  const Authenticator authenticator_{AuthenticationConfig(), *TenantDirectory::Load({})};

  // In the order that ServiceEnvironment asks for.
  ModelRegistry models_;
  RecordingCallObserver observer_;
  std::atomic<bool> draining_{false};
  WorkerThread query_worker_{"query", 64};
  WorkerThread stream_writer_{"stream-writer", std::numeric_limits<size_t>::max()};
  TextWorkers text_workers_{TextLimits()};
  ServiceEnvironment environment_;
  std::unique_ptr<GenerationService> generation_;
  std::unique_ptr<SessionService> sessions_;
  std::unique_ptr<AdminService> admin_;
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::GenerationService::Stub> generation_stub_;
  std::unique_ptr<v1::SessionService::Stub> session_stub_;
  std::unique_ptr<v1::AdminService::Stub> admin_stub_;
};

// A request for `max_tokens` greedy tokens that nothing ends early.
inline v1::GenerateRequest GreedyRequest(const std::string& text, int max_tokens) {
  v1::GenerateRequest request;
  request.set_text(text);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stopping()->set_max_tokens(max_tokens);
  request.mutable_stopping()->set_ignore_eos(true);
  return request;
}

// Everything one Generate call gave.
struct Answer {
  v1::Accepted accepted;
  v1::PromptLogprobs prompt_logprobs;           // all pieces
  std::vector<std::string> texts;               // [n]
  std::vector<std::vector<int32_t>> token_ids;  // [n]
  int num_accepted = 0;
  int num_finals = 0;
  bool order_broken = false;
  v1::Final final;
  grpc::Status status;
};

// Reads the stream to its end.
inline Answer ReadAll(grpc::ClientReader<v1::GenerateResponse>* reader, int n = 1) {
  Answer answer;
  answer.texts.resize(n);
  answer.token_ids.resize(n);
  v1::GenerateResponse response;
  bool any_delta = false;
  while (reader->Read(&response)) {
    if (answer.num_finals > 0) answer.order_broken = true;
    switch (response.event_case()) {
      case v1::GenerateResponse::kAccepted:
        if (answer.prompt_logprobs.tokens_size() > 0 || any_delta) answer.order_broken = true;
        answer.accepted = response.accepted();
        ++answer.num_accepted;
        break;
      case v1::GenerateResponse::kPromptLogprobs:
        if (any_delta || answer.num_accepted == 0) answer.order_broken = true;
        answer.prompt_logprobs.MergeFrom(response.prompt_logprobs());
        break;
      case v1::GenerateResponse::kDelta: {
        if (answer.num_accepted == 0) answer.order_broken = true;
        any_delta = true;
        const v1::Delta& delta = response.delta();
        answer.texts.at(delta.index()) += delta.text();
        auto& ids = answer.token_ids.at(delta.index());
        ids.insert(ids.end(), delta.token_ids().begin(), delta.token_ids().end());
        break;
      }
      case v1::GenerateResponse::kFinal:
        answer.final = response.final();
        ++answer.num_finals;
        break;
      case v1::GenerateResponse::EVENT_NOT_SET:
        answer.order_broken = true;
        break;
    }
  }
  answer.status = reader->Finish();
  return answer;
}

inline Answer Generate(TestDaemon* daemon, const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  return ReadAll(daemon->generation()->Generate(&context, request).get(),
                 request.sampling().has_n() ? std::max(1, request.sampling().n()) : 1);
}

}  // namespace kvasir::testing
