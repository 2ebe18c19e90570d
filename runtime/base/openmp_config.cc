#include "runtime/base/openmp_config.h"

#include <unistd.h>

#include <cstdlib>

namespace kvasir {

void ConfigureOpenMp(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  if (setenv("GOMP_SPINCOUNT", "30000", /*overwrite=*/0) != 0) return;
  execv("/proc/self/exe", argv);
}

}  // namespace kvasir
