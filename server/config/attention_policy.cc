#include "server/config/attention_policy.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace kvasir {
namespace {

constexpr char kDense[] = "dense", kAuto[] = "auto";

void CheckMode(const config::v1::AttentionConfig& attention, const std::string& path,
               ConfigChecker* check) {
  if (!attention.mode().empty()) {
    check->OneOf<bool>(path + ".mode", attention.mode(), {{kDense, false}, {kAuto, true}});
  }
}

}  // namespace

AttentionPolicy CheckModelAttention(const config::v1::AttentionConfig& attention,
                                    bool keeps_sparq_keys, const std::string& path,
                                    ConfigChecker* check) {
  CheckMode(attention, path, check);
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
  CheckMode(attention, path, check);
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
