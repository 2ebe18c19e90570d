#include "runtime/engine/quota_error.h"

#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace kvasir {
namespace {

// Inside the process only: the server replaces it by google.rpc messages. Its content is
// "<quota> <retry after in ms, or -1> ", then "of <tenant>" if it is one's.
constexpr char kQuotaRefusalType[] = "kvasir/quota_refusal";
constexpr absl::string_view kOf = "of ";

std::string HolderName(const std::optional<std::string>& tenant) {
  if (!tenant) return "this model, for all tenants";
  return tenant->empty() ? "the anonymous tenant" : absl::StrCat("tenant ", *tenant);
}

}  // namespace

absl::Status QuotaError(QuotaRefusal refusal, absl::string_view message) {
  const bool can_wait = refusal.retry_after.has_value();
  std::string text = absl::StrCat(
      message, " (", refusal.quota, " of ", HolderName(refusal.tenant), "); ",
      can_wait ? "try again later" : "no waiting helps: ask for less, or for a larger quota");
  absl::Status status =
      can_wait ? absl::ResourceExhaustedError(text) : absl::FailedPreconditionError(text);
  // Rounded up: who comes back a little early would be refused again.
  const int64_t retry_ms =
      can_wait ? absl::ToInt64Milliseconds(absl::Ceil(*refusal.retry_after, absl::Milliseconds(1)))
               : -1;
  status.SetPayload(
      kQuotaRefusalType,
      absl::Cord(absl::StrCat(refusal.quota, " ", retry_ms, " ",
                              refusal.tenant ? absl::StrCat(kOf, *refusal.tenant) : "")));
  return status;
}

std::optional<QuotaRefusal> QuotaRefusalOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kQuotaRefusalType);
  if (!payload) return std::nullopt;
  const std::vector<std::string> parts =
      absl::StrSplit(std::string(*payload), absl::MaxSplits(' ', 2));
  int64_t retry_ms = 0;
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[1], &retry_ms)) return std::nullopt;
  QuotaRefusal refusal{parts[0], std::nullopt, std::nullopt};
  if (absl::string_view tenant = parts[2]; absl::ConsumePrefix(&tenant, kOf)) {
    refusal.tenant = std::string(tenant);
  }
  if (retry_ms >= 0) refusal.retry_after = absl::Milliseconds(retry_ms);
  return refusal;
}

}  // namespace kvasir
