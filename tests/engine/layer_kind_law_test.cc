// The laws of batching and caching for every kind of layer, through the real engine and its thread,
// on the tiny checkpoints of architectures that have them, in f32: whatever happens to a sequence's
// blocks and states, its tokens and their log-probabilities are those of the decoder alone. Unused
// memory of the pool is NaN.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/engine/engine.h"
#include "runtime/ops/sparse/sparq_method.h"
#include "tests/engine/awaited_answer.h"
#include "tests/model/test_decoder.h"
#include "tests/test_models.h"

namespace kvasir::testing {
namespace {

struct Kind {
  const char* folder;
  const char* what;
  bool sparse = false;  // some layer's scores are plain: SparQ runs there
};
void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.folder << ", " << kind.what; }

std::vector<Kind> Kinds() {
  return {{"gemma3", "windows beside full attention", true},
          {"cohere2", "windows, layers without rotation", true},
          {"mistral-window", "windows only"},
          {"gemma3n", "windows, shared K/V, per-layer embeddings, alternating streams", true},
          {"gemma4", "windows, shared K/V, heads of two sizes, V from K", true},
          {"hunyuan-cla2", "K/V shared by two layers, norm in the query", true},
          {"falcon-7b", "one K/V head", true},
          {"deepseek-v3", "latent rows, experts in groups"},
          {"deepseek-v2", "latent rows, experts"},
          {"pythia-mlkv2", "borrowers that read K un-rotated", true},
          {"bloom", "ALiBi"},
          {"gpt-oss", "sinks, windows, experts"},
          {"qwen3.5", "gated delta nets beside attention", true},
          {"qwen3-next", "gated delta nets, experts", true},
          {"lfm2", "short convolutions", true},
          {"mixtral", "experts", true},
          {"phi3-longrope", "longrope", true}};
}

// What the decoder alone says after a prompt, and how sure it is.
struct Expected {
  std::vector<TokenId> tokens;
  std::vector<double> logprobs;
  std::vector<double> margins;  // of the best logit over the next
};

constexpr int kPrompt = 90;  // beyond the windows of 16 and longrope's 64
constexpr int kMade = 24;
constexpr int kBlockTokens = 16;

// Below it, sums in another order may choose another token.
constexpr double kSureMargin = 4e-3;
constexpr double kTolerance = 4e-3;

class LayerKindLawTest : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    const std::string folder = ArchitectureFolder(GetParam().folder);
    if (folder.empty())
      GTEST_SKIP() << "NO FOLDER OF " << GetParam().folder << "; set KVASIR_SHARED";
    model_ = Model::Load(folder, {.compute_type = ComputeType::kF32, .progress = {}}).value();
    static const Tokenizer* const tokenizer =
        Tokenizer::Load((SourceRoot() / "deploy/models" / kBundledModel).string())
            .value()
            .release();
    tokenizer_ = tokenizer;
    spill_ = std::filesystem::path(::testing::TempDir()) /
             ("kvasir_layer_kind_law_" + std::to_string(::getpid()) + GetParam().folder);
    std::filesystem::remove_all(spill_);
    config_.model_name = GetParam().folder;
    config_.model_fingerprint = GetParam().folder;
    config_.block_tokens = kBlockTokens;
    config_.snapshot_interval_tokens = 32;
    config_.poison_free_blocks = true;
    config_.kv_element_type = KvElementType::kF32;
    config_.max_context_tokens = 256;
    config_.max_running = 8;
    config_.max_step_tokens = 64;
    config_.prefill_chunk_tokens = 32;
    config_.threads = 2;
  }
  void TearDown() override { std::filesystem::remove_all(spill_); }

  std::vector<TokenId> Prompt(int length, int seed) const {
    std::mt19937 random(seed);
    std::vector<TokenId> tokens(length);
    for (TokenId& token : tokens)
      token = static_cast<TokenId>(random() % model_->spec().vocab_size);
    return tokens;
  }

  KvLayout Layout() const {
    return model_->spec()
        .MakeKvLayout(config_.kv_element_type, config_.block_tokens, config_.k_columns)
        .value();
  }
  // An engine whose pool holds so many sequences of so many tokens.
  std::unique_ptr<Engine> MakeEngine(int sequences, int tokens) {
    config_.kv_capacity_bytes = sequences * Layout().PeakBytes(tokens, config_.max_step_tokens);
    return Engine::Create(config_, model_.get(), tokenizer_, &observer_).value();
  }

  GenerationRequest Request(std::vector<TokenId> prompt, int max_tokens) {
    GenerationRequest request;
    request.id = "law" + std::to_string(++requests_);
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0;
    request.stopping.max_tokens = max_tokens;
    request.stopping.ignore_eos = true;
    request.logprobs = 0;
    request.arrival = absl::Now();
    return request;
  }
  static std::shared_ptr<TokenStream> Submit(Engine* engine, GenerationRequest request) {
    auto ticket =
        engine->Admit({.prompt_tokens = static_cast<int64_t>(request.prompt.size())}).value();
    return engine->Submit(std::move(ticket), std::move(request)).value();
  }
  static Answer Ask(Engine* engine, GenerationRequest request) {
    Answer answer = WaitFor(Submit(engine, std::move(request)).get());
    EXPECT_TRUE(answer.finished.status.ok()) << answer.finished.status;
    return answer;
  }

  // `positions`: how many the request said that it may come to, which decides longrope's divisors.
  Expected Alone(const std::vector<TokenId>& prompt, int count, int positions = 0) const {
    TestDecoder decoder(model_.get(), 512, 256);
    TestSequence sequence = decoder.NewSequence();
    if (positions == 0) positions = static_cast<int>(prompt.size()) + count - 1;
    sequence.long_context = positions > model_->spec().short_context_tokens();
    Expected expected;
    std::vector<float> logits =
        decoder.Append(&sequence, prompt, static_cast<int>(prompt.size()), false)[0];
    while (true) {
      const TokenId best = ArgMax(logits);
      expected.tokens.push_back(best);
      expected.logprobs.push_back(-NegativeLogLikelihood(logits, best));
      std::vector<float> sorted = logits;
      std::nth_element(sorted.begin(), sorted.begin() + 1, sorted.end(), std::greater<>());
      expected.margins.push_back(logits[best] - sorted[1]);
      if (static_cast<int>(expected.tokens.size()) == count) return expected;
      logits = decoder.Append(&sequence, {best}, 1, false)[0];
    }
  }

  // `completion` is a beginning of what is expected, as far as the decoder was sure.
  static void ExpectSame(const Answer& answer, const Expected& expected, size_t completion = 0) {
    ASSERT_GT(answer.tokens.size(), completion);
    const auto& tokens = answer.tokens[completion];
    ASSERT_LE(tokens.size(), expected.tokens.size());
    ASSERT_EQ(answer.logprobs[completion].size(), tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (expected.margins[i] < kSureMargin) return;
      ASSERT_EQ(tokens[i], expected.tokens[i]) << "token " << i;
      // Written so that NaN fails.
      ASSERT_TRUE(std::abs(answer.logprobs[completion][i] - expected.logprobs[i]) <= kTolerance)
          << "token " << i << ": " << answer.logprobs[completion][i] << ", expected "
          << expected.logprobs[i];
    }
  }

  std::unique_ptr<Model> model_;
  const Tokenizer* tokenizer_ = nullptr;
  EngineConfig config_;
  EngineObserver observer_;
  std::filesystem::path spill_;
  int requests_ = 0;
};
INSTANTIATE_TEST_SUITE_P(Kinds, LayerKindLawTest, ::testing::ValuesIn(Kinds()),
                         [](const auto& info) {
                           std::string name = info.param.folder;
                           for (char& c : name) {
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           }
                           return name;
                         });

TEST_P(LayerKindLawTest, AnyChunksEqualTheDecoderAlone) {
  const auto prompt = Prompt(kPrompt, 1);
  const Expected expected = Alone(prompt, kMade);
  config_.prefix_cache = false;
  for (const int chunk : {1, 7, 16, 64}) {
    SCOPED_TRACE(chunk);
    config_.max_step_tokens = std::max(chunk, 8);
    config_.prefill_chunk_tokens = chunk;
    auto engine = MakeEngine(1, kPrompt + kMade);
    ExpectSame(Ask(engine.get(), Request(prompt, kMade)), expected);
  }
}

TEST_P(LayerKindLawTest, StrangersAndPreemptionChangeNothing) {
  config_.prefix_cache = false;
  config_.prefill_chunk_tokens = 23;
  const int lengths[] = {kPrompt, 5, 40, 17, 64, kPrompt};
  std::vector<Expected> expected;
  for (int i = 0; i < 6; ++i) expected.push_back(Alone(Prompt(lengths[i], i), kMade));
  auto engine = MakeEngine(2, kPrompt + kMade);
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < 6; ++i) {
      GenerationRequest request = Request(Prompt(lengths[i], i), kMade);
      request.tenant = round == 0 ? "early" : "late";
      streams.push_back(Submit(engine.get(), std::move(request)));
    }
  }
  for (size_t i = 0; i < streams.size(); ++i) {
    SCOPED_TRACE(i);
    const Answer answer = WaitFor(streams[i].get());
    ASSERT_TRUE(answer.finished.status.ok()) << answer.finished.status;
    ExpectSame(answer, expected[i % 6]);
  }
}

// Each split in a scope of its own: what is found there is what the first request left.
TEST_P(LayerKindLawTest, APrefixHitAtEverySplitPointChangesNothing) {
  const auto prompt = Prompt(kPrompt, 1);
  const Expected expected = Alone(prompt, kMade);
  auto engine = MakeEngine(6, kPrompt + kMade);
  for (int split = 1; split < kPrompt; ++split) {
    SCOPED_TRACE(split);
    std::vector<TokenId> other(prompt.begin(), prompt.begin() + split);
    for (const TokenId token : Prompt(kPrompt - split, 1000 + split)) other.push_back(token);
    GenerationRequest first = Request(other, kMade), second = Request(prompt, kMade);
    first.tenant = second.tenant = "tenant" + std::to_string(split);
    Ask(engine.get(), std::move(first));
    const Answer answer = Ask(engine.get(), std::move(second));
    // As many of the two prompts' first tokens as are the same, in whole blocks and, with states,
    // up to a snapshot.
    int common = split;
    while (common < kPrompt - 1 && other[common] == prompt[common]) ++common;
    const int unit = Layout().has_state() ? 32 : kBlockTokens;
    EXPECT_EQ(answer.cached_tokens, common / unit * unit);
    ExpectSame(answer, expected);
  }
}

TEST_P(LayerKindLawTest, ForksAreWhatTheirParentIs) {
  const auto prompt = Prompt(kPrompt, 2);
  const Expected expected = Alone(prompt, kMade);
  auto engine = MakeEngine(4, kPrompt + kMade);
  GenerationRequest request = Request(prompt, kMade);
  request.n = 3;
  const Answer answer = Ask(engine.get(), std::move(request));
  ASSERT_EQ(answer.tokens.size(), 3u);
  for (size_t i = 0; i < 3; ++i) ExpectSame(answer, expected, i);
}

// One generation cut into turns: kept in the pool, spilled and restored, and restored by a new
// process.
TEST_P(LayerKindLawTest, SessionsKeptSpilledAndRestartedEqualOnePrompt) {
  config_.prefix_cache = false;  // cached tokens can only be the session's
  config_.spill_directory = spill_.string();
  std::vector<TokenId> history;
  const auto turn = [&](Engine* engine, int new_tokens, bool kept) {
    const auto next = Prompt(new_tokens, 50 + static_cast<int>(history.size()));
    const int known = static_cast<int>(history.size());
    history.insert(history.end(), next.begin(), next.end());
    const Expected expected = Alone(history, 8);
    GenerationRequest request = Request(next, 8);
    request.session_id = "s";
    const Answer answer = Ask(engine, std::move(request));
    EXPECT_EQ(answer.cached_tokens, kept ? known - 1 : 0);
    ExpectSame(answer, expected);
    history.insert(history.end(), answer.tokens[0].begin(), answer.tokens[0].end());
  };
  // All turns are of one kind of longrope's context; that it is left has tests of its own.
  const int first = model_->spec().short_context_tokens() < kPrompt ? 70 : 40;
  {
    auto engine = MakeEngine(1, kPrompt + 64);
    turn(engine.get(), first, false);
    turn(engine.get(), 5, true);
    // Somebody else needs the whole pool.
    GenerationRequest large = Request(Prompt(kPrompt + 50, 9), 15);
    large.tenant = "large";
    Ask(engine.get(), std::move(large));
    EXPECT_EQ(engine->GetSession("", "s")->state, SessionSnapshot::State::kSpilled);
    turn(engine.get(), 7, true);
    engine->Shutdown();
  }
  auto engine = MakeEngine(1, kPrompt + 64);
  EXPECT_EQ(engine->GetSession("", "s")->state, SessionSnapshot::State::kSpilled);
  turn(engine.get(), 3, true);
}

// What SparQ does not cover is dense, and the reply says so.
TEST_P(LayerKindLawTest, SparqRunsWhereScoresArePlain) {
  config_.k_columns = KvColumns::kSame;
  config_.prefix_cache = false;
  const auto prompt = Prompt(kPrompt, 3);
  const auto ask = [&](Engine* engine, int rank, int top_k) {
    SparqRequest sparq;
    sparq.rank = rank;
    sparq.top_k = top_k;
    sparq.min_tokens = 0;
    GenerationRequest request = Request(prompt, kMade);
    request.attention = std::make_shared<SparqMethod>(sparq);
    return Submit(engine, std::move(request));
  };
  auto engine = MakeEngine(4, kPrompt + kMade);
  // Everything picked: dense attention's tokens.
  ExpectSame(WaitFor(ask(engine.get(), 4, 1 << 20).get()), Alone(prompt, kMade));

  const Answer few = WaitFor(ask(engine.get(), 4, 20).get());
  const RequestUsage& usage = few.finished.usage;
  EXPECT_EQ(usage.sparse_tokens, GetParam().sparse ? kMade - 1 : 0);
  if (GetParam().sparse) {
    EXPECT_LT(usage.kv_bytes_read, usage.kv_bytes_read_if_dense);
  } else {
    EXPECT_EQ(usage.kv_bytes_read, usage.kv_bytes_read_if_dense);
  }
  // The same under preemption.
  auto tight = MakeEngine(2, kPrompt + kMade);
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < 4; ++i) streams.push_back(ask(tight.get(), 4, 20));
  for (auto& stream : streams) {
    const Answer answer = WaitFor(stream.get());
    ASSERT_TRUE(answer.finished.status.ok());
    EXPECT_EQ(answer.tokens[0].size(), static_cast<size_t>(kMade));
    EXPECT_EQ(answer.tokens[0][0], few.tokens[0][0]);
    EXPECT_EQ(answer.finished.usage.sparse_tokens, usage.sparse_tokens);
  }
}

// A session that outgrows longrope's original context is computed anew with the long divisors.
TEST(LongropeLawTest, ASessionCrossesIntoTheLongContext) {
  const std::string folder = ArchitectureFolder("phi3-longrope");
  ASSERT_FALSE(folder.empty());
  const auto model =
      Model::Load(folder, {.compute_type = ComputeType::kF32, .progress = {}}).value();
  ASSERT_EQ(model->spec().short_context_tokens(), 64);
  const auto tokenizer =
      Tokenizer::Load((SourceRoot() / "deploy/models" / kBundledModel).string()).value();
  EngineConfig config;
  config.model_name = "longrope";
  config.block_tokens = kBlockTokens;
  config.kv_element_type = KvElementType::kF32;
  config.poison_free_blocks = true;
  config.kv_capacity_bytes = 8 << 20;
  EngineObserver observer;
  const auto engine = Engine::Create(config, model.get(), tokenizer.get(), &observer).value();
  EXPECT_EQ(engine->config().max_context_tokens, model->spec().max_positions);
  std::mt19937 random(5);
  std::vector<TokenId> history;
  const auto turn = [&](int new_tokens, int max_tokens, bool kept) {
    const int known = static_cast<int>(history.size());
    GenerationRequest request;
    request.id = "turn";
    request.session_id = "s";
    for (int i = 0; i < new_tokens; ++i)
      request.prompt.push_back(static_cast<TokenId>(random() % model->spec().vocab_size));
    history.insert(history.end(), request.prompt.begin(), request.prompt.end());
    request.sampling.temperature = 0;
    request.stopping.max_tokens = max_tokens;
    request.stopping.ignore_eos = true;
    request.arrival = absl::Now();
    TestDecoder decoder(model.get(), 512, 256);
    const std::vector<TokenId> expected = decoder.Generate(history, max_tokens);
    auto ticket = engine->Admit({.prompt_tokens = new_tokens}).value();
    const Answer answer =
        WaitFor(engine->Submit(std::move(ticket), std::move(request)).value().get());
    ASSERT_TRUE(answer.finished.status.ok()) << answer.finished.status;
    EXPECT_EQ(answer.cached_tokens, kept ? known - 1 : 0);
    EXPECT_EQ(answer.tokens[0], expected);
    history.insert(history.end(), expected.begin(), expected.end());
  };
  turn(30, 6, false);  // 35 positions
  turn(4, 6, true);
  turn(4, 30, false);  // 79: the long divisors
  turn(4, 6, true);
}

}  // namespace
}  // namespace kvasir::testing
