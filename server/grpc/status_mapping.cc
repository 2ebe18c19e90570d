#include "server/grpc/status_mapping.h"

#include <algorithm>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "runtime/engine/quota_error.h"
#include "runtime/tokenizer/utf8.h"
#include "spdlog/spdlog.h"

namespace kvasir {
namespace {

constexpr char kBadRequestType[] = "type.googleapis.com/google.rpc.BadRequest";
constexpr char kRetryInfoType[] = "type.googleapis.com/google.rpc.RetryInfo";
constexpr char kQuotaFailureType[] = "type.googleapis.com/google.rpc.QuotaFailure";
constexpr char kRetryPushbackKey[] = "grpc-retry-pushback-ms";
constexpr char kEllipsis[] = "...";

// Valid UTF-8 of at most `max_bytes`: protobuf strings and grpc-message both want it.
std::string Shown(absl::string_view text, size_t max_bytes) {
  std::string escaped;
  if (FindInvalidUtf8(text)) {
    // Escaping makes four bytes of one, so more than this would be cut anyway.
    escaped = absl::CHexEscape(text.substr(0, max_bytes));
    text = escaped;
  }
  if (text.size() <= max_bytes) return std::string(text);
  size_t end = max_bytes - (sizeof(kEllipsis) - 1);
  // Do not cut a character in two.
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return absl::StrCat(text.substr(0, end), kEllipsis);
}

google::rpc::RetryInfo RetryInfoOf(absl::Duration delay) {
  google::rpc::RetryInfo info;
  const int64_t seconds = absl::IDivDuration(delay, absl::Seconds(1), &delay);
  info.mutable_retry_delay()->set_seconds(seconds);
  info.mutable_retry_delay()->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(delay)));
  return info;
}

void AddDetail(const char* type_url, const std::string& value, google::rpc::Status* status) {
  auto* any = status->add_details();
  any->set_type_url(type_url);
  any->set_value(value);
}

void AddQuotaDetails(const QuotaRefusal& refusal, const std::string& message,
                     google::rpc::Status* status) {
  google::rpc::QuotaFailure failure;
  auto* violation = failure.add_violations();
  violation->set_subject(!refusal.tenant           ? "model"
                         : refusal.tenant->empty() ? "tenant:anonymous"
                                                   : absl::StrCat("tenant:", *refusal.tenant));
  violation->set_description(message);
  AddDetail(kQuotaFailureType, failure.SerializeAsString(), status);
  if (!refusal.retry_after) return;
  AddDetail(kRetryInfoType, RetryInfoOf(*refusal.retry_after).SerializeAsString(), status);
}

bool HidesMessage(absl::StatusCode code) {
  return code == absl::StatusCode::kInternal || code == absl::StatusCode::kUnknown ||
         code == absl::StatusCode::kDataLoss;
}

}  // namespace

std::string Quoted(absl::string_view text, size_t max_bytes) {
  const bool cut = text.size() > max_bytes;
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, max_bytes)), cut ? "\"..." : "\"");
}

absl::Status BadRequestError(const std::vector<FieldViolation>& violations) {
  KVASIR_CHECK(!violations.empty());
  google::rpc::BadRequest details;
  std::string message = "invalid request: ";
  const size_t shown = std::min(violations.size(), kMaxFieldViolations);
  for (size_t i = 0; i < shown; ++i) {
    auto* violation = details.add_field_violations();
    violation->set_field(Shown(violations[i].field, kMaxViolationBytes));
    violation->set_description(Shown(violations[i].description, kMaxViolationBytes));
    absl::StrAppend(&message, i > 0 ? "; " : "", violation->field(), ": ",
                    violation->description());
  }
  if (shown < violations.size()) {
    absl::StrAppend(&message, "; and ", violations.size() - shown, " more");
  }
  absl::Status status = absl::InvalidArgumentError(Shown(message, kMaxErrorMessageBytes));
  status.SetPayload(kBadRequestType, absl::Cord(details.SerializeAsString()));
  return status;
}

absl::Status BadFieldError(absl::string_view field, absl::string_view description) {
  return BadRequestError({{std::string(field), std::string(description)}});
}

absl::Status WithRetryAfter(absl::Status status, absl::Duration delay) {
  status.SetPayload(kRetryInfoType, absl::Cord(RetryInfoOf(delay).SerializeAsString()));
  return status;
}

std::optional<absl::Duration> RetryAfter(const absl::Status& status) {
  if (const auto refusal = QuotaRefusalOf(status)) return refusal->retry_after;
  const absl::optional<absl::Cord> payload = status.GetPayload(kRetryInfoType);
  google::rpc::RetryInfo details;
  if (!payload || !details.ParseFromString(std::string(*payload))) return std::nullopt;
  return absl::Seconds(details.retry_delay().seconds()) +
         absl::Nanoseconds(details.retry_delay().nanos());
}

grpc::Status ToGrpcStatus(const absl::Status& status, absl::string_view request_id) {
  if (status.ok()) return grpc::Status::OK;

  std::string message;
  if (HidesMessage(status.code())) {
    spdlog::error("request {}: {}", std::string(request_id), status.ToString());
    message = absl::StrCat("internal error in request ", request_id,
                           "; its cause is in the server's log");
  } else {
    message = Shown({status.message().data(), status.message().size()}, kMaxErrorMessageBytes);
  }

  google::rpc::Status details;
  details.set_code(static_cast<int32_t>(status.code()));
  details.set_message(message);
  if (const auto refusal = QuotaRefusalOf(status)) {
    AddQuotaDetails(*refusal, message, &details);
  } else {
    status.ForEachPayload([&details](absl::string_view type_url, const absl::Cord& payload) {
      AddDetail(std::string(type_url).c_str(), std::string(payload), &details);
    });
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
