#include "kvcache/spill/seen_files.h"

#include <gtest/gtest.h>

namespace kvasir {
namespace {

TEST(SeenFilesTest, AgesGoByWhatWasSeenNotByStamps) {
  SeenFiles files;
  const absl::Time begin = absl::UnixEpoch() + absl::Hours(1000);
  const absl::Time old_stamp = absl::UnixEpoch(), new_stamp = begin + absl::Hours(9999);
  files.BeginLook(begin);
  EXPECT_EQ(files.Age("a", old_stamp), absl::ZeroDuration());
  EXPECT_EQ(files.Age("b", new_stamp), absl::ZeroDuration());
  files.BeginLook(begin + absl::Minutes(1));
  EXPECT_EQ(files.Age("a", old_stamp), absl::Minutes(1));
  EXPECT_EQ(files.Age("b", old_stamp), absl::ZeroDuration()) << "written anew";
  files.BeginLook(begin + absl::Minutes(3));
  EXPECT_EQ(files.Age("b", old_stamp), absl::Minutes(2));
  // "a" was not met: what is under its name next is another.
  files.BeginLook(begin + absl::Minutes(4));
  EXPECT_EQ(files.Age("a", old_stamp), absl::ZeroDuration());
}

}  // namespace
}  // namespace kvasir
