#include "server/config/speculation_policy.h"

namespace kvasir {
namespace {

// Far above any machine; keeps sums of sizes inside int64.
constexpr int64_t kMaxBytes = int64_t{1} << 50;
// Rows of a step beyond which even the widest machines compute instead of waiting for memory.
constexpr int32_t kMaxDraftTokens = 64;

}  // namespace

void FillSpeculationDefaults(config::v1::SpeculationConfig* speculation) {
  const SpeculationPolicy defaults;
  if (speculation->mode().empty())
    speculation->set_mode(SpeculationModeName(defaults.defaults.mode));
  if (!speculation->has_max_draft_tokens())
    speculation->set_max_draft_tokens(defaults.defaults.max_draft_tokens);
  if (!speculation->has_draft_kv_bytes()) speculation->set_draft_kv_bytes(defaults.draft_kv_bytes);
}

SpeculationPolicy CheckModelSpeculation(const config::v1::SpeculationConfig& speculation,
                                        const std::string& path, ConfigChecker* check) {
  SpeculationPolicy policy;
  policy.defaults.mode = check->OneOf<SpeculationMode>(path + ".mode", speculation.mode(),
                                                       {{"off", SpeculationMode::kOff},
                                                        {"ngram", SpeculationMode::kNgram},
                                                        {"draft", SpeculationMode::kDraft}});
  policy.defaults.max_draft_tokens =
      check->Range(path + ".max_draft_tokens", speculation.max_draft_tokens(), 1, kMaxDraftTokens,
                   "8 suits most; mode 'off' checks none");
  policy.draft_model = speculation.draft();
  policy.draft_kv_bytes =
      check->Range(path + ".draft_kv_bytes", speculation.draft_kv_bytes(), int64_t{1}, kMaxBytes,
                   "it holds the draft model's K/V of the sequences that use it");
  if (policy.defaults.mode == SpeculationMode::kDraft && policy.draft_model.empty()) {
    check->Fault(path + ".mode",
                 "is 'draft', but there is no draft model; set draft to its folder, or mode to "
                 "'ngram'");
  }
  return policy;
}

}  // namespace kvasir
