// A KvSpill over a temporary directory, with sessions whose content tells which spill they are of.
// Header only.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kvcache/spill/kv_spill.h"
#include "tests/kvcache/temporary_directory.h"

namespace kvasir::testing {

inline std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void WriteFile(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

inline std::vector<uint8_t> Payload(size_t size_bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<uint8_t> payload(size_bytes);
  for (uint8_t& byte : payload) byte = static_cast<uint8_t>(random());
  return payload;
}

inline std::vector<int32_t> Tokens(int count, int32_t first) {
  std::vector<int32_t> tokens(count);
  for (int i = 0; i < count; ++i) tokens[i] = first + i;
  return tokens;
}

struct Restored {
  absl::Status status;
  SpilledSequence sequence;
  std::vector<uint8_t> payload;
};
class SpillFixture : public ::testing::Test {
 protected:
  KvSpillConfig Config() {
    return {.directory = directory_.path().string(),
            .max_directory_bytes = 1 << 20,
            .layout_fingerprint = 77,
            .model_fingerprint = "weights A",
            .on_write_error = [this](const std::string& id, const absl::Status& status) {
              AnnotatedLock lock(&errors_mutex_);
              errors_.push_back(id + ": " + std::string(status.message()));
            }};
  }

  void Open(KvSpillConfig config) {
    spill_.reset();
    auto spill = KvSpill::Open(std::move(config));
    ASSERT_TRUE(spill.ok()) << spill.status();
    spill_ = *std::move(spill);
  }

  void SetUp() override { Open(Config()); }

  bool Spill(const std::string& id, uint64_t seed, size_t payload_bytes = 300) {
    return spill_->SpillAsync(id, "meta " + id, Tokens(5, static_cast<int32_t>(seed)),
                              Payload(payload_bytes, seed));
  }

  Restored Restore(const std::string& id) {
    Restored restored;
    auto sequence = spill_->Restore(id, [&](const SpilledSequence& s) {
      restored.payload.resize(s.payload_bytes);
      // In two parts, as blocks of an arena would be.
      const size_t half = restored.payload.size() / 2;
      return absl::StatusOr<std::vector<absl::Span<uint8_t>>>(
          {absl::MakeSpan(restored.payload).first(half),
           absl::MakeSpan(restored.payload).subspan(half)});
    });
    restored.status = sequence.status();
    if (sequence.ok()) restored.sequence = *std::move(sequence);
    return restored;
  }

  void ExpectSession(const std::string& id, uint64_t seed, size_t payload_bytes = 300) {
    const Restored restored = Restore(id);
    ASSERT_TRUE(restored.status.ok()) << restored.status;
    EXPECT_EQ(restored.sequence.metadata, "meta " + id);
    EXPECT_EQ(restored.sequence.tokens, Tokens(5, static_cast<int32_t>(seed)));
    EXPECT_EQ(restored.payload, Payload(payload_bytes, seed));
  }

  std::filesystem::path PathOf(const std::string& id) {
    return directory_.path() / SpillFileName(id);
  }

  std::filesystem::path TemporaryOf(const std::string& id) {
    return PathOf(id).replace_extension(".tmp");
  }

  std::vector<std::string> Errors() {
    AnnotatedLock lock(&errors_mutex_);
    return errors_;
  }

  TemporaryDirectory directory_;
  AnnotatedMutex errors_mutex_;
  std::vector<std::string> errors_;
  std::unique_ptr<KvSpill> spill_;
};
}  // namespace kvasir::testing
