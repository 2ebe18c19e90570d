// What the schema itself says of the configuration's fields (setting.proto): their defaults and
// their ranges. Walks messages by their descriptors. Pure functions, thread safe.
#pragma once

#include <string>

#include "google/protobuf/message.h"
#include "server/config/config_checker.h"

namespace kvasir {

// Gives every absent field of `message`, and of the messages in it, its stated default; leaves
// messages alone that are partial or have none to give.
void FillStatedDefaults(google::protobuf::Message* message);

// One fault for each number that is given and outside its stated range. `path` is the message's own
// in ConfigOrigins, "" for the root.
void CheckStatedRanges(const google::protobuf::Message& message, const std::string& path,
                       ConfigChecker* check);

}  // namespace kvasir
