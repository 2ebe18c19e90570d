#include "runtime/model/generation_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

constexpr size_t kMaxEosTokens = 64;

// Settings of Hugging Face's generation that change its text and have no counterpart here, with the
// value that does nothing.
struct Unapplied {
  const char* key;
  double neutral;
};
constexpr Unapplied kUnapplied[] = {{"num_beams", 1},
                                    {"num_beam_groups", 1},
                                    {"diversity_penalty", 0},
                                    {"length_penalty", 1},
                                    {"encoder_repetition_penalty", 1},
                                    {"no_repeat_ngram_size", 0},
                                    {"encoder_no_repeat_ngram_size", 0},
                                    {"typical_p", 1},
                                    {"epsilon_cutoff", 0},
                                    {"eta_cutoff", 0},
                                    {"penalty_alpha", 0},
                                    {"guidance_scale", 1},
                                    {"top_h", 1},
                                    {"min_length", 0},
                                    {"min_new_tokens", 0}};
constexpr const char* kUnappliedLists[] = {"bad_words_ids",
                                           "sequence_bias",
                                           "suppress_tokens",
                                           "begin_suppress_tokens",
                                           "forced_bos_token_id",
                                           "forced_eos_token_id",
                                           "exponential_decay_length_penalty",
                                           "constraints",
                                           "force_words_ids",
                                           "stop_strings"};

void NoteUnapplied(const JsonFields& fields, ModelSpec* spec) {
  const auto note = [&](const char* key) {
    spec->notes.push_back(absl::StrCat(fields.file(), ": ", key, " is not applied"));
  };
  for (const Unapplied& setting : kUnapplied) {
    if (!fields.Has(setting.key)) continue;
    const nlohmann::json& value = fields.At(setting.key);
    if (!value.is_number() || value.get<double>() != setting.neutral) note(setting.key);
  }
  for (const char* key : kUnappliedLists) {
    if (fields.Has(key) && !fields.At(key).empty()) note(key);
  }
}

}  // namespace

absl::Status ReadSpecialTokens(const JsonFields& fields, ModelSpec* spec) {
  if (fields.Has("eos_token_id")) {
    KVASIR_ASSIGN_OR_RETURN(
        const std::vector<int> ids,
        fields.IntList("eos_token_id", kMaxEosTokens, -1, spec->vocab_size - 1));
    for (const int id : ids) {
      std::vector<int>& known = spec->eos_token_ids;
      if (id >= 0 && std::find(known.begin(), known.end(), id) == known.end()) known.push_back(id);
    }
  }
  if (fields.Has("bos_token_id") && !spec->bos_token_id) {
    KVASIR_ASSIGN_OR_RETURN(const int64_t id, fields.Int("bos_token_id", -1, spec->vocab_size - 1));
    if (id >= 0) spec->bos_token_id = static_cast<int>(id);
  }
  return absl::OkStatus();
}

absl::Status ReadGenerationConfig(const JsonFields& fields, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadSpecialTokens(fields, spec));
  const auto number = [&](const char* key, double min, double max,
                          std::optional<float>* value) -> absl::Status {
    if (!fields.Has(key)) return absl::OkStatus();
    KVASIR_ASSIGN_OR_RETURN(const double read, fields.Number(key, min, max));
    *value = static_cast<float>(read);
    return absl::OkStatus();
  };
  KVASIR_RETURN_IF_ERROR(number("temperature", 0.0, 100.0, &spec->default_temperature));
  KVASIR_RETURN_IF_ERROR(number("top_p", 0.0, 1.0, &spec->default_top_p));
  KVASIR_RETURN_IF_ERROR(number("min_p", 0.0, 1.0, &spec->default_min_p));
  KVASIR_RETURN_IF_ERROR(
      number("repetition_penalty", 1e-3, 10.0, &spec->default_repetition_penalty));
  if (fields.Has("top_k")) {
    KVASIR_ASSIGN_OR_RETURN(spec->default_top_k, fields.Int("top_k", -1, INT32_MAX));
    if (spec->default_top_k == -1) spec->default_top_k = 0;  // both mean all
  }
  NoteUnapplied(fields, spec);
  return absl::OkStatus();
}

}  // namespace kvasir
