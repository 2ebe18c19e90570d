// Messages of the API as JSON, by protobuf reflection: a field that is added to the proto needs no
// line here. protobuf's own JSON printing writes 64-bit numbers as strings, which scripts would
// have to convert; this one writes numbers.
#pragma once

#include <string>

#include "google/protobuf/message.h"
#include "nlohmann/json.hpp"

namespace kvasir {

// Every field under its name in the proto, in the proto's order, those at their default too; left
// out are `optional` fields, members of a oneof and messages that are not set. Enums as EnumText
// spells them, bytes as a string.
nlohmann::ordered_json MessageToJson(const google::protobuf::Message& message);

// The lower-case name without what all values of its enum begin with: SESSION_STATE_BUSY is "busy";
// a number that the enum does not know is "unspecified".
std::string EnumText(const google::protobuf::EnumDescriptor& type, int number);

template <typename Enum>
std::string EnumText(Enum value) {
  return EnumText(*google::protobuf::GetEnumDescriptor<Enum>(), value);
}

}  // namespace kvasir
