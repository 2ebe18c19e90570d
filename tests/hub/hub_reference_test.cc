#include "hub/hub_reference.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvasir {
namespace {

using ::testing::HasSubstr;

TEST(HubReferenceTest, HasRepoRevisionAndPattern) {
  const auto plain = ParseHubReference("hf:Qwen/Qwen3-0.6B");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->repo, "Qwen/Qwen3-0.6B");
  EXPECT_EQ(plain->revision, "main");
  EXPECT_EQ(plain->pattern, "");
  EXPECT_EQ(plain->ModelName(), "Qwen3-0.6B");

  const auto whole = ParseHubReference("org/re_po.x@refs/pr/1:sub/*Q4_K_M*.gguf");
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(whole->repo, "org/re_po.x");
  EXPECT_EQ(whole->revision, "refs/pr/1");
  EXPECT_EQ(whole->pattern, "sub/*Q4_K_M*.gguf");
  EXPECT_EQ(whole->Text(), "hf:org/re_po.x@refs/pr/1:sub/*Q4_K_M*.gguf");

  EXPECT_EQ(ParseHubReference("hf:gpt2:a@b.gguf")->pattern, "a@b.gguf");
  EXPECT_EQ(ParseHubReference("hf:gpt2@main")->Text(), "hf:gpt2");
}

TEST(HubReferenceTest, RefusesWhatWouldLeadElsewhere) {
  for (const char* text : {"",
                           "hf:",
                           "hf:/",
                           "hf:org/",
                           "hf:/repo",
                           "hf:a/b/c",
                           "hf:../b",
                           "hf:a/..",
                           "hf:a/.git",
                           "hf:a--b/c",
                           "hf:a/b c",
                           "hf:a/b\n",
                           "hf:a/b%2e",
                           "hf:a/b@",
                           "hf:a/b@/x",
                           "hf:a/b@x//y",
                           "hf:a/b@../x",
                           "hf:a/b@x/..",
                           "hf:a/b@.x",
                           "hf:a/b@x\ty",
                           "hf:a/b:",
                           "hf:a/b@x:",
                           "hf:a/b:../x.gguf",
                           "hf:a/b:x\n",
                           "https://hf.co/a/b"}) {
    const auto reference = ParseHubReference(text);
    ASSERT_FALSE(reference.ok()) << text;
    EXPECT_TRUE(absl::IsInvalidArgument(reference.status())) << text;
    EXPECT_THAT(std::string(reference.status().message()), HasSubstr("the form is hf:ORG/REPO"));
  }
  EXPECT_FALSE(ParseHubReference("hf:a/" + std::string(100, 'b')).ok());
  EXPECT_FALSE(ParseHubReference("hf:a/b@" + std::string(300, 'c')).ok());
}

TEST(HubReferenceTest, IsTakenForOneOnlyWithItsScheme) {
  EXPECT_TRUE(IsHubReference("hf:a/b"));
  EXPECT_FALSE(IsHubReference("a/b"));
  EXPECT_FALSE(IsHubReference("/models/hf:a"));
}

TEST(HubReferenceTest, CommitsAreFortyLowerHexDigits) {
  EXPECT_TRUE(IsCommit("0123456789abcdef0123456789abcdef01234567"));
  EXPECT_FALSE(IsCommit("0123456789abcdef0123456789abcdef0123456"));
  EXPECT_FALSE(IsCommit("0123456789ABCDEF0123456789abcdef01234567"));
  EXPECT_FALSE(IsCommit("../3456789abcdef0123456789abcdef01234567"));
}

}  // namespace
}  // namespace kvasir
