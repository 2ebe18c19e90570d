#include "server/grpc/wire_message.h"

#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "grpcpp/support/proto_buffer_reader.h"
#include "grpcpp/support/slice.h"
#include "runtime/tokenizer/utf8.h"
#include "server/frontend/request_errors.h"

namespace kvasir {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;

struct BadText {
  std::string path;  // "stopping.stop"
  size_t offset_bytes = 0;
  unsigned char byte = 0;
};

// The first string field that is not UTF-8, in the order of the wire; nothing when there is none up
// to the point where the bytes break. Recursion is as deep as the schema, which is not recursive.
std::optional<BadText> FindBadText(absl::string_view bytes, const Descriptor& type,
                                   const std::string& prefix) {
  google::protobuf::io::CodedInputStream input(reinterpret_cast<const uint8_t*>(bytes.data()),
                                               static_cast<int>(bytes.size()));
  while (const uint32_t tag = input.ReadTag()) {
    if (WireFormatLite::GetTagWireType(tag) != WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
      if (!WireFormatLite::SkipField(&input, tag)) return std::nullopt;
      continue;
    }
    uint32_t length = 0;
    if (!input.ReadVarint32(&length)) return std::nullopt;
    const size_t start = static_cast<size_t>(input.CurrentPosition());
    if (length > bytes.size() - start) return std::nullopt;
    const absl::string_view value = bytes.substr(start, length);
    input.Skip(static_cast<int>(length));

    const FieldDescriptor* field = type.FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
    if (field == nullptr) continue;
    const std::string path = absl::StrCat(prefix, field->name());
    if (field->type() == FieldDescriptor::TYPE_STRING) {
      if (const std::optional<size_t> offset = FindInvalidUtf8(value)) {
        return BadText{path, *offset, static_cast<unsigned char>(value[*offset])};
      }
    } else if (field->type() == FieldDescriptor::TYPE_MESSAGE) {
      if (auto bad = FindBadText(value, *field->message_type(), absl::StrCat(path, "."))) {
        return bad;
      }
    }
  }
  return std::nullopt;
}

}  // namespace

absl::Status ParseWire(const grpc::ByteBuffer& wire, google::protobuf::Message* message) {
  grpc::Slice slice;
  if (const grpc::Status flat = wire.DumpToSingleSlice(&slice); !flat.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the message could not be read: ", flat.error_message()));
  }
  if (message->ParseFromArray(slice.begin(), static_cast<int>(slice.size()))) {
    return absl::OkStatus();
  }
  return ExplainParseFailure({reinterpret_cast<const char*>(slice.begin()), slice.size()},
                             *message->GetDescriptor());
}

std::string PeekString(const grpc::ByteBuffer& wire, int field_number) {
  // More than any message of ours has: no client writes one of them twice.
  constexpr int kMaxFields = 64;
  constexpr uint32_t kMaxBytes = 1024;
  grpc::ByteBuffer copy = wire;  // of references
  if (!copy.Valid()) return "";
  grpc::ProtoBufferReader reader(&copy);
  google::protobuf::io::CodedInputStream input(&reader);
  const uint32_t wanted =
      WireFormatLite::MakeTag(field_number, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
  for (int i = 0; i < kMaxFields; ++i) {
    const uint32_t tag = input.ReadTag();
    if (tag == wanted) {
      uint32_t length = 0;
      std::string value;
      if (!input.ReadVarint32(&length) || length > kMaxBytes ||
          !input.ReadString(&value, static_cast<int>(length))) {
        return "";
      }
      return value;
    }
    if (tag == 0 || !WireFormatLite::SkipField(&input, tag)) return "";
  }
  return "";
}

grpc::ByteBuffer SerializeWire(const google::protobuf::Message& message) {
  const grpc::Slice slice(message.ByteSizeLong());
  // The slice is ours alone until it is in a buffer; grpc::Slice just has no mutable accessor.
  message.SerializeWithCachedSizesToArray(const_cast<uint8_t*>(slice.begin()));
  return grpc::ByteBuffer(&slice, 1);
}

absl::Status ExplainParseFailure(absl::string_view bytes, const Descriptor& type) {
  if (const std::optional<BadText> bad = FindBadText(bytes, type, "")) {
    return BadFieldError(
        bad->path,
        absl::StrCat("not UTF-8: byte 0x", absl::Hex(bad->byte, absl::kZeroPad2), " at offset ",
                     bad->offset_bytes, " begins no valid character; send the text as UTF-8"));
  }
  return absl::InvalidArgumentError(absl::StrCat("the message of ", bytes.size(),
                                                 " bytes is not a ", std::string(type.full_name()),
                                                 "; use the proto files of this server's version"));
}

}  // namespace kvasir
