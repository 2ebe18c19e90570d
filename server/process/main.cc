// kvasird: reads the configuration, then hands over to the daemon. See kvasird --help.

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>
#include <system_error>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "base/mapped_pages.h"
#include "base/openmp_config.h"
#include "base/status_macros.h"
#include "base/thread_placement.h"
#include "server/config/command_line.h"
#include "server/config/config_writer.h"
#include "server/config/server_config.h"
#include "server/identity/tenant_directory.h"
#include "server/process/daemon.h"
#include "server/process/signals.h"
#include "server/process/startup_checks.h"
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
    // A pipe that nobody reads takes no word more.
    pollfd log = {.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
    if (poll(&log, 1, 0) == 1)
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

int Serve(const Invocation& invocation, Daemon::Configuration configuration,
          Daemon::ReadConfig read_config) {
  const DaemonConfig& config = configuration.checked;
  // Before any thread starts: all must inherit the blocked signals.
  SignalWatcher signals({SIGTERM, SIGINT, SIGHUP});
  // A closed pipe and a full file are errors of the call that writes, not the end of the daemon.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  InitLogging(config.log_level, config.log_format);
  if (absl::Status spread = SpreadPages(PlanThreads().nodes); !spread.ok()) {
    LogWarning("memory nodes", {{"error", std::string(spread.message())}});
  }
  auto tenants = TenantDirectory::Load(config.tenants);
  if (!tenants.ok()) return BadConfig(tenants.status());
  ExitCode code;
  {
    Daemon daemon(std::move(configuration), invocation.config_file, *std::move(tenants),
                  std::move(read_config));
    if (invocation.report_lost_sessions) daemon.ReportLostSessions();
    int stop_signals = 0;
    const absl::Cleanup stop_watching = [&] { signals.Stop(); };
    signals.Start([&](int signal_number) {
      if (signal_number == SIGHUP) return daemon.RequestReload();
      OnStopSignal(&daemon, signal_number, ++stop_signals);
    });
    code = daemon.Run();
  }
  if (!FlushLogging()) std::_Exit(Exit(code));
  return Exit(code);
}

int CheckConfig(const DaemonConfig& config) {
  std::vector<std::string> notes;
  const std::vector<StartupFault> faults = CheckSurroundings(config, CheckDepth::kText, &notes);
  for (const std::string& note : notes) std::fprintf(stderr, "kvasird: %s\n", note.c_str());
  for (const StartupFault& fault : faults) {
    std::fprintf(stderr, "kvasird: %s\n", fault.message.c_str());
  }
  if (!faults.empty()) return Exit(faults.front().code);
  std::puts("OK");
  return Exit(ExitCode::kClean);
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
  const auto read_config = [&]() -> absl::StatusOr<Daemon::Configuration> {
    KVASIR_ASSIGN_OR_RETURN(ConfigSource read, ResolveConfig(*invocation));
    KVASIR_ASSIGN_OR_RETURN(DaemonConfig checked, Validate(read.message, read.origins));
    return Daemon::Configuration{std::move(checked), std::move(read.message)};
  };
  SurviveLostReads();
  switch (invocation->action) {
    case Invocation::Action::kCheckConfig:
      return CheckConfig(*config);
    case Invocation::Action::kPrintConfig:
      std::fputs(WriteConfig(source->message).c_str(), stdout);
      return Exit(ExitCode::kClean);
    default:
      break;
  }
  try {
    return Serve(*invocation, {*std::move(config), source->message}, read_config);
  } catch (const std::system_error& error) {
    // Threads and descriptors that the daemon needs once, and all of them: no error of anybody's
    // request.
    const bool descriptors = error.code().value() == EMFILE || error.code().value() == ENFILE;
    std::fprintf(stderr,
                 "kvasird: cannot start: the system gives no %s: %s; raise the limit of %s\n",
                 descriptors ? "descriptor" : "thread", error.what(),
                 descriptors ? "open files (ulimit -n, LimitNOFILE)"
                             : "processes (ulimit -u, LimitNPROC, pids.max), or of address space "
                               "(ulimit -v)");
    return Exit(ExitCode::kModelLoad);
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr,
                 "kvasird: cannot start: the system gives no memory; raise the limit (ulimit -v, "
                 "MemoryMax), or serve less at once\n");
    return Exit(ExitCode::kMemory);
  }
}

}  // namespace
}  // namespace kvasir

int main(int argc, char** argv) {
  kvasir::ConfigureOpenMp(argv);
  return kvasir::Main(std::vector<std::string>(argv + 1, argv + argc));
}
