#include "tests/bench/http_door.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tests/bench/engine_under_test.h"

namespace kvasir::bench {
namespace {

std::string Body(const v1::GenerateRequest& request) {
  nlohmann::json body;
  body["prompt"] =
      std::vector<int>(request.token_ids().ids().begin(), request.token_ids().ids().end());
  body["temperature"] = request.sampling().temperature();
  body["seed"] = request.sampling().seed();
  body["max_tokens"] = request.stopping().max_tokens();
  body["ignore_eos"] = request.stopping().ignore_eos();
  body["stream"] = true;
  return body.dump();
}

// One exchange over a connection of its own.
void Exchange(int port, const v1::GenerateRequest& request) {
  const int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (client < 0 || connect(client, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    Die("cannot connect to the HTTP port");
  }
  const std::string body = Body(request);
  const std::string message =
      absl::StrCat("POST /v1/completions HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n",
                   "Content-Length: ", body.size(), "\r\n\r\n", body);
  for (size_t sent = 0; sent < message.size();) {
    const ssize_t n = send(client, message.data() + sent, message.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) Die("the HTTP port takes no request");
    sent += static_cast<size_t>(n);
  }
  std::string answer;
  char buffer[16 << 10];
  for (ssize_t n = 0; (n = recv(client, buffer, sizeof buffer, 0)) > 0;) {
    answer.append(buffer, static_cast<size_t>(n));
  }
  close(client);
  if (!absl::StartsWith(answer, "HTTP/1.1 200 ") || !absl::StrContains(answer, "data: [DONE]")) {
    Die(absl::StrCat("an answer over HTTP ended with: ", answer.substr(0, 500)));
  }
}

}  // namespace

HttpDoor::HttpDoor(const ModelRegistry* models) {
  OpenAiPages pages;
  pages.healthy = [] { return true; };
  pages.metrics = [] { return std::string(); };
  service_ = std::make_unique<OpenAiService>(frontend_.EnvironmentOf(models), std::move(pages));
  server_ = OrDie(
      HttpServer::Start({"127.0.0.1", 0}, TlsConfig(), HttpLimits(), "bench", service_.get()));
}

HttpDoor::~HttpDoor() { server_->Shutdown(); }

void HttpDoor::Run(const std::vector<v1::GenerateRequest>& requests) {
  std::vector<std::thread> readers;
  for (const v1::GenerateRequest& request : requests) {
    readers.emplace_back([this, &request] { Exchange(server_->address().port, request); });
  }
  for (std::thread& reader : readers) reader.join();
}

}  // namespace kvasir::bench
