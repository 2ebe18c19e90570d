#include "server/telemetry/logging.h"

#include <grpc/support/log.h>
#include <spdlog/async.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <cmath>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"

namespace kvasir {
namespace {

// Lines that may wait for the writer: a second's worth of requests on a busy daemon, some megabytes
// at most.
constexpr size_t kQueueLines = 8192;
constexpr absl::Duration kFlushTime = absl::Seconds(5);

// Lines of this logger are bodies already (FormatLogBody); those of others are plain messages from
// libraries.
constexpr char kEventLogger[] = "event";

// JSON string content; text mode uses the same escapes inside its quotes. Logs are UTF-8: what is
// not becomes U+FFFD.
std::string Escaped(absl::string_view text) {
  const std::string quoted = nlohmann::json(std::string(text))
                                 .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return quoted.substr(1, quoted.size() - 2);
}

bool NeedsQuotes(absl::string_view text) {
  for (const char c : text) {
    if (static_cast<unsigned char>(c) <= 0x20 || c == '"' || c == '\\' || c == '=' || c == 0x7f)
      return true;
  }
  return text.empty();
}

std::string ValueText(LogFormat format, const LogField& field) {
  if (const int64_t* number = std::get_if<int64_t>(&field.value)) return absl::StrCat(*number);
  if (const double* number = std::get_if<double>(&field.value)) {
    // JSON has no infinities.
    return std::isfinite(*number) ? absl::StrFormat("%.6g", *number) : "null";
  }
  const std::string& text = std::get<std::string>(field.value);
  if (format == LogFormat::kText && !NeedsQuotes(text)) return text;
  return absl::StrCat("\"", Escaped(text), "\"");
}

const char* LevelName(spdlog::level::level_enum level) {
  switch (level) {
    case spdlog::level::trace:
    case spdlog::level::debug:
      return "debug";
    case spdlog::level::info:
      return "info";
    case spdlog::level::warn:
      return "warning";
    default:
      return "error";
  }
}

class LineFormatter : public spdlog::formatter {
 public:
  explicit LineFormatter(LogFormat format) : format_(format) {}

  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const std::string time = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ",
                                              absl::FromChrono(message.time), absl::UTCTimeZone());
    const absl::string_view payload(message.payload.data(), message.payload.size());
    const absl::string_view logger(message.logger_name.data(), message.logger_name.size());
    const std::string body =
        logger == kEventLogger ? std::string(payload) : FormatLogBody(format_, payload, {});
    const std::string line =
        format_ == LogFormat::kJson
            ? absl::StrCat("{\"time\":\"", time, "\",\"level\":\"", LevelName(message.level), "\",",
                           body, "}\n")
            : absl::StrCat(time, " ", LevelName(message.level), " ", body, "\n");
    out.append(line.data(), line.data() + line.size());
  }

  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<LineFormatter>(format_);
  }

 private:
  const LogFormat format_;
};

spdlog::level::level_enum SpdlogLevel(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

void LogFromGrpc(gpr_log_func_args* message) {
  switch (message->severity) {
    case GPR_LOG_SEVERITY_DEBUG:
      return spdlog::debug("grpc: {}", message->message);
    case GPR_LOG_SEVERITY_INFO:
      // What gRPC tells at "info" are its internals.
      return spdlog::debug("grpc: {}", message->message);
    case GPR_LOG_SEVERITY_ERROR:
      // gRPC calls an error what a peer does wrong; for this daemon it is a warning.
      return spdlog::warn("grpc: {}", message->message);
  }
}

LogFormat g_format = LogFormat::kText;     // set once by InitLogging
std::shared_ptr<spdlog::logger> g_events;  // likewise; null before it: lines are dropped

void LogEvent(spdlog::level::level_enum level, absl::string_view event,
              const std::vector<LogField>& fields) {
  if (g_events == nullptr || !g_events->should_log(level)) return;
  g_events->log(level, FormatLogBody(g_format, event, fields));
}

}  // namespace

void InitLogging(LogLevel level, LogFormat format) {
  g_format = format;
  spdlog::init_thread_pool(kQueueLines, 1);
  auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  sink->set_formatter(std::make_unique<LineFormatter>(format));
  const auto make_logger = [&](const char* name) {
    auto logger = std::make_shared<spdlog::async_logger>(
        name, sink, spdlog::thread_pool(), spdlog::async_overflow_policy::overrun_oldest);
    logger->set_level(SpdlogLevel(level));
    return logger;
  };
  g_events = make_logger(kEventLogger);
  spdlog::set_default_logger(make_logger("library"));
  gpr_set_log_function(LogFromGrpc);
}

bool FlushLogging() {
  gpr_set_log_function(nullptr);
  g_events = nullptr;
  const auto done = std::make_shared<absl::Notification>();
  try {
    std::thread([done] {
      spdlog::shutdown();
      done->Notify();
    }).detach();
  } catch (const std::system_error&) {  // no thread
    spdlog::shutdown();
    return true;
  }
  return done->WaitForNotificationWithTimeout(kFlushTime);
}

void LogDebug(absl::string_view event, const std::vector<LogField>& fields) {
  LogEvent(spdlog::level::debug, event, fields);
}

void LogInfo(absl::string_view event, const std::vector<LogField>& fields) {
  LogEvent(spdlog::level::info, event, fields);
}

void LogWarning(absl::string_view event, const std::vector<LogField>& fields) {
  LogEvent(spdlog::level::warn, event, fields);
}

void LogError(absl::string_view event, const std::vector<LogField>& fields) {
  LogEvent(spdlog::level::err, event, fields);
}

std::string FormatLogBody(LogFormat format, absl::string_view event,
                          const std::vector<LogField>& fields) {
  if (format == LogFormat::kText) {
    // The event itself is our own words, or a library's: only what would break the line is escaped.
    std::string body = Escaped(event);
    for (const LogField& field : fields) {
      absl::StrAppend(&body, " ", field.key, "=", ValueText(format, field));
    }
    return body;
  }
  std::string body = absl::StrCat("\"event\":\"", Escaped(event), "\"");
  for (const LogField& field : fields) {
    absl::StrAppend(&body, ",\"", field.key, "\":", ValueText(format, field));
  }
  return body;
}

}  // namespace kvasir
