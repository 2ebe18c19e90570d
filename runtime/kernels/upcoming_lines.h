// Memory that will be read soon, a little of which is asked for at each step of something that
// takes long: a burst of requests would only fill the core's table of outstanding misses. Owned by
// who knows what is read next; borrowed by kernels. Not thread safe.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace kvasir {

class UpcomingLines {
 public:
  static constexpr size_t kLineBytes = 64;

  struct Lines {
    const char* begin = nullptr;
    size_t count = 0;
    const char* operator[](size_t i) const { return begin + i * kLineBytes; }
  };

  void Clear() {
    areas_.clear();
    next_ = 0;
  }

  void Add(const void* begin, size_t bytes) {
    areas_.push_back({static_cast<const char*>(begin), (bytes + kLineBytes - 1) / kLineBytes});
  }

  // The next lines, at most `most` of one area; none when all are taken.
  Lines Take(size_t most) {
    if (next_ == areas_.size()) return {};
    Lines& area = areas_[next_];
    const Lines taken{area.begin, std::min(most, area.count)};
    area = {area[taken.count], area.count - taken.count};
    if (area.count == 0) ++next_;
    return taken;
  }

 private:
  std::vector<Lines> areas_;
  size_t next_ = 0;  // area
};

}  // namespace kvasir
