#include "server/telemetry/metrics_endpoint.h"

#include <civetweb.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "server/telemetry/logging.h"

namespace kvasir {
namespace {

// Two, so that a health probe never waits behind a scrape.
constexpr char kThreads[] = "2";
// A client that sends its request slowly would otherwise hold one of them.
constexpr char kRequestTimeoutMs[] = "5000";

void Reply(mg_connection* connection, const char* status, const char* content_type,
           const std::string& body) {
  mg_printf(connection,
            "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nCache-Control: no-store\r\n"
            "Connection: close\r\n\r\n",
            status, content_type, body.size());
  if (std::strcmp(mg_get_request_info(connection)->request_method, "HEAD") != 0) {
    mg_write(connection, body.data(), body.size());
  }
}

// True when the method is one for reading; else replies.
bool IsRead(mg_connection* connection) {
  const char* method = mg_get_request_info(connection)->request_method;
  if (std::strcmp(method, "GET") == 0 || std::strcmp(method, "HEAD") == 0) return true;
  Reply(connection, "405 Method Not Allowed", "text/plain; charset=utf-8",
        "only GET is served here\n");
  return false;
}

// Connects and hangs up at once; errors do not matter.
void Knock(const HostPort& address) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found) != 0)
    return;
  const int descriptor = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (descriptor >= 0) {
    (void)connect(descriptor, found->ai_addr, found->ai_addrlen);
    close(descriptor);
  }
  freeaddrinfo(found);
}

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Start(const HostPort& address,
                                                                        Pages pages) {
  std::unique_ptr<MetricsEndpoint> endpoint(new MetricsEndpoint(address, std::move(pages)));
  const std::string listen = address.ToString();
  if (absl::StrContains(address.host, ":") && mg_check_feature(MG_FEATURES_IPV6) == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen for metrics on ", listen,
                     ": the civetweb library of this system has no IPv6; give metrics_listen an "
                     "IPv4 address or a name, or 'off'"));
  }
  const char* options[] = {"listening_ports",    listen.c_str(),    "num_threads", kThreads,
                           "request_timeout_ms", kRequestTimeoutMs, nullptr};

  mg_callbacks callbacks = {};
  callbacks.log_message = OnLogMessage;
  mg_init_data init = {};
  init.callbacks = &callbacks;
  init.user_data = endpoint.get();
  init.configuration_options = options;
  char error_text[256] = "";
  mg_error_data error = {};
  error.text = error_text;
  error.text_buffer_size = sizeof error_text;
  endpoint->context_ = mg_start2(&init, &error);
  if (endpoint->context_ == nullptr) {
    const std::string reason =
        endpoint->start_messages_.empty() ? error_text : endpoint->start_messages_;
    return absl::UnavailableError(absl::StrCat("cannot listen for metrics on ", listen, ": ",
                                               reason,
                                               "; choose another metrics_listen, or 'off'"));
  }
  endpoint->started_ = true;
  mg_set_request_handler(endpoint->context_, "/metrics$", ServeMetrics, endpoint.get());
  mg_set_request_handler(endpoint->context_, "/healthz$", ServeHealth, endpoint.get());

  mg_server_port port = {};
  KVASIR_CHECK(mg_get_server_ports(endpoint->context_, 1, &port) == 1);
  endpoint->address_.port = port.port;
  return endpoint;
}

MetricsEndpoint::~MetricsEndpoint() {
  if (context_ == nullptr) return;
  // civetweb's listener looks for the stop flag only every two seconds, or when a connection comes:
  // so connections come until it has stopped.
  std::atomic<bool> stopped{false};
  std::thread knocker([&] {
    while (!stopped) {
      Knock(address_);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  });
  mg_stop(context_);
  stopped = true;
  knocker.join();
}

int MetricsEndpoint::OnLogMessage(const mg_connection* connection, const char* message) {
  auto* self = static_cast<MetricsEndpoint*>(mg_get_user_data(mg_get_context(connection)));
  if (self != nullptr && !self->started_) {
    absl::StrAppend(&self->start_messages_, self->start_messages_.empty() ? "" : "; ", message);
  } else {
    LogDebug("metrics endpoint", {{"message", message}});
  }
  return 1;  // civetweb shall not log it as well
}

int MetricsEndpoint::ServeMetrics(mg_connection* connection, void* self) {
  if (IsRead(connection)) {
    Reply(connection, "200 OK", "text/plain; version=0.0.4; charset=utf-8",
          static_cast<MetricsEndpoint*>(self)->pages_.metrics());
  }
  return 1;
}

int MetricsEndpoint::ServeHealth(mg_connection* connection, void* self) {
  if (IsRead(connection)) {
    const bool healthy = static_cast<MetricsEndpoint*>(self)->pages_.healthy();
    Reply(connection, healthy ? "200 OK" : "503 Service Unavailable", "text/plain; charset=utf-8",
          healthy ? "ok\n" : "draining\n");
  }
  return 1;
}

}  // namespace kvasir
