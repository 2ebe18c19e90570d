#include "runtime/engine/request.h"

#include "runtime/engine/engine_observer.h"

namespace kvasir {

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEos:
      return "eos";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kContextFull:
      return "context_full";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kGrammar:
      return "grammar";
    case FinishReason::kToolCalls:
      return "tool_calls";
  }
  return "unknown";
}

const char* CancelCauseName(CancelCause cause) {
  switch (cause) {
    case CancelCause::kClient:
      return "client";
    case CancelCause::kAbort:
      return "abort";
    case CancelCause::kDeadline:
      return "deadline";
    case CancelCause::kSlowReader:
      return "slow_reader";
    case CancelCause::kShutdown:
      return "shutdown";
  }
  return "unknown";
}

}  // namespace kvasir
