// What the three services share. The daemon makes and owns all of it; it must outlive the gRPC
// server.
//
// Order of destruction that is safe: stop the servers (every call has ended), then the workers,
// then the models.
#pragma once

#include <atomic>

#include "server/frontend/call_observer.h"
#include "server/frontend/model_control.h"
#include "server/frontend/model_registry.h"
#include "server/frontend/text_workers.h"
#include "server/frontend/worker_thread.h"
#include "server/identity/authenticator.h"

namespace kvasir {

struct ServiceEnvironment {
  const ModelRegistry* models = nullptr;
  // Null: models neither come nor go.
  ModelControl* model_control = nullptr;
  // Every method of every service asks it first.
  const Authenticator* authenticator = nullptr;
  CallObserver* observer = nullptr;
  // True from the moment at which new requests are refused.
  const std::atomic<bool>* draining = nullptr;
  // Drains woken streams. Its queue holds at most one task per live stream, so it needs no bound of
  // its own.
  WorkerThread* stream_writer = nullptr;
  // Runs the calls that wait for an engine thread. Bounded: beyond it those calls are refused.
  WorkerThread* query_worker = nullptr;
  // Reads, renders, encodes and decodes.
  TextWorkers* text_workers = nullptr;
};

}  // namespace kvasir
