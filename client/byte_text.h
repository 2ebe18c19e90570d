// Sizes for people: 1536 -> "1.5 KiB". Pure.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/str_format.h"

namespace kvasir {

inline std::string ByteText(double bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  while ((bytes >= 1024 || bytes <= -1024) && unit < 4) {
    bytes /= 1024;
    ++unit;
  }
  return unit == 0 ? absl::StrFormat("%.0f B", bytes)
                   : absl::StrFormat("%.1f %s", bytes, kUnits[unit]);
}

}  // namespace kvasir
