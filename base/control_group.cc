#include "base/control_group.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace kvasir {
namespace {

// One line of /proc/self/cgroup: this process's group in one hierarchy.
struct Membership {
  std::vector<std::string> controllers;  // empty: version 2
  std::string group;                     // path below the hierarchy's root, "/" or "/a/b"
};

// Where a hierarchy is mounted.
struct Mount {
  bool version2 = false;
  std::vector<std::string> options;  // version 1: its controllers among them
  std::string root;                  // the group that the mount point shows
  std::string point;
};

// The kernel writes blanks and backslashes of paths as \040 and the like.
std::string Unescape(absl::string_view field) {
  std::string path;
  for (size_t i = 0; i < field.size(); ++i) {
    if (field[i] != '\\' || i + 3 >= field.size()) {
      path.push_back(field[i]);
      continue;
    }
    path.push_back(static_cast<char>((field[i + 1] - '0') * 64 + (field[i + 2] - '0') * 8 +
                                     (field[i + 3] - '0')));
    i += 3;
  }
  return path;
}

// The text of a file of the kernel's; empty when there is none. Sets *complete to false when the
// system did not let it be read.
std::string ReadText(const std::string& path, bool* complete) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) {
    if (errno != ENOENT && errno != ENOTDIR && errno != EACCES) *complete = false;
    return "";
  }
  std::string text;
  char part[4096];
  while (true) {
    const ssize_t size = read(file, part, sizeof part);
    if (size < 0 && errno == EINTR) continue;
    // A group may go, or have no such controller, while it is read (ENODEV, EOPNOTSUPP).
    if (size < 0 && (errno == ENOMEM || errno == EIO)) *complete = false;
    if (size <= 0) break;
    text.append(part, static_cast<size_t>(size));
  }
  close(file);
  return text;
}

std::vector<Membership> ReadMemberships(const std::string& root, bool* complete) {
  std::vector<Membership> memberships;
  const std::string text = ReadText(root + "/proc/self/cgroup", complete);
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<std::string> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3) continue;
    Membership membership;
    membership.controllers = absl::StrSplit(fields[1], ',', absl::SkipEmpty());
    membership.group = fields[2];
    memberships.push_back(std::move(membership));
  }
  return memberships;
}

std::vector<Mount> ReadMounts(const std::string& root, bool* complete) {
  std::vector<Mount> mounts;
  const std::string text = ReadText(root + "/proc/self/mountinfo", complete);
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    // id parent major:minor root point options tag... - type source super-options
    const std::vector<std::string> halves = absl::StrSplit(line, absl::MaxSplits(" - ", 1));
    if (halves.size() != 2) continue;
    const std::vector<std::string> place = absl::StrSplit(halves[0], ' ');
    const std::vector<std::string> kind = absl::StrSplit(halves[1], ' ');
    if (place.size() < 5 || kind.size() < 3) continue;
    if (kind[0] != "cgroup" && kind[0] != "cgroup2") continue;
    Mount mount;
    mount.version2 = kind[0] == "cgroup2";
    mount.options = absl::StrSplit(kind[2], ',');
    mount.root = Unescape(place[3]);
    mount.point = Unescape(place[4]);
    mounts.push_back(std::move(mount));
  }
  return mounts;
}

// Folders of the group and of all groups above it that the mount shows, innermost first. A group
// outside the mount's root (a namespace's "/..") leaves the root alone to be looked at.
std::vector<std::string> GroupFolders(const Mount& mount, absl::string_view group) {
  if (mount.root != "/" && absl::StartsWith(group, mount.root)) {
    const absl::string_view below = group.substr(mount.root.size());
    if (below.empty() || below[0] == '/') group = below;
  }
  if (absl::StrContains(group, "/..")) group = "";
  std::vector<std::string> folders;
  for (absl::string_view path = absl::StripSuffix(group, "/"); !path.empty();
       path = path.substr(0, path.rfind('/'))) {
    folders.push_back(absl::StrCat(mount.point, path));
  }
  folders.push_back(mount.point);
  return folders;
}

bool Has(const std::vector<std::string>& words, absl::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

// The words of a small file; none when it is absent.
std::vector<std::string> ReadWords(const std::string& path, ControlGroupLimits* limits) {
  return absl::StrSplit(ReadText(path, &limits->complete), absl::ByAnyChar(" \t\n"),
                        absl::SkipEmpty());
}

void LimitMemory(const std::string& path, ControlGroupLimits* limits) {
  const std::vector<std::string> words = ReadWords(path, limits);
  uint64_t bytes = 0;
  // "max", and -1 of version 1, are no limit; 0 would be one that nothing could run in.
  if (words.empty() || !absl::SimpleAtoi(words[0], &bytes) || bytes == 0) return;
  limits->memory_bytes = std::min(limits->memory_bytes, bytes);
}

void LimitCpus(const std::vector<std::string>& quota_and_period, ControlGroupLimits* limits) {
  int64_t quota = 0, period = 0;
  if (quota_and_period.size() < 2 || !absl::SimpleAtoi(quota_and_period[0], &quota) ||
      !absl::SimpleAtoi(quota_and_period[1], &period) || quota <= 0 || period <= 0) {
    return;
  }
  limits->cpus = std::min(limits->cpus, static_cast<double>(quota) / static_cast<double>(period));
}

}  // namespace

ControlGroupLimits ReadControlGroupLimits(const std::string& root) {
  ControlGroupLimits limits;
  const std::vector<Mount> mounts = ReadMounts(root, &limits.complete);
  for (const Membership& membership : ReadMemberships(root, &limits.complete)) {
    const bool version2 = membership.controllers.empty();
    for (const Mount& mount : mounts) {
      if (mount.version2 != version2) continue;
      // Version 1 has a hierarchy per controller, or per pair of them.
      if (!version2 &&
          !std::all_of(membership.controllers.begin(), membership.controllers.end(),
                       [&](const std::string& name) { return Has(mount.options, name); })) {
        continue;
      }
      for (const std::string& folder : GroupFolders(mount, membership.group)) {
        const std::string path = root + folder;
        if (version2) {
          LimitMemory(path + "/memory.max", &limits);
          LimitMemory(path + "/memory.high", &limits);
          LimitCpus(ReadWords(path + "/cpu.max", &limits), &limits);
        }
        if (Has(membership.controllers, "memory")) {
          LimitMemory(path + "/memory.limit_in_bytes", &limits);
        }
        if (Has(membership.controllers, "cpu")) {
          std::vector<std::string> quota = ReadWords(path + "/cpu.cfs_quota_us", &limits);
          const std::vector<std::string> period = ReadWords(path + "/cpu.cfs_period_us", &limits);
          quota.insert(quota.end(), period.begin(), period.end());
          LimitCpus(quota, &limits);
        }
      }
    }
  }
  return limits;
}

}  // namespace kvasir
