#include "hub/hub_settings.h"

#include <cstdio>
#include <fstream>
#include <map>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hub/web_address.h"

namespace kvasir {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<HubSettings> Read(std::map<std::string, std::string> variables) {
  return ReadHubSettings([&](const std::string& name) -> std::optional<std::string> {
    const auto it = variables.find(name);
    if (it == variables.end()) return std::nullopt;
    return it->second;
  });
}

TEST(HubSettingsTest, TheCacheIsWhereOtherToolsHaveIt) {
  const auto cache = [](std::map<std::string, std::string> variables) {
    const auto settings = Read(std::move(variables));
    return settings.ok() ? settings->cache : std::string(settings.status().message());
  };
  EXPECT_EQ(cache({{"HOME", "/h"}}), "/h/.cache/huggingface/hub");
  EXPECT_EQ(cache({{"HOME", "/h"}, {"XDG_CACHE_HOME", "/x"}}), "/x/huggingface/hub");
  EXPECT_EQ(cache({{"HOME", "/h"}, {"XDG_CACHE_HOME", "/x"}, {"HF_HOME", "~/hf"}}), "/h/hf/hub");
  EXPECT_EQ(cache({{"HF_HOME", "/hf"}, {"HUGGINGFACE_HUB_CACHE", "/old"}}), "/old");
  EXPECT_EQ(cache({{"HF_HUB_CACHE", "/new"}, {"HUGGINGFACE_HUB_CACHE", "/old"}}), "/new");
  EXPECT_THAT(cache({}), HasSubstr("set HF_HOME"));
  EXPECT_THAT(cache({{"HOME", ""}}), HasSubstr("set HF_HOME"));
}

TEST(HubSettingsTest, EndpointOfflineAndAuthorities) {
  const auto plain = Read({{"HOME", "/nonexistent"}});
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->endpoint, "https://huggingface.co");
  EXPECT_FALSE(plain->offline);
  EXPECT_EQ(plain->token, "");
  const auto all = Read({{"HOME", "/nonexistent"},
                         {"HF_ENDPOINT", "https://hub.example:8443/mirror//"},
                         {"HF_HUB_OFFLINE", "True"},
                         {"REQUESTS_CA_BUNDLE", "/r.pem"},
                         {"SSL_CERT_FILE", "/s.pem"},
                         {"SSL_CERT_DIR", "/certs"}});
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(all->endpoint, "https://hub.example:8443/mirror");
  EXPECT_TRUE(all->offline);
  EXPECT_EQ(all->ca_file, "/r.pem");
  EXPECT_EQ(all->ca_folder, "/certs");
  EXPECT_FALSE(Read({{"HOME", "/h"}, {"HF_HUB_OFFLINE", "0"}})->offline);
  EXPECT_TRUE(
      absl::IsInvalidArgument(Read({{"HOME", "/h"}, {"HF_ENDPOINT", "huggingface.co"}}).status()));
}

TEST(HubSettingsTest, TheTokenIsOneWordFromTheVariableOrTheFile) {
  const std::string file = ::testing::TempDir() + "/hub_token";
  std::ofstream(file) << " hf_file\n";
  EXPECT_EQ(Read({{"HOME", "/h"}, {"HF_TOKEN_PATH", file}})->token, "hf_file");
  EXPECT_EQ(Read({{"HOME", "/h"}, {"HF_TOKEN_PATH", file}, {"HF_TOKEN", "hf_env"}})->token,
            "hf_env");
  EXPECT_EQ(Read({{"HOME", "/h"}, {"HF_TOKEN_PATH", file}, {"HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"}})
                ->token,
            "");
  // A header of the attacker's choice in every request.
  EXPECT_FALSE(Read({{"HOME", "/h"}, {"HF_TOKEN", "a\r\nX-Evil: 1"}}).ok());
  std::ofstream(file) << "two\nlines";
  EXPECT_FALSE(Read({{"HOME", "/h"}, {"HF_TOKEN_PATH", file}}).ok());
  std::remove(file.c_str());
}

TEST(WebAddressTest, OriginsAreSchemeHostAndPort) {
  EXPECT_EQ(*OriginOf("https://Hub.example/a"), *OriginOf("https://hub.example:443/b?c"));
  EXPECT_NE(*OriginOf("https://hub.example/a"), *OriginOf("http://hub.example/a"));
  EXPECT_NE(*OriginOf("https://hub.example/a"), *OriginOf("https://hub.example:444/a"));
  EXPECT_NE(*OriginOf("https://hub.example/a"), *OriginOf("https://hub.example.evil/a"));
  EXPECT_EQ(OriginOf("https://hub.example@evil/a")->host, "evil");
  EXPECT_EQ(OriginOf("https://[::1]:8/x")->Text(), "https://[::1]:8");
  EXPECT_TRUE(OriginOf("http://127.8.9.1/")->IsLoopback());
  EXPECT_TRUE(OriginOf("http://[::1]/")->IsLoopback());
  EXPECT_FALSE(OriginOf("http://hub.example/")->IsLoopback());
  for (const char* url : {"", "hub.example", "ftp://hub/x", "file:///etc/passwd", "https://"}) {
    EXPECT_FALSE(OriginOf(url).ok()) << url;
  }
}

TEST(WebAddressTest, EncodesWhatIsNoName) {
  EXPECT_EQ(PercentEncoded("a b/c#?%.gguf", true), "a%20b/c%23%3F%25.gguf");
  EXPECT_EQ(PercentEncoded("refs/pr/1", false), "refs%2Fpr%2F1");
}

}  // namespace
}  // namespace kvasir
