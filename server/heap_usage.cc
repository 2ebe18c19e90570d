#include "server/process_memory.h"

#include <malloc.h>
#include <unistd.h>

#include <fstream>

namespace kvasir {

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t size_pages = 0, resident_pages = 0;
  statm >> size_pages >> resident_pages;
  return resident_pages * sysconf(_SC_PAGESIZE);
}

#ifdef __GLIBC__
int64_t HeapUsedBytes() {
  const struct mallinfo2 info = mallinfo2();
  return static_cast<int64_t>(info.uordblks + info.hblkhd);
}
int64_t HeapUnusedBytes() { return static_cast<int64_t>(mallinfo2().fordblks); }
#else
int64_t HeapUsedBytes() { return 0; }
int64_t HeapUnusedBytes() { return 0; }
#endif

}  // namespace kvasir
