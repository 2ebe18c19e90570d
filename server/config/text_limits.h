// How many threads work on text, and what may wait for them; config.proto (TextConfig), where
// operators read them, has the reasons.
#pragma once

#include <cstddef>

namespace kvasir {

struct TextLimits {
  int threads = 2;       // for texts up to TextWorkers::kLongTextBytes; at least 1
  int long_threads = 1;  // for longer ones; at least 1
  size_t max_waiting = 8192;
  size_t max_waiting_bytes = size_t{256} << 20;
};

}  // namespace kvasir
