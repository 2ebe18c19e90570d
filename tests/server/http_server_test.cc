// The HTTP listener over real sockets, its answers made by hand: framing, limits, clients that
// leave, floods.
#include "server/http/http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvasir {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr absl::Duration kPatience = absl::Seconds(60);

class Client {
 public:
  explicit Client(int port) : descriptor_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(descriptor_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  ~Client() { Close(); }
  Client(const Client&) = delete;

  // False once the other side has closed.
  bool Send(const std::string& bytes) {
    size_t sent = 0;
    while (sent < bytes.size()) {
      const ssize_t n = send(descriptor_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) return false;
      sent += static_cast<size_t>(n);
    }
    return true;
  }
  // Reads until `end` has come, or the other side has closed.
  std::string ReadUntil(const std::string& end) {
    while (!absl::StrContains(received_, end)) {
      pollfd wait = {descriptor_, POLLIN, 0};
      if (poll(&wait, 1, static_cast<int>(absl::ToInt64Milliseconds(kPatience))) <= 0) {
        ADD_FAILURE() << "nothing came; so far: " << received_;
        break;
      }
      char buffer[4096];
      const ssize_t n = recv(descriptor_, buffer, sizeof buffer, 0);
      if (n <= 0) {
        closed_ = true;
        return std::exchange(received_, "");
      }
      received_.append(buffer, static_cast<size_t>(n));
    }
    const size_t size = std::min(received_.size(), received_.find(end) + end.size());
    const std::string read = received_.substr(0, size);
    received_.erase(0, size);
    return read;
  }
  std::string ReadAll() { return ReadUntil("no such text"); }
  bool closed() const { return closed_; }
  void HalfClose() { shutdown(descriptor_, SHUT_WR); }
  void Close() {
    if (descriptor_ >= 0) close(std::exchange(descriptor_, -1));
  }

 private:
  int descriptor_;
  std::string received_;
  bool closed_ = false;
};

// Echoes method, path and body; "/hold" is answered by the test; "/forbidden" is refused at its
// head.
class FakeService : public HttpService {
 public:
  std::optional<HttpResponse> Refuse(const HttpRequest& head) const override {
    if (head.path != "/forbidden") return std::nullopt;
    return Fault(403, "not here");
  }
  void Serve(std::shared_ptr<HttpExchange> exchange) override {
    if (exchange->request().path == "/hold") {
      absl::MutexLock lock(&mutex_);
      held_.push_back(std::move(exchange));
      return;
    }
    HttpResponse response;
    response.content_type = "text/plain";
    response.body = absl::StrCat(exchange->request().method, " ", exchange->request().path, " [",
                                 exchange->request().body.size(), "]");
    exchange->Send(std::move(response));
  }
  HttpResponse Fault(int status, const std::string& message) const override {
    HttpResponse response;
    response.status = status;
    response.body = message;
    return response;
  }

  std::shared_ptr<HttpExchange> WaitForHeld() {
    const auto any = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !held_.empty(); };
    absl::MutexLock lock(&mutex_, absl::Condition(&any));
    std::shared_ptr<HttpExchange> exchange = std::move(held_.back());
    held_.pop_back();
    return exchange;
  }

 private:
  absl::Mutex mutex_;
  std::vector<std::shared_ptr<HttpExchange>> held_ ABSL_GUARDED_BY(mutex_);
};

class HttpServerTest : public ::testing::Test {
 protected:
  void Start() {
    auto server =
        HttpServer::Start({"127.0.0.1", 0}, TlsConfig(), limits_, "http_listen", &service_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  int port() {
    if (server_ == nullptr) Start();
    return server_->address().port;
  }
  // Until no connection is open.
  bool WaitForNone() {
    const absl::Time deadline = absl::Now() + kPatience;
    while (server_->open_connections() > 0 && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(2));
    }
    return server_->open_connections() == 0;
  }

  HttpLimits limits_;
  FakeService service_;
  std::unique_ptr<HttpServer> server_;
};

constexpr char kClosing[] = " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

TEST_F(HttpServerTest, KeepsAConnectionForManyRequests) {
  Client client(port());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(client.Send("GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"));
    const std::string reply = client.ReadUntil("GET /a [0]");
    EXPECT_THAT(reply, StartsWith("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"));
    EXPECT_THAT(reply, HasSubstr("Content-Length: 10\r\n"));
  }
  ASSERT_TRUE(client.Send(absl::StrCat("HEAD /a", kClosing)));
  EXPECT_THAT(client.ReadAll(), EndsWith("Connection: close\r\n\r\n"));
}

TEST_F(HttpServerTest, AnswersPipelinedRequestsInOrder) {
  Client client(port());
  std::string requests;
  for (int i = 0; i < 50; ++i) {
    absl::StrAppend(&requests, "POST /", i, " HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
  }
  ASSERT_TRUE(client.Send(requests));
  for (int i = 0; i < 50; ++i) {
    EXPECT_THAT(client.ReadUntil("[3]"), HasSubstr(absl::StrCat("POST /", i, " [3]")));
  }
}

TEST_F(HttpServerTest, ReadsChunkedBodiesAndAnswersExpect) {
  Client client(port());
  ASSERT_TRUE(
      client.Send("POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
                  "Expect: 100-continue\r\n\r\n"));
  EXPECT_EQ(client.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  ASSERT_TRUE(client.Send("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"));
  EXPECT_THAT(client.ReadUntil("[5]"), HasSubstr("POST /a [5]"));
}

TEST_F(HttpServerTest, StreamsInChunks) {
  Client client(port());
  ASSERT_TRUE(client.Send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n"));
  const auto exchange = service_.WaitForHeld();
  exchange->StartStream({.content_type = "text/event-stream", .headers = {{"X-A", "b"}}});
  absl::Notification written;
  exchange->Write("hello", [&](bool ok) {
    EXPECT_TRUE(ok);
    written.Notify();
  });
  EXPECT_THAT(client.ReadUntil("5\r\nhello\r\n"),
              HasSubstr("Transfer-Encoding: chunked\r\nX-A: b\r\n\r\n"));
  EXPECT_TRUE(written.WaitForNotificationWithTimeout(kPatience));
  exchange->EndStream();
  EXPECT_EQ(client.ReadUntil("0\r\n\r\n"), "0\r\n\r\n");
  // The connection lives on; the old exchange is deaf.
  ASSERT_TRUE(client.Send("GET /next HTTP/1.1\r\nHost: x\r\n\r\n"));
  exchange->Send({.body = "too late"});
  EXPECT_THAT(client.ReadUntil("[0]"), HasSubstr("GET /next [0]"));
}

TEST_F(HttpServerTest, Http10GetsAPlainBodyThatEndsWithTheConnection) {
  Client client(port());
  ASSERT_TRUE(client.Send("GET /hold HTTP/1.0\r\n\r\n"));
  const auto exchange = service_.WaitForHeld();
  exchange->StartStream({});
  exchange->Write("hello", [](bool) {});
  exchange->EndStream();
  EXPECT_THAT(client.ReadAll(), EndsWith("\r\n\r\nhello"));
}

TEST_F(HttpServerTest, NoticesAClientThatLeaves) {
  for (const bool half : {false, true}) {
    Client client(port());
    ASSERT_TRUE(client.Send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n"));
    const auto exchange = service_.WaitForHeld();
    absl::Notification gone;
    exchange->OnClientGone([&] { gone.Notify(); });
    if (half) {
      client.HalfClose();
    } else {
      client.Close();
    }
    EXPECT_TRUE(gone.WaitForNotificationWithTimeout(kPatience));
    absl::Notification failed;
    exchange->Write("late", [&](bool ok) {
      EXPECT_FALSE(ok);
      failed.Notify();
    });
    EXPECT_TRUE(failed.WaitForNotificationWithTimeout(kPatience));
  }
  EXPECT_TRUE(WaitForNone());
}

TEST_F(HttpServerTest, TicksWhileAnAnswerIsUnderWay) {
  Client client(port());
  ASSERT_TRUE(client.Send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n"));
  const auto exchange = service_.WaitForHeld();
  absl::Notification ticked;
  exchange->EveryWhile(0.001, [&] {
    if (!ticked.HasBeenNotified()) ticked.Notify();
  });
  EXPECT_TRUE(ticked.WaitForNotificationWithTimeout(kPatience));
  exchange->Send({.body = "done"});
  EXPECT_THAT(client.ReadUntil("done"), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, RefusesAtTheHeadWithoutReadingTheBody) {
  Client client(port());
  // Far more than is ever read: the answer comes all the same.
  ASSERT_TRUE(
      client.Send("POST /forbidden HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"));
  client.Send(std::string(100'000, 'a'));
  EXPECT_THAT(client.ReadUntil("not here"), StartsWith("HTTP/1.1 403 "));
  client.Close();
  EXPECT_TRUE(WaitForNone());
  // Without a body the connection is still good.
  Client other(port());
  ASSERT_TRUE(other.Send("GET /forbidden HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_THAT(other.ReadUntil("not here"), Not(HasSubstr("Connection: close")));
}

TEST_F(HttpServerTest, BoundsHeadersAndBodies) {
  limits_.max_header_bytes = 1024;
  limits_.max_body_bytes = 1000;
  const std::map<std::string, const char*> cases = {
      {absl::StrCat("GET / HTTP/1.1\r\nA: ", std::string(2000, 'a'), "\r\n\r\n"), "431"},
      {absl::StrCat("GET /", std::string(5000, 'a')), "431"},
      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", "413"},
      {"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", "400"},
      {absl::StrCat("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n",
                    std::string(1001, 'a'), "\r\n0\r\n\r\n"),
       "413"},
      {"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "400"},
      {"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", "400"},
      {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 garbage\r\n\r\n", "400"},
      {"GET / HTTP/2.0\r\n\r\n", "400"},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"},
  };
  for (const auto& [request, status] : cases) {
    Client client(port());
    client.Send(request);
    EXPECT_THAT(client.ReadAll(), StartsWith(absl::StrCat("HTTP/1.1 ", status, " ")))
        << request.substr(0, 60);
  }
  EXPECT_TRUE(WaitForNone());
}

TEST_F(HttpServerTest, WhatTwoReadersCouldReadDifferentlyIsRefusedAndEnds) {
  const std::string post = "POST / HTTP/1.1\r\nHost: x\r\n";
  const std::string hidden = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n";
  const std::map<std::string, const char*> cases = {
      {post + "Transfer-Encoding: gzip\r\n\r\n", "501"},
      {post + "Transfer-Encoding: gzip, chunked\r\n\r\n", "501"},
      {post + "Transfer-Encoding: xchunked\r\n\r\n", "501"},
      {post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
      {post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", "400"},
      {post + "Host: y\r\n\r\n", "400"},
      {"GET / HTTP/1.1\r\n\r\n", "400"},
  };
  for (const auto& [request, status] : cases) {
    Client client(port());
    client.Send(request + hidden);
    const std::string all = client.ReadAll();
    EXPECT_THAT(all, StartsWith(absl::StrCat("HTTP/1.1 ", status, " "))) << request;
    EXPECT_THAT(all, Not(HasSubstr("hidden"))) << request;
  }
  EXPECT_TRUE(WaitForNone());
}

TEST_F(HttpServerTest, EmptyLinesBeforeARequestSayNothing) {
  for (const std::string& pieces : {std::string("\r\n"), std::string("\r\n\r\n\r\n")}) {
    Client client(port());
    for (const char byte : pieces) ASSERT_TRUE(client.Send(std::string(1, byte)));
    ASSERT_TRUE(client.Send("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" + pieces +
                            "GET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    const std::string all = client.ReadAll();
    EXPECT_THAT(all, AllOf(HasSubstr("POST /a"), HasSubstr("GET /b"))) << all;
  }
}

TEST_F(HttpServerTest, BoundsTheBodiesOfAllConnectionsTogether) {
  limits_.max_total_body_bytes = 1000;
  Client slow(port());
  ASSERT_TRUE(slow.Send("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 800\r\n\r\n"));
  // Its head has arrived when a second connection is refused for it.
  std::string reply;
  const absl::Time deadline = absl::Now() + kPatience;
  while (!absl::StartsWith(reply, "HTTP/1.1 503") && absl::Now() < deadline) {
    Client other(port());
    other.Send("POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 300\r\n\r\n" +
               std::string(300, 'b'));
    reply = other.ReadUntil("\r\n\r\n");
  }
  EXPECT_THAT(reply, HasSubstr("Retry-After: 1\r\n"));
  ASSERT_TRUE(slow.Send(std::string(800, 'a')));
  EXPECT_THAT(slow.ReadUntil("[800]"), HasSubstr("POST /a [800]"));
  Client other(port());
  other.Send("POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 300\r\n\r\n" + std::string(300, 'b'));
  EXPECT_THAT(other.ReadUntil("[300]"), HasSubstr("POST /b [300]"));
}

// Once a chunked body counted as the longest that may come until its answer ended.
TEST_F(HttpServerTest, AChunkedBodyCountsAsWhatItIsOnceItIsRead) {
  limits_.max_body_bytes = 800;
  limits_.max_total_body_bytes = 1000;
  Client held(port());
  ASSERT_TRUE(held.Send(
      "POST /hold HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"));
  const auto exchange = service_.WaitForHeld();
  EXPECT_EQ(exchange->request().body, "abc");
  Client other(port());
  ASSERT_TRUE(
      other.Send("POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                 "2\r\nde\r\n0\r\n\r\n"));
  EXPECT_THAT(other.ReadUntil("[2]"), HasSubstr("POST /b [2]"));
}

TEST_F(HttpServerTest, EndsSlowAndIdleConnections) {
  limits_.header_timeout = absl::Milliseconds(50);
  limits_.idle_timeout = absl::Milliseconds(50);
  Client idle(port());
  EXPECT_EQ(idle.ReadAll(), "");
  Client loris(port());
  ASSERT_TRUE(loris.Send("GET / HTTP/1.1\r\nA: b\r\n"));
  EXPECT_THAT(loris.ReadAll(), StartsWith("HTTP/1.1 408 "));
  Client body(port());
  ASSERT_TRUE(body.Send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"));
  EXPECT_THAT(body.ReadAll(), StartsWith("HTTP/1.1 408 "));
  EXPECT_TRUE(WaitForNone());
}

TEST_F(HttpServerTest, EndsAClientThatReadsNothing) {
  limits_.write_timeout = absl::Milliseconds(50);
  Client client(port());
  ASSERT_TRUE(client.Send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n"));
  const auto exchange = service_.WaitForHeld();
  absl::Notification gone, failed;
  exchange->OnClientGone([&] { gone.Notify(); });
  exchange->StartStream({});
  exchange->Write(std::string(64 << 20, 'a'), [&](bool ok) {
    EXPECT_FALSE(ok);
    failed.Notify();
  });
  EXPECT_TRUE(gone.WaitForNotificationWithTimeout(kPatience));
  EXPECT_TRUE(failed.WaitForNotificationWithTimeout(kPatience));
}

TEST_F(HttpServerTest, BoundsConnections) {
  limits_.max_connections = 2;
  Client first(port()), second(port());
  for (Client* client : {&first, &second}) {
    ASSERT_TRUE(client->Send("GET /a HTTP/1.1\r\nHost: x\r\n\r\n"));
    client->ReadUntil("[0]");
  }
  Client third(port());
  EXPECT_EQ(third.ReadAll(), "");
  first.Close();
  const absl::Time deadline = absl::Now() + kPatience;
  std::string reply;
  while (reply.empty() && absl::Now() < deadline) {
    Client fourth(port());
    if (fourth.Send(absl::StrCat("GET /a", kClosing))) reply = fourth.ReadAll();
  }
  EXPECT_THAT(reply, HasSubstr("GET /a [0]"));
}

TEST_F(HttpServerTest, DrainEndsIdleConnectionsAndLetsAnswersFinish) {
  Client idle(port()), busy(port());
  ASSERT_TRUE(idle.Send("GET /a HTTP/1.1\r\nHost: x\r\n\r\n"));
  idle.ReadUntil("[0]");
  ASSERT_TRUE(busy.Send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n"));
  const auto exchange = service_.WaitForHeld();
  server_->StartDrain();
  EXPECT_EQ(idle.ReadAll(), "");
  exchange->Send({.body = "finished"});
  EXPECT_THAT(busy.ReadAll(), HasSubstr("finished"));
  // Probes still get an answer.
  Client probe(port());
  ASSERT_TRUE(probe.Send("GET /a HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_THAT(probe.ReadAll(), HasSubstr("Connection: close\r\n"));
}

TEST_F(HttpServerTest, ShutdownEndsAnswersUnderWay) {
  Client client(port());
  ASSERT_TRUE(client.Send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n"));
  const auto exchange = service_.WaitForHeld();
  absl::Notification gone;
  exchange->OnClientGone([&] { gone.Notify(); });
  server_->Shutdown();
  EXPECT_EQ(client.ReadAll(), "");
  EXPECT_TRUE(gone.HasBeenNotified());
  exchange->Send({.body = "in vain"});
}

TEST_F(HttpServerTest, ThousandIdleConnectionsLeaveNothingBehind) {
  limits_.max_connections = 1200;
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 1000; ++i) clients.push_back(std::make_unique<Client>(port()));
  ASSERT_TRUE(clients.back()->Send("GET /a HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_THAT(clients.back()->ReadUntil("[0]"), HasSubstr("GET /a [0]"));
  clients.clear();
  EXPECT_TRUE(WaitForNone());
}

TEST(HttpServer, SaysWhyItCannotListen) {
  FakeService service;
  const auto first = HttpServer::Start({"127.0.0.1", 0}, TlsConfig(), {}, "http_listen", &service);
  ASSERT_TRUE(first.ok());
  const auto second = HttpServer::Start({"127.0.0.1", (*first)->address().port}, TlsConfig(), {},
                                        "http_listen", &service);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("http_listen"));
}

}  // namespace
}  // namespace kvasir
