#include "base/compute_team.h"

#include <latch>
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
    status = absl::UnavailableError(
        absl::StrCat("cannot start thread ", threads.size() + 1, " of ", count, ": ", error.what(),
                     "; raise the limit of processes (ulimit -u, pids.max, TasksMax)"));
  }
  all_started.count_down();
  for (std::thread& thread : threads) thread.join();
  return status;
}

absl::Status CheckComputeTeam() { return CheckThreads(ComputeThreads() - 1); }

absl::Status FormComputeTeam() {
  absl::Status status = CheckComputeTeam();
  if (status.ok()) ParallelFor(2, [](size_t, int) {});
  return status;
}

}  // namespace kvasir
