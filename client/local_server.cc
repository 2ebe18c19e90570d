#include "client/local_server.h"

#include <signal.h>

#include <deque>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace kvasir {
namespace {

// Lines of its log that tell why it ended.
constexpr size_t kShownLines = 8;
constexpr char kListening[] = "listening grpc=";

}  // namespace

absl::StatusOr<std::unique_ptr<LocalServer>> LocalServer::Start(const std::string& model,
                                                                const std::string& compute_type) {
  absl::StatusOr<ChildProcess> process = ChildProcess::Start(
      "kvasird",
      {"--model", absl::StrCat("model=", model), "--compute_type", compute_type, "--listen",
       "127.0.0.1:0", "--http_listen", "off", "--metrics_listen", "off"},
      ChildProcess::Errors::kInOutput);
  if (!process.ok()) return process.status();
  std::deque<std::string> log;
  while (const std::optional<std::string> line = process->ReadLine()) {
    if (absl::StartsWith(*line, kListening)) {
      std::string address = line->substr(sizeof(kListening) - 1);
      address.resize(std::min(address.size(), address.find(' ')));
      return std::unique_ptr<LocalServer>(new LocalServer(*std::move(process), address));
    }
    log.push_back(*line);
    if (log.size() > kShownLines) log.pop_front();
  }
  return absl::FailedPreconditionError(absl::StrCat("kvasird could not serve ", model,
                                                    " (exit code ", process->Wait(), "):\n  ",
                                                    absl::StrJoin(log, "\n  ")));
}

LocalServer::LocalServer(ChildProcess process, std::string address)
    : address_(std::move(address)), process_(std::move(process)), log_reader_([this] {
        while (process_.ReadLine()) {
        }
      }) {}

LocalServer::~LocalServer() {
  process_.Signal(SIGKILL);  // nothing of it is to be kept
  log_reader_.join();
  process_.Wait();
}

}  // namespace kvasir
