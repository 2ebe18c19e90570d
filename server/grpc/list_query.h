// What the list methods of the services have in common: which models they ask and how many rows
// they give.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/frontend/model_registry.h"
#include "server/frontend/request_errors.h"

namespace kvasir {

inline constexpr int32_t kDefaultListRows = 100;
inline constexpr int32_t kMaxListRows = 1000;

// The message's `limit`: 0 is the default; InvalidArgument outside 0 to 1000.
inline absl::StatusOr<size_t> ListRows(int32_t limit) {
  if (limit < 0 || limit > kMaxListRows) {
    return BadFieldError("limit", absl::StrCat(limit, " is outside the range 0 to ", kMaxListRows,
                                               "; 0 is the default of ", kDefaultListRows));
  }
  return static_cast<size_t>(limit == 0 ? kDefaultListRows : limit);
}

// The message's `model`: empty is all that the caller may use, a model that is being unloaded among
// them. NotFound, naming what is served.
inline absl::StatusOr<std::vector<ServedModelRef>> ListedModels(const ModelRegistry& models,
                                                                const std::string& name,
                                                                const Caller& caller) {
  if (name.empty()) return models.AllOf(caller);
  KVASIR_ASSIGN_OR_RETURN(const ServedModelRef served, models.Find(name, caller));
  return std::vector<ServedModelRef>{served};
}

}  // namespace kvasir
