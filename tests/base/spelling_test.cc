#include "base/spelling.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace kvasir {
namespace {

TEST(Spelling, FindsSlipsAndNothingElse) {
  EXPECT_EQ(EditDistance("", "abc"), 3);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3);
  EXPECT_EQ(EditDistance("listen", "lisetn"), 1);
  const std::vector<std::string> words = {"listen", "threads"};
  EXPECT_EQ(DidYouMean("lisetn", words), "; did you mean 'listen'?");
  EXPECT_EQ(DidYouMean("thread", words), "; did you mean 'threads'?");
  EXPECT_EQ(DidYouMean("completely_other", words), "");
  EXPECT_EQ(DidYouMean("", words), "");
}

}  // namespace
}  // namespace kvasir
