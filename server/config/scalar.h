// One value of the configuration, as files, flags, variables and the schema's own defaults have it:
// text, for a field of one of the messages. Pure functions, thread safe.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"

namespace kvasir {

// Gives `message` the value; a size may carry a suffix, a time a unit. Text in quotes (is_quoted)
// is no truth value and no number without a unit. InvalidArgument: what to write behind the field's
// name, as in " must be a whole number, but is 'x'".
absl::Status SetScalar(const google::protobuf::FieldDescriptor& field, absl::string_view text,
                       bool is_quoted, google::protobuf::Message* message);

// Some wrong text for a message: in quotes, escaped, cut after 64 bytes.
std::string ShownValue(absl::string_view text);

// "4GiB", "8Gi", "512 MiB", "1.5GiB", "1000MB", "4096" -> bytes. Suffixes Ki Mi Gi Ti (or KiB ...)
// are powers of 1024, kB MB GB TB of 1000, B or none bytes. InvalidArgument when it is none of
// these, negative, or beyond 2^63 - 1; also for "8G", which means two things.
absl::StatusOr<int64_t> ParseByteSize(absl::string_view text);

// "30", "30s", "500ms", "1.5m", "2h", "1d" -> seconds. InvalidArgument when it is none of these;
// the sign is the caller's to judge.
absl::StatusOr<double> ParseSeconds(absl::string_view text);

// The inverse of ParseByteSize for people: the largest power-of-1024 suffix that divides, else
// plain bytes: 1536 -> "1536", 4294967296 -> "4GiB".
std::string FormatByteSize(int64_t bytes);

// Whether a field's value is a size that may carry a suffix: a whole number whose name ends in
// _bytes.
bool IsByteSizeField(const google::protobuf::FieldDescriptor& field);

// Whether a field's value is a time that may carry a unit: a number whose name ends in _seconds.
bool IsDurationField(const google::protobuf::FieldDescriptor& field);

}  // namespace kvasir
