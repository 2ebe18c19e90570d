#include "server/grpc/session_service.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "server/frontend/account_messages.h"
#include "server/frontend/validation/request_validation.h"
#include "server/grpc/list_query.h"
#include "server/grpc/unary_call.h"

namespace kvasir {
namespace {

absl::Status CheckNotDraining(const ServiceEnvironment& environment) {
  if (!environment.draining->load()) return absl::OkStatus();
  return absl::UnavailableError("the daemon is draining; its sessions are closed");
}

}  // namespace

absl::StatusOr<ServedModelRef> SessionService::FindModel(const std::string& name,
                                                         const Caller& caller) const {
  KVASIR_RETURN_IF_ERROR(CheckNotDraining(environment_));
  return environment_.models->Find(name, caller);
}

grpc::ServerUnaryReactor* SessionService::GetSession(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request,
                                                     grpc::ByteBuffer* reply) {
  const auto get = [this](const v1::GetSessionRequest& wanted,
                          const Caller& caller) -> absl::StatusOr<v1::Session> {
    KVASIR_ASSIGN_OR_RETURN(const ServedModelRef served, FindModel(wanted.model(), caller));
    KVASIR_RETURN_IF_ERROR(CheckSessionId("session_id", wanted.session_id()));
    KVASIR_ASSIGN_OR_RETURN(const SessionSnapshot session,
                            served->engine->GetSession(caller.tenant(), wanted.session_id()));
    return DescribeSession(session, served->name);
  };
  return AnswerOn<v1::GetSessionRequest>(environment_, context, request, reply, get);
}

grpc::ServerUnaryReactor* SessionService::ListSessions(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request,
                                                       grpc::ByteBuffer* reply) {
  const auto list = [this](const v1::ListSessionsRequest& wanted,
                           const Caller& caller) -> absl::StatusOr<v1::ListSessionsResponse> {
    KVASIR_RETURN_IF_ERROR(CheckNotDraining(environment_));
    KVASIR_ASSIGN_OR_RETURN(const size_t rows, ListRows(wanted.limit()));
    KVASIR_ASSIGN_OR_RETURN(const std::vector<ServedModelRef> models,
                            ListedModels(*environment_.models, wanted.model(), caller));
    std::vector<v1::Session> sessions;
    int total = 0;
    for (const ServedModelRef& served : models) {
      int in_model = 0;
      for (const SessionSnapshot& snapshot :
           served->engine->ListSessions(caller.tenant(), rows, &in_model)) {
        sessions.push_back(DescribeSession(snapshot, served->name));
      }
      total += in_model;
    }
    // Each model's list is sorted; together they are not.
    std::stable_sort(sessions.begin(), sessions.end(), [](const auto& a, const auto& b) {
      return a.kv_bytes_physical() > b.kv_bytes_physical();
    });
    sessions.resize(std::min(sessions.size(), rows));
    v1::ListSessionsResponse answer;
    answer.set_total(total);
    for (v1::Session& session : sessions) *answer.add_sessions() = std::move(session);
    return answer;
  };
  return AnswerOn<v1::ListSessionsRequest>(environment_, context, request, reply, list);
}

grpc::ServerUnaryReactor* SessionService::ForkSession(grpc::CallbackServerContext* context,
                                                      const grpc::ByteBuffer* request,
                                                      grpc::ByteBuffer* reply) {
  const auto fork = [this](const v1::ForkSessionRequest& wanted,
                           const Caller& caller) -> absl::StatusOr<v1::Session> {
    KVASIR_ASSIGN_OR_RETURN(const ServedModelRef served, FindModel(wanted.model(), caller));
    KVASIR_RETURN_IF_ERROR(CheckSessionId("session_id", wanted.session_id()));
    KVASIR_RETURN_IF_ERROR(CheckSessionId("new_session_id", wanted.new_session_id()));
    KVASIR_ASSIGN_OR_RETURN(
        const SessionSnapshot session,
        served->engine->ForkSession(caller.tenant(), wanted.session_id(), wanted.new_session_id()));
    return DescribeSession(session, served->name);
  };
  return AnswerOn<v1::ForkSessionRequest>(environment_, context, request, reply, fork);
}

grpc::ServerUnaryReactor* SessionService::DeleteSession(grpc::CallbackServerContext* context,
                                                        const grpc::ByteBuffer* request,
                                                        grpc::ByteBuffer* reply) {
  const auto erase = [this](const v1::DeleteSessionRequest& wanted,
                            const Caller& caller) -> absl::StatusOr<v1::DeleteSessionResponse> {
    KVASIR_ASSIGN_OR_RETURN(const ServedModelRef served, FindModel(wanted.model(), caller));
    KVASIR_RETURN_IF_ERROR(CheckSessionId("session_id", wanted.session_id()));
    KVASIR_RETURN_IF_ERROR(served->engine->DeleteSession(caller.tenant(), wanted.session_id()));
    return v1::DeleteSessionResponse();
  };
  return AnswerOn<v1::DeleteSessionRequest>(environment_, context, request, reply, erase);
}

}  // namespace kvasir
