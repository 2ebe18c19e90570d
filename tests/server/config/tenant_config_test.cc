#include "server/config/tenant_config.h"

#include <string>

#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "server/config/config_writer.h"
#include "tests/server/config/checked_config.h"

namespace kvasir {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

const std::string kModel = "models: [{path: /models/m}]\n";
constexpr char kDigest[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

TEST(TenantConfig, ReadsATenant) {
  const absl::StatusOr<DaemonConfig> config = Check(
      kModel +
      std::string("tenants:\n"
                  "- id: team-a\n"
                  "  key_sha256: [") +
      kDigest +
      "]\n"
      "  key_file: /etc/a.keys\n"
      "  certificate_subjects: ['CN=a,O=Example', 'DNS:a.example']\n"
      "  weight: 2.5\n"
      "  limits: {max_requests: 4, max_waiting: 3, max_waiting_tokens: 200,\n"
      "    tokens_per_minute: 1000, max_kv_bytes: 1GiB, max_sessions: 0, max_spill_bytes: 2MiB}\n"
      "  models: [m]\n"
      "  admin: true\n"
      "- id: 2nd\n"
      "server: {tls: {certificate_file: c, private_key_file: k, client_ca_file: ca},\n"
      "  authentication: {anonymous_limits: {max_session_bytes: 7}}}\n");
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_EQ(config->tenants.size(), 2u);
  const TenantConfig& tenant = config->tenants[0];
  EXPECT_EQ(tenant.id, "team-a");
  ASSERT_EQ(tenant.key_digests.size(), 1u);
  EXPECT_EQ(tenant.key_digests[0], *ParseSha256(kDigest));
  EXPECT_EQ(tenant.key_file, "/etc/a.keys");
  EXPECT_THAT(tenant.certificate_subjects, ElementsAre("CN=a,O=Example", "DNS:a.example"));
  EXPECT_EQ(tenant.weight, 2.5);
  EXPECT_THAT(tenant.models, ElementsAre("m"));
  EXPECT_TRUE(tenant.admin);
  EXPECT_EQ(config->tenants[1].weight, 1);
  const TenantPolicies& shared = config->models[0].engine.tenants;
  ASSERT_EQ(shared.named.size(), 2u);
  EXPECT_EQ(shared.named[0].id, tenant.id);
  EXPECT_EQ(shared.named[0].weight, 2.5);
  EXPECT_EQ(shared.named[0].limits, (TenantLimits{.max_requests = 4,
                                                  .max_waiting = 3,
                                                  .max_waiting_tokens = 200,
                                                  .tokens_per_minute = 1000,
                                                  .max_kv_bytes = 1 << 30,
                                                  .max_sessions = 0,
                                                  .max_spill_bytes = 2 << 20}));
  EXPECT_EQ(shared.named[1].limits, TenantLimits());
  EXPECT_EQ(shared.others.limits, TenantLimits{.max_session_bytes = 7});
  EXPECT_FALSE(config->tenants[1].admin);
  EXPECT_TRUE(config->tls.enabled());
  EXPECT_FALSE(config->tls.client_certificate_required);
  EXPECT_FALSE(config->authentication.allow_anonymous);  // there are tenants
}

TEST(TenantConfig, WrittenAsItIsRead) {
  absl::StatusOr<ConfigSource> source =
      ParseConfig(std::string(kModel) +
                      "tenants: [{id: a, key_sha256: ['1', 'x y'], models: [m], "
                      "limits: {max_sessions: 0, max_kv_bytes: 1}}, {id: b}]\n",
                  "test.yaml");
  ASSERT_TRUE(source.ok()) << source.status();
  FillDefaults(&source->message);
  const std::string text = WriteConfig(source->message);
  const absl::StatusOr<ConfigSource> again = ParseConfig(text, "again.yaml");
  ASSERT_TRUE(again.ok()) << again.status() << text;
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(source->message, again->message))
      << text;
}

TEST(TenantConfig, FaultsOfTenants) {
  EXPECT_THAT(FaultOf(kModel + "tenants: [{id: A}]"),
              AllOf(HasSubstr("test.yaml:2: tenants[0].id is 'A'"), HasSubstr("[a-z0-9._-]")));
  for (const char* id : {"anonymous", "other", "''", "-a", "a/b"}) {
    EXPECT_THAT(FaultOf(kModel + std::string("tenants: [{id: ") + id + "}]"),
                HasSubstr("tenants[0].id"));
  }
  EXPECT_THAT(FaultOf(kModel + "tenants: [{id: a}, {id: a}]"), HasSubstr("tenants[0] as well"));
  // What stands there may be a key: it is not repeated.
  EXPECT_THAT(FaultOf(kModel + "tenants: [{id: a, key_sha256: [my-secret-key]}]"),
              AllOf(HasSubstr("13 characters"), HasSubstr("sha256sum"), Not(HasSubstr("secret"))));
  EXPECT_THAT(FaultOf(kModel + std::string("tenants: [{id: a, key_sha256: [") + kDigest +
                      "]}, {id: b, key_sha256: [" + kDigest + "]}]"),
              HasSubstr("tenants[1].key_sha256[0] is the key of tenants[0] as well"));
  EXPECT_THAT(FaultOf(kModel + "tenants: [{id: a, weight: 0}]"), HasSubstr("between 0.01 and 100"));
  EXPECT_THAT(FaultOf(kModel + "tenants: [{id: a, limits: {max_kv_bytes: 0}}]"),
              AllOf(HasSubstr("test.yaml:2: tenants[0].limits.max_kv_bytes is 0"),
                    HasSubstr("let the tenant fill the pool")));
  EXPECT_THAT(FaultOf(kModel + "tenants: [{id: a, limits: {max_waiting: 0}}]"),
              HasSubstr("max_waiting is 0, but must be between 1 and"));
  EXPECT_THAT(FaultOf(kModel + "tenants: [{id: a, limits: {tokens_per_minute: 0}}]"),
              HasSubstr("tokens_per_minute is 0"));
  EXPECT_THAT(FaultOf(kModel + "tenants: [{id: a, limits: {max_sessions: -1}}]"),
              HasSubstr("0 refuses sessions"));
  EXPECT_THAT(
      FaultOf(kModel + "server: {authentication: {anonymous_limits: {max_spill_bytes: -1}}}"),
      AllOf(HasSubstr("server.authentication.anonymous_limits.max_spill_bytes"),
            HasSubstr("'-1' is negative")));
  EXPECT_THAT(FaultOf(kModel + "tenants: [{id: a, limits: {max_kv_byte: 1}}]"),
              HasSubstr("max_kv_bytes"));
  EXPECT_THAT(FaultOf(kModel + "tenants: [{id: a, models: [n]}]"),
              HasSubstr("not served; served: m"));
  EXPECT_THAT(FaultOf(kModel + "tenants: [{id: a, certificate_subjects: ['CN=a']}]"),
              HasSubstr("client_ca_file is empty"));
  EXPECT_THAT(FaultOf(kModel + "tenants: [{id: a, models: m}]"), HasSubstr("must be a list"));
  EXPECT_THAT(FaultOf(kModel + "tenants: [{id: a, models: [[m]]}]"), HasSubstr("single value"));
}

TEST(TenantConfig, AnonymousCallersNeedLoopbackOrAnExplicitWord) {
  EXPECT_TRUE(Check(kModel + "")->authentication.allow_anonymous);
  EXPECT_TRUE(Check(kModel + "server: {listen: '[::1]:1'}")->authentication.allow_anonymous);
  EXPECT_TRUE(Check(kModel + "server: {listen: 'localhost:1'}")->authentication.allow_anonymous);
  EXPECT_THAT(FaultOf(kModel + "server: {listen: '0.0.0.0:1'}"),
              AllOf(HasSubstr("nobody could call"), HasSubstr("--anonymous allow")));
  EXPECT_TRUE(Check(kModel + "server: {listen: '0.0.0.0:1', authentication: {anonymous: allow}}")
                  ->authentication.allow_anonymous);
  EXPECT_TRUE(Check(kModel + "server: {listen: '0.0.0.0:1'}\ntenants: [{id: a}]").ok());
  EXPECT_FALSE(Check(kModel + "tenants: [{id: a}]")->authentication.allow_anonymous);
  EXPECT_TRUE(Check(kModel + "tenants: [{id: a}]\nserver: {authentication: {anonymous: allow}}")
                  ->authentication.allow_anonymous);
  EXPECT_THAT(FaultOf(kModel + "server: {authentication: {anonymous: refuse}}"),
              HasSubstr("nobody could call"));
}

TEST(TenantConfig, TrustedProxies) {
  const absl::StatusOr<DaemonConfig> config =
      Check(kModel +
            "tenants: [{id: a}]\n"
            "server: {authentication: {trusted_header: x-tenant, trusted_addresses: [10.0.0.0/8, "
            "'::1']}}");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->authentication.trusted_header, "x-tenant");
  EXPECT_EQ(config->authentication.trusted_networks.size(), 2u);
  EXPECT_THAT(FaultOf(kModel + "server: {authentication: {trusted_header: x-tenant}}"),
              HasSubstr("no trusted_addresses"));
  EXPECT_THAT(FaultOf(kModel + "server: {authentication: {trusted_addresses: [10.0.0.1]}}"),
              HasSubstr("no trusted_header"));
  for (const char* header : {"X-Tenant", "authorization", "grpc-tenant", "tenant-bin", "a b"}) {
    EXPECT_THAT(FaultOf(kModel + std::string("server: {authentication: {trusted_header: '") +
                        header + "', trusted_addresses: [10.0.0.1]}}"),
                HasSubstr("trusted_header is"));
  }
  EXPECT_THAT(
      FaultOf(kModel + "server: {authentication: {trusted_header: t, trusted_addresses: [proxy]}}"),
      HasSubstr("no IP address"));
}

TEST(TenantConfig, TlsFilesBelongTogether) {
  EXPECT_THAT(FaultOf(kModel + "server: {tls: {certificate_file: c}}"),
              HasSubstr("no private_key_file"));
  EXPECT_THAT(FaultOf(kModel + "server: {tls: {private_key_file: c}}"),
              HasSubstr("no certificate_file"));
  EXPECT_THAT(FaultOf(kModel + "server: {tls: {client_ca_file: c}}"), HasSubstr("need TLS"));
  EXPECT_THAT(FaultOf(kModel + "server: {tls: {client_certificates: required}}"),
              HasSubstr("client_ca_file is empty"));
  EXPECT_THAT(FaultOf(kModel + "server: {tls: {client_certificates: demanded}}"),
              HasSubstr("optional, required"));
}

TEST(IpNetwork, ContainsItsAddresses) {
  const auto contains = [](const char* network, const char* address) {
    return ParseIpNetwork(network)->Contains(*ParseIpAddress(address));
  };
  EXPECT_TRUE(contains("10.0.0.0/8", "10.255.0.1"));
  EXPECT_FALSE(contains("10.0.0.0/8", "11.0.0.1"));
  EXPECT_TRUE(contains("10.0.0.0/9", "10.127.0.1"));
  EXPECT_FALSE(contains("10.0.0.0/9", "10.128.0.1"));
  EXPECT_TRUE(contains("10.0.0.7", "::ffff:10.0.0.7"));
  EXPECT_TRUE(contains("fd00::/7", "fc01::1"));
  EXPECT_FALSE(contains("0.0.0.0/0", "fc01::1"));
  for (const char* wrong :
       {"", "10.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "a"}) {
    EXPECT_FALSE(ParseIpNetwork(wrong).ok()) << wrong;
  }
}

TEST(IpNetwork, PeersOfGrpc) {
  EXPECT_EQ(PeerAddress("ipv4:127.0.0.1:5"), ParseIpAddress("127.0.0.1"));
  EXPECT_EQ(PeerAddress("ipv6:%5B::1%5D:5"), ParseIpAddress("::1"));
  EXPECT_EQ(PeerAddress("ipv6:[::1]:5"), ParseIpAddress("::1"));
  EXPECT_EQ(PeerAddress("unix:/tmp/a"), std::nullopt);
  EXPECT_EQ(PeerAddress(""), std::nullopt);
}

}  // namespace
}  // namespace kvasir
