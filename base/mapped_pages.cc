#include "base/mapped_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <map>

#include "absl/strings/str_cat.h"
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

// The same for a signal handler, which takes no lock. A mapping beyond these is not survived.
struct Range {
  std::atomic<uintptr_t> begin = 0;
  std::atomic<uintptr_t> end = 0;  // 0: free
};
constinit std::array<Range, 4096> ranges;
constinit std::atomic<int64_t> lost_reads = 0;
constinit std::atomic<uintptr_t> page_bytes = 0;

// The thread reads in a mapping, which therefore stays until it goes on: the rest of it is now
// zeros.
void OnBusError(int signal, siginfo_t* info, void*) {
  const int saved_errno = errno;
  const auto at = reinterpret_cast<uintptr_t>(info->si_addr);
  for (const Range& range : ranges) {
    const uintptr_t end = range.end.load(std::memory_order_acquire);
    const uintptr_t begin = range.begin.load(std::memory_order_acquire);
    // Both of one mapping: another that took the place meanwhile has another end, or the same
    // bytes.
    if (end == 0 || at < begin || at >= end || range.end.load() != end) continue;
    const uintptr_t first = at / page_bytes * page_bytes;
    if (mmap(reinterpret_cast<void*>(first), end - first, PROT_READ,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED) {
      break;
    }
    lost_reads.fetch_add(1, std::memory_order_release);
    errno = saved_errno;
    return;
  }
  // Nobody's: it comes again, and ends the process.
  struct sigaction usual = {};
  usual.sa_handler = SIG_DFL;
  sigaction(signal, &usual, nullptr);
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
  const auto begin = reinterpret_cast<uintptr_t>(data);
  all.bytes[begin] = bytes;
  for (Range& range : ranges) {
    if (range.end.load(std::memory_order_relaxed) != 0) continue;
    range.begin.store(begin, std::memory_order_release);
    range.end.store(begin + bytes, std::memory_order_release);
    return;
  }
}

void RemoveMapping(const void* data) {
  Mappings& all = All();
  const AnnotatedLock lock(&all.mutex);
  const auto begin = reinterpret_cast<uintptr_t>(data);
  all.bytes.erase(begin);
  for (Range& range : ranges) {
    if (range.end.load(std::memory_order_relaxed) == 0) continue;
    if (range.begin.load(std::memory_order_relaxed) != begin) continue;
    range.end.store(0, std::memory_order_release);
    return;
  }
}

void SurviveLostReads() {
  page_bytes = PageBytes();
  struct sigaction action = {};
  action.sa_sigaction = OnBusError;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigaction(SIGBUS, &action, nullptr);
}

int64_t LostReads() { return lost_reads.load(std::memory_order_acquire); }

absl::Status ReadsCheck::Status(absl::string_view what, absl::string_view remedy) const {
  if (LostReads() == before_) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(what, " became shorter, or its disk failed, while it was read", remedy));
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
