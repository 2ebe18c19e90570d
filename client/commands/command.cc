#include "client/commands/command.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "client/call_error.h"
#include "client/json_output.h"

namespace kvasir {
namespace {

// The server's default limit on one message is 4 MiB; a text must leave room for the rest of the
// message.
constexpr size_t kMaxFileBytes = (4 << 20) - 4096;

std::string FromEnvironment(const char* variable, const char* fallback) {
  const char* value = std::getenv(variable);
  return value != nullptr && *value != '\0' ? value : fallback;
}

// The first line of a key file that is neither empty nor a comment.
absl::StatusOr<std::string> ReadApiKey(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadTextFile(path);
  if (!text.ok()) return text.status();
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') continue;
    // What gRPC would refuse to send, it refuses without saying why.
    const bool sendable =
        std::all_of(line.begin(), line.end(), [](char c) { return absl::ascii_isgraph(c); });
    if (sendable) return std::string(line);
    return absl::InvalidArgumentError(absl::StrCat(
        "the key in ", path, " must be printable ASCII without blanks; write it anew"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(path, " holds no key; put the key on a line of its own"));
}

}  // namespace

CommandLine::CommandLine(std::string name, std::string synopsis, std::string description,
                         Reach reach)
    : name_(std::move(name)),
      synopsis_(std::move(synopsis)),
      description_(std::move(description)),
      reach_(reach) {
  if (reach_ == Reach::kServer) AddServerFlags();
  flags_.Add("json", "print JSON on standard output", &json_);
  flags_.Add("help", "print this text", &help_);
}

void CommandLine::AddServerFlags() {
  server_ = FromEnvironment("KVASIR_SERVER", "127.0.0.1:50051");
  api_key_file_ = FromEnvironment("KVASIR_API_KEY_FILE", "");
  tls_ca_file_ = FromEnvironment("KVASIR_TLS_CA", "");
  flags_.Add("server", "H:P",
             "where kvasird listens (default $KVASIR_SERVER, else 127.0.0.1:50051)", &server_);
  flags_.Add("api_key_file", "FILE",
             "holds the key that this caller is known by (default $KVASIR_API_KEY_FILE)",
             &api_key_file_);
  flags_.Add("tls_ca", "FILE",
             "speak TLS, and trust these PEM certificates (default $KVASIR_TLS_CA)", &tls_ca_file_);
  flags_.Add("tls_certificate", "FILE", "this client's own certificate, PEM",
             &tls_certificate_file_);
  flags_.Add("tls_private_key", "FILE", "its private key, PEM", &tls_key_file_);
  flags_.Add("timeout", "SECONDS", "give up after this long (default: never)", &timeout_seconds_);
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
  if (const absl::Status status = ReadCredentials(); !status.ok()) {
    return UsageError(std::string(status.message()));
  }
  positional_ = *std::move(positional);
  return std::nullopt;
}

absl::Status CommandLine::ReadCredentials() {
  client_options_.target = server_;
  if (tls_certificate_file_.empty() != tls_key_file_.empty()) {
    return absl::InvalidArgumentError("--tls_certificate and --tls_private_key come together");
  }
  if (!tls_certificate_file_.empty() && tls_ca_file_.empty()) {
    return absl::InvalidArgumentError(
        "--tls_certificate needs --tls_ca, the authority of the server's certificate");
  }
  if (!api_key_file_.empty()) {
    absl::StatusOr<std::string> key = ReadApiKey(api_key_file_);
    if (!key.ok()) return key.status();
    client_options_.api_key = *std::move(key);
  }
  const auto read = [](const std::string& path, std::string* text) {
    if (path.empty()) return absl::OkStatus();
    absl::StatusOr<std::string> content = ReadTextFile(path);
    if (content.ok()) *text = *std::move(content);
    return content.status();
  };
  if (auto status = read(tls_ca_file_, &client_options_.ca_certificates); !status.ok())
    return status;
  if (auto status = read(tls_certificate_file_, &client_options_.certificate); !status.ok()) {
    return status;
  }
  return read(tls_key_file_, &client_options_.private_key);
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
    if (absl::IsUnavailable(error) && reach_ == Reach::kServer)
      std::cerr << "  (asked " << server_ << "; --server names another)\n";
  }
  return kExitFailed;
}

std::unique_ptr<GenerationClient> CommandLine::MakeClient() const {
  return std::make_unique<GenerationClient>(client_options_);
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
  std::ifstream file;
  if (path != "-") {
    // A stream opens a directory without complaint.
    std::error_code error;
    if (std::filesystem::is_directory(path, error)) {
      return absl::InvalidArgumentError(
          absl::StrCat("cannot read ", path, ": it is a directory; name a file"));
    }
    file.open(path, std::ios::binary);
    if (!file) {
      return absl::NotFoundError(absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
    }
  }
  std::istream& input = path == "-" ? std::cin : file;
  // One byte over the limit tells that it is over, also of what never ends.
  std::string text(kMaxFileBytes + 1, '\0');
  input.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (input.bad()) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
  }
  text.resize(static_cast<size_t>(input.gcount()));
  if (text.size() > kMaxFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has more than the ", kMaxFileBytes,
                     " bytes that one call takes; give a shorter file"));
  }
  return text;
}

}  // namespace kvasir
