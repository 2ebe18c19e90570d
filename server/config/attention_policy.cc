#include "server/config/attention_policy.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace kvasir {
namespace {

constexpr char kDense[] = "dense", kAuto[] = "auto";
constexpr int32_t kMaxTokens = 1 << 24;
constexpr double kMaxCompression = kMaxSparqCompression;

// Of whatever is given.
void CheckFields(const config::v1::AttentionConfig& attention, const std::string& path,
                 ConfigChecker* check) {
  if (!attention.mode().empty()) {
    check->OneOf<bool>(path + ".mode", attention.mode(), {{kDense, false}, {kAuto, true}});
  }
  if (attention.has_compression()) {
    check->Range(path + ".compression", attention.compression(), 1.0, kMaxCompression,
                 "8 reads an eighth of what dense attention reads");
  }
  if (attention.has_max_compression()) {
    check->Range(path + ".max_compression", attention.max_compression(), 1.0, kMaxCompression,
                 "requests may not ask for more");
  }
  if (attention.has_min_rank()) {
    check->Range(path + ".min_rank", attention.min_rank(), 1, kMaxTokens,
                 "below 8 dimensions the ranking is noise");
  }
  if (attention.has_min_top_k()) {
    check->Range(path + ".min_top_k", attention.min_top_k(), 1, kMaxTokens,
                 "128 positions are the fewest that the method was published with");
  }
  if (attention.has_min_tokens()) {
    check->Range(path + ".min_tokens", attention.min_tokens(), 0, kMaxTokens,
                 "shorter contexts attend densely, which is faster there");
  }
}

}  // namespace

void FillAttentionDefaults(config::v1::AttentionConfig* attention) {
  const AttentionPolicy defaults;
  if (attention->mode().empty()) attention->set_mode(kDense);
  if (!attention->has_max_compression()) attention->set_max_compression(defaults.max_compression);
  // A low limit alone is a complete statement.
  if (!attention->has_compression())
    attention->set_compression(
        std::min<double>(defaults.compression, attention->max_compression()));
  if (!attention->has_min_rank()) attention->set_min_rank(defaults.min_rank);
  if (!attention->has_min_top_k()) attention->set_min_top_k(defaults.min_top_k);
  if (!attention->has_min_tokens()) attention->set_min_tokens(defaults.min_tokens);
  if (!attention->has_allow_sparq()) attention->set_allow_sparq(defaults.allow_sparq);
  if (!attention->has_allow_experimental())
    attention->set_allow_experimental(defaults.allow_experimental);
}

AttentionPolicy CheckModelAttention(const config::v1::AttentionConfig& attention,
                                    bool keeps_sparq_keys, const std::string& path,
                                    ConfigChecker* check) {
  CheckFields(attention, path, check);
  AttentionPolicy policy;
  policy.keeps_sparq_keys = keeps_sparq_keys;
  policy.sparse_by_default = attention.mode() == kAuto;
  policy.compression = static_cast<float>(attention.compression());
  policy.max_compression = static_cast<float>(attention.max_compression());
  policy.min_rank = attention.min_rank();
  policy.min_top_k = attention.min_top_k();
  policy.min_tokens = attention.min_tokens();
  policy.allow_sparq = attention.allow_sparq();
  policy.allow_experimental = attention.allow_experimental();
  if (policy.compression > policy.max_compression) {
    check->Fault(
        path + ".compression",
        absl::StrCat("is ", policy.compression, ", but max_compression is ", policy.max_compression,
                     "; what requests get by default must be "
                     "something they may ask for"));
  }
  if (policy.sparse_by_default && !keeps_sparq_keys) {
    check->Fault(path + ".mode",
                 "is 'auto', but the model keeps no keys for SparQ; set kv_cache.sparq_keys to "
                 "same or int8");
  }
  if (policy.sparse_by_default && !policy.allow_sparq) {
    check->Fault(path + ".mode", "is 'auto', but allow_sparq is false; set one of them");
  }
  return policy;
}

void CheckTenantAttention(const config::v1::AttentionConfig& attention, const std::string& path,
                          ConfigChecker* check) {
  CheckFields(attention, path, check);
  if (attention.has_compression() && attention.has_max_compression() &&
      attention.compression() > attention.max_compression()) {
    check->Fault(path + ".compression",
                 absl::StrCat("is ", attention.compression(), ", but max_compression is ",
                              attention.max_compression(), "; lower it"));
  }
}

AttentionPolicy ForTenant(AttentionPolicy policy, const config::v1::AttentionConfig& tenant) {
  if (!tenant.mode().empty()) policy.sparse_by_default = tenant.mode() == kAuto;
  if (tenant.has_max_compression())
    policy.max_compression =
        std::min(policy.max_compression, static_cast<float>(tenant.max_compression()));
  if (tenant.has_compression()) policy.compression = static_cast<float>(tenant.compression());
  policy.compression = std::min(policy.compression, policy.max_compression);
  if (tenant.has_min_rank()) policy.min_rank = std::max(policy.min_rank, tenant.min_rank());
  if (tenant.has_min_top_k()) policy.min_top_k = std::max(policy.min_top_k, tenant.min_top_k());
  if (tenant.has_min_tokens()) policy.min_tokens = tenant.min_tokens();
  if (tenant.has_allow_sparq()) policy.allow_sparq = policy.allow_sparq && tenant.allow_sparq();
  if (tenant.has_allow_experimental()) {
    policy.allow_experimental = policy.allow_experimental && tenant.allow_experimental();
  }
  return policy;
}

}  // namespace kvasir
