// What a constraint of the output may cost; config.proto (GrammarConfig), where operators read
// them, has the reasons.
#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace kvasir {

struct GrammarLimits {
  int64_t max_source_bytes = 128 << 10;
  int64_t max_symbols = 100'000;
  int64_t max_lexer_states = 16'000;  // 1 to 2 KB each
  int64_t compile_fuel = 1'000'000;
  int64_t step_fuel = 100'000;
  int64_t max_step_items = 30'000;
  absl::Duration max_compile_time = absl::Seconds(5);  // and as long for its turn
  int32_t max_waiting = 64;                            // constraints
  int32_t max_compiled = 16;                           // constraints kept for later requests
};

}  // namespace kvasir
