// Random spilling, restoring, removing, restarting and damaging beside a naive twin, a std::map of
// what must be found.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <random>

#include "kvcache/spill/kv_spill.h"
#include "tests/kvcache/temporary_directory.h"

namespace kvasir {
namespace {

struct Session {
  std::string metadata;
  std::vector<int32_t> tokens;
  std::vector<uint8_t> payload;
};

class SpillWalk {
 public:
  SpillWalk() { Open(); }

  void Step() {
    const std::string id = "session " + std::to_string(Below(12));
    const int dice = Below(100);
    if (dice < 40) {
      Spill(id);
    } else if (dice < 80) {
      Restore(id);
    } else if (dice < 90) {
      ASSERT_EQ(spill_->Remove(id), twin_.erase(id) == 1);
    } else if (dice < 96) {
      Damage(id);
    } else if (dice < 98) {
      Open();
    } else {
      spill_->Flush();
      ASSERT_EQ(spill_->stats().files, static_cast<int64_t>(twin_.size()));
    }
    ASSERT_EQ(spill_->Contains(id), twin_.count(id) == 1);
  }

  void CheckList() {
    const auto list = spill_->List();
    ASSERT_EQ(list.size(), twin_.size());
    for (const SpilledInfo& info : list) {
      const auto it = twin_.find(info.id);
      ASSERT_NE(it, twin_.end());
      ASSERT_EQ(info.metadata, it->second.metadata);
      ASSERT_EQ(info.num_tokens, static_cast<int>(it->second.tokens.size()));
    }
  }

 private:
  int Below(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }

  void Open() {
    spill_.reset();
    auto spill = KvSpill::Open({.directory = directory_.path().string(),
                                .max_directory_bytes = 1 << 20,
                                .layout_fingerprint = 1,
                                .model_fingerprint = "m"});
    ASSERT_TRUE(spill.ok()) << spill.status();
    spill_ = *std::move(spill);
  }

  void Spill(const std::string& id) {
    Session session;
    session.metadata.assign(Below(20), 'm');
    for (int i = 0; i <= Below(50); ++i) session.tokens.push_back(static_cast<int32_t>(random_()));
    for (int i = 0; i <= Below(2'000); ++i)
      session.payload.push_back(static_cast<uint8_t>(random_()));
    if (spill_->SpillAsync(id, session.metadata, session.tokens, session.payload)) {
      twin_[id] = std::move(session);
    } else {
      ASSERT_GE(spill_->stats().dropped_total, 1);  // the queue was full
    }
  }

  void Restore(const std::string& id) {
    std::vector<uint8_t> payload;
    const auto restored = spill_->Restore(id, [&](const SpilledSequence& s) {
      payload.resize(s.payload_bytes);
      return absl::StatusOr<std::vector<absl::Span<uint8_t>>>({absl::MakeSpan(payload)});
    });
    const auto it = twin_.find(id);
    if (it == twin_.end()) {
      ASSERT_EQ(restored.status().code(), absl::StatusCode::kNotFound);
      return;
    }
    ASSERT_TRUE(restored.ok()) << restored.status();
    ASSERT_EQ(restored->metadata, it->second.metadata);
    ASSERT_EQ(restored->tokens, it->second.tokens);
    ASSERT_EQ(payload, it->second.payload);
  }

  // Changes one byte of the file, or cuts it; the session must be lost, not wrong.
  void Damage(const std::string& id) {
    spill_->Flush();
    if (twin_.erase(id) == 0) return;
    const auto path = directory_.path() / SpillFileName(id);
    const int64_t size = static_cast<int64_t>(std::filesystem::file_size(path));
    const int64_t where = Below(static_cast<int>(size));
    if (Below(2) == 0) {
      std::filesystem::resize_file(path, where);
    } else {
      std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
      file.seekg(where);
      const char byte = static_cast<char>(file.get() ^ (1 << Below(8)));
      file.seekp(where);
      file.put(byte);
    }
    const auto restored = spill_->Restore(id, [&](const SpilledSequence& s) {
      scratch_.resize(s.payload_bytes);
      return absl::StatusOr<std::vector<absl::Span<uint8_t>>>({absl::MakeSpan(scratch_)});
    });
    ASSERT_EQ(restored.status().code(), absl::StatusCode::kDataLoss) << restored.status();
  }

  testing::TemporaryDirectory directory_;
  std::mt19937 random_{11};
  std::map<std::string, Session> twin_;
  std::vector<uint8_t> scratch_;
  std::unique_ptr<KvSpill> spill_;
};

TEST(KvSpillProperty, RandomOperationsEqualTheTwin) {
  SpillWalk walk;
  for (int step = 0; step < 20'000; ++step) {
    walk.Step();
    if (step % 100 == 0) walk.CheckList();
    if (::testing::Test::HasFatalFailure()) FAIL() << "at step " << step;
  }
}

}  // namespace
}  // namespace kvasir
