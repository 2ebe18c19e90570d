// A tool call as a client gets it, and the tools of a request as the parser needs them.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "server/frontend/response/value_types.h"

namespace kvasir {

struct ToolCall {
  std::string id;         // as the model wrote it; usually empty
  std::string name;       // not empty
  std::string arguments;  // a JSON object
};

// Names, and the JSON schemas of parameters. Constant but for AllowOnly; safe from any thread.
class ToolSchemas {
 public:
  static constexpr size_t kMaxTools = 1024;

  // OpenAI's list: {"type": "function", "function": {"name", "parameters"}}, or its inner objects.
  // InvalidArgument when it is no such list, or a name is there twice or no call can spell it.
  static absl::StatusOr<ToolSchemas> FromJson(absl::string_view tools_json);

  bool empty() const { return tools_.empty(); }
  bool Has(absl::string_view name) const { return Find(name) != nullptr; }

  // Leaves only these of the tools to be called; none: all.
  void AllowOnly(std::vector<std::string> names) { allowed_ = std::move(names); }
  // What is no tool at all is allowed where everything is: its call is the client's to judge.
  bool Allows(absl::string_view name) const {
    return allowed_.empty() || std::find(allowed_.begin(), allowed_.end(), name) != allowed_.end();
  }

  // What one parameter can be; nothing when it is not known.
  ValueTypes Types(absl::string_view tool, absl::string_view parameter) const;

 private:
  struct Tool {
    std::string name;
    nlohmann::json parameters;  // their schema, or {}
  };
  const Tool* Find(absl::string_view name) const;

  std::vector<Tool> tools_;
  std::vector<std::string> allowed_;
};

}  // namespace kvasir
