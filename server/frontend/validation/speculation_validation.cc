#include "server/frontend/validation/speculation_validation.h"

#include "absl/strings/str_cat.h"

namespace kvasir {

SpeculationParams CheckSpeculation(const v1::Speculation& speculation,
                                   const SpeculationPolicy& policy, Violations* violations) {
  SpeculationParams params = policy.defaults;
  switch (speculation.mode()) {
    case v1::SPECULATION_MODE_UNSPECIFIED:
      break;
    case v1::SPECULATION_MODE_OFF:
      params.mode = SpeculationMode::kOff;
      break;
    case v1::SPECULATION_MODE_NGRAM:
      params.mode = SpeculationMode::kNgram;
      break;
    case v1::SPECULATION_MODE_DRAFT:
      params.mode = SpeculationMode::kDraft;
      if (policy.draft_model.empty()) {
        violations->Add("speculation.mode",
                        "it is SPECULATION_MODE_DRAFT, and this model has no draft model; use "
                        "SPECULATION_MODE_NGRAM (2), or have the operator set speculation.draft");
      }
      break;
    default:
      violations->Add("speculation.mode",
                      absl::StrCat(static_cast<int>(speculation.mode()),
                                   " is none of its values; use SPECULATION_MODE_OFF (1), "
                                   "SPECULATION_MODE_NGRAM (2) or SPECULATION_MODE_DRAFT (3)"));
  }
  if (speculation.has_max_draft_tokens()) {
    params.max_draft_tokens = speculation.max_draft_tokens();
    violations->CheckRange("speculation.max_draft_tokens", params.max_draft_tokens, 1,
                           policy.defaults.max_draft_tokens,
                           "the upper limit is the operator's (speculation.max_draft_tokens); "
                           "SPECULATION_MODE_OFF checks none");
  }
  return params;
}

}  // namespace kvasir
