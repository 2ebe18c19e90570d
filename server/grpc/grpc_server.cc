#include "server/grpc/grpc_server.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "grpc/health/v1/health.pb.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/server_builder.h"
#include "server/grpc/tls_credentials.h"

namespace kvasir {
namespace {

std::string HealthNameOfModel(const std::string& model) { return absl::StrCat("models/", model); }

void SetKeepalive(grpc::ServerBuilder* builder) {
  // A client that died without closing its connection is noticed within 80 s, and its KV cache
  // freed.
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // Routers ping idle connections every 20 to 30 s; gRPC's default tolerates one per 5 min and then
  // breaks the connection (too_many_pings). Half of 20 s leaves room for jitter.
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  // Clients reconnect now and then, so that new replicas get their share. Streams under way end in
  // peace: the grace is infinite by default.
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, 30 * 60'000);
}

void SetLimits(const DaemonConfig& config, int64_t headroom_bytes, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(config.max_message_bytes);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, config.max_concurrent_streams);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, config.max_metadata_bytes);
  builder->AddChannelArgument(
      GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS,
      static_cast<int>(absl::ToInt64Milliseconds(config.handshake_timeout)));
  // Connections and their buffers live in the headroom that the KV pools leave; half of it is
  // theirs.
  grpc::ResourceQuota quota("kvasird");
  quota.Resize(static_cast<size_t>(headroom_bytes / 2));
  builder->SetResourceQuota(quota);
}

}  // namespace

GrpcServer::GrpcServer(HostPort address, const std::vector<NamedService>& services)
    : address_(std::move(address)) {
  for (const NamedService& each : services) names_.push_back(each.name);
  std::vector<std::string> described = names_;
  for (const char* own : {"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
                          "grpc.reflection.v1alpha.ServerReflection"}) {
    described.push_back(own);
  }
  reflection_.SetServices(std::move(described));
}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(
    const DaemonConfig& config, const std::vector<NamedService>& services, int64_t headroom_bytes,
    CallObserver* observer) {
  grpc::EnableDefaultHealthCheckService(true);
  if (config.reflection) {
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    // gRPC's own health service brings no descriptor along: without this one, which the linker
    // keeps because it is used, grpcurl would need the .proto file for a health check.
    KVASIR_CHECK(grpc::health::v1::HealthCheckRequest::descriptor() != nullptr);
  }

  std::unique_ptr<TlsMirror> tls_mirror;
  auto credentials = MakeServerCredentials(config.tls, observer, &tls_mirror);
  if (!credentials.ok()) return credentials.status();
  auto acceptor =
      ConnectionAcceptor::Listen(config.listen, config.max_connections, observer, headroom_bytes);
  if (!acceptor.ok()) return acceptor.status();
  std::unique_ptr<GrpcServer> server(new GrpcServer((*acceptor)->address(), services));
  server->acceptor_ = *std::move(acceptor);
  server->tls_mirror_ = std::move(tls_mirror);
  grpc::ServerBuilder builder;
  server->door_ = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD, *credentials);
  SetKeepalive(&builder);
  SetLimits(config, headroom_bytes, &builder);
  for (const NamedService& each : services) builder.RegisterService(each.service);
  if (config.reflection) builder.RegisterService(&server->reflection_);
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr) {
    return absl::UnavailableError("gRPC could not start its server; its own log line says why");
  }
  server->SetServing(true);
  server->acceptor_->Start([door = server->door_.get()](int connection) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters parameters;
    parameters.fd = connection;
    door->HandleNewConnection(&parameters);
  });
  return server;
}

GrpcServer::~GrpcServer() { Shutdown(absl::Now()); }

void GrpcServer::SetServing(bool serving) {
  absl::MutexLock lock(&health_mutex_);
  serving_ = serving;
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  health->SetServingStatus("", serving);
  for (const std::string& name : names_) health->SetServingStatus(name, serving);
  for (const std::string& model : models_) {
    health->SetServingStatus(HealthNameOfModel(model), serving);
  }
}

void GrpcServer::SetModelServing(const std::string& model, bool serving) {
  absl::MutexLock lock(&health_mutex_);
  if (serving) {
    models_.insert(model);
  } else {
    models_.erase(model);
  }
  server_->GetHealthCheckService()->SetServingStatus(HealthNameOfModel(model), serving_ && serving);
}

void GrpcServer::Shutdown(absl::Time deadline) {
  if (server_ == nullptr) return;
  acceptor_->Stop();
  server_->Shutdown(absl::ToChronoTime(deadline));
  server_ = nullptr;
}

}  // namespace kvasir
