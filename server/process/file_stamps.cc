#include "server/process/file_stamps.h"

#include <sys/stat.h>

#include <algorithm>

namespace kvasir {

FileStamps::FileStamps(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    Stamp stamp;
    stamp.path = path;
    struct stat status;
    if (stat(path.c_str(), &status) == 0) {
      stamp.device = status.st_dev;
      stamp.inode = status.st_ino;
      stamp.bytes = status.st_size;
      stamp.modified = absl::TimeFromTimespec(status.st_mtim);
    }
    stamps_.push_back(std::move(stamp));
  }
}

bool FileStamps::ChangedWithin(absl::Duration pause, absl::Time now) const {
  return std::any_of(stamps_.begin(), stamps_.end(), [&](const Stamp& stamp) {
    // A stamp of the future is a clock that was set, not a writer.
    return stamp.inode != 0 && stamp.modified <= now + pause && now - stamp.modified < pause;
  });
}

bool FileStamps::operator==(const FileStamps& other) const {
  return std::equal(stamps_.begin(), stamps_.end(), other.stamps_.begin(), other.stamps_.end(),
                    [](const Stamp& a, const Stamp& b) {
                      return a.path == b.path && a.device == b.device && a.inode == b.inode &&
                             a.bytes == b.bytes && a.modified == b.modified;
                    });
}

}  // namespace kvasir
