// What the commands of `kvasir` share: the flags that all of them take, parsing with --help, and
// how errors end a command. Each command is one function in its own file; kvasir.cc holds the
// table.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/flag_set.h"
#include "client/generation_client.h"

namespace kvasir {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;  // the call failed
inline constexpr int kExitUsage = 2;   // bad command line
inline constexpr int kExitInterrupted = 130;

using Arguments = std::vector<std::string>;

// One command line being read. Registers --json, and of commands that call a server --server,
// --timeout and the keys; the command adds its own flags.
class CommandLine {
 public:
  enum class Reach { kServer, kThisMachine };

  // `synopsis` follows "kvasir NAME" in help, `description` is a few lines of prose.
  CommandLine(std::string name, std::string synopsis, std::string description,
              Reach reach = Reach::kServer);

  FlagSet& flags() { return flags_; }

  // Nothing: go on with positional(). Otherwise the exit code: --help was asked for (printed on
  // stdout) or a flag is wrong (explained on stderr). Reads the files of keys and certificates.
  std::optional<int> Parse(const Arguments& arguments);
  const std::vector<std::string>& positional() const { return positional_; }

  bool json() const { return json_; }
  // Explains a wrong command line on stderr; returns kExitUsage.
  int UsageError(const std::string& message) const;
  // Prints the error (as JSON on stdout with --json, else on stderr); returns kExitFailed.
  int Fail(const absl::Status& error) const;

  // After Parse. The client does not connect before its first call.
  std::unique_ptr<GenerationClient> MakeClient() const;
  CallOptions MakeCallOptions() const;
  const std::string& server() const { return server_; }
  // Of --timeout, else `fallback`.
  absl::Duration TimeoutOr(absl::Duration fallback) const;

 private:
  void AddServerFlags();
  absl::Status ReadCredentials();

  const std::string name_;
  const std::string synopsis_;
  const std::string description_;
  const Reach reach_;
  FlagSet flags_;
  std::string server_;
  std::string api_key_file_, tls_ca_file_, tls_certificate_file_, tls_key_file_;
  GenerationClient::Options client_options_;  // after Parse
  std::optional<double> timeout_seconds_;
  bool json_ = false;
  bool help_ = false;
  std::vector<std::string> positional_;
};

// The whole file, or standard input for "-". NotFound or InvalidArgument (too long for one message
// of the API).
absl::StatusOr<std::string> ReadTextFile(const std::string& path);

int RunGenerate(const Arguments& arguments);
int RunChat(const Arguments& arguments);
int RunRender(const Arguments& arguments);
int RunModels(const Arguments& arguments);
int RunTokenize(const Arguments& arguments);
int RunDetokenize(const Arguments& arguments);
int RunScore(const Arguments& arguments);
int RunBench(const Arguments& arguments);
int RunConvert(const Arguments& arguments);
int RunPull(const Arguments& arguments);
int RunSessions(const Arguments& arguments);
int RunHealth(const Arguments& arguments);
int RunTop(const Arguments& arguments);
int RunStats(const Arguments& arguments);
int RunRequests(const Arguments& arguments);
int RunAbort(const Arguments& arguments);
int RunAdmin(const Arguments& arguments);
int RunDrain(const Arguments& arguments);

}  // namespace kvasir
