// kvasir admin: has models come and go while the daemon serves.
#include <iostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/commands/command.h"
#include "client/json_output.h"
#include "client/message_json.h"

namespace kvasir {
namespace {

int Load(const CommandLine& line, const std::string& model, const std::string& options, bool wait) {
  const size_t equals = model.find('=');
  if (equals == std::string::npos) {
    return line.UsageError(absl::StrCat("'", model, "' has no path; give NAME=PATH"));
  }
  v1::LoadModelRequest request;
  request.set_name(model.substr(0, equals));
  request.set_path(model.substr(equals + 1));
  request.set_options(options);
  request.set_wait(wait);
  const auto response = line.MakeClient()->LoadModel(request, line.MakeCallOptions());
  if (!response.ok()) return line.Fail(response.status());
  if (line.json()) {
    std::cout << DumpJson({{"name", request.name()}, {"state", EnumText(response->state())}})
              << std::endl;
  } else {
    std::cout << request.name() << ": " << EnumText(response->state()) << std::endl;
  }
  return kExitOk;
}

int Unload(const CommandLine& line, const std::string& name, std::optional<double> drain_seconds) {
  v1::UnloadModelRequest request;
  request.set_name(name);
  if (drain_seconds) request.set_timeout_seconds(*drain_seconds);
  const auto response = line.MakeClient()->UnloadModel(request, line.MakeCallOptions());
  if (!response.ok()) return line.Fail(response.status());
  if (line.json()) {
    nlohmann::ordered_json unloaded = {{"name", name}};
    unloaded.update(MessageToJson(*response));
    std::cout << DumpJson(unloaded) << std::endl;
  } else {
    std::cout << absl::StrFormat(
        "unloaded %s in %.1f s: %d requests ended, %d sessions kept on disk, %d lost\n", name,
        response->seconds(), response->requests_aborted(), response->sessions_kept(),
        response->sessions_lost());
  }
  return kExitOk;
}

}  // namespace

int RunAdmin(const Arguments& arguments) {
  CommandLine line("admin", "[flags] load NAME=PATH | unload NAME",
                   "Loads one more model, a folder or .gguf file on the daemon's machine or "
                   "hf:ORG/REPO, beside those that are\n"
                   "served, or takes one out of service and gives its memory back. 'kvasir models' "
                   "shows how far it is.");
  std::optional<bool> wait;
  std::string options;
  std::optional<double> drain_seconds;
  line.flags().Add("wait", "load: until the model is ready, or cannot be loaded", &wait);
  line.flags().Add("options", "YAML",
                   "load: other fields of the model's configuration, as in "
                   "'kv_cache: {capacity_bytes: 8GiB}'",
                   &options);
  line.flags().Add("drain_seconds", "S",
                   "unload: how long running requests get to finish (default: the daemon's "
                   "drain timeout)",
                   &drain_seconds);
  if (const auto exit_code = line.Parse(arguments)) return *exit_code;
  const std::vector<std::string>& words = line.positional();
  if (words.size() != 2 || (words[0] != "load" && words[0] != "unload")) {
    return line.UsageError("give load NAME=PATH, or unload NAME");
  }
  if (words[0] == "load") {
    if (drain_seconds) return line.UsageError("--drain_seconds belongs to unload");
    return Load(line, words[1], options, wait.value_or(false));
  }
  if (!options.empty()) return line.UsageError("--options belongs to load");
  return Unload(line, words[1], drain_seconds);  // it always waits
}

}  // namespace kvasir
