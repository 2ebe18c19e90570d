// A refused call as metrics and logs see it. Holds nothing that a client wrote but ids: messages of
// errors may quote prompts.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "runtime/engine/refusal.h"

namespace kvasir {

struct RefusedCall {
  std::string method;      // "Generate"
  std::string request_id;  // "" where the call has none
  std::string model;       // served name; "" when it names none that is served
  std::string tenant;      // "?" of callers not known
  Refusal refusal;
  absl::StatusCode code = absl::StatusCode::kUnknown;
  std::string field;  // the first bad field of the message; "" where none is
};

// Precondition: not OK.
RefusedCall DescribeRefusal(std::string method, std::string request_id, std::string model,
                            std::string tenant, const absl::Status& status);

}  // namespace kvasir
