// kvasir stats, requests, abort and drain: what the daemon holds and does.
#include <iostream>

#include "absl/strings/str_format.h"
#include "client/byte_text.h"
#include "client/commands/command.h"
#include "client/json_output.h"
#include "client/message_json.h"

namespace kvasir {

int RunStats(const Arguments& arguments) {
  CommandLine line("stats", "[flags]",
                   "Requests, sessions, tokens and the KV pool of each served model.");
  if (const auto exit_code = line.Parse(arguments)) return *exit_code;
  const auto stats = line.MakeClient()->GetStats(line.MakeCallOptions());
  if (!stats.ok()) return line.Fail(stats.status());
  if (line.json()) {
    nlohmann::ordered_json models = nlohmann::ordered_json::array();
    for (const v1::ModelStats& model : stats->models()) models.push_back(MessageToJson(model));
    std::cout << DumpJson({{"version", stats->version()},
                           {"uptime_seconds", stats->uptime_seconds()},
                           {"draining", stats->draining()},
                           {"models", std::move(models)}})
              << std::endl;
    return kExitOk;
  }
  std::cout << absl::StrFormat("kvasird %s, up %.0f s%s\n", stats->version(),
                               stats->uptime_seconds(), stats->draining() ? ", draining" : "");
  for (const v1::ModelStats& model : stats->models()) {
    std::cout << absl::StrFormat("%s: %d running, %d waiting, %d sessions (%d busy, %d on disk)\n",
                                 model.model(), model.running(), model.waiting(), model.sessions(),
                                 model.sessions_busy(), model.sessions_spilled())
              << absl::StrFormat("  KV pool %s: live %s, cached %s, free %s; %d preemptions\n",
                                 ByteText(model.kv_capacity_bytes()),
                                 ByteText(model.kv_live_bytes()), ByteText(model.kv_cached_bytes()),
                                 ByteText(model.kv_free_bytes()), model.preemptions_total())
              << absl::StrFormat(
                     "  tokens: %d prompt (%d from cache), %d generated in %d steps; KV read %s\n",
                     model.prompt_tokens_total(), model.cached_tokens_total(),
                     model.generated_tokens_total(), model.steps_total(),
                     ByteText(model.kv_bytes_read_total()));
  }
  return kExitOk;
}

int RunRequests(const Arguments& arguments) {
  CommandLine line("requests", "[flags]",
                   "Running and waiting requests, the largest KV holders first.");
  v1::ListRequestsRequest request;
  std::string model;
  std::optional<int32_t> limit;
  line.flags().Add("model", "M", "only this model's", &model);
  line.flags().Add("limit", "N", "most requests to list (default 100)", &limit);
  if (const auto exit_code = line.Parse(arguments)) return *exit_code;
  request.set_model(model);
  request.set_limit(limit.value_or(0));
  const auto response = line.MakeClient()->ListRequests(request, line.MakeCallOptions());
  if (!response.ok()) return line.Fail(response.status());
  if (line.json()) {
    nlohmann::ordered_json requests = nlohmann::ordered_json::array();
    for (const v1::RequestInfo& info : response->requests())
      requests.push_back(MessageToJson(info));
    std::cout << DumpJson({{"total", response->total()}, {"requests", std::move(requests)}})
              << std::endl;
    return kExitOk;
  }
  std::cout << absl::StrFormat("%-36s %-20s %-10s %8s %8s %9s %12s %12s %8s\n", "request", "model",
                               "state", "prompt", "cached", "generated", "KV held", "share", "age");
  for (const v1::RequestInfo& info : response->requests()) {
    std::cout << absl::StrFormat("%-36s %-20s %-10s %8d %8d %9d %12s %12s %7.1fs\n",
                                 info.request_id(), info.model(), info.state(),
                                 info.prompt_tokens(), info.cached_tokens(),
                                 info.generated_tokens(), ByteText(info.kv_bytes_physical()),
                                 ByteText(info.kv_bytes_proportional()), info.age_seconds());
  }
  if (response->total() > response->requests_size()) {
    std::cout << "(" << response->requests_size() << " of " << response->total()
              << "; --limit shows more)\n";
  }
  return kExitOk;
}

int RunAbort(const Arguments& arguments) {
  CommandLine line("abort", "[flags] REQUEST_ID",
                   "Stops a running or waiting request; its stream ends with CANCELLED.");
  if (const auto exit_code = line.Parse(arguments)) return *exit_code;
  if (line.positional().size() != 1)
    return line.UsageError("give one request id ('kvasir requests' lists them)");
  const absl::Status status =
      line.MakeClient()->Abort(line.positional()[0], line.MakeCallOptions());
  if (!status.ok()) return line.Fail(status);
  if (line.json()) {
    std::cout << DumpJson({{"aborted", line.positional()[0]}}) << std::endl;
  } else {
    std::cout << "aborted " << line.positional()[0] << std::endl;
  }
  return kExitOk;
}

int RunDrain(const Arguments& arguments) {
  CommandLine line("drain", "[flags]",
                   "Starts draining the daemon, as SIGTERM does: it refuses new requests, finishes "
                   "the running ones and\n"
                   "exits.");
  if (const auto exit_code = line.Parse(arguments)) return *exit_code;
  if (!line.positional().empty()) return line.UsageError("takes no arguments");
  const absl::Status status = line.MakeClient()->Drain(line.MakeCallOptions());
  if (!status.ok()) return line.Fail(status);
  if (line.json()) {
    std::cout << DumpJson({{"draining", true}}) << std::endl;
  } else {
    std::cout << "draining" << std::endl;
  }
  return kExitOk;
}

}  // namespace kvasir
