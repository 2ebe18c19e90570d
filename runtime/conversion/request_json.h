// How `kvasir convert` and kvasir-convert speak: the request as one JSON object, and what comes
// back, one JSON object per line. Pure functions, thread safe.
//
//   request: {"source": PATH, "output": PATH, "kv_heads": N, "heads": "mean" | "first" | "random",
//             "cla": N, "mlkv": N, "layers": "first" | "mean" | "running_mean", "seed": N,
//             "weights": "bf16", "shard_bytes": N, "force": BOOL}, all but the paths optional
//   lines:   {"done": BYTES, "total": BYTES} now and then, and last one of
//            {"report": {...}} and {"error": {"code": N, "message": TEXT}}
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/conversion/conversion.h"

namespace kvasir {

// InvalidArgument names the key; unknown keys are errors. Unimplemented: a known type of weights
// that is not written.
absl::StatusOr<ConversionRequest> ParseConversionRequest(absl::string_view json);

nlohmann::ordered_json ToJson(const ConversionReport& report);
nlohmann::ordered_json ToJson(const absl::Status& error);

}  // namespace kvasir
