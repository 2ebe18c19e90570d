#include "server/config/speculation_policy.h"

namespace kvasir {
SpeculationPolicy CheckModelSpeculation(const config::v1::SpeculationConfig& speculation,
                                        const std::string& path, ConfigChecker* check) {
  SpeculationPolicy policy;
  policy.defaults.mode = check->OneOf<SpeculationMode>(path + ".mode", speculation.mode(),
                                                       {{"off", SpeculationMode::kOff},
                                                        {"ngram", SpeculationMode::kNgram},
                                                        {"draft", SpeculationMode::kDraft}});
  policy.defaults.max_draft_tokens = speculation.max_draft_tokens();
  policy.draft_model = speculation.draft();
  policy.draft_kv_bytes = speculation.draft_kv_bytes();
  if (policy.defaults.mode == SpeculationMode::kDraft && policy.draft_model.empty()) {
    check->Fault(path + ".mode",
                 "is 'draft', but there is no draft model; set draft to its folder, or mode to "
                 "'ngram'");
  }
  return policy;
}

}  // namespace kvasir
