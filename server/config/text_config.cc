#include "server/config/text_config.h"

#include <algorithm>
#include <cstdint>

namespace kvasir {

void FillTextDefaults(config::v1::TextConfig* text) {
  const TextLimits defaults;
  if (!text->has_max_waiting()) text->set_max_waiting(static_cast<int32_t>(defaults.max_waiting));
  if (!text->has_max_waiting_bytes()) {
    text->set_max_waiting_bytes(static_cast<int64_t>(defaults.max_waiting_bytes));
  }
}

TextLimits CheckText(const config::v1::TextConfig& text, int usable_cpus, ConfigChecker* check) {
  constexpr char kThreads[] = "they take turns with the threads that compute";
  constexpr char kWaiting[] = "it bounds the memory of requests that wait to be read";
  TextLimits limits;
  limits.threads = text.has_threads()
                       ? check->Range("text.threads", text.threads(), 1, 256, kThreads)
                       : std::clamp(usable_cpus / 4, 2, 8);
  limits.long_threads =
      text.has_long_threads()
          ? check->Range("text.long_threads", text.long_threads(), 1, 256, kThreads)
          : std::clamp(usable_cpus / 8, 1, 4);
  limits.max_waiting = static_cast<size_t>(
      check->Range("text.max_waiting", text.max_waiting(), 16, 1 << 20, kWaiting));
  limits.max_waiting_bytes =
      static_cast<size_t>(check->Range<int64_t>("text.max_waiting_bytes", text.max_waiting_bytes(),
                                                int64_t{1} << 20, int64_t{64} << 30, kWaiting));
  return limits;
}

}  // namespace kvasir
