// The calls of one region of a response, once it is whole. Pure, thread safe.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/frontend/response/response_format.h"
#include "server/frontend/response/tool_call.h"

namespace kvasir {

// `body`: what stands between the region's markers. `header_name`: the tool that a header named
// (kArguments), else "". Values that a notation writes without their type take that of the tool's
// schema: a string stays as it is written; where the schema says nothing, JSON where it is JSON.
//
// Nothing when the body is not, to its last byte, at least one call: it is text then. Arguments are
// JSON objects, with their keys in the model's order. `*cut`: it is none because it ends inside of
// quotes, so the marker after it may be a part of it.
std::optional<std::vector<ToolCall>> ReadCalls(const ResponseRegion& region, absl::string_view body,
                                               absl::string_view header_name,
                                               const ToolSchemas& tools, bool* cut);

inline constexpr size_t kMaxToolNameBytes = 128;
inline constexpr absl::string_view kNeverInToolNames = "{}[]()<>\"'`,";

// Whether a call can spell `name` as a tool's: 1 to kMaxToolNameBytes bytes, without white space,
// control characters and kNeverInToolNames.
bool IsToolName(absl::string_view name);

}  // namespace kvasir
