// kvasir models: what the daemon serves and what a token's KV cache costs in each.
#include <algorithm>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/byte_text.h"
#include "client/commands/command.h"
#include "client/json_output.h"
#include "client/message_json.h"

namespace kvasir {
namespace {

// The formats that weights are stored in, that of the most bytes first: "q4_k, q6_k, f32".
std::string FormatsText(const v1::Model& model) {
  std::vector<std::pair<int64_t, std::string>> formats;
  for (const auto& [format, bytes] : model.weight_format_bytes())
    formats.push_back({-bytes, format});
  std::sort(formats.begin(), formats.end());
  return absl::StrJoin(formats, ", ", [](std::string* out, const auto& format) {
    absl::StrAppend(out, format.second);
  });
}

// Empty when it is ready: "LOADING 40%, reads its weights".
std::string StateText(const v1::Model& model) {
  switch (model.state()) {
    case v1::MODEL_STATE_LOADING:
      return absl::StrFormat("LOADING %.0f%%, %s", 100 * model.load_progress(),
                             model.state_detail());
    case v1::MODEL_STATE_UNLOADING:
      return "UNLOADING";
    case v1::MODEL_STATE_FAILED:
      return absl::StrCat("FAILED: ", model.error());
    default:
      return "";
  }
}

}  // namespace

int RunModels(const Arguments& arguments) {
  CommandLine line("models", "[flags] [NAME]",
                   "Lists the served models: K/V sharing scheme and KV bytes per token, resident "
                   "(what a token takes in\n"
                   "the pool) and read (what a cached token costs each decode step). With --json a "
                   "list of objects.");
  if (const auto exit_code = line.Parse(arguments)) return *exit_code;
  if (line.positional().size() > 1) return line.UsageError("takes at most one model name");

  const auto client = line.MakeClient();
  absl::StatusOr<std::vector<v1::Model>> models;
  if (line.positional().empty()) {
    models = client->ListModels(line.MakeCallOptions());
  } else {
    const auto model = client->GetModel(line.positional()[0], line.MakeCallOptions());
    models = model.ok() ? absl::StatusOr<std::vector<v1::Model>>({*model}) : model.status();
  }
  if (!models.ok()) return line.Fail(models.status());

  if (line.json()) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const v1::Model& model : *models) list.push_back(MessageToJson(model));
    std::cout << DumpJson(list) << std::endl;
    return kExitOk;
  }
  std::cout << absl::StrFormat("%-24s %-10s %16s %12s %8s %8s %8s %10s %10s  %s\n", "name",
                               "sharing", "KV B/token held", "B/token read", "KV type", "compute",
                               "context", "weights", "KV pool", "weights in");
  for (const v1::Model& model : *models) {
    const std::string state = StateText(model);
    // A model that is not loaded has nothing to say of itself.
    if (!state.empty() && model.architecture().empty()) {
      std::cout << absl::StrFormat("%-24s %s\n", model.name(), state);
      continue;
    }
    std::cout << absl::StrFormat("%-24s %-10s %16d %12d %8s %8s %8d %10s %10s  %s%s\n",
                                 model.name(), model.sharing(), model.kv_bytes_per_token_resident(),
                                 model.kv_bytes_per_token_read(), model.kv_element_type(),
                                 model.compute_type(), model.context_tokens(),
                                 ByteText(model.weight_bytes()), ByteText(model.kv_pool_bytes()),
                                 FormatsText(model), state.empty() ? "" : ", " + state);
  }
  return kExitOk;
}

}  // namespace kvasir
