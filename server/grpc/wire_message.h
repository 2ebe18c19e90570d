// Protobuf messages to and from the bytes of a call.
//
// The services take raw bytes and parse them here, because gRPC answers UNIMPLEMENTED without a
// word when a message does not parse, and text that is not UTF-8 does not parse. Stateless
// functions, safe from any thread.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "grpcpp/support/byte_buffer.h"

namespace kvasir {

// InvalidArgument with BadRequest details when the bytes are not such a message; see
// ExplainParseFailure.
absl::Status ParseWire(const grpc::ByteBuffer& wire, google::protobuf::Message* message);

// A string field of the outermost message, unparsed and unchecked: what is to be known of a call
// before its turn to be read comes. Looks at the first fields only, so it takes next to no time;
// empty when it is not among them.
std::string PeekString(const grpc::ByteBuffer& wire, int field_number);

grpc::ByteBuffer SerializeWire(const google::protobuf::Message& message);

// Why `bytes` do not parse as `type`: the path of the string field that is not UTF-8 and the offset
// of its first bad byte, or that the bytes are not protobuf. Precondition: they do not parse.
absl::Status ExplainParseFailure(absl::string_view bytes, const google::protobuf::Descriptor& type);

}  // namespace kvasir
