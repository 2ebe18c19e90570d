#include "server/config/config_writer.h"

#include <charconv>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/config/scalar.h"

namespace kvasir {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// A word that YAML reads back as the same text without quotes.
bool IsPlainWord(absl::string_view text) {
  if (text.empty() || !(absl::ascii_isalpha(text[0]) || text[0] == '/')) return false;
  for (const char c : text) {
    if (!absl::ascii_isalnum(c) && c != '.' && c != '_' && c != '/' && c != '-') return false;
  }
  return absl::AsciiStrToLower(text) != "null";
}

std::string QuoteIfNeeded(const std::string& text) {
  if (IsPlainWord(text)) return text;
  std::string quoted = "\"";
  for (const char c : text) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      absl::StrAppend(&quoted, "\\", absl::string_view(&c, 1));
    } else if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppend(&quoted, "\\x", absl::Hex(byte, absl::kZeroPad2));
    } else {
      quoted.push_back(c);  // UTF-8 stays as it is
    }
  }
  quoted.push_back('"');
  return quoted;
}

std::string ScalarText(const Message& message, const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.GetBool(message, &field) ? "true" : "false";
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64: {
      const int64_t value = field.cpp_type() == FieldDescriptor::CPPTYPE_INT32
                                ? reflection.GetInt32(message, &field)
                                : reflection.GetInt64(message, &field);
      return IsByteSizeField(field) && value >= 0 ? FormatByteSize(value) : absl::StrCat(value);
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      // The shortest text that reads back as the same number.
      char text[32];
      const auto end =
          std::to_chars(text, text + sizeof text, reflection.GetDouble(message, &field)).ptr;
      return std::string(text, end);
    }
    default:
      return QuoteIfNeeded(reflection.GetString(message, &field));
  }
}

void WriteMessage(const Message& message, int depth, std::string* out);

void WriteList(const Message& message, const FieldDescriptor& field, int depth, std::string* out) {
  const Reflection& reflection = *message.GetReflection();
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
      absl::StrAppend(out, std::string(static_cast<size_t>(depth) * 2, ' '), "- ",
                      QuoteIfNeeded(reflection.GetRepeatedString(message, &field, i)), "\n");
      continue;
    }
    // The element's keys are indented by the width of "- ", which then replaces the first one's
    // indentation.
    std::string element;
    WriteMessage(reflection.GetRepeatedMessage(message, &field, i), depth + 1, &element);
    const size_t dash = static_cast<size_t>(depth) * 2;
    element[dash] = '-';
    out->append(element);
  }
}

void WriteMessage(const Message& message, int depth, std::string* out) {
  const std::string indent(static_cast<size_t>(depth) * 2, ' ');
  const Reflection& reflection = *message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    if (field.is_repeated()) {
      const bool empty = reflection.FieldSize(message, &field) == 0;
      absl::StrAppend(out, indent, field.name(), empty ? ": []\n" : ":\n");
      WriteList(message, field, depth + 1, out);
    } else if (field.type() == FieldDescriptor::TYPE_MESSAGE &&
               !reflection.HasField(message, &field)) {
      absl::StrAppend(out, indent, "# ", field.name(), ": not given\n");
    } else if (field.type() == FieldDescriptor::TYPE_MESSAGE) {
      absl::StrAppend(out, indent, field.name(), ":\n");
      WriteMessage(reflection.GetMessage(message, &field), depth + 1, out);
    } else if (field.has_presence() && !reflection.HasField(message, &field)) {
      absl::StrAppend(out, indent, "# ", field.name(), ": automatic\n");
    } else {
      absl::StrAppend(out, indent, field.name(), ": ", ScalarText(message, field), "\n");
    }
  }
}

}  // namespace

std::string WriteConfig(const config::v1::Config& config) {
  std::string text;
  WriteMessage(config, 0, &text);
  return text;
}

}  // namespace kvasir
