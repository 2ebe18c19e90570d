// A blocking reader of a TokenStream that has no wakeup of its own, for tests and benches.
#pragma once

#include <optional>
#include <utility>

#include "absl/synchronization/notification.h"
#include "runtime/engine/token_stream.h"

namespace kvasir {

// The next event, once there is one. Not after Finished was popped: nothing comes any more.
inline StreamEvent WaitPop(TokenStream* stream) {
  while (true) {
    if (std::optional<StreamEvent> event = stream->TryPop()) return *std::move(event);
    absl::Notification arrived;
    stream->SetWakeup([&] {
      if (!arrived.HasBeenNotified()) arrived.Notify();  // calls never overlap
    });
    arrived.WaitForNotification();
    stream->ClearWakeup();
  }
}

}  // namespace kvasir
