// The daemon's log: one line per event on stderr, as text or JSON. stdout stays free for what
// scripts read.
//
// Lines are written by a thread of their own behind a bounded queue, so that neither the engine nor
// an RPC ever waits for a slow terminal or a full pipe; when the queue is full the oldest lines are
// lost. Thread safe after InitLogging. gRPC's own messages and direct uses of spdlog come out in
// the same form.
#pragma once

#include <initializer_list>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/config/server_config.h"

namespace kvasir {

// One key and its value in a line. The key is a plain word; the value may hold anything.
struct LogField {
  absl::string_view key;
  std::variant<int64_t, double, std::string> value;

  LogField(absl::string_view key, int64_t number) : key(key), value(number) {}
  LogField(absl::string_view key, int number) : key(key), value(int64_t{number}) {}
  LogField(absl::string_view key, double number) : key(key), value(number) {}
  LogField(absl::string_view key, std::string text) : key(key), value(std::move(text)) {}
  LogField(absl::string_view key, const char* text) : key(key), value(std::string(text)) {}
};

// Call once in main() before other threads log. FlushLogging writes what waits and stops the
// writer; later lines are lost. False when the log takes nothing for 5 s, as a pipe that nobody
// reads: the writer then still waits, and the process has to end without destructors.
void InitLogging(LogLevel level, LogFormat format);
bool FlushLogging();

// `event` is what happened, in words: "request finished".
void LogDebug(absl::string_view event, const std::vector<LogField>& fields = {});
void LogInfo(absl::string_view event, const std::vector<LogField>& fields = {});
void LogWarning(absl::string_view event, const std::vector<LogField>& fields = {});
void LogError(absl::string_view event, const std::vector<LogField>& fields = {});

// The body of a line, without time and level: `request finished id=r1 tenant="a b"` or
// `"event":"request finished","id":"r1","tenant":"a b"`. Text is quoted when it holds spaces,
// quotes or anything that could break the line. Pure.
std::string FormatLogBody(LogFormat format, absl::string_view event,
                          const std::vector<LogField>& fields);

}  // namespace kvasir
