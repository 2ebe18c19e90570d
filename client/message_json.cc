#include "client/message_json.h"

#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace kvasir {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using Json = nlohmann::ordered_json;

constexpr absl::string_view kUnspecified = "UNSPECIFIED";

// The value of a field that is not repeated, or element `index` of one that is.
Json ValueToJson(const Message& message, const FieldDescriptor& field, int index) {
  const Reflection& reflection = *message.GetReflection();
  const bool repeated = field.is_repeated();
  const auto read = [&](auto single, auto element) -> Json {
    return repeated ? (reflection.*element)(message, &field, index)
                    : (reflection.*single)(message, &field);
  };
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return read(&Reflection::GetInt32, &Reflection::GetRepeatedInt32);
    case FieldDescriptor::CPPTYPE_INT64:
      return read(&Reflection::GetInt64, &Reflection::GetRepeatedInt64);
    case FieldDescriptor::CPPTYPE_UINT32:
      return read(&Reflection::GetUInt32, &Reflection::GetRepeatedUInt32);
    case FieldDescriptor::CPPTYPE_UINT64:
      return read(&Reflection::GetUInt64, &Reflection::GetRepeatedUInt64);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return read(&Reflection::GetFloat, &Reflection::GetRepeatedFloat);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return read(&Reflection::GetDouble, &Reflection::GetRepeatedDouble);
    case FieldDescriptor::CPPTYPE_BOOL:
      return read(&Reflection::GetBool, &Reflection::GetRepeatedBool);
    case FieldDescriptor::CPPTYPE_STRING:
      return read(&Reflection::GetString, &Reflection::GetRepeatedString);
    case FieldDescriptor::CPPTYPE_ENUM:
      return EnumText(*field.enum_type(),
                      repeated ? reflection.GetRepeatedEnumValue(message, &field, index)
                               : reflection.GetEnumValue(message, &field));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return MessageToJson(repeated ? reflection.GetRepeatedMessage(message, &field, index)
                                    : reflection.GetMessage(message, &field));
  }
  return nullptr;
}

// Keys in order: that of a map in memory changes from run to run.
Json MapToJson(const Message& message, const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  const auto& entry_type = *field.message_type();
  std::map<std::string, Json> entries;
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
    const Message& entry = reflection.GetRepeatedMessage(message, &field, i);
    const Json key = ValueToJson(entry, *entry_type.map_key(), 0);
    entries[key.is_string() ? key.get<std::string>() : key.dump()] =
        ValueToJson(entry, *entry_type.map_value(), 0);
  }
  return entries;
}

}  // namespace

Json MessageToJson(const Message& message) {
  Json json = Json::object();
  const auto& type = *message.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.is_map()) {
      json[field.name()] = MapToJson(message, field);
    } else if (field.is_repeated()) {
      Json list = Json::array();
      for (int k = 0; k < message.GetReflection()->FieldSize(message, &field); ++k) {
        list.push_back(ValueToJson(message, field, k));
      }
      json[field.name()] = std::move(list);
    } else if (!field.has_presence() || message.GetReflection()->HasField(message, &field)) {
      json[field.name()] = ValueToJson(message, field, 0);
    }
  }
  return json;
}

std::string EnumText(const google::protobuf::EnumDescriptor& type, int number) {
  const absl::string_view prefix = absl::StripSuffix(type.value(0)->name(), kUnspecified);
  const auto* const value = type.FindValueByNumber(number);
  return absl::AsciiStrToLower(value == nullptr ? kUnspecified
                                                : absl::StripPrefix(value->name(), prefix));
}

}  // namespace kvasir
