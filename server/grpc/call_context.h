// What a gRPC call says about itself: under which request id, until when, and what it brings to
// prove who calls.
//
// Stateless functions, safe from any thread while the call lives.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "server/identity/credentials.h"

namespace kvasir {

// The value of x-request-id, unchecked; empty when absent. Lives as long as the call.
absl::string_view RequestIdOf(const grpc::ServerContextBase& context);
// The request id that the message has in `field_number`, else that of the metadata.
std::string RequestIdOf(const grpc::ByteBuffer& wire, int field_number,
                        const grpc::ServerContextBase& context);

// InfiniteFuture when the client set none.
absl::Time DeadlineOf(const grpc::ServerContextBase& context);

// Metadata, peer and certificate of a call, which it borrows.
class CallCredentials final : public CredentialSource {
 public:
  explicit CallCredentials(const grpc::ServerContextBase& context) : context_(context) {}

  std::vector<absl::string_view> Values(absl::string_view header) const override;
  std::optional<IpAddress> Peer() const override;
  std::vector<std::string> CertificateNames() const override;

 private:
  const grpc::ServerContextBase& context_;
};

}  // namespace kvasir
