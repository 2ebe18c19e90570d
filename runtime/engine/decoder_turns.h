// Engines take turns on the cores, step by step: two steps at once would each run at half speed on
// twice the cache. One decoder per engine; the turn is the process's.
#pragma once

#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "runtime/engine/model_runner.h"
#include "runtime/model/decoder.h"

namespace kvasir {

class DecoderTakingTurns : public ForwardPass {
 public:
  DecoderTakingTurns(const Model* model, KvArena* arena, int max_batch_tokens)
      : decoder_(model, arena, max_batch_tokens) {
    absl::MutexLock turn(Turn());
    decoder_.Warm();
  }
  absl::Span<const float> Forward(absl::Span<const BatchSequence> batch) override {
    absl::MutexLock turn(Turn());
    return decoder_.Forward(batch);
  }
  // Beside the steps of all engines: it takes no turn, so that it waits for none.
  void FillKeyColumns(absl::Span<const BlockId> full_blocks) override {
    decoder_.FillKeyColumns(full_blocks);
  }
  int64_t weight_bytes_read() const override { return decoder_.weight_bytes_read(); }

 private:
  static absl::Mutex* Turn() {
    static absl::Mutex* const turn = new absl::Mutex;
    return turn;
  }

  Decoder decoder_;
};

}  // namespace kvasir
