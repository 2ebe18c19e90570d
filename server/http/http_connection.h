// One client's connection: reads requests, has them answered one after the other, and notices at
// once when the client leaves. See http_server.h for the limits that hold here.
//
//   waiting -> head -> body -> answering -> (waiting | lingering) -> closed
//
// Lives on the I/O thread and belongs to what is under way there; an exchange knows it weakly and
// posts.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "boost/asio/io_context.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/beast/http/parser.hpp"
#include "boost/beast/http/string_body.hpp"
#include "server/http/http_server.h"
#include "server/http/http_transport.h"

namespace kvasir {

// What the connections of a server share. Used on the I/O thread, but Post.
struct HttpShared {
  boost::asio::io_context io{1};
  HttpLimits limits;
  HttpService* service = nullptr;
  bool draining = false;
  size_t body_bytes = 0;  // of all connections
  std::atomic<bool> stopped{false};

  // Runs `task` on the I/O thread, later; drops it once the server is shut down.
  void Post(std::function<void()> task);
};

class HttpConnection final : public std::enable_shared_from_this<HttpConnection> {
 public:
  // `closed` is called once, when the connection is no more.
  HttpConnection(std::shared_ptr<HttpShared> shared, std::unique_ptr<HttpTransport> transport,
                 std::optional<IpAddress> peer, std::function<void(HttpConnection*)> closed);
  ~HttpConnection();

  void Start();
  // Closes it now if nothing is being answered, else after the answer.
  void Drain();
  void Close();

  // The exchange's wishes, which count only while `answer` is the current one.
  void Send(uint64_t answer, HttpResponse response, std::function<void(bool)> done);
  void StartStream(uint64_t answer, HttpResponse response);
  void Write(uint64_t answer, std::string bytes, std::function<void(bool)> done);
  void EndStream(uint64_t answer);
  void OnClientGone(uint64_t answer, std::function<void()> gone);
  void EveryWhile(uint64_t answer, double period_seconds, std::function<void()> tick);

 private:
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  enum class State { kHandshake, kWaiting, kHead, kBody, kAnswering, kLingering, kClosed };
  struct Pending {
    std::string bytes;
    std::function<void(bool)> done;
  };

  void AwaitRequest();
  void Read();
  void OnRead(boost::system::error_code error, size_t bytes);
  // Takes what the buffer holds as far as it goes.
  void Parse();
  // The request whose head the parser holds.
  HttpRequest RequestHead() const;
  // False when the request is answered already.
  bool OnHead();
  void OnMessage();
  // Answers what is no request that could be served, and closes.
  void Fault(int status, const std::string& message);

  void Queue(std::string bytes, std::function<void(bool)> done);
  void Flush();
  void OnWritten(boost::system::error_code error, size_t bytes);
  std::string Head(const HttpResponse& response, std::optional<size_t> length) const;
  void EndAnswer();
  void Linger();
  void ReleaseBody();

  // Calls the deadline's handler for the state after `period`; replaces the last one.
  void Expire(absl::Duration period);
  void OnDeadline();
  void Tick(double period_seconds);

  const std::shared_ptr<HttpShared> shared_;
  const std::unique_ptr<HttpTransport> transport_;
  const std::optional<IpAddress> peer_;
  const std::function<void(HttpConnection*)> closed_;

  State state_ = State::kHandshake;
  boost::asio::steady_timer deadline_;
  uint64_t deadline_number_ = 0;

  bool reading_ = false;
  std::array<char, 8 << 10> read_buffer_;
  std::string unread_;  // bytes of the request under way and of those after it
  std::unique_ptr<Parser> parser_;
  size_t reserved_body_bytes_ = 0;
  size_t lingered_bytes_ = 0;

  // The answer under way.
  uint64_t answer_ = 0;
  bool keep_alive_ = false;
  bool head_only_ = false;  // HEAD
  bool http_1_1_ = true;
  bool stream_started_ = false;
  bool answer_complete_ = false;  // all of it is queued
  std::function<void()> gone_;
  std::function<void()> tick_;
  boost::asio::steady_timer tick_timer_;
  std::deque<Pending> outgoing_;  // the first is being written
  size_t written_ = 0;            // of the first
  bool writing_ = false;
};

}  // namespace kvasir
