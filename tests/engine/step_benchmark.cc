// What a step costs beside the model: 16 streams decode with a dummy model, alone or while as many
// sessions are held and as many requests wait as the arguments say. Figures: docs/reliability.md.
#include <benchmark/benchmark.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/fakes/engine_fixture.h"

namespace kvasir {
namespace {

using testing::EngineFixture;
using testing::Scheme;

// A model whose step costs nothing: what is left is the engine's own work.
class InstantModel : public testing::DummyModel {
 public:
  using DummyModel::DummyModel;
  absl::Span<const float> Forward(absl::Span<const BatchSequence> batch) override {
    size_t rows = 0;
    for (const BatchSequence& sequence : batch) rows += sequence.num_logits;
    if (logits_.size() < rows * EngineFixture::kVocab) {
      logits_.assign(rows * EngineFixture::kVocab, 0.0f);
      for (size_t row = 0; row < rows; ++row) logits_[row * EngineFixture::kVocab + 100] = 10;
    }
    return absl::MakeConstSpan(logits_).first(rows * EngineFixture::kVocab);
  }

 private:
  std::vector<float> logits_;
};

void BM_Step(benchmark::State& state) {
  constexpr int kStreams = 16;
  EngineFixture f(4096);
  f.model = std::make_unique<InstantModel>(f.kv.get(), EngineFixture::kVocab);
  f.config.max_running = kStreams;
  f.config.max_context_tokens = 4000;
  f.config.max_sessions = 1000000;
  f.config.stream_outbox_events = 5000;
  f.config.max_idle_session_bytes = 0;  // histories only: the pool is not what is measured
  for (int64_t i = 0; i < state.range(0); ++i) {
    GenerationRequest request = f.Request({5, 6}, 1);
    request.session_id = std::to_string(i);
    f.Complete(std::move(request));
  }
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int64_t i = 0; i < kStreams + state.range(1); ++i)
    streams.push_back(f.Submit(f.Request(EngineFixture::Prompt(4, static_cast<int>(i)), 3900)));
  for (int i = 0; i < 20; ++i) f.core->Step();
  int64_t steps = 0;
  for (auto _ : state) {
    f.core->Step();
    if (++steps == 3000) state.SkipWithError("the streams ended: fewer iterations");
  }
}
BENCHMARK(BM_Step)
    ->ArgNames({"sessions", "waiting"})
    ->Args({0, 0})
    ->Args({100000, 0})
    ->Args({0, 1000})
    ->Args({100000, 1000})
    ->Iterations(2000)
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace kvasir
