#include "base/json_nesting.h"

#include <string>

#include "gtest/gtest.h"

namespace kvasir {
namespace {

TEST(JsonNestingDepth, CountsBracketsOutsideStrings) {
  EXPECT_EQ(JsonNestingDepth(""), 0);
  EXPECT_EQ(JsonNestingDepth("17"), 0);
  EXPECT_EQ(JsonNestingDepth("{}"), 1);
  EXPECT_EQ(JsonNestingDepth(R"({"a": [1, {"b": []}], "c": {}})"), 4);
  EXPECT_EQ(JsonNestingDepth(R"(["[[[{{{"])"), 1);
  EXPECT_EQ(JsonNestingDepth(R"(["\"[[[", []])"), 2);
  EXPECT_EQ(JsonNestingDepth(R"(["\\", [[]]])"), 3);
}

TEST(JsonNestingDepth, EndsWithTextThatIsNoJson) {
  EXPECT_EQ(JsonNestingDepth("]]]][["), 0);
  EXPECT_EQ(JsonNestingDepth("[\"\\"), 1);
  EXPECT_EQ(JsonNestingDepth(std::string(100000, '[')), 100000);
}

}  // namespace
}  // namespace kvasir
