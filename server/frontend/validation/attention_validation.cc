#include "server/frontend/validation/attention_validation.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/ops/sparse/sparq_method.h"

namespace kvasir {
namespace {

// What a request that says no more gets from this operator.
SparqRequest PolicyDefaults(const AttentionPolicy& policy) {
  SparqRequest asked;
  asked.compression = policy.compression;
  asked.min_tokens = policy.min_tokens;
  asked.least_rank = policy.min_rank;
  asked.least_top_k = policy.min_top_k;
  return asked;
}

void CheckCompression(const std::string& field, float compression, const AttentionPolicy& policy,
                      Violations* violations) {
  violations->CheckRange(field, compression, 1.0f, policy.max_compression,
                         "8 reads an eighth of what dense attention reads; the upper limit is the "
                         "operator's (attention.max_compression)");
}

void CheckMeanValue(const v1::SparqAttention& sparq, SparqRequest* asked, Violations* violations) {
  switch (sparq.mean_value()) {
    case v1::MEAN_VALUE_AUTO:
      return;
    case v1::MEAN_VALUE_ON:
      asked->mean_value = true;
      return;
    case v1::MEAN_VALUE_OFF:
      asked->mean_value = false;
      return;
    case v1::MEAN_VALUE_UNSELECTED:
      asked->mean_value = true;
      asked->mean_of_unselected = true;
      return;
    default:
      violations->Add("attention.sparq.mean_value",
                      absl::StrCat(static_cast<int>(sparq.mean_value()),
                                   " is none of its values; use MEAN_VALUE_AUTO (0), "
                                   "MEAN_VALUE_ON (1), MEAN_VALUE_OFF (2) or "
                                   "MEAN_VALUE_UNSELECTED (3)"));
  }
}

void CheckSelection(const v1::SparqAttention& sparq, SparqRequest* asked, Violations* violations) {
  switch (sparq.selection()) {
    case v1::SPARQ_SELECTION_SOFTMAX_SUM:
      return;
    case v1::SPARQ_SELECTION_LOGIT_SUM:
      asked->selection = SparseSelection::kLogitSum;
      return;
    default:
      violations->Add("attention.sparq.selection",
                      absl::StrCat(static_cast<int>(sparq.selection()),
                                   " is none of its values; use SPARQ_SELECTION_SOFTMAX_SUM (0) or "
                                   "SPARQ_SELECTION_LOGIT_SUM (1)"));
  }
}

void CheckGrowth(const v1::SparqAttention& sparq, const AttentionLimits& limits,
                 SparqRequest* asked, Violations* violations) {
  if (sparq.has_least_mass()) {
    asked->least_mass = sparq.least_mass();
    violations->CheckRange("attention.sparq.least_mass", sparq.least_mass(), 0.0f, 1.0f,
                           "it is a share of the attention; 0 leaves top_k as it is");
  }
  if (!sparq.has_max_top_k()) return;
  asked->max_top_k = sparq.max_top_k();
  violations->CheckRange("attention.sparq.max_top_k", sparq.max_top_k(), std::max(1, sparq.top_k()),
                         limits.max_context_tokens, "top_k grows up to it");
  if (!(sparq.least_mass() > 0)) {
    violations->Add("attention.sparq.max_top_k",
                    "has no effect without least_mass; leave it out, or say to which share of the "
                    "attention top_k shall grow");
  }
}

void CheckRanking(const v1::SparqAttention& sparq, const AttentionPolicy& policy,
                  SparqRequest* asked, Violations* violations) {
  constexpr char kField[] = "attention.sparq.ranking";
  switch (sparq.ranking()) {
    case v1::SPARQ_RANKING_DIMENSIONS:
      return;
    case v1::SPARQ_RANKING_EXACT:
      asked->all_dimensions = true;
      break;
    default:
      violations->Add(kField,
                      v1::SparqRanking_IsValid(sparq.ranking())
                          ? absl::StrCat(v1::SparqRanking_Name(sparq.ranking()),
                                         " is no longer served; use SPARQ_RANKING_DIMENSIONS")
                          : absl::StrCat(static_cast<int>(sparq.ranking()),
                                         " is none of its values; use SPARQ_RANKING_DIMENSIONS "
                                         "(0)"));
      return;
  }
  const std::string& name = v1::SparqRanking_Name(sparq.ranking());
  if (!policy.allow_experimental) {
    violations->Add(kField, absl::StrCat(name,
                                         " is experimental, and the operator does not allow that "
                                         "(attention.allow_experimental); use "
                                         "SPARQ_RANKING_DIMENSIONS"));
  }
  if (sparq.has_rank() || sparq.least_mass() > 0 || sparq.reuse_picks() ||
      asked->mean_value.value_or(false)) {
    violations->Add(kField, absl::StrCat(name,
                                         " has no rank, least_mass, reuse_picks or mean value; "
                                         "leave them out, or use SPARQ_RANKING_DIMENSIONS"));
  }
}

// attention.auto, with the operator's compression.
SparqRequest Auto(const AttentionPolicy& policy) {
  SparqRequest asked = PolicyDefaults(policy);
  asked.only_where_faster = true;
  return asked;
}

SparqRequest CheckSparq(const v1::SparqAttention& sparq, const AttentionPolicy& policy,
                        const AttentionLimits& limits, Violations* violations) {
  SparqRequest asked = PolicyDefaults(policy);
  if (sparq.has_rank()) {
    asked.rank = sparq.rank();
    violations->CheckRange("attention.sparq.rank", sparq.rank(),
                           std::min(policy.min_rank, limits.head_dim), limits.head_dim,
                           "the lower limit is the operator's (attention.min_rank), the upper one "
                           "the model's head_dim");
  }
  if (sparq.has_top_k()) {
    asked.top_k = sparq.top_k();
    violations->CheckRange("attention.sparq.top_k", sparq.top_k(),
                           std::min(policy.min_top_k, limits.max_context_tokens),
                           limits.max_context_tokens,
                           "the lower limit is the operator's (attention.min_top_k), the upper one "
                           "the model's context");
  }
  if (sparq.has_local_window()) {
    asked.local_window = sparq.local_window();
    violations->CheckRange("attention.sparq.local_window", sparq.local_window(), 0,
                           sparq.has_top_k() ? sparq.top_k() : limits.max_context_tokens,
                           "the window is part of top_k");
  }
  if (sparq.has_min_tokens()) {
    asked.min_tokens = sparq.min_tokens();
    violations->CheckRange("attention.sparq.min_tokens", sparq.min_tokens(), 0,
                           limits.max_context_tokens, "0 decodes every token sparsely");
  }
  if (sparq.has_compression()) {
    asked.compression = sparq.compression();
    CheckCompression("attention.sparq.compression", sparq.compression(), policy, violations);
  }
  CheckMeanValue(sparq, &asked, violations);
  CheckSelection(sparq, &asked, violations);
  CheckGrowth(sparq, limits, &asked, violations);
  asked.reuse_picks = sparq.reuse_picks();
  CheckRanking(sparq, policy, &asked, violations);
  return asked;
}

std::optional<SparqRequest> CheckKind(const v1::Attention& attention, const AttentionPolicy& policy,
                                      const AttentionLimits& limits, Violations* violations) {
  const bool can_be_sparse = policy.keeps_sparq_keys && policy.allow_sparq;
  switch (attention.kind_case()) {
    case v1::Attention::kDense:
      return std::nullopt;
    case v1::Attention::kSparq:
      if (!policy.keeps_sparq_keys) {
        violations->Add("attention.sparq",
                        "this model keeps no keys for it; leave it out, or set kv_cache.sparq_keys "
                        "of the model to same or int8");
        return std::nullopt;
      }
      if (!policy.allow_sparq) {
        violations->Add("attention.sparq",
                        "the operator does not allow it here (attention.allow_sparq); leave it "
                        "out, or use attention.auto, which is dense then");
        return std::nullopt;
      }
      return CheckSparq(attention.sparq(), policy, limits, violations);
    case v1::Attention::kAuto: {
      SparqRequest asked = Auto(policy);
      if (attention.auto_().has_compression()) {
        asked.compression = attention.auto_().compression();
        CheckCompression("attention.auto.compression", asked.compression, policy, violations);
      }
      if (can_be_sparse) return asked;
      return std::nullopt;
    }
    case v1::Attention::KIND_NOT_SET:
      break;
  }
  if (policy.sparse_by_default && can_be_sparse) return Auto(policy);
  return std::nullopt;
}

}  // namespace

std::shared_ptr<const AttentionMethod> CheckAttention(const v1::Attention& attention,
                                                      const AttentionPolicy& policy,
                                                      const AttentionLimits& limits,
                                                      Violations* violations) {
  std::optional<SparqRequest> asked = CheckKind(attention, policy, limits, violations);
  if (!asked) return nullptr;
  return std::make_shared<SparqMethod>(*std::move(asked));
}

}  // namespace kvasir
