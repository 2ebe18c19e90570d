#include "base/compute_team.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <latch>
#include <limits>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/parallel.h"

namespace kvasir {

absl::Status CheckThreads(int count) {
  absl::Status status;
  std::latch all_started(1);
  std::vector<std::thread> threads;
  try {
    threads.reserve(count);
    while (static_cast<int>(threads.size()) < count)
      threads.emplace_back([&] { all_started.wait(); });
  } catch (const std::system_error& error) {
    status = absl::UnavailableError(absl::StrCat(
        "cannot start thread ", threads.size() + 1, " of ", count, ": ", error.what(),
        "; raise the limit of processes (ulimit -u, pids.max, TasksMax), or of address space "
        "(ulimit -v, ulimit -d)"));
  }
  all_started.count_down();
  for (std::thread& thread : threads) thread.join();
  return status;
}

absl::Status CheckAddressSpace(int64_t bytes) {
  // Of pages: all that is mapped, resident, shared, text, 0, data and stacks.
  std::ifstream statm("/proc/self/statm");
  int64_t mapped = 0, skipped = 0, data = 0;
  if (!(statm >> mapped >> skipped >> skipped >> skipped >> skipped >> data)) {
    return absl::OkStatus();  // nobody can say
  }
  const int64_t page_bytes = sysconf(_SC_PAGESIZE);
  const auto check = [&](auto kind, int64_t used_bytes, const char* what,
                         const char* remedy) -> absl::Status {
    rlimit limit = {};
    if (getrlimit(kind, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return absl::OkStatus();
    const int64_t most =
        static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, std::numeric_limits<int64_t>::max()));
    if (most - used_bytes >= bytes) return absl::OkStatus();
    return absl::ResourceExhaustedError(absl::StrCat(
        "this process may have ", most >> 20, " MiB of ", what, " and has ", used_bytes >> 20,
        " MiB, but threads and requests may need ", bytes >> 20, " MiB more; raise the limit (",
        remedy, "), or serve fewer or smaller models"));
  };
  if (absl::Status status =
          check(RLIMIT_AS, mapped * page_bytes, "address space", "ulimit -v, LimitAS");
      !status.ok()) {
    return status;
  }
  return check(RLIMIT_DATA, data * page_bytes, "data", "ulimit -d, LimitDATA");
}

absl::Status CheckComputeTeam() { return CheckThreads(ComputeThreads() - 1); }

absl::Status FormComputeTeam() {
  absl::Status status = CheckComputeTeam();
  if (status.ok()) ParallelFor(2, [](size_t, int) {});
  return status;
}

}  // namespace kvasir
