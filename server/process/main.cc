// kvasird: reads the configuration, then hands over to the daemon. See kvasird --help.

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/openmp_config.h"
#include "base/status_macros.h"
#include "server/config/command_line.h"
#include "server/config/config_writer.h"
#include "server/config/server_config.h"
#include "server/identity/tenant_directory.h"
#include "server/process/daemon.h"
#include "server/process/signals.h"
#include "server/telemetry/logging.h"

namespace kvasir {
namespace {

int Exit(ExitCode code) { return static_cast<int>(code); }

int BadConfig(const absl::Status& status) {
  std::fprintf(stderr, "kvasird: %s\n", std::string(status.message()).c_str());
  return Exit(ExitCode::kBadConfig);
}

// Runs on the watcher's thread. `count`: stop signals so far, this one included.
void OnStopSignal(Daemon* daemon, int signal_number, int count) {
  if (!daemon->listening() || count > 2) {
    // Loading cannot be interrupted and has nothing to finish; and who asks a third time wants no
    // manners.
    std::fprintf(stderr, "kvasird: stopped at once by signal %d\n", signal_number);
    std::_Exit(count > 2 ? 128 + signal_number : Exit(ExitCode::kClean));
  }
  LogInfo("stop signal", {{"signal", signal_number}, {"count", count}});
  if (count == 1) {
    daemon->RequestDrain();
  } else {
    daemon->RequestStop();
  }
}

int Serve(DaemonConfig config, Daemon::ReadConfig read_config) {
  // Before any thread starts: all must inherit the blocked signals.
  SignalWatcher signals({SIGTERM, SIGINT, SIGHUP});
  std::signal(SIGPIPE, SIG_IGN);
  InitLogging(config.log_level, config.log_format);
  auto tenants = TenantDirectory::Load(config.tenants);
  if (!tenants.ok()) return BadConfig(tenants.status());
  ExitCode code;
  {
    Daemon daemon(std::move(config), *std::move(tenants), std::move(read_config));
    int stop_signals = 0;
    signals.Start([&](int signal_number) {
      if (signal_number == SIGHUP) return daemon.RequestReload();
      OnStopSignal(&daemon, signal_number, ++stop_signals);
    });
    code = daemon.Run();
    signals.Stop();
  }
  FlushLogging();
  return Exit(code);
}

int Main(const std::vector<std::string>& arguments) {
  absl::StatusOr<Invocation> invocation = ParseCommandLine(arguments, ProcessEnvironment());
  if (!invocation.ok()) return BadConfig(invocation.status());
  if (invocation->action == Invocation::Action::kHelp) {
    std::fputs(HelpText().c_str(), stdout);
    return Exit(ExitCode::kClean);
  }
  if (invocation->action == Invocation::Action::kVersion) {
    std::printf("kvasird %s\n", KVASIR_VERSION);
    return Exit(ExitCode::kClean);
  }

  absl::StatusOr<ConfigSource> source = ResolveConfig(*invocation);
  if (!source.ok()) return BadConfig(source.status());
  absl::StatusOr<DaemonConfig> config = Validate(source->message, source->origins);
  if (!config.ok()) return BadConfig(config.status());
  const auto read_config = [&]() -> absl::StatusOr<DaemonConfig> {
    KVASIR_ASSIGN_OR_RETURN(const ConfigSource read, ResolveConfig(*invocation));
    return Validate(read.message, read.origins);
  };
  switch (invocation->action) {
    case Invocation::Action::kCheckConfig:
      if (const auto keys = TenantDirectory::Load(config->tenants); !keys.ok()) {
        return BadConfig(keys.status());
      }
      std::puts("OK");
      return Exit(ExitCode::kClean);
    case Invocation::Action::kPrintConfig:
      std::fputs(WriteConfig(source->message).c_str(), stdout);
      return Exit(ExitCode::kClean);
    default:
      return Serve(*std::move(config), read_config);
  }
}

}  // namespace
}  // namespace kvasir

int main(int argc, char** argv) {
  kvasir::ConfigureOpenMp(argv);
  return kvasir::Main(std::vector<std::string>(argv + 1, argv + argc));
}
