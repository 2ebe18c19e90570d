// From what a call proves to the tenant that it acts for: the one place that decides.
//
// In this order: the header of a trusted proxy, if one is configured and the call has it; a key
// ("authorization: Bearer KEY", or "x-api-key: KEY"); a client certificate; anonymous, if allowed.
// A credential that is wrong is refused and never falls through to a weaker one. What the client
// sends otherwise (request id, session id, tenant names) is believed by nobody.
//
// Thread safe. The configuration can be replaced at any time; calls under way keep what they have.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "server/identity/caller.h"
#include "server/identity/credentials.h"
#include "server/identity/tenant_directory.h"

namespace kvasir {

class Authenticator {
 public:
  Authenticator(AuthenticationConfig config, std::shared_ptr<const TenantDirectory> tenants);

  // Calls that begin from now on are judged by these.
  void Replace(AuthenticationConfig config, std::shared_ptr<const TenantDirectory> tenants);

  // Unauthenticated: which credential is missing or wrong and what to send; never the key itself.
  absl::StatusOr<Caller> Identify(const CredentialSource& source) const;

  // The same for credentials at hand.
  absl::StatusOr<Caller> Identify(const Credentials& credentials) const;

 private:
  // One state of the configuration, shared by the callers found in it.
  struct Rules {
    AuthenticationConfig config;
    std::shared_ptr<const TenantDirectory> tenants;
  };
  static absl::StatusOr<Caller> Judge(const Rules& rules, const Credentials& credentials);
  std::shared_ptr<const Rules> rules() const;

  mutable absl::Mutex mutex_;
  std::shared_ptr<const Rules> rules_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvasir
