#include "server/grpc/status_mapping.h"

#include <optional>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "runtime/engine/refusal.h"
#include "server/frontend/request_errors.h"

namespace kvasir {
namespace {

constexpr char kQuotaFailureType[] = "type.googleapis.com/google.rpc.QuotaFailure";
constexpr char kRetryPushbackKey[] = "grpc-retry-pushback-ms";

void AddPayloads(const absl::Status& status, google::rpc::Status* details) {
  status.ForEachPayload([details](absl::string_view type_url, const absl::Cord& payload) {
    if (type_url == kRefusalType) return;
    auto* any = details->add_details();
    any->set_type_url(std::string(type_url));
    any->set_value(std::string(payload));
  });
}

void AddQuotaDetails(const Refusal& refusal, const std::string& message,
                     google::rpc::Status* details) {
  google::rpc::QuotaFailure failure;
  auto* violation = failure.add_violations();
  violation->set_subject(!refusal.tenant           ? "model"
                         : refusal.tenant->empty() ? "tenant:anonymous"
                                                   : absl::StrCat("tenant:", *refusal.tenant));
  violation->set_description(message);
  auto* any = details->add_details();
  any->set_type_url(kQuotaFailureType);
  any->set_value(failure.SerializeAsString());
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status, absl::string_view request_id) {
  if (status.ok()) return grpc::Status::OK;
  const std::string message = MessageForClients(status, request_id);
  google::rpc::Status details;
  details.set_code(static_cast<int32_t>(status.code()));
  details.set_message(message);
  AddPayloads(status, &details);
  if (const auto refusal = RefusalOf(status)) {
    if (refusal->is_quota()) AddQuotaDetails(*refusal, message, &details);
    if (refusal->retry_after) {
      AddPayloads(WithRetryAfter(absl::UnknownError(""), *refusal->retry_after), &details);
    }
  }
  // absl's codes are gRPC's by definition (absl/status/status.h).
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message,
                      details.details().empty() ? "" : details.SerializeAsString());
}

void AddRetryPushback(const absl::Status& status, grpc::ServerContextBase* context) {
  const std::optional<absl::Duration> delay = RetryAfter(status);
  if (!delay) return;
  context->AddTrailingMetadata(kRetryPushbackKey, absl::StrCat(absl::ToInt64Milliseconds(*delay)));
}

}  // namespace kvasir
