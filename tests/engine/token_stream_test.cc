#include "runtime/engine/token_stream.h"

#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"
#include "tests/engine/wait_pop.h"

namespace kvasir {
namespace {

StreamEvent Delta(TokenId token) {
  DeltaEvent delta;
  delta.tokens = {token};
  return delta;
}

TokenId TokenOf(const StreamEvent& event) { return std::get<DeltaEvent>(event).tokens[0]; }

bool IsFinished(const StreamEvent& event) { return std::holds_alternative<FinishedEvent>(event); }

class TokenStreamTest : public testing::Test {
 protected:
  std::shared_ptr<TokenStream> Make(size_t capacity) {
    return std::make_shared<TokenStream>(capacity, [this] { ++engine_wakes_; });
  }

  std::atomic<int> engine_wakes_{0};
};

TEST_F(TokenStreamTest, EventsComeOutInOrder) {
  const auto stream = Make(4);
  EXPECT_FALSE(stream->TryPop().has_value());
  stream->Push(AcceptedEvent{7, 3});
  stream->Push(Delta(1));
  stream->Push(Delta(2));
  stream->Push(FinishedEvent{});
  EXPECT_EQ(std::get<AcceptedEvent>(*stream->TryPop()).prompt_tokens, 7);
  EXPECT_EQ(TokenOf(*stream->TryPop()), 1);
  EXPECT_EQ(TokenOf(WaitPop(stream.get())), 2);
  EXPECT_TRUE(IsFinished(WaitPop(stream.get())));
  EXPECT_FALSE(stream->TryPop().has_value());
  EXPECT_EQ(engine_wakes_, 0);
}

TEST_F(TokenStreamTest, OnlyFinishedExceedsTheCapacity) {
  const auto stream = Make(2);
  EXPECT_TRUE(stream->HasRoom(2));
  stream->Push(Delta(1));
  EXPECT_TRUE(stream->HasRoom(1));
  EXPECT_FALSE(stream->HasRoom(2));
  stream->Push(Delta(2));
  EXPECT_FALSE(stream->HasRoom(1));
  stream->Push(FinishedEvent{});
  EXPECT_EQ(TokenOf(*stream->TryPop()), 1);
  EXPECT_EQ(TokenOf(*stream->TryPop()), 2);
  EXPECT_TRUE(IsFinished(*stream->TryPop()));
}

TEST_F(TokenStreamTest, BugsOfTheProducerAreCaught) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto full = Make(1);
  full->Push(Delta(1));
  EXPECT_DEATH(full->Push(Delta(2)), "invariant");
  const auto ended = Make(4);
  ended->Push(FinishedEvent{});
  EXPECT_DEATH(ended->Push(Delta(1)), "invariant");
  EXPECT_DEATH(ended->Push(FinishedEvent{}), "invariant");
  EXPECT_DEATH(ended->HasRoom(5), "invariant");
}

TEST_F(TokenStreamTest, TheEngineIsWokenOnceAtHalfAndOnlyIfItAsked) {
  const auto stream = Make(4);
  for (TokenId i = 0; i < 4; ++i) stream->Push(Delta(i));
  stream->TryPop();
  stream->TryPop();
  EXPECT_EQ(engine_wakes_, 0);  // full, but the engine has not asked
  stream->Push(Delta(4));
  stream->Push(Delta(5));
  EXPECT_FALSE(stream->HasRoom(1));
  stream->TryPop();
  EXPECT_EQ(engine_wakes_, 0);  // one free place of four
  stream->TryPop();
  EXPECT_EQ(engine_wakes_, 1);
  stream->TryPop();
  EXPECT_EQ(engine_wakes_, 1);
}

// An engine that needs more than half of the capacity is woken until it has it.
TEST_F(TokenStreamTest, AWakeIsNotLostWhenHalfIsNotEnough) {
  const auto stream = Make(4);
  for (TokenId i = 0; i < 4; ++i) stream->Push(Delta(i));
  int wakes = 0;
  while (!stream->HasRoom(4)) {
    wakes = engine_wakes_;
    while (engine_wakes_ == wakes) ASSERT_TRUE(stream->TryPop().has_value());
  }
  EXPECT_FALSE(stream->TryPop().has_value());
}

TEST_F(TokenStreamTest, ACapacityOfOneWorks) {
  const auto stream = Make(1);
  stream->Push(Delta(1));
  EXPECT_FALSE(stream->HasRoom(1));
  WaitPop(stream.get());
  EXPECT_EQ(engine_wakes_, 1);
  EXPECT_TRUE(stream->HasRoom(1));
}

TEST_F(TokenStreamTest, EveryPushWakesTheReader) {
  const auto stream = Make(4);
  int calls = 0;
  stream->SetWakeup([&] { ++calls; });
  EXPECT_EQ(calls, 0);
  stream->Push(Delta(1));
  stream->Push(Delta(2));
  stream->Push(FinishedEvent{});
  EXPECT_EQ(calls, 3);
}

TEST_F(TokenStreamTest, SetWakeupCallsAtOnceWhenEventsWait) {
  const auto stream = Make(4);
  stream->Push(Delta(1));
  int calls = 0;
  stream->SetWakeup([&] { ++calls; });
  EXPECT_EQ(calls, 1);
  stream->ClearWakeup();
  stream->Push(Delta(2));
  EXPECT_EQ(calls, 1);
  stream->SetWakeup([&] { calls += 10; });  // a cleared wakeup may be set again
  EXPECT_EQ(calls, 11);
}

TEST_F(TokenStreamTest, OnEventMayPopCancelAndClear) {
  const auto stream = Make(4);
  int calls = 0;
  stream->SetWakeup([&] {
    ++calls;
    EXPECT_EQ(TokenOf(*stream->TryPop()), 1);
    stream->Cancel();
    stream->ClearWakeup();
    stream->ClearWakeup();
  });
  stream->Push(Delta(1));
  stream->Push(Delta(2));
  stream->Push(FinishedEvent{});
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(engine_wakes_, 1);
  EXPECT_TRUE(IsFinished(*stream->TryPop()));
}

// The function object must outlive its own call, and not much longer.
TEST_F(TokenStreamTest, WhatOnEventHoldsLivesUntilTheCallReturns) {
  const auto stream = Make(4);
  auto held = std::make_shared<int>(1);
  const std::weak_ptr<int> watch = held;
  bool alive_inside = false;
  stream->SetWakeup([&, held] {
    stream->ClearWakeup();
    alive_inside = !watch.expired();
  });
  held.reset();
  EXPECT_FALSE(watch.expired());
  stream->Push(Delta(1));
  EXPECT_TRUE(alive_inside);
  EXPECT_TRUE(watch.expired());
}

TEST_F(TokenStreamTest, CancelDropsDeltasKeepsFinishedAndWakesTheEngineOnce) {
  const auto stream = Make(2);
  stream->Push(Delta(1));
  stream->Push(Delta(2));
  EXPECT_FALSE(stream->HasRoom(1));
  EXPECT_FALSE(stream->cancelled());
  stream->Cancel();
  stream->Cancel();
  EXPECT_TRUE(stream->cancelled());
  EXPECT_EQ(engine_wakes_, 1);
  EXPECT_FALSE(stream->TryPop().has_value());
  EXPECT_TRUE(stream->HasRoom(2));
  for (TokenId i = 0; i < 10; ++i) stream->Push(Delta(i));
  EXPECT_FALSE(stream->TryPop().has_value());
  stream->Push(FinishedEvent{absl::CancelledError("gone"), {}, {}});
  EXPECT_TRUE(absl::IsCancelled(std::get<FinishedEvent>(*stream->TryPop()).status));
}

TEST_F(TokenStreamTest, ACancelIsCountedOnceWheneverItComes) {
  const auto cancels = std::make_shared<std::atomic<int64_t>>(0);
  const auto early = Make(2), late = Make(2);
  early->Cancel();
  early->CountCancel(cancels);
  EXPECT_EQ(*cancels, 1);
  late->CountCancel(cancels);
  EXPECT_EQ(*cancels, 1);
  late->Cancel();
  late->Cancel();
  early->Cancel();
  EXPECT_EQ(*cancels, 2);
}

TEST_F(TokenStreamTest, CancelAfterFinishedKeepsItAndDoesNotWakeTheEngine) {
  const auto stream = Make(2);
  stream->Push(Delta(1));
  stream->Push(FinishedEvent{});
  stream->Cancel();
  EXPECT_EQ(engine_wakes_, 0);
  EXPECT_TRUE(IsFinished(*stream->TryPop()));
}

TEST_F(TokenStreamTest, ClearWakeupWaitsForTheRunningCall) {
  const auto stream = Make(4);
  absl::Notification entered, leave;
  std::atomic<bool> left{false};
  stream->SetWakeup([&] {
    entered.Notify();
    leave.WaitForNotification();
    left = true;
  });
  std::thread engine([&] { stream->Push(Delta(1)); });
  entered.WaitForNotification();
  // The reader keeps its access to the events while the call runs.
  EXPECT_TRUE(stream->TryPop().has_value());
  std::atomic<bool> cleared{false};
  std::thread rpc([&] {
    stream->ClearWakeup();
    EXPECT_TRUE(left);
    cleared = true;
  });
  EXPECT_FALSE(cleared);
  leave.Notify();
  rpc.join();
  engine.join();
  EXPECT_TRUE(cleared);
}

// A reader that deletes itself when it sees Finished, inside the call: the stream must neither wait
// for itself nor touch what is gone, even when the reader held the last reference.
struct Reader {
  explicit Reader(std::shared_ptr<TokenStream> source, std::atomic<int>* deleted_count)
      : stream(std::move(source)), deleted(deleted_count) {}

  void OnEvent() {
    while (auto event = stream->TryPop()) {
      if (!IsFinished(*event)) continue;
      stream->ClearWakeup();
      ++*deleted;
      delete this;
      return;
    }
  }

  std::shared_ptr<TokenStream> stream;
  std::atomic<int>* deleted;
};

TEST_F(TokenStreamTest, TheReaderMayDeleteItselfInsideTheCall) {
  std::atomic<int> deleted{0};
  auto stream = Make(4);
  auto* reader = new Reader(stream, &deleted);
  stream->SetWakeup([reader] { reader->OnEvent(); });
  stream->Push(Delta(1));
  EXPECT_EQ(deleted, 0);
  stream->Push(FinishedEvent{});
  EXPECT_EQ(deleted, 1);

  stream = Make(4);
  stream->Push(FinishedEvent{});
  auto* last_owner = new Reader(std::move(stream), &deleted);
  last_owner->stream->SetWakeup([last_owner] { last_owner->OnEvent(); });
  EXPECT_EQ(deleted, 2);
}

// --- many streams, three threads: an engine that pauses for room, a reader on wakeups, one that
// goes away ---

// A counter that can be waited for: stands in for the threads' own sleeping.
class Signal {
 public:
  void Notify() {
    absl::MutexLock lock(&mutex_);
    pending_ = true;
  }
  void Wait() {
    absl::MutexLock lock(&mutex_, absl::Condition(&pending_));
    pending_ = false;
  }

 private:
  absl::Mutex mutex_;
  bool pending_ ABSL_GUARDED_BY(mutex_) = false;
};

// The engine sleeps when there is no room and the reader when there is no event: a lost wakeup on
// either side hangs.
TEST(TokenStreamStressTest, NoWakeupIsLost) {
  for (int round = 0; round < 200; ++round) {
    const size_t capacity = 1 + round % 7;
    constexpr TokenId kEvents = 200;
    Signal engine_signal, reader_signal;
    const auto stream = std::make_shared<TokenStream>(capacity, [&] { engine_signal.Notify(); });
    std::thread engine([&] {
      for (TokenId next = 0; next < kEvents;) {
        const size_t batch = 1 + next % capacity;
        while (!stream->HasRoom(batch)) engine_signal.Wait();
        for (size_t i = 0; i < batch && next < kEvents; ++i) stream->Push(Delta(next++));
      }
      stream->Push(FinishedEvent{});
    });
    stream->SetWakeup([&] { reader_signal.Notify(); });
    TokenId expected = 0;
    for (bool finished = false; !finished;) {
      reader_signal.Wait();
      while (auto event = stream->TryPop()) {
        if (IsFinished(*event)) {
          finished = true;
        } else {
          ASSERT_EQ(TokenOf(*event), expected++);
        }
      }
    }
    EXPECT_EQ(expected, kEvents);
    stream->ClearWakeup();
    engine.join();
  }
}

TEST(TokenStreamStressTest, AWaitingReaderSeesEverything) {
  for (int round = 0; round < 100; ++round) {
    Signal engine_signal;
    const auto stream = std::make_shared<TokenStream>(3, [&] { engine_signal.Notify(); });
    std::thread engine([&] {
      for (TokenId next = 0; next < 100; ++next) {
        while (!stream->HasRoom(1)) engine_signal.Wait();
        stream->Push(Delta(next));
      }
      stream->Push(FinishedEvent{});
    });
    TokenId expected = 0;
    for (StreamEvent event = WaitPop(stream.get()); !IsFinished(event);
         event = WaitPop(stream.get())) {
      ASSERT_EQ(TokenOf(event), expected++);
    }
    EXPECT_EQ(expected, 100);
    engine.join();
  }
}

// Cancel at any moment: the engine never sleeps on, and Finished is what remains.
TEST(TokenStreamStressTest, CancelAtAnyMomentLeavesExactlyFinished) {
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    Signal engine_signal;
    const auto stream = std::make_shared<TokenStream>(2, [&] { engine_signal.Notify(); });
    std::thread engine([&] {
      for (TokenId next = 0; !stream->cancelled(); ++next) {
        while (!stream->HasRoom(1)) engine_signal.Wait();
        stream->Push(Delta(next));
      }
      stream->Push(FinishedEvent{absl::CancelledError("client"), {}, {}});
    });
    for (int pops = static_cast<int>(random() % 20); pops > 0; --pops) WaitPop(stream.get());
    stream->Cancel();
    EXPECT_TRUE(IsFinished(WaitPop(stream.get())));
    EXPECT_FALSE(stream->TryPop().has_value());
    engine.join();
  }
}

// The reader's state dies right after ClearWakeup, at a random moment of the engine's pushing.
TEST(TokenStreamStressTest, ClearWakeupAtAnyMomentMakesDestructionSafe) {
  std::mt19937 random(4);
  for (int round = 0; round < 300; ++round) {
    const auto stream = std::make_shared<TokenStream>(64, [] {});
    auto calls = std::make_unique<int>(0);
    absl::Notification started;
    std::thread engine([&] {
      for (TokenId next = 0; next < 60; ++next) {
        if (next == 3) started.Notify();
        stream->Push(Delta(next));
      }
      stream->Push(FinishedEvent{});
    });
    stream->SetWakeup([raw = calls.get()] { ++*raw; });
    if (random() % 2) started.WaitForNotification();
    for (int spin = static_cast<int>(random() % 30); spin > 0; --spin) stream->TryPop();
    stream->ClearWakeup();
    calls.reset();  // a call after this is a use after free
    engine.join();
  }
}

// Readers that delete themselves on the engine's thread while their owner sets the wakeup on
// another.
TEST(TokenStreamStressTest, SelfDeletionRacesWithSetWakeup) {
  std::atomic<int> deleted{0};
  constexpr int kRounds = 300;
  for (int round = 0; round < kRounds; ++round) {
    auto stream = std::make_shared<TokenStream>(8, [] {});
    auto* reader = new Reader(stream, &deleted);
    std::thread engine([stream] {
      for (TokenId next = 0; next < 4; ++next) stream->Push(Delta(next));
      stream->Push(FinishedEvent{});
    });
    stream->SetWakeup([reader] { reader->OnEvent(); });
    stream.reset();
    engine.join();
  }
  EXPECT_EQ(deleted, kRounds);
}

}  // namespace
}  // namespace kvasir
