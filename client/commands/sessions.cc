// kvasir sessions: the sessions whose KV cache the daemon keeps, in sizes and counts.
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/byte_text.h"
#include "client/commands/command.h"
#include "client/json_output.h"
#include "client/message_json.h"

namespace kvasir {
namespace {

void PrintHeader() {
  std::cout << absl::StrFormat("%-32s %-20s %-8s %8s %6s %12s %12s %12s %12s %10s\n", "session",
                               "model", "state", "tokens", "turns", "KV held", "exclusive", "share",
                               "on disk", "idle");
}

void PrintRow(const v1::Session& session) {
  std::cout << absl::StrFormat(
      "%-32s %-20s %-8s %8d %6d %12s %12s %12s %12s %9.0fs\n", session.session_id(),
      session.model(), EnumText(session.state()), session.tokens(), session.turns(),
      ByteText(session.kv_bytes_physical()), ByteText(session.kv_bytes_exclusive()),
      ByteText(session.kv_bytes_proportional()), ByteText(session.spilled_bytes()),
      session.idle_seconds());
}

int PrintOne(const CommandLine& line, const absl::StatusOr<v1::Session>& session) {
  if (!session.ok()) return line.Fail(session.status());
  if (line.json()) {
    std::cout << DumpJson(MessageToJson(*session)) << std::endl;
  } else {
    PrintHeader();
    PrintRow(*session);
  }
  return kExitOk;
}

int List(const CommandLine& line, GenerationClient* client, const std::string& model,
         int32_t limit) {
  v1::ListSessionsRequest request;
  request.set_model(model);
  request.set_limit(limit);
  const auto response = client->ListSessions(request, line.MakeCallOptions());
  if (!response.ok()) return line.Fail(response.status());
  if (line.json()) {
    nlohmann::ordered_json sessions = nlohmann::ordered_json::array();
    for (const v1::Session& session : response->sessions())
      sessions.push_back(MessageToJson(session));
    std::cout << DumpJson({{"total", response->total()}, {"sessions", std::move(sessions)}})
              << std::endl;
    return kExitOk;
  }
  PrintHeader();
  for (const v1::Session& session : response->sessions()) PrintRow(session);
  if (response->total() > response->sessions_size()) {
    std::cout << "(" << response->sessions_size() << " of " << response->total()
              << "; --limit shows more)\n";
  }
  return kExitOk;
}

}  // namespace

int RunSessions(const Arguments& arguments) {
  CommandLine line(
      "sessions", "[flags] [list | get ID | fork ID NEW_ID | delete ID]",
      "Lists, shows, forks (copy-on-write) or deletes sessions. Largest KV holders come first.");
  std::string model;
  std::optional<int32_t> limit;
  line.flags().Add("model", "M", "model of the session; may be absent when the daemon serves one",
                   &model);
  line.flags().Add("limit", "N", "most sessions to list (default 100)", &limit);
  if (const auto exit_code = line.Parse(arguments)) return *exit_code;
  const std::vector<std::string>& words = line.positional();
  const std::string action = words.empty() ? "list" : words[0];
  const auto client = line.MakeClient();

  if (action == "list" && words.size() <= 1)
    return List(line, client.get(), model, limit.value_or(0));
  if (action == "get" && words.size() == 2) {
    v1::GetSessionRequest request;
    request.set_model(model);
    request.set_session_id(words[1]);
    return PrintOne(line, client->GetSession(request, line.MakeCallOptions()));
  }
  if (action == "fork" && words.size() == 3) {
    v1::ForkSessionRequest request;
    request.set_model(model);
    request.set_session_id(words[1]);
    request.set_new_session_id(words[2]);
    return PrintOne(line, client->ForkSession(request, line.MakeCallOptions()));
  }
  if (action == "delete" && words.size() == 2) {
    v1::DeleteSessionRequest request;
    request.set_model(model);
    request.set_session_id(words[1]);
    const absl::Status status = client->DeleteSession(request, line.MakeCallOptions());
    if (!status.ok()) return line.Fail(status);
    if (line.json()) {
      std::cout << DumpJson({{"deleted", words[1]}}) << std::endl;
    } else {
      std::cout << "deleted " << words[1] << std::endl;
    }
    return kExitOk;
  }
  return line.UsageError(absl::StrCat("'", action, "' with ", words.empty() ? 0 : words.size() - 1,
                                      " ids is not understood"));
}

}  // namespace kvasir
