// kvasir-convert: the work behind `kvasir convert`, in a program of its own so that the command
// line stays free of models and oneDNN. Takes one argument, a request, and answers on standard
// output (request_json.h). Ends with its parent; an interrupt, or a reader that went away, stops it
// with nothing left behind.
#include <signal.h>

#include <atomic>
#include <cstdio>
#include <string>

#include "base/mapped_pages.h"
#include "runtime/conversion/conversion.h"
#include "runtime/conversion/request_json.h"

namespace kvasir {
namespace {

std::atomic<bool> interrupted = false;

void OnSignal(int) { interrupted = true; }

// False: nobody reads any more.
bool Say(const nlohmann::ordered_json& line) {
  const std::string text =
      line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() &&
         std::fflush(stdout) == 0;
}

absl::StatusOr<ConversionReport> Run(const std::string& request_json) {
  absl::StatusOr<ConversionRequest> request = ParseConversionRequest(request_json);
  if (!request.ok()) return request.status();
  int64_t last_reported = 0;
  return Convert(*request, [&](int64_t done, int64_t total) {
    if (interrupted) return false;
    if (done < total && done - last_reported < total / 500) return true;
    last_reported = done;
    return Say({{"done", done}, {"total", total}});
  });
}

int Main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr,
                 "usage: kvasir-convert REQUEST\n`kvasir convert` runs this program; see "
                 "`kvasir convert --help`\n");
    return 2;
  }
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGHUP, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
  SurviveLostReads();

  const absl::StatusOr<ConversionReport> report = Run(argv[1]);
  if (!report.ok()) {
    Say({{"error", ToJson(report.status())}});
    return 1;
  }
  Say({{"report", ToJson(*report)}});
  return 0;
}

}  // namespace
}  // namespace kvasir

int main(int argc, char** argv) { return kvasir::Main(argc, argv); }
