#include "base/openmp_config.h"

#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>
#include <vector>

namespace kvasir {
namespace {

// The CPUs of all places together: those that the process had before OpenMP bound its first thread.
void LeaveOpenMpPlace() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  for (int place = 0; place < omp_get_num_places(); ++place) {
    std::vector<int> ids(static_cast<size_t>(omp_get_place_num_procs(place)));
    omp_get_place_proc_ids(place, ids.data());
    for (const int id : ids) CPU_SET(id, &cpus);
  }
  if (CPU_COUNT(&cpus) > 0) sched_setaffinity(0, sizeof(cpus), &cpus);
}

}  // namespace

void ConfigureOpenMp(char** argv) {
  bool start_over = false;
  if (omp_get_proc_bind() != omp_proc_bind_false) {
    LeaveOpenMpPlace();
    for (const char* name : {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"}) unsetenv(name);
    start_over = true;
  }
  if (std::getenv("GOMP_SPINCOUNT") == nullptr && std::getenv("OMP_WAIT_POLICY") == nullptr) {
    start_over |= setenv("GOMP_SPINCOUNT", "3000", /*overwrite=*/0) == 0;
  }
  if (start_over) execv("/proc/self/exe", argv);
}

}  // namespace kvasir
