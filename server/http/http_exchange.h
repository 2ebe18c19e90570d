// One HTTP request and the way to answer it, without a word of sockets: what handlers see of
// http_server.h.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/identity/credentials.h"

namespace kvasir {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

// Constant once a handler has it. As credentials it lives as long as it does.
class HttpRequest final : public CredentialSource {
 public:
  std::string method;   // "GET"
  std::string path;     // without the query; as sent, percent-encoding and all
  HttpHeaders headers;  // names in lower case, in the order of the wire
  std::string body;     // empty until all of it is there
  std::optional<IpAddress> peer;
  std::vector<std::string> certificate_names;

  // The first value of a header, its name in lower case; empty when absent.
  absl::string_view Header(absl::string_view name) const;

  std::vector<absl::string_view> Values(absl::string_view header) const override;
  std::optional<IpAddress> Peer() const override { return peer; }
  std::vector<std::string> CertificateNames() const override { return certificate_names; }
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  HttpHeaders headers = {};
};

// Answers one request: either Send once, or StartStream, any number of Write, EndStream. All
// methods may be called from any thread and none blocks; calls after the client is gone do nothing
// but call `done` back.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;

  virtual const HttpRequest& request() const = 0;

  // `done`, if given, is called once all has left or the client is gone.
  virtual void Send(HttpResponse response, std::function<void(bool ok)> done = nullptr) = 0;
  // Status line and headers of a body that comes in pieces; `response.body` is its first one.
  virtual void StartStream(HttpResponse response) = 0;
  // `done(ok)` is called from another call stack once the bytes have left, in order; not ok: the
  // client is gone.
  virtual void Write(std::string bytes, std::function<void(bool ok)> done) = 0;
  virtual void EndStream() = 0;

  // `gone` is called once if the client leaves before the answer's end, at once if it has already.
  // One that is set later takes the place of an earlier one.
  virtual void OnClientGone(std::function<void()> gone) = 0;
  // `tick` is called every `period` until the answer's end or the client's. To be set at most once.
  virtual void EveryWhile(double period_seconds, std::function<void()> tick) = 0;
};

// What stands behind a listener. Thread safe.
class HttpService {
 public:
  virtual ~HttpService() = default;
  // Looks at the head of a request before its body is read, on the I/O thread: whoever may not
  // come in does not get to send megabytes. Nothing: read on.
  virtual std::optional<HttpResponse> Refuse(const HttpRequest& head) const = 0;
  // Answers, on the I/O thread or by handing the exchange to another; must not block.
  virtual void Serve(std::shared_ptr<HttpExchange> exchange) = 0;
  // What a request that is no HTTP, too large or too slow is answered with, where an answer can
  // still be sent.
  virtual HttpResponse Fault(int status, const std::string& message) const = 0;
};

}  // namespace kvasir
