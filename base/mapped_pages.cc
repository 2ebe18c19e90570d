#include "base/mapped_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <map>

#include "base/annotated_mutex.h"

namespace kvasir {
namespace {

struct Mappings {
  AnnotatedMutex mutex;
  std::map<uintptr_t, size_t> bytes ABSL_GUARDED_BY(mutex);  // by the first one's address
};

// Never destroyed: mappings may end after main.
Mappings& All() {
  static auto* const mappings = new Mappings();
  return *mappings;
}

uintptr_t PageBytes() { return static_cast<uintptr_t>(sysconf(_SC_PAGE_SIZE)); }

// Whether the bytes lie in one mapping.
bool IsMapped(const Mappings& all, uintptr_t begin, size_t bytes)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(all.mutex) {
  auto after = all.bytes.upper_bound(begin);
  if (after == all.bytes.begin()) return false;
  const auto& [first, length] = *--after;
  return begin - first <= length && bytes <= length - (begin - first);
}

// Advises about the pages in [begin, end), while the mapping cannot end.
void Advise(const void* data, size_t bytes, uintptr_t begin, uintptr_t end, int advice) {
  Mappings& all = All();
  const AnnotatedLock lock(&all.mutex);
  if (begin >= end || !IsMapped(all, reinterpret_cast<uintptr_t>(data), bytes)) return;
  madvise(reinterpret_cast<void*>(begin), end - begin, advice);
}

}  // namespace

void AddMapping(const void* data, size_t bytes) {
  Mappings& all = All();
  const AnnotatedLock lock(&all.mutex);
  all.bytes[reinterpret_cast<uintptr_t>(data)] = bytes;
}

void RemoveMapping(const void* data) {
  Mappings& all = All();
  const AnnotatedLock lock(&all.mutex);
  all.bytes.erase(reinterpret_cast<uintptr_t>(data));
}

void PrefetchMapped(const void* data, size_t bytes) {
  const auto at = reinterpret_cast<uintptr_t>(data);
  Advise(data, bytes, at / PageBytes() * PageBytes(), at + bytes, MADV_WILLNEED);
}

void ReleaseMapped(const void* data, size_t bytes) {
  const uintptr_t page = PageBytes();
  const auto at = reinterpret_cast<uintptr_t>(data);
  Advise(data, bytes, (at + page - 1) / page * page, (at + bytes) / page * page, MADV_DONTNEED);
}

}  // namespace kvasir
