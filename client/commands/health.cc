// kvasir health: one health question, for container health checks and scripts. Exit code 0 =
// serving.
#include <iostream>

#include "absl/strings/str_cat.h"
#include "client/call_error.h"
#include "client/commands/command.h"
#include "client/json_output.h"

namespace kvasir {

int RunHealth(const Arguments& arguments) {
  CommandLine line("health", "[flags] [SERVICE]",
                   "Asks grpc.health.v1 whether SERVICE is serving (default "
                   "kvasir.v1.GenerationService; \"\" = the\n"
                   "process). Exit code 0 = serving, 1 = not. --timeout defaults to 3 seconds, "
                   "with --wait to 60.");
  bool wait = false;
  line.flags().Add("wait", "ask until it serves or the timeout passes", &wait);
  if (const auto exit_code = line.Parse(arguments)) return *exit_code;
  if (line.positional().size() > 1) return line.UsageError("takes at most one service name");
  const std::string service =
      line.positional().empty() ? "kvasir.v1.GenerationService" : line.positional()[0];

  const auto client = line.MakeClient();
  const absl::Status status =
      wait ? client->WaitUntilServing(service, line.TimeoutOr(absl::Seconds(60)))
           : client->CheckHealth(service, line.TimeoutOr(absl::Seconds(3)));
  if (!status.ok()) return line.Fail(status);
  if (line.json()) {
    std::cout << DumpJson({{"service", service}, {"status", "SERVING"}}) << std::endl;
  } else {
    std::cout << "SERVING" << std::endl;
  }
  return kExitOk;
}

}  // namespace kvasir
