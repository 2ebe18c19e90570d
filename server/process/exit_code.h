// How kvasird ends, for service managers: see deploy/systemd/kvasird.service.
#pragma once

namespace kvasir {

enum class ExitCode {
  kClean = 0,
  kBadConfig = 2,
  kModelLoad = 3,
  kListen = 4,
  kMemory = 5,        // the KV pools do not fit
  kSessionsLost = 6,  // drained, but not every session is on the disk; only if asked for
  kHubAway = 7,       // a model on a hub cannot be downloaded now: trying again may help
};

}  // namespace kvasir
