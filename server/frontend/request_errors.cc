#include "server/frontend/request_errors.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/cord.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "google/rpc/error_details.pb.h"
#include "runtime/engine/refusal.h"
#include "runtime/tokenizer/utf8.h"
#include "spdlog/spdlog.h"

namespace kvasir {
namespace {

constexpr char kBadRequestType[] = "type.googleapis.com/google.rpc.BadRequest";
constexpr char kEllipsis[] = "...";

// Valid UTF-8 of at most `max_bytes`: protobuf strings, grpc-message and JSON all want it.
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

bool HidesMessage(absl::StatusCode code) {
  return code == absl::StatusCode::kInternal || code == absl::StatusCode::kUnknown ||
         code == absl::StatusCode::kDataLoss;
}

// The payload of that type, if the status has it and it parses.
template <typename Detail>
std::optional<Detail> DetailOf(const absl::Status& status, const char* type_url) {
  const absl::optional<absl::Cord> payload = status.GetPayload(type_url);
  Detail detail;
  if (!payload || !detail.ParseFromString(std::string(*payload))) return std::nullopt;
  return detail;
}

}  // namespace

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

std::string FirstBadField(const absl::Status& status) {
  const auto details = DetailOf<google::rpc::BadRequest>(status, kBadRequestType);
  if (!details || details->field_violations().empty()) return "";
  return details->field_violations(0).field();
}

absl::Status WithRetryAfter(absl::Status status, absl::Duration delay) {
  google::rpc::RetryInfo info;
  absl::Duration rest;
  info.mutable_retry_delay()->set_seconds(absl::IDivDuration(delay, absl::Seconds(1), &rest));
  info.mutable_retry_delay()->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
  status.SetPayload(kRetryInfoType, absl::Cord(info.SerializeAsString()));
  return status;
}

std::optional<absl::Duration> RetryAfter(const absl::Status& status) {
  if (const auto refusal = RefusalOf(status)) return refusal->retry_after;
  const auto details = DetailOf<google::rpc::RetryInfo>(status, kRetryInfoType);
  if (!details) return std::nullopt;
  return absl::Seconds(details->retry_delay().seconds()) +
         absl::Nanoseconds(details->retry_delay().nanos());
}

std::string MessageForClients(const absl::Status& status, absl::string_view request_id) {
  KVASIR_CHECK(!status.ok());
  if (!HidesMessage(status.code())) {
    return Shown({status.message().data(), status.message().size()}, kMaxErrorMessageBytes);
  }
  spdlog::error("request {}: {}", std::string(request_id), status.ToString());
  return absl::StrCat("internal error in request ", request_id,
                      "; its cause is in the server's log");
}

}  // namespace kvasir
