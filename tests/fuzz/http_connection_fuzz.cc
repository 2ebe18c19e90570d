// Any bytes on an HTTP connection, without a socket: request lines, headers, bodies, chunks,
// pipelines. What is served keeps the limits and holds nothing that a header must not, and it is
// the same however the bytes come in pieces. Not so what is answered to what is no HTTP (with its
// end missing that is 400, or nothing), nor which of the last bytes of a head is the one too many.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "boost/asio/error.hpp"
#include "boost/asio/post.hpp"
#include "server/http/http_connection.h"

namespace kvasir {
namespace {

using boost::system::error_code;

// Small, so that inputs of a fuzzer's size meet them.
constexpr size_t kMaxHeaderBytes = 512;
constexpr size_t kMaxBodyBytes = 512;

// What stands at the other end of a connection. Next() lets one more piece come.
struct Wire {
  std::vector<std::string> pieces;  // that are still to come, in order
  std::string sent;                 // to the client
  HttpTransport::Moved reading;
  boost::asio::mutable_buffer buffer;
  bool closed = false;

  // False when nobody reads any more. After the last piece comes the end of the stream.
  bool Next() {
    if (reading == nullptr) return false;
    const HttpTransport::Moved moved = std::exchange(reading, nullptr);
    if (pieces.empty()) {
      moved(boost::asio::error::eof, 0);
      return true;
    }
    std::string& piece = pieces.front();
    const size_t bytes = std::min(piece.size(), buffer.size());
    std::copy_n(piece.begin(), bytes, static_cast<char*>(buffer.data()));
    piece.erase(0, bytes);
    if (piece.empty()) pieces.erase(pieces.begin());
    moved(error_code(), bytes);
    return true;
  }
};

class Transport final : public HttpTransport {
 public:
  Transport(boost::asio::io_context* io, Wire* wire) : io_(io), wire_(wire) {}

  void Handshake(Done done) override {
    boost::asio::post(*io_, [done = std::move(done)] { done(error_code()); });
  }
  void ReadSome(boost::asio::mutable_buffer buffer, Moved done) override {
    KVASIR_CHECK(wire_->reading == nullptr && buffer.size() > 0);
    wire_->buffer = buffer;
    wire_->reading = std::move(done);
  }
  void WriteSome(boost::asio::const_buffer buffer, Moved done) override {
    // Not all at once.
    const size_t bytes = std::min<size_t>(buffer.size(), 100);
    wire_->sent.append(static_cast<const char*>(buffer.data()), bytes);
    boost::asio::post(*io_, [done = std::move(done), bytes] { done(error_code(), bytes); });
  }
  void ShutdownSend(Done done) override {
    boost::asio::post(*io_, [done = std::move(done)] { done(error_code()); });
  }
  void Close() override {
    KVASIR_CHECK(!wire_->closed);
    wire_->closed = true;
    if (const Moved moved = std::exchange(wire_->reading, nullptr)) {
      boost::asio::post(*io_, [moved] { moved(boost::asio::error::operation_aborted, 0); });
    }
  }
  std::vector<std::string> CertificateNames() override { return {}; }

 private:
  boost::asio::io_context* const io_;
  Wire* const wire_;
};

// Says what it was asked; refuses /no, and streams /stream.
class Echo final : public HttpService {
 public:
  // Of all that came here.
  const std::string& log() const { return log_; }

  std::optional<HttpResponse> Refuse(const HttpRequest& head) const override {
    Check(head);
    absl::StrAppend(&log_, "head ", head.method, " ", head.path, "\n");
    if (head.path != "/no") return std::nullopt;
    return HttpResponse{.status = 403, .body = "no"};
  }
  void Serve(std::shared_ptr<HttpExchange> exchange) override {
    const HttpRequest& request = exchange->request();
    Check(request);
    KVASIR_CHECK(request.body.size() <= kMaxBodyBytes);
    HttpResponse response;
    response.body = absl::StrCat(request.method, " ", request.path, "\n");
    for (const auto& [name, value] : request.headers) {
      absl::StrAppend(&response.body, name, "=", value, "\n");
    }
    response.body += request.body;
    absl::StrAppend(&log_, response.body, "\n");
    if (request.path != "/stream") return exchange->Send(std::move(response));
    exchange->StartStream(HttpResponse{.headers = {{"X-Kind", "stream"}}});
    exchange->Write(std::move(response.body), [](bool) {});
    exchange->EndStream();
  }
  // A head was too long.
  bool is_flooded() const { return is_flooded_; }

  HttpResponse Fault(int status, const std::string& message) const override {
    is_flooded_ |= status == 431;
    return {.status = status, .body = message};
  }

 private:
  static void Check(const HttpRequest& request) {
    KVASIR_CHECK(!request.method.empty() && !absl::StrContains(request.path, '?'));
    size_t bytes = request.method.size() + request.path.size();
    for (const auto& [name, value] : request.headers) {
      KVASIR_CHECK(!name.empty() && name == absl::AsciiStrToLower(name));
      // Nothing that would end a line where a header is written or logged.
      for (const std::string* text : {&name, &value}) {
        KVASIR_CHECK(text->find_first_of(std::string("\r\n\0", 3)) == std::string::npos);
      }
      bytes += name.size() + value.size();
    }
    KVASIR_CHECK(bytes <= kMaxHeaderBytes);
  }

  mutable std::string log_;
  mutable bool is_flooded_ = false;
};

// What is served of the bytes; nothing when a head was too long.
std::optional<std::string> Talk(std::vector<std::string> pieces) {
  Echo service;
  const auto shared = std::make_shared<HttpShared>();
  shared->limits.max_header_bytes = kMaxHeaderBytes;
  shared->limits.max_body_bytes = kMaxBodyBytes;
  shared->service = &service;
  Wire wire;
  for (std::string& piece : pieces) {
    if (!piece.empty()) wire.pieces.push_back(std::move(piece));
  }
  int closed = 0;
  {
    const auto connection =
        std::make_shared<HttpConnection>(shared, std::make_unique<Transport>(&shared->io, &wire),
                                         std::nullopt, [&](HttpConnection*) { ++closed; });
    connection->Start();
  }
  // The next piece comes when all that the last one causes is done. The clock stands still: no
  // deadline passes in so short a time.
  do {
    while (shared->io.poll() > 0) {
    }
  } while (wire.Next());
  // Whoever has gone leaves nothing behind.
  KVASIR_CHECK(closed == 1 && wire.closed);
  KVASIR_CHECK(shared->body_bytes == 0);
  KVASIR_CHECK(wire.sent.empty() || absl::StartsWith(wire.sent, "HTTP/1.1 "));
  if (service.is_flooded()) return std::nullopt;
  return service.log();
}

void Run(const std::string& data) {
  // Whole, byte by byte, and cut where lines end, as clients write.
  std::vector<std::string> bytes, lines(1);
  for (const char byte : data) {
    bytes.emplace_back(1, byte);
    lines.back().push_back(byte);
    if (byte == '\n') lines.emplace_back();
  }
  const std::optional<std::string> whole = Talk({data});
  for (const std::vector<std::string>& pieces : {bytes, lines}) {
    const std::optional<std::string> cut = Talk(pieces);
    KVASIR_CHECK(!whole || !cut || *cut == *whole);
  }
}

}  // namespace
}  // namespace kvasir

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size <= 4096) kvasir::Run({reinterpret_cast<const char*>(data), size});
  return 0;
}
