#include "client/json_input.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/json_nesting.h"

namespace kvasir {
namespace {

constexpr int kMaxNesting = 128;  // as the server's

}  // namespace

absl::StatusOr<nlohmann::ordered_json> ParseJsonInput(absl::string_view text,
                                                      absl::string_view what) {
  const int nesting = JsonNestingDepth(text);
  if (nesting > kMaxNesting) {
    return absl::InvalidArgumentError(absl::StrCat(
        what, " nests ", nesting, " levels deep, the limit is ", kMaxNesting, "; make it flatter"));
  }
  nlohmann::ordered_json json =
      nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return absl::InvalidArgumentError(absl::StrCat(what, " is not JSON"));
  }
  return json;
}

}  // namespace kvasir
