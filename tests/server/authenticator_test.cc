// Judging credentials; how they get out of a real call is tests/e2e/tenants_test.py's matter.
#include "server/identity/authenticator.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvasir {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kKeyA[] = "a-key-of-tenant-a-0123";
constexpr char kKeyB[] = "a-key-of-tenant-b-0123";

TenantConfig Tenant(const std::string& id, const char* key) {
  TenantConfig tenant;
  tenant.id = id;
  tenant.key_digests = {Sha256(key)};
  return tenant;
}

std::shared_ptr<const TenantDirectory> TwoTenants() {
  TenantConfig a = Tenant("a", kKeyA), b = Tenant("b", kKeyB);
  a.certificate_subjects = {"CN=a,O=Example", "DNS:a.example"};
  a.models = {"small"};
  b.admin = true;
  return *TenantDirectory::Load({a, b});
}

class AuthenticatorTest : public ::testing::Test {
 protected:
  AuthenticatorTest() {
    config_.allow_anonymous = false;
    config_.trusted_header = "x-tenant";
    config_.trusted_networks = {*ParseIpNetwork("10.0.0.0/8")};
    tenants_ = TwoTenants();
  }

  absl::StatusOr<Caller> Identify(const Credentials& credentials) const {
    return Authenticator(config_, tenants_).Identify(credentials);
  }

  // The tenant, or what the refusal says.
  std::string Outcome(const Credentials& credentials) const {
    const absl::StatusOr<Caller> caller = Identify(credentials);
    if (caller.ok()) return caller->tenant();
    EXPECT_EQ(caller.status().code(), absl::StatusCode::kUnauthenticated);
    return std::string(caller.status().message());
  }

  AuthenticationConfig config_;
  std::shared_ptr<const TenantDirectory> tenants_;
};

TEST_F(AuthenticatorTest, AKeyNamesItsTenant) {
  const absl::StatusOr<Caller> a = Identify({.authorization = {"Bearer a-key-of-tenant-a-0123"}});
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_EQ(a->tenant(), "a");
  EXPECT_FALSE(a->admin());
  EXPECT_TRUE(a->MayUse("small"));
  EXPECT_FALSE(a->MayUse("large"));
  const absl::StatusOr<Caller> b = Identify({.authorization = {"bearer a-key-of-tenant-b-0123"}});
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_EQ(b->tenant(), "b");
  EXPECT_TRUE(b->admin());
  EXPECT_TRUE(b->MayUse("large"));
}

TEST_F(AuthenticatorTest, WrongKeysAreRefusedWithoutAnEcho) {
  const std::string long_key(1 << 20, 'k');
  const std::string long_value = "Bearer " + long_key;
  for (const std::string& value :
       {std::string("Bearer a-key-of-tenant-a-012"), std::string("Bearer a-key-of-tenant-a-01234"),
        std::string("Bearer "), long_value}) {
    EXPECT_THAT(Outcome({.authorization = {value}}),
                AllOf(HasSubstr("not known"), Not(HasSubstr("a-key-of")), Not(HasSubstr("kkkk"))));
  }
  EXPECT_THAT(Outcome({.authorization = {"Basic YTpi"}}),
              AllOf(HasSubstr("Bearer KEY"), Not(HasSubstr("YTpi"))));
  EXPECT_THAT(Outcome({.authorization = {kKeyA}}), Not(HasSubstr(kKeyA)));
  EXPECT_THAT(Outcome({.authorization = {"Bearer a-key-of-tenant-a-0123", "Bearer x"}}),
              HasSubstr("must come once"));
  EXPECT_THAT(Outcome({}), HasSubstr("no credential"));
}

TEST_F(AuthenticatorTest, AKeyMayComeAsXApiKey) {
  EXPECT_EQ(Outcome({.api_key = {kKeyA}}), "a");
  EXPECT_EQ(Outcome({.authorization = {"Bearer a-key-of-tenant-a-0123"}, .api_key = {kKeyA}}), "a");
  EXPECT_THAT(Outcome({.api_key = {"wrong-wrong-wrong"}}),
              AllOf(HasSubstr("'x-api-key' is not known"), Not(HasSubstr("wrong"))));
  EXPECT_THAT(Outcome({.api_key = {kKeyA, kKeyB}}), HasSubstr("several different keys"));
  EXPECT_THAT(Outcome({.authorization = {"Bearer a-key-of-tenant-a-0123"}, .api_key = {kKeyB}}),
              HasSubstr("several different keys"));
}

// A wrong credential must not become an anonymous call or that of the certificate.
TEST_F(AuthenticatorTest, AWrongKeyDoesNotFallThrough) {
  config_.allow_anonymous = true;
  EXPECT_EQ(Outcome({}), "");
  EXPECT_THAT(Outcome({.authorization = {"Bearer wrong-wrong-wrong-wrong"},
                       .certificate_names = {"CN=a,O=Example"}}),
              HasSubstr("not known"));
}

TEST_F(AuthenticatorTest, AnonymousIsTheOperatorOnlyWithoutTenants) {
  config_.allow_anonymous = true;
  EXPECT_FALSE(Identify({})->admin());
  tenants_ = *TenantDirectory::Load({});
  EXPECT_TRUE(Identify({})->admin());
  // Clients often send some key; where nobody has one it says nothing.
  EXPECT_EQ(Outcome({.authorization = {"Bearer anything"}}), "");
}

TEST_F(AuthenticatorTest, CertificatesNameTheirTenant) {
  EXPECT_EQ(Outcome({.certificate_names = {"CN=a,O=Example"}}), "a");
  EXPECT_EQ(Outcome({.certificate_names = {"CN=other", "DNS:a.example"}}), "a");
  EXPECT_THAT(Outcome({.certificate_names = {"CN=a,O=Example,C=IS"}}),
              AllOf(HasSubstr("belongs to no tenant"), HasSubstr("C=IS")));
  // The key decides when both are there.
  EXPECT_EQ(Outcome({.authorization = {"Bearer a-key-of-tenant-b-0123"},
                     .certificate_names = {"CN=a,O=Example"}}),
            "b");
}

TEST_F(AuthenticatorTest, TheHeaderIsBelievedFromTrustedProxiesOnly) {
  EXPECT_EQ(Outcome({.trusted_header = {"a"}, .peer = PeerAddress("ipv4:10.1.2.3:999")}), "a");
  EXPECT_THAT(Outcome({.trusted_header = {"a"}, .peer = PeerAddress("ipv4:192.0.2.1:999")}),
              HasSubstr("trusted proxies only"));
  EXPECT_THAT(Outcome({.trusted_header = {"a"}, .peer = PeerAddress("unix:")}),
              HasSubstr("trusted proxies"));
  EXPECT_THAT(Outcome({.trusted_header = {"nobody"}, .peer = PeerAddress("ipv4:10.1.2.3:999")}),
              AllOf(HasSubstr("\"nobody\""), HasSubstr("no tenant")));
  EXPECT_THAT(Outcome({.trusted_header = {"a", "b"}, .peer = PeerAddress("ipv4:10.1.2.3:999")}),
              HasSubstr("came 2 times"));
  // A forged header does not become harmless by a key beside it.
  EXPECT_THAT(Outcome({.authorization = {"Bearer a-key-of-tenant-a-0123"},
                       .trusted_header = {"b"},
                       .peer = PeerAddress("ipv4:192.0.2.1:999")}),
              HasSubstr("trusted proxies only"));
}

TEST_F(AuthenticatorTest, ReplacedRulesHoldForNewCallsAndOldCallersStay) {
  Authenticator authenticator(config_, tenants_);
  tenants_.reset();
  const Credentials with_key{.authorization = {"Bearer a-key-of-tenant-a-0123"}};
  const absl::StatusOr<Caller> before = authenticator.Identify(with_key);
  ASSERT_TRUE(before.ok());
  authenticator.Replace(config_, *TenantDirectory::Load({Tenant("c", "a-new-key-of-tenant-c")}));
  EXPECT_FALSE(authenticator.Identify(with_key).ok());
  EXPECT_EQ(authenticator.Identify({.authorization = {"Bearer a-new-key-of-tenant-c"}})->tenant(),
            "c");
  EXPECT_EQ(before->tenant(), "a");  // a stream under way keeps what it was
  EXPECT_FALSE(before->MayUse("large"));
}

}  // namespace
}  // namespace kvasir
