// Part of request_validation.h: whether and how the answer to messages is read, and which tools
// their prompt shows. Pure, thread safe.
#pragma once

#include "absl/status/status.h"
#include "kvasir/v1/generation.pb.h"
#include "server/frontend/validation/request_validation.h"

namespace kvasir {

// `message` has messages; fills checked->reading. With TOOL_CHOICE_MODE_NONE the tools are taken
// out of the message. InvalidArgument with BadRequest details; Unimplemented for a choice that the
// model would have to be forced to.
absl::Status CheckReading(const ModelLimits& limits, v1::GenerateRequest* message,
                          CheckedRequest* checked);

}  // namespace kvasir
