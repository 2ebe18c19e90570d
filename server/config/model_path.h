// What a model's path may be beside a folder or a file: a name on a hub; and which paths are one
// folder. Pure functions, thread safe.
#pragma once

#include <string>

#include "server/config/config_checker.h"

namespace kvasir {

// The name that a model gets for want of one: of its folder or file, or of its repository.
std::string DefaultModelName(const std::string& path);

// A fault at `field` when `path` begins as a name on a hub and is none.
void CheckModelPath(const std::string& field, const std::string& path, ConfigChecker* check);

// One spelling for all of a folder: "a/./b/" is "a/b". Links are not followed.
std::string NormalFolder(const std::string& path);

}  // namespace kvasir
