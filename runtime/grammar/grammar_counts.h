// What a grammar compiler has done so far.
#pragma once

#include <cstdint>

namespace kvasir {

// Constraints by what became of them. Those that nobody waited for any more are in none.
struct GrammarCounts {
  int64_t reused = 0;    // were compiled already
  int64_t compiled = 0;  // had to be
  int64_t refused = 0;   // broken, beyond the limits, or of what cannot be kept
};

}  // namespace kvasir
