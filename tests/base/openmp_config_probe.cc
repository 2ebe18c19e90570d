// Prints the spin count it runs with and its arguments; ctest compares the output.
#include <cstdio>
#include <cstdlib>

#include "base/openmp_config.h"

int main(int argc, char** argv) {
  kvasir::ConfigureOpenMp(argv);
  const char* spin = std::getenv("GOMP_SPINCOUNT");
  std::printf("spin=%s args=%d last=%s\n", spin == nullptr ? "unset" : spin, argc, argv[argc - 1]);
  return 0;
}
