#include "server/http/metrics_endpoint.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvasir {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// Sends `request` to 127.0.0.1:port and returns all that comes back until the other side closes.
std::string Exchange(int port, const std::string& request) {
  const int descriptor = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(descriptor, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(send(descriptor, request.data(), request.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(request.size()));
  std::string reply;
  char buffer[4096];
  for (ssize_t got; (got = recv(descriptor, buffer, sizeof buffer, 0)) > 0;)
    reply.append(buffer, static_cast<size_t>(got));
  close(descriptor);
  return reply;
}

std::string Get(int port, const std::string& path, const std::string& method = "GET") {
  return Exchange(port, absl::StrCat(method, " ", path,
                                     " HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"));
}

class MetricsEndpointTest : public ::testing::Test {
 protected:
  MetricsEndpointTest() {
    absl::StatusOr<std::unique_ptr<MetricsEndpoint>> endpoint = MetricsEndpoint::Start(
        {"127.0.0.1", 0}, {[this] { return absl::StrCat("scrapes_total ", ++scrapes_, "\n"); },
                           [this] { return healthy_.load(); }});
    EXPECT_TRUE(endpoint.ok()) << endpoint.status();
    endpoint_ = *std::move(endpoint);
  }

  int port() const { return endpoint_->address().port; }

  std::atomic<int> scrapes_{0};
  std::atomic<bool> healthy_{true};
  std::unique_ptr<MetricsEndpoint> endpoint_;
};

TEST_F(MetricsEndpointTest, ServesMetricsOnAFreePort) {
  EXPECT_GT(port(), 0);
  const std::string reply = Get(port(), "/metrics");
  EXPECT_THAT(reply, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(reply, HasSubstr("Content-Type: text/plain; version=0.0.4"));
  EXPECT_THAT(reply, HasSubstr("\r\n\r\nscrapes_total 1\n"));
  EXPECT_THAT(Get(port(), "/metrics?name=x"), HasSubstr("scrapes_total 2\n"));
}

TEST_F(MetricsEndpointTest, TellsHealth) {
  EXPECT_THAT(Get(port(), "/healthz"),
              AllOf(StartsWith("HTTP/1.1 200 OK"), HasSubstr("\r\n\r\nok\n")));
  healthy_ = false;
  EXPECT_THAT(Get(port(), "/healthz"), AllOf(StartsWith("HTTP/1.1 503 "), HasSubstr("draining\n")));
}

TEST_F(MetricsEndpointTest, RefusesOtherPagesAndMethods) {
  EXPECT_THAT(Get(port(), "/"), StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(Get(port(), "/metrics/../../etc/passwd"), StartsWith("HTTP/1.1 4"));
  EXPECT_THAT(Get(port(), "/metrics", "POST"), StartsWith("HTTP/1.1 405 "));
  EXPECT_THAT(Get(port(), "/metrics", "HEAD"), testing::EndsWith("\r\n\r\n"));
  EXPECT_THAT(Exchange(port(), "\x01\x02\r\n\r\n"), StartsWith("HTTP/1.1 400 "));
  EXPECT_THAT(Get(port(), "/healthz"), StartsWith("HTTP/1.1 200 OK"));
}

TEST_F(MetricsEndpointTest, ServesManyAtOnce) {
  std::vector<std::thread> clients;
  std::atomic<int> good{0};
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([&] {
      for (int j = 0; j < 25; ++j) {
        if (Get(port(), "/metrics").find("scrapes_total") != std::string::npos) ++good;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(good, 8 * 25);
}

TEST_F(MetricsEndpointTest, SaysWhyItCannotListen) {
  const absl::StatusOr<std::unique_ptr<MetricsEndpoint>> second =
      MetricsEndpoint::Start({"127.0.0.1", port()}, {[] { return ""; }, [] { return true; }});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()),
              AllOf(HasSubstr(absl::StrCat("127.0.0.1:", port())), HasSubstr("metrics_listen")));
}

TEST(MetricsEndpoint, ListensOnNamesAndOnIpv6) {
  for (const char* host : {"localhost", "::1"}) {
    const absl::StatusOr<std::unique_ptr<MetricsEndpoint>> endpoint =
        MetricsEndpoint::Start({host, 0}, {[] { return "x 1\n"; }, [] { return true; }});
    if (!endpoint.ok() && std::string(host) == "::1") {
      // A machine without IPv6.
      EXPECT_THAT(std::string(endpoint.status().message()), HasSubstr("[::1]:0"));
      continue;
    }
    ASSERT_TRUE(endpoint.ok()) << host << ": " << endpoint.status();
    EXPECT_GT((*endpoint)->address().port, 0);
  }
}

}  // namespace
}  // namespace kvasir
