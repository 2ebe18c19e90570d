// Who a call acts for, once that is proven. A value; safe to copy to other threads.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "server/config/tenant_config.h"

namespace kvasir {

class Caller {
 public:
  // Nobody in particular: the tenant "". `admin`: there are no tenants, so everybody is the
  // operator.
  static Caller Anonymous(bool admin) { return Caller(nullptr, admin); }
  // A configured tenant.
  explicit Caller(std::shared_ptr<const TenantConfig> config) : Caller(config, config->admin) {}

  // Scopes sessions, prefix cache, request ids and metrics.
  const std::string& tenant() const {
    static const std::string* const kAnonymous = new std::string;
    return config_ == nullptr ? *kAnonymous : config_->id;
  }
  // What the configuration says of it; null for the anonymous tenant.
  const TenantConfig* config() const { return config_.get(); }
  // Sees and drains everything through AdminService.
  bool admin() const { return admin_; }

  bool MayUse(absl::string_view model) const {
    return config_ == nullptr || config_->models.empty() ||
           std::find(config_->models.begin(), config_->models.end(), model) !=
               config_->models.end();
  }

 private:
  Caller(std::shared_ptr<const TenantConfig> config, bool admin)
      : config_(std::move(config)), admin_(admin) {}

  std::shared_ptr<const TenantConfig> config_;
  bool admin_;
};

}  // namespace kvasir
