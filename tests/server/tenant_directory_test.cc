#include "server/identity/tenant_directory.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvasir {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kKeyA[] = "a-key-of-tenant-a-0123";
constexpr char kKeyB[] = "a-key-of-tenant-b-0123";

std::string Hex(const Sha256Digest& digest) {
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest.data()), digest.size()});
}

class TenantDirectoryTest : public ::testing::Test {
 protected:
  TenantDirectoryTest() { std::filesystem::create_directories(folder_); }
  ~TenantDirectoryTest() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = folder_ / name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }

  static TenantConfig WithFile(const std::string& id, const std::string& path) {
    TenantConfig tenant;
    tenant.id = id;
    tenant.key_file = path;
    return tenant;
  }

  static std::string FaultOf(std::vector<TenantConfig> tenants) {
    const auto directory = TenantDirectory::Load(std::move(tenants));
    EXPECT_EQ(directory.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(directory.status().message());
  }

  const std::filesystem::path folder_ =
      std::filesystem::path(::testing::TempDir()) / absl::StrCat("kvasir_tenants_", getpid());
};

TEST_F(TenantDirectoryTest, Sha256IsThatOfFips180) {
  EXPECT_EQ(Hex(Sha256("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Hex(Sha256("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST_F(TenantDirectoryTest, FindsTheOwnerOfAKey) {
  TenantConfig a;
  a.id = "a";
  a.key_digests = {Sha256(kKeyA), Sha256("an-older-key-of-tenant-a")};
  const std::string file =
      Write("b.keys", absl::StrCat("# keys of b\n\n", kKeyB,
                                   "\r\nsha256:", Hex(Sha256("second-key-of-tenant-b")), "\n"));
  const auto directory = TenantDirectory::Load({a, WithFile("b", file)});
  ASSERT_TRUE(directory.ok()) << directory.status();
  const TenantDirectory& tenants = **directory;
  ASSERT_NE(tenants.FindByKey(kKeyA), nullptr);
  EXPECT_EQ(tenants.FindByKey(kKeyA)->id, "a");
  EXPECT_EQ(tenants.FindByKey("an-older-key-of-tenant-a")->id, "a");
  EXPECT_EQ(tenants.FindByKey(kKeyB)->id, "b");
  EXPECT_EQ(tenants.FindByKey("second-key-of-tenant-b")->id, "b");
  EXPECT_EQ(tenants.FindById("b"), tenants.FindByKey(kKeyB));
  EXPECT_EQ(tenants.FindById("c"), nullptr);
}

TEST_F(TenantDirectoryTest, WhatIsNotTheKeyIsNobodys) {
  TenantConfig a;
  a.id = "a";
  a.key_digests = {Sha256(kKeyA)};
  const auto directory = TenantDirectory::Load({a});
  ASSERT_TRUE(directory.ok()) << directory.status();
  const std::string key = kKeyA;
  const std::vector<std::string> wrong = {
      "", key.substr(0, key.size() - 1), key + "0", key + '\0', " " + key, kKeyB,
      // A digest that got out opens nothing.
      Hex(Sha256(kKeyA)), absl::StrCat("sha256:", Hex(Sha256(kKeyA))), std::string(1 << 20, 'a')};
  for (const std::string& attempt : wrong) {
    EXPECT_EQ((*directory)->FindByKey(attempt), nullptr) << attempt.substr(0, 80);
  }
}

// openssl rand -hex 32 prints 64 hex digits: in a key file they are a key, not a digest.
TEST_F(TenantDirectoryTest, AKeyOf64HexDigitsIsAKey) {
  const std::string key = Hex(Sha256("anything"));
  const auto directory = TenantDirectory::Load({WithFile("a", Write("a.keys", key))});
  ASSERT_TRUE(directory.ok()) << directory.status();
  ASSERT_NE((*directory)->FindByKey(key), nullptr);
}

TEST_F(TenantDirectoryTest, FaultsNameFileAndLineAndNeverAKey) {
  const std::string bad = Write("bad.keys", "short\n" + std::string(kKeyA) + " with blanks\n" +
                                                "sha256:12\n" + std::string(513, 'x') + "\n");
  EXPECT_THAT(FaultOf({WithFile("a", bad)}),
              AllOf(HasSubstr(bad + ":1: a key of 5 bytes"), HasSubstr(bad + ":2: "),
                    HasSubstr(bad + ":3: after 'sha256:'"), HasSubstr(bad + ":4: a key of 513"),
                    HasSubstr("openssl rand"), Not(HasSubstr("short")), Not(HasSubstr(kKeyA))));
  EXPECT_THAT(FaultOf({WithFile("a", "/nowhere/a.keys")}), HasSubstr("No such file"));
  EXPECT_THAT(FaultOf({WithFile("a", folder_)}), HasSubstr("a folder"));
  EXPECT_THAT(FaultOf({WithFile("a", "/dev/zero")}), HasSubstr("a device"));
  for (const char* nothing : {"", "\n", "# none yet\n"}) {
    EXPECT_THAT(FaultOf({WithFile("a", Write("none.keys", nothing))}), HasSubstr("holds no key"));
  }
}

TEST_F(TenantDirectoryTest, TwoTenantsCannotHaveOneKey) {
  TenantConfig a;
  a.id = "a";
  a.key_digests = {Sha256(kKeyA)};
  const std::string file = Write("b.keys", std::string(kKeyB) + "\n" + kKeyA + "\n");
  EXPECT_THAT(
      FaultOf({a, WithFile("b", file)}),
      AllOf(HasSubstr(file + ":2: "), HasSubstr("key_sha256 of tenant a"), Not(HasSubstr(kKeyA))));
  // The same tenant may say it twice.
  a.key_file = Write("a.keys", kKeyA);
  EXPECT_TRUE(TenantDirectory::Load({a}).ok());
}

TEST_F(TenantDirectoryTest, KeysAreBounded) {
  std::string text;
  for (size_t i = 0; i <= kMaxKeys; ++i) absl::StrAppend(&text, "key-0123456789-", i, "\n");
  EXPECT_THAT(FaultOf({WithFile("a", Write("many.keys", text))}), HasSubstr("10001 keys"));
}

}  // namespace
}  // namespace kvasir
