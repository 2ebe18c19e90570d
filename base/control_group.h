// What the control groups of this process grant it: the limits of its own group and of every group
// above it, for a limit binds all that is below. Version 2 and version 1 hierarchies, nested and
// namespaced (systemd, containers, batch systems). Reads files of /proc and /sys; keeps nothing;
// thread safe.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

namespace kvasir {

struct ControlGroupLimits {
  static constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();

  // The least memory.max and memory.high (beyond high the kernel throttles a process to a
  // standstill), or memory.limit_in_bytes.
  uint64_t memory_bytes = kUnlimited;
  // The least quota per period, in CPUs; infinity where there is none.
  double cpus = std::numeric_limits<double>::infinity();
  // False when a file that is there could not be read, for want of descriptors or memory: then
  // there may be limits that these do not know.
  bool complete = true;
};

// `root` stands before every path that is read: tests give a folder with a /proc and a /sys of
// their own. Files that are absent or make no sense grant everything.
ControlGroupLimits ReadControlGroupLimits(const std::string& root = "");

}  // namespace kvasir
