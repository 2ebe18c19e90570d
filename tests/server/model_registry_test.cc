#include "server/frontend/model_registry.h"

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/engine/refusal.h"

namespace kvasir {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const Caller kOperator = Caller::Anonymous(/*admin=*/true);
const Caller kUser = Caller::Anonymous(/*admin=*/false);

// Without engine and weights: the registry looks at neither.
std::unique_ptr<ServedModel> MakeModel(const std::string& name, int64_t held_bytes = 0) {
  auto model = std::make_unique<ServedModel>();
  model->name = name;
  model->held_bytes = held_bytes;
  return model;
}

std::vector<std::string> Names(const std::vector<ModelEntry>& entries) {
  std::vector<std::string> names;
  for (const ModelEntry& entry : entries) names.push_back(entry.name);
  return names;
}

RefusalReason ReasonOf(const absl::Status& status) {
  const std::optional<Refusal> refusal = RefusalOf(status);
  return refusal ? refusal->reason : RefusalReason::kError;
}

TEST(ModelRegistryTest, AModelComesAndGoes) {
  ModelRegistry registry;
  EXPECT_EQ(ReasonOf(registry.Find("", kUser).status()), RefusalReason::kUnknownModel);
  ASSERT_TRUE(registry.BeginLoad("a").ok());
  EXPECT_EQ(ReasonOf(registry.Find("a", kUser).status()), RefusalReason::kModelLoading);
  EXPECT_EQ(ReasonOf(registry.Find("", kUser).status()), RefusalReason::kModelLoading);
  EXPECT_EQ(ReasonOf(registry.Find("b", kUser).status()), RefusalReason::kUnknownModel);
  EXPECT_TRUE(absl::IsAlreadyExists(registry.BeginLoad("a")));
  registry.ReportLoad("a", 0.5, "reads");
  EXPECT_EQ(registry.Describe("a", kUser)->load_progress, 0.5);
  EXPECT_THAT(registry.All(), IsEmpty());

  registry.FinishLoad(MakeModel("a", 7));
  EXPECT_EQ((*registry.Find("", kUser))->name, "a");
  EXPECT_TRUE(absl::IsAlreadyExists(registry.BeginLoad("a")));
  EXPECT_EQ(registry.HeldBytes(), 7);

  EXPECT_EQ(registry.BeginUnload("a")->state, ModelState::kReady);
  EXPECT_EQ(ReasonOf(registry.Find("a", kUser).status()), RefusalReason::kModelUnloading);
  EXPECT_TRUE(absl::IsFailedPrecondition(registry.BeginUnload("a").status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(registry.BeginLoad("a")));
  EXPECT_EQ(registry.All().size(), 1u);  // it still runs
  EXPECT_EQ(registry.Retire("a")->name, "a");
  EXPECT_THAT(registry.All(), IsEmpty());
  EXPECT_EQ(registry.HeldBytes(), 7);
  EXPECT_EQ(registry.Retire("a"), nullptr);
  registry.Forget("a");
  EXPECT_EQ(registry.HeldBytes(), 0);
  EXPECT_TRUE(absl::IsNotFound(registry.BeginUnload("a").status()));
  EXPECT_TRUE(registry.BeginLoad("a").ok());
}

TEST(ModelRegistryTest, FailuresAreTheOperatorsAndBounded) {
  ModelRegistry registry;
  ASSERT_TRUE(registry.Add(MakeModel("good")).ok());
  for (size_t i = 0; i <= ModelRegistry::kMaxFailed; ++i) {
    const std::string name = absl::StrCat("bad", i);
    ASSERT_TRUE(registry.BeginLoad(name).ok());
    registry.FailLoad(name, "no such folder");
  }
  EXPECT_THAT(Names(registry.Entries(kUser)), ElementsAre("good"));
  EXPECT_EQ(registry.Entries(kOperator).size(), 1 + ModelRegistry::kMaxFailed);
  EXPECT_FALSE(registry.Describe("bad0", kOperator).ok());  // the oldest
  EXPECT_EQ(registry.Describe("bad1", kOperator)->error, "no such folder");
  EXPECT_FALSE(registry.Describe("bad1", kUser).ok());
  EXPECT_THAT(std::string(registry.Find("bad1", kOperator).status().message()),
              HasSubstr("served: good"));
  EXPECT_EQ((*registry.Find("", kUser))->name, "good");
  EXPECT_TRUE(registry.BeginLoad("bad1").ok());  // again
}

TEST(ModelRegistryTest, AReaderKeepsItsModelWhole) {
  ModelRegistry registry;
  ASSERT_TRUE(registry.Add(MakeModel("a")).ok());
  ServedModelRef reader = *registry.Find("a", kUser);
  ASSERT_TRUE(registry.BeginUnload("a").ok());
  EXPECT_TRUE(reader->unloading);
  absl::Notification gone;
  std::atomic<bool> read{false};
  std::thread unloader([&] {
    const std::unique_ptr<ServedModel> model = registry.Retire("a");
    EXPECT_TRUE(read);
    EXPECT_EQ(model->name, "a");
    gone.Notify();
  });
  EXPECT_EQ(reader->name, "a");
  EXPECT_FALSE(gone.HasBeenNotified());
  read = true;
  reader = nullptr;
  unloader.join();
}

// Readers while models come and go: each finds a whole model or a refusal that fits.
TEST(ModelRegistryTest, ManyReadersWhileModelsComeAndGo) {
  ModelRegistry registry;
  ASSERT_TRUE(registry.Add(MakeModel("stays")).ok());
  std::atomic<bool> stop{false};
  std::vector<std::thread> readers;
  for (int i = 0; i < 4; ++i) {
    readers.emplace_back([&] {
      while (!stop) {
        const auto comes = registry.Find("comes", kUser);
        if (comes.ok()) {
          EXPECT_EQ((*comes)->name, "comes");
        } else {
          const RefusalReason reason = ReasonOf(comes.status());
          EXPECT_TRUE(reason == RefusalReason::kModelLoading ||
                      reason == RefusalReason::kModelUnloading ||
                      reason == RefusalReason::kUnknownModel)
              << comes.status();
        }
        EXPECT_EQ((*registry.Find("stays", kUser))->name, "stays");
        for (const ServedModelRef& model : registry.All()) EXPECT_FALSE(model->name.empty());
        EXPECT_LE(registry.Entries(kOperator).size(), 2u);
      }
    });
  }
  for (int i = 0; i < 500; ++i) {
    ASSERT_TRUE(registry.BeginLoad("comes").ok());
    registry.ReportLoad("comes", 0.5, "reads");
    registry.FinishLoad(MakeModel("comes"));
    ASSERT_TRUE(registry.BeginUnload("comes").ok());
    EXPECT_NE(registry.Retire("comes"), nullptr);
    registry.Forget("comes");
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
}

}  // namespace
}  // namespace kvasir
