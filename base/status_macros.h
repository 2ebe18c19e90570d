// Early return on errors, for functions that return absl::Status or absl::StatusOr.
//
//   KVASIR_RETURN_IF_ERROR(file.Close());
//   KVASIR_ASSIGN_OR_RETURN(ModelSpec spec, ParseHfConfig(json));
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define KVASIR_RETURN_IF_ERROR(expression)           \
  do {                                               \
    ::absl::Status kvasir_status_ = (expression);    \
    if (!kvasir_status_.ok()) return kvasir_status_; \
  } while (false)

#define KVASIR_INTERNAL_CONCAT2(a, b) a##b
#define KVASIR_INTERNAL_CONCAT(a, b) KVASIR_INTERNAL_CONCAT2(a, b)

#define KVASIR_ASSIGN_OR_RETURN(target, expression) \
  KVASIR_INTERNAL_ASSIGN_OR_RETURN(KVASIR_INTERNAL_CONCAT(kvasir_or_, __LINE__), target, expression)

#define KVASIR_INTERNAL_ASSIGN_OR_RETURN(holder, target, expression) \
  auto holder = (expression);                                        \
  if (!holder.ok()) return std::move(holder).status();               \
  target = std::move(holder).value()
