#include "server/http/http_connection.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "boost/asio/post.hpp"
#include "boost/beast/http/error.hpp"

namespace kvasir {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;

// Bytes of later requests that are read while one is answered; more stay in the socket.
constexpr size_t kMaxReadAhead = 64 << 10;
// How long, and how much of what it still sends, a refused client is listened to, so that it reads
// the answer before the connection breaks.
constexpr absl::Duration kLingerTime = absl::Seconds(2);
constexpr size_t kMaxLingerBytes = 32 << 20;

absl::string_view ToView(boost::beast::string_view text) { return {text.data(), text.size()}; }

std::string PathOf(absl::string_view target) {
  // A proxy's client sends the whole URL.
  if (const size_t scheme = target.find("://"); scheme != absl::string_view::npos) {
    const size_t path = target.find('/', scheme + 3);
    target = path == absl::string_view::npos ? "/" : target.substr(path);
  }
  return std::string(target.substr(0, target.find('?')));
}

class Exchange final : public HttpExchange {
 public:
  Exchange(std::shared_ptr<HttpShared> shared, std::weak_ptr<HttpConnection> connection,
           uint64_t answer, HttpRequest request)
      : shared_(std::move(shared)),
        connection_(std::move(connection)),
        answer_(answer),
        request_(std::move(request)) {}

  const HttpRequest& request() const override { return request_; }

  void Send(HttpResponse response, std::function<void(bool)> done) override {
    shared_->Post([weak = connection_, answer = answer_, response = std::move(response),
                   done = std::move(done)]() mutable {
      if (const std::shared_ptr<HttpConnection> connection = weak.lock()) {
        connection->Send(answer, std::move(response), std::move(done));
      } else if (done) {
        done(false);
      }
    });
  }
  void StartStream(HttpResponse response) override {
    Post([answer = answer_, response = std::move(response)](HttpConnection& connection) mutable {
      connection.StartStream(answer, std::move(response));
    });
  }
  void Write(std::string bytes, std::function<void(bool)> done) override {
    shared_->Post([weak = connection_, answer = answer_, bytes = std::move(bytes),
                   done = std::move(done)]() mutable {
      const std::shared_ptr<HttpConnection> connection = weak.lock();
      if (connection == nullptr) return done(false);
      connection->Write(answer, std::move(bytes), std::move(done));
    });
  }
  void EndStream() override {
    Post([answer = answer_](HttpConnection& connection) { connection.EndStream(answer); });
  }
  void OnClientGone(std::function<void()> gone) override {
    shared_->Post([weak = connection_, answer = answer_, gone = std::move(gone)]() mutable {
      const std::shared_ptr<HttpConnection> connection = weak.lock();
      if (connection == nullptr) return gone();
      connection->OnClientGone(answer, std::move(gone));
    });
  }
  void EveryWhile(double period_seconds, std::function<void()> tick) override {
    Post([answer = answer_, period_seconds,
          tick = std::move(tick)](HttpConnection& connection) mutable {
      connection.EveryWhile(answer, period_seconds, std::move(tick));
    });
  }

 private:
  template <typename Call>
  void Post(Call call) {
    shared_->Post([weak = connection_, call = std::move(call)]() mutable {
      if (const std::shared_ptr<HttpConnection> connection = weak.lock()) call(*connection);
    });
  }

  const std::shared_ptr<HttpShared> shared_;
  const std::weak_ptr<HttpConnection> connection_;
  const uint64_t answer_;
  const HttpRequest request_;
};

}  // namespace

void HttpShared::Post(std::function<void()> task) {
  if (!stopped) asio::post(io, std::move(task));
}

HttpConnection::HttpConnection(std::shared_ptr<HttpShared> shared,
                               std::unique_ptr<HttpTransport> transport,
                               std::optional<IpAddress> peer,
                               std::function<void(HttpConnection*)> closed)
    : shared_(std::move(shared)),
      transport_(std::move(transport)),
      peer_(peer),
      closed_(std::move(closed)),
      deadline_(shared_->io),
      tick_timer_(shared_->io) {}

HttpConnection::~HttpConnection() { ReleaseBody(); }

void HttpConnection::Start() {
  Expire(shared_->limits.handshake_timeout);
  transport_->Handshake([self = shared_from_this()](error_code error) {
    if (self->state_ != State::kHandshake) return;
    if (error) return self->Close();
    self->AwaitRequest();
  });
}

void HttpConnection::Drain() {
  // Who has just come gets an answer, if only that nothing is taken any more.
  if (state_ == State::kWaiting && answer_ > 0) Close();
}

void HttpConnection::Close() {
  if (state_ == State::kClosed) return;
  const auto self = shared_from_this();
  const bool was_answering = state_ == State::kAnswering;
  state_ = State::kClosed;
  deadline_.cancel();
  tick_timer_.cancel();
  tick_ = nullptr;
  transport_->Close();
  ReleaseBody();
  const std::function<void()> gone = std::exchange(gone_, nullptr);
  if (was_answering && !answer_complete_ && gone) gone();
  std::deque<Pending> unsent;
  unsent.swap(outgoing_);
  for (const Pending& pending : unsent) {
    if (pending.done) pending.done(false);
  }
  closed_(this);
}

void HttpConnection::AwaitRequest() {
  state_ = State::kWaiting;
  parser_ = std::make_unique<Parser>();
  // Beast's own limits are counted with the request line.
  parser_->header_limit(static_cast<uint32_t>(shared_->limits.max_header_bytes));
  parser_->body_limit(shared_->limits.max_body_bytes);
  if (shared_->draining && unread_.empty() && answer_ > 0) return Close();
  Expire(shared_->limits.idle_timeout);
  Parse();
}

void HttpConnection::Read() {
  if (reading_ || state_ == State::kClosed) return;
  if (state_ == State::kAnswering && unread_.size() >= kMaxReadAhead) return;
  reading_ = true;
  transport_->ReadSome(asio::buffer(read_buffer_),
                       [self = shared_from_this()](error_code error, size_t bytes) {
                         self->reading_ = false;
                         self->OnRead(error, bytes);
                       });
}

void HttpConnection::OnRead(error_code error, size_t bytes) {
  if (state_ == State::kClosed) return;
  if (error) return Close();
  if (state_ == State::kLingering) {
    lingered_bytes_ += bytes;
    return lingered_bytes_ > kMaxLingerBytes ? Close() : Read();
  }
  unread_.append(read_buffer_.data(), bytes);
  if (state_ == State::kAnswering) return Read();
  Parse();
}

void HttpConnection::Parse() {
  // Some clients send an empty line after a body that does not count it.
  while (state_ == State::kWaiting && absl::StartsWith(unread_, "\r\n")) unread_.erase(0, 2);
  if (state_ == State::kWaiting && !unread_.empty() && unread_ != "\r") {
    state_ = State::kHead;
    Expire(shared_->limits.header_timeout);
  }
  while (!unread_.empty() && (state_ == State::kHead || state_ == State::kBody)) {
    error_code error;
    parser_->eager(state_ == State::kBody);
    const size_t used = parser_->put(asio::buffer(unread_), error);
    unread_.erase(0, used);
    if (error == http::error::need_more) break;
    if (error == http::error::header_limit) {
      return Fault(431, absl::StrCat("the headers are longer than the limit of ",
                                     shared_->limits.max_header_bytes, " bytes; send fewer"));
    }
    if (error == http::error::body_limit) {
      return Fault(413, absl::StrCat("the body is longer than the limit of ",
                                     shared_->limits.max_body_bytes, " bytes; send less"));
    }
    if (error) return Fault(400, absl::StrCat("this is no HTTP/1.1: ", error.message()));
    if (state_ == State::kHead && parser_->is_header_done() && !OnHead()) return;
    if (state_ == State::kBody && parser_->is_done()) return OnMessage();
  }
  Read();
}

HttpRequest HttpConnection::RequestHead() const {
  const auto& message = parser_->get();
  HttpRequest request;
  request.method = std::string(message.method_string());
  request.path = PathOf(ToView(message.target()));
  for (const auto& field : message) {
    request.headers.emplace_back(absl::AsciiStrToLower(ToView(field.name_string())),
                                 std::string(field.value()));
  }
  request.peer = peer_;
  request.certificate_names = transport_->CertificateNames();
  return request;
}

bool HttpConnection::OnHead() {
  const auto& message = parser_->get();
  // What would let two readers of the same bytes see different requests in them.
  if (message.count(http::field::transfer_encoding) > 0 &&
      (message.count(http::field::transfer_encoding) > 1 ||
       !absl::EqualsIgnoreCase(
           absl::StripAsciiWhitespace(ToView(message[http::field::transfer_encoding])),
           "chunked"))) {
    Fault(501, "the one Transfer-Encoding that is read here is chunked");
    return false;
  }
  const size_t hosts = message.count(http::field::host);
  if (hosts > 1 || (hosts == 0 && message.version() == 11)) {
    Fault(400, absl::StrCat("there are ", hosts, " Host headers; send one"));
    return false;
  }
  keep_alive_ = message.keep_alive() && !shared_->draining;
  http_1_1_ = message.version() == 11;
  head_only_ = message.method() == http::verb::head;

  HttpRequest request = RequestHead();
  const auto length = parser_->content_length();
  const bool has_body = parser_->chunked() || (length && *length > 0);
  std::optional<HttpResponse> refusal = shared_->service->Refuse(request);
  if (!refusal && has_body) {
    const size_t wanted = parser_->chunked() ? shared_->limits.max_body_bytes : *length;
    if (shared_->body_bytes + wanted > shared_->limits.max_total_body_bytes) {
      refusal = shared_->service->Fault(503, "too many large requests at once; try again later");
      refusal->headers.emplace_back("Retry-After", "1");
    } else {
      reserved_body_bytes_ = wanted;
      shared_->body_bytes += wanted;
    }
  }
  if (refusal) {
    // What follows is not read, so nothing after it can be understood.
    if (has_body) keep_alive_ = false;
    state_ = State::kAnswering;
    Send(++answer_, *std::move(refusal), nullptr);
    Read();
    return false;
  }
  if (has_body && absl::EqualsIgnoreCase(request.Header("expect"), "100-continue")) {
    Queue("HTTP/1.1 100 Continue\r\n\r\n", nullptr);
  }
  state_ = State::kBody;
  const double body_seconds =
      static_cast<double>(reserved_body_bytes_) / shared_->limits.min_body_bytes_per_second;
  Expire(shared_->limits.header_timeout + absl::Seconds(body_seconds));
  return true;
}

void HttpConnection::OnMessage() {
  HttpRequest request = RequestHead();
  request.body = std::move(parser_->get().body());
  // A chunked body was reckoned as the longest that may come.
  const size_t unused = reserved_body_bytes_ - std::min(reserved_body_bytes_, request.body.size());
  reserved_body_bytes_ -= unused;
  shared_->body_bytes -= unused;
  parser_ = nullptr;

  state_ = State::kAnswering;
  answer_complete_ = false;
  ++answer_;
  ++deadline_number_;  // none, until something is written
  Read();              // notices when the client leaves
  shared_->service->Serve(
      std::make_shared<Exchange>(shared_, weak_from_this(), answer_, std::move(request)));
}

void HttpConnection::Fault(int status, const std::string& message) {
  keep_alive_ = false;
  head_only_ = false;
  state_ = State::kAnswering;
  Send(++answer_, shared_->service->Fault(status, message), nullptr);
}

void HttpConnection::Send(uint64_t answer, HttpResponse response, std::function<void(bool)> done) {
  if (answer != answer_ || state_ != State::kAnswering || stream_started_ || answer_complete_) {
    if (done) done(false);
    return;
  }
  if (shared_->draining) keep_alive_ = false;
  std::string bytes = Head(response, response.body.size());
  if (!head_only_) bytes += response.body;
  answer_complete_ = true;
  Queue(std::move(bytes), std::move(done));
}

void HttpConnection::StartStream(uint64_t answer, HttpResponse response) {
  if (answer != answer_ || state_ != State::kAnswering || stream_started_) return;
  if (shared_->draining || !http_1_1_) keep_alive_ = false;
  stream_started_ = true;
  Queue(Head(response, std::nullopt), nullptr);
  if (!response.body.empty()) Write(answer, std::move(response.body), [](bool) {});
}

void HttpConnection::Write(uint64_t answer, std::string bytes, std::function<void(bool)> done) {
  if (answer != answer_ || state_ != State::kAnswering || !stream_started_ || answer_complete_) {
    return done(false);
  }
  // HTTP/1.0 knows no chunks: its body ends with the connection.
  if (http_1_1_) bytes = absl::StrCat(absl::Hex(bytes.size()), "\r\n", bytes, "\r\n");
  Queue(std::move(bytes), std::move(done));
}

void HttpConnection::EndStream(uint64_t answer) {
  if (answer != answer_ || state_ != State::kAnswering || !stream_started_ || answer_complete_) {
    return;
  }
  answer_complete_ = true;
  Queue(http_1_1_ ? "0\r\n\r\n" : "", nullptr);
}

void HttpConnection::OnClientGone(uint64_t answer, std::function<void()> gone) {
  if (answer != answer_ || state_ == State::kClosed) return gone();
  gone_ = std::move(gone);
}

void HttpConnection::EveryWhile(uint64_t answer, double period_seconds,
                                std::function<void()> tick) {
  if (answer != answer_ || state_ != State::kAnswering || answer_complete_) return;
  tick_ = std::move(tick);
  Tick(period_seconds);
}

void HttpConnection::Tick(double period_seconds) {
  tick_timer_.expires_after(std::chrono::microseconds(static_cast<int64_t>(period_seconds * 1e6)));
  tick_timer_.async_wait([self = shared_from_this(), period_seconds](error_code error) {
    if (error || !self->tick_) return;
    self->tick_();
    self->Tick(period_seconds);
  });
}

std::string HttpConnection::Head(const HttpResponse& response, std::optional<size_t> length) const {
  const auto reason = http::obsolete_reason(static_cast<http::status>(response.status));
  std::string head = absl::StrCat("HTTP/1.1 ", response.status, " ",
                                  absl::string_view(reason.data(), reason.size()), "\r\n");
  if (!response.content_type.empty()) {
    absl::StrAppend(&head, "Content-Type: ", response.content_type, "\r\n");
  }
  if (length) {
    absl::StrAppend(&head, "Content-Length: ", *length, "\r\n");
  } else if (http_1_1_) {
    absl::StrAppend(&head, "Transfer-Encoding: chunked\r\n");
  }
  if (!keep_alive_) {
    absl::StrAppend(&head, "Connection: close\r\n");
  } else if (!http_1_1_) {
    absl::StrAppend(&head, "Connection: keep-alive\r\n");
  }
  for (const auto& [name, value] : response.headers) {
    absl::StrAppend(&head, name, ": ", value, "\r\n");
  }
  return head + "\r\n";
}

void HttpConnection::Queue(std::string bytes, std::function<void(bool)> done) {
  outgoing_.push_back({std::move(bytes), std::move(done)});
  Flush();
}

void HttpConnection::Flush() {
  if (writing_ || state_ == State::kClosed) return;
  if (outgoing_.empty()) {
    if (state_ == State::kAnswering && answer_complete_) EndAnswer();
    return;
  }
  writing_ = true;
  if (state_ == State::kAnswering) Expire(shared_->limits.write_timeout);
  transport_->WriteSome(asio::buffer(outgoing_.front().bytes.data() + written_,
                                     outgoing_.front().bytes.size() - written_),
                        [self = shared_from_this()](error_code error, size_t bytes) {
                          self->writing_ = false;
                          self->OnWritten(error, bytes);
                        });
}

void HttpConnection::OnWritten(error_code error, size_t bytes) {
  if (state_ == State::kClosed) return;
  if (error) return Close();
  written_ += bytes;
  if (written_ >= outgoing_.front().bytes.size()) {
    const std::function<void(bool)> done = std::move(outgoing_.front().done);
    outgoing_.pop_front();
    written_ = 0;
    if (state_ == State::kAnswering) ++deadline_number_;  // nothing is overdue any more
    if (done) done(true);
  }
  Flush();
}

void HttpConnection::EndAnswer() {
  gone_ = nullptr;
  tick_ = nullptr;
  tick_timer_.cancel();
  stream_started_ = false;
  answer_complete_ = false;
  ++answer_;  // what the old exchange still says is too late
  ReleaseBody();
  if (!keep_alive_) return Linger();
  AwaitRequest();
}

void HttpConnection::Linger() {
  state_ = State::kLingering;
  unread_.clear();
  lingered_bytes_ = 0;
  Expire(kLingerTime);
  transport_->ShutdownSend([self = shared_from_this()](error_code error) {
    // A peer that has closed too leaves nothing to wait for.
    if (error && self->state_ == State::kLingering) self->Close();
  });
  Read();
}

void HttpConnection::ReleaseBody() {
  shared_->body_bytes -= reserved_body_bytes_;
  reserved_body_bytes_ = 0;
}

void HttpConnection::Expire(absl::Duration period) {
  const uint64_t number = ++deadline_number_;
  deadline_.expires_after(absl::ToChronoMicroseconds(period));
  deadline_.async_wait([self = shared_from_this(), number](error_code error) {
    if (!error && number == self->deadline_number_) self->OnDeadline();
  });
}

void HttpConnection::OnDeadline() {
  if (state_ == State::kHead || state_ == State::kBody) {
    return Fault(408, "the request came too slowly; send it again");
  }
  Close();
}

}  // namespace kvasir
