// The bytes of one connection: TCP or a unix socket, plain or TLS, behind one face. Used on the I/O
// thread only; handlers are called from its loop, never from inside these methods.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "boost/asio/buffer.hpp"
#include "boost/asio/generic/stream_protocol.hpp"
#include "boost/asio/ssl/context.hpp"
#include "boost/system/error_code.hpp"

namespace kvasir {

using StreamSocket = boost::asio::generic::stream_protocol::socket;

class HttpTransport {
 public:
  using Done = std::function<void(boost::system::error_code)>;
  using Moved = std::function<void(boost::system::error_code, size_t bytes)>;

  virtual ~HttpTransport() = default;
  virtual void Handshake(Done done) = 0;
  // At most one of each at a time; both may be under way together.
  virtual void ReadSome(boost::asio::mutable_buffer buffer, Moved done) = 0;
  virtual void WriteSome(boost::asio::const_buffer buffer, Moved done) = 0;
  // No more will be written: the peer sees the end of the stream.
  virtual void ShutdownSend(Done done) = 0;
  // What is under way ends with an error.
  virtual void Close() = 0;
  // Of the peer's verified certificate: see CredentialSource.
  virtual std::vector<std::string> CertificateNames() = 0;
};

std::unique_ptr<HttpTransport> MakePlainTransport(StreamSocket socket);
// Shares the context, which may be replaced for later connections.
std::unique_ptr<HttpTransport> MakeTlsTransport(StreamSocket socket,
                                                std::shared_ptr<boost::asio::ssl::context> context);

}  // namespace kvasir
