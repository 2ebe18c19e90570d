#include "client/commands/command.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/call_error.h"
#include "client/json_output.h"

namespace kvasir {
namespace {

// The server's default limit on one message is 4 MiB; a text must leave room for the rest of the
// message.
constexpr size_t kMaxFileBytes = (4 << 20) - 4096;

std::string DefaultServer() {
  const char* server = std::getenv("KVASIR_SERVER");
  return server != nullptr && *server != '\0' ? server : "127.0.0.1:50051";
}

}  // namespace

CommandLine::CommandLine(std::string name, std::string synopsis, std::string description)
    : name_(std::move(name)),
      synopsis_(std::move(synopsis)),
      description_(std::move(description)),
      server_(DefaultServer()) {
  flags_.Add("server", "H:P",
             "where kvasird listens (default $KVASIR_SERVER, else 127.0.0.1:50051)", &server_);
  flags_.Add("timeout", "SECONDS", "give up after this long (default: never)", &timeout_seconds_);
  flags_.Add("json", "print JSON on standard output", &json_);
  flags_.Add("help", "print this text", &help_);
}

std::optional<int> CommandLine::Parse(const Arguments& arguments) {
  auto positional = flags_.Parse(arguments);
  if (help_) {
    std::cout << "usage: kvasir " << name_ << (synopsis_.empty() ? "" : " ") << synopsis_ << "\n\n"
              << description_ << "\n\nflags:\n"
              << flags_.Help();
    return kExitOk;
  }
  if (!positional.ok()) return UsageError(std::string(positional.status().message()));
  if (timeout_seconds_.has_value() && !(*timeout_seconds_ > 0)) {
    return UsageError(
        absl::StrCat("--timeout is ", *timeout_seconds_, " but must be above 0 seconds"));
  }
  positional_ = *std::move(positional);
  return std::nullopt;
}

int CommandLine::UsageError(const std::string& message) const {
  std::cerr << "kvasir " << name_ << ": " << message << "\nusage: kvasir " << name_ << " "
            << synopsis_ << "\n'kvasir " << name_ << " --help' explains the flags\n";
  return kExitUsage;
}

int CommandLine::Fail(const absl::Status& error) const {
  if (json_) {
    std::cout << DumpJson(ToJson(error)) << std::endl;
  } else {
    std::cerr << "kvasir " << name_ << ": " << DescribeError(error) << "\n";
    if (absl::IsUnavailable(error))
      std::cerr << "  (asked " << server_ << "; --server names another)\n";
  }
  return kExitFailed;
}

std::unique_ptr<GenerationClient> CommandLine::MakeClient() const {
  GenerationClient::Options options;
  options.target = server_;
  return std::make_unique<GenerationClient>(options);
}

absl::Duration CommandLine::TimeoutOr(absl::Duration fallback) const {
  return timeout_seconds_.has_value() ? absl::Seconds(*timeout_seconds_) : fallback;
}

CallOptions CommandLine::MakeCallOptions() const {
  CallOptions options;
  options.timeout = TimeoutOr(absl::InfiniteDuration());
  return options;
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  std::string text;
  if (path == "-") {
    text.assign(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
  } else {
    std::ifstream file(path, std::ios::binary);
    if (!file)
      return absl::NotFoundError(absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
    text.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  if (text.size() > kMaxFileBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, " has ", text.size(),
                                                   " bytes but one call takes at most ",
                                                   kMaxFileBytes, "; give a shorter file"));
  }
  return text;
}

}  // namespace kvasir
