#include "hub/retry.h"

#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvasir {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class RetryTest : public ::testing::Test {
 protected:
  absl::Status Run(std::vector<absl::Status> answers, std::vector<bool> progress = {}) {
    Retry retry(policy_, &cancelled_, [&](const std::string& note) { notes_.push_back(note); });
    return retry.Run([&](bool* moved) {
      *moved = calls_ < progress.size() && progress[calls_];
      return answers[std::min(calls_++, answers.size() - 1)];
    });
  }

  RetryPolicy policy_{3, absl::Microseconds(1), absl::Milliseconds(1)};
  std::atomic<bool> cancelled_{false};
  std::vector<std::string> notes_;
  size_t calls_ = 0;
};

TEST_F(RetryTest, OnlyWhatMayPassIsTriedAgain) {
  EXPECT_TRUE(Run({absl::UnavailableError("x"), absl::OkStatus()}).ok());
  EXPECT_EQ(calls_, 2u);
  EXPECT_THAT(notes_, ElementsAre(HasSubstr("x; trying again in 1us")));
  calls_ = 0;
  EXPECT_TRUE(absl::IsNotFound(Run({absl::NotFoundError("x")})));
  EXPECT_EQ(calls_, 1u);
}

TEST_F(RetryTest, GivesUpAfterSoManyInARow) {
  const absl::Status status = Run({WorthAnotherTry(absl::ResourceExhaustedError("busy"))});
  EXPECT_EQ(status, absl::ResourceExhaustedError("busy (tried 3 times)"));
  EXPECT_EQ(calls_, 3u);
}

TEST_F(RetryTest, ProgressBeginsTheCountAnew) {
  const absl::Status status =
      Run({absl::UnavailableError("x")}, {false, false, true, false, true, false, false});
  EXPECT_EQ(calls_, 7u);
  EXPECT_TRUE(absl::IsUnavailable(status));
}

TEST_F(RetryTest, ALongerPauseThanAllowedIsLeftToTheUser) {
  const absl::Status status =
      Run({WorthAnotherTry(absl::ResourceExhaustedError("busy"), absl::Minutes(90))});
  EXPECT_EQ(calls_, 1u);
  EXPECT_EQ(status, absl::ResourceExhaustedError("busy; it asks to wait 1h30m, try again then"));
}

TEST_F(RetryTest, AWaitEndsWhenItIsCancelled) {
  policy_.first_pause = policy_.longest_pause = absl::Hours(1);
  cancelled_ = true;
  EXPECT_TRUE(absl::IsCancelled(Run({absl::UnavailableError("x")})));
}

}  // namespace
}  // namespace kvasir
