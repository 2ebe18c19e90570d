// Runs a test body once per Highway target that this CPU and build have, by restricting what
// dispatch may choose.
#pragma once

#include <cstdint>
#include <vector>

#include "gtest/gtest.h"
#include "hwy/highway.h"
#include "hwy/targets.h"

namespace kvasir {

// The bf16 dot-product kernels follow: they are only used while AVX-512 is allowed.
template <typename Body>
void ForEachDispatchTarget(const Body& body) {
  const std::vector<int64_t> targets = hwy::SupportedAndGeneratedTargets();
  for (const int64_t target : targets) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace kvasir
