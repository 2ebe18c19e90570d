#include "server/telemetry/heap_usage.h"

#include <malloc.h>

namespace kvasir {

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
