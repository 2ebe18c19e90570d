#include "server/http/http_transport.h"

#include <utility>

#include "boost/asio/ssl/stream.hpp"
#include "server/identity/certificate_names.h"

namespace kvasir {
namespace {

using boost::system::error_code;

class PlainTransport final : public HttpTransport {
 public:
  explicit PlainTransport(StreamSocket socket) : socket_(std::move(socket)) {}

  void Handshake(Done done) override {
    boost::asio::post(socket_.get_executor(), [done = std::move(done)] { done(error_code()); });
  }
  void ReadSome(boost::asio::mutable_buffer buffer, Moved done) override {
    socket_.async_read_some(buffer, std::move(done));
  }
  void WriteSome(boost::asio::const_buffer buffer, Moved done) override {
    socket_.async_write_some(buffer, std::move(done));
  }
  void ShutdownSend(Done done) override {
    error_code ignored;
    socket_.shutdown(boost::asio::socket_base::shutdown_send, ignored);
    boost::asio::post(socket_.get_executor(), [done = std::move(done)] { done(error_code()); });
  }
  void Close() override {
    error_code ignored;
    socket_.close(ignored);
  }
  std::vector<std::string> CertificateNames() override { return {}; }

 private:
  StreamSocket socket_;
};

class TlsTransport final : public HttpTransport {
 public:
  TlsTransport(StreamSocket socket, std::shared_ptr<boost::asio::ssl::context> context)
      : context_(std::move(context)), stream_(std::move(socket), *context_) {}

  void Handshake(Done done) override {
    stream_.async_handshake(boost::asio::ssl::stream_base::server, std::move(done));
  }
  void ReadSome(boost::asio::mutable_buffer buffer, Moved done) override {
    stream_.async_read_some(buffer, std::move(done));
  }
  void WriteSome(boost::asio::const_buffer buffer, Moved done) override {
    stream_.async_write_some(buffer, std::move(done));
  }
  // Sends close_notify, and waits for the peer's.
  void ShutdownSend(Done done) override { stream_.async_shutdown(std::move(done)); }
  void Close() override {
    error_code ignored;
    stream_.next_layer().close(ignored);
  }
  std::vector<std::string> CertificateNames() override {
    return VerifiedCertificateNames(stream_.native_handle());
  }

 private:
  const std::shared_ptr<boost::asio::ssl::context> context_;
  boost::asio::ssl::stream<StreamSocket> stream_;
};

}  // namespace

std::unique_ptr<HttpTransport> MakePlainTransport(StreamSocket socket) {
  return std::make_unique<PlainTransport>(std::move(socket));
}

std::unique_ptr<HttpTransport> MakeTlsTransport(
    StreamSocket socket, std::shared_ptr<boost::asio::ssl::context> context) {
  return std::make_unique<TlsTransport>(std::move(socket), std::move(context));
}

}  // namespace kvasir
