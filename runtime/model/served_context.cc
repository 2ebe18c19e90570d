#include "runtime/model/served_context.h"

#include <algorithm>

namespace kvasir {

int ServedPositions(const ModelSpec& spec) {
  int positions = spec.max_positions;
  for (const RopeSpec& rope : spec.ropes) {
    if (rope.scaling == RopeSpec::Scaling::kLongRope) {
      positions = std::min(positions, rope.original_max_positions);
    }
  }
  return positions;
}

}  // namespace kvasir
