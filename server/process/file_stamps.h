// Whether files are being written: a reload must not take half of one for the whole. Reads the
// file system's stamps only; thread safe.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace kvasir {

class FileStamps {
 public:
  // Of what stands under the names now, links followed. A file that is not there has a stamp too.
  explicit FileStamps(const std::vector<std::string>& paths);

  // Whether one of them changed less than `pause` before `now`: whoever wrote it may be writing.
  bool ChangedWithin(absl::Duration pause, absl::Time now) const;

  // Whether the same names held the same files, unchanged since.
  bool operator==(const FileStamps& other) const;

 private:
  struct Stamp {
    std::string path;
    dev_t device = 0;
    ino_t inode = 0;  // 0 = no file
    int64_t bytes = 0;
    absl::Time modified;
  };

  std::vector<Stamp> stamps_;
};

}  // namespace kvasir
