// What the cache costs per block on the engine thread, and what a restore from disk costs per byte.
//   kv_cache_benchmark [--benchmark_filter=...]
#include <benchmark/benchmark.h>

#include <numeric>

#include "kvcache/kv_cache_manager.h"
#include "kvcache/spill/kv_spill.h"
#include "tests/kvcache/kv_schemes.h"
#include "tests/kvcache/temporary_directory.h"

namespace kvasir {
namespace {

constexpr int kBlockTokens = 32;
constexpr int kPromptBlocks = 64;

// 16 layers of 8 KV heads of 64 in bf16 (a 1B Llama shape): 32 KiB per token, 1 MiB per block.
KvLayout LargeLayout() {
  return testing::MustCreate(testing::UniformSpec(testing::OwnEach(16), 8, 64));
}

std::unique_ptr<KvCacheManager> MakeManager(int num_blocks, bool large = false) {
  const KvLayout small = testing::MustCreate(testing::UniformSpec({0}, 1, 2));
  const KvLayout layout = large ? LargeLayout() : small;
  return *KvCacheManager::Create(layout, {.capacity_bytes = testing::BytesOf(layout, num_blocks)});
}

std::vector<int32_t> Prompt(int32_t first) {
  std::vector<int32_t> tokens(kPromptBlocks * kBlockTokens);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// Items are blocks.
void BM_AttachPrefix(benchmark::State& state) {
  auto manager = MakeManager(state.range(0));
  const int num_prompts = static_cast<int>(state.range(0)) / kPromptBlocks;
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 0; i < num_prompts; ++i) {
    prompts.push_back(Prompt(i * 7'919));
    BlockTable table = manager->NewTable();
    manager->Reserve(&table, prompts[i].size());
    manager->Commit(0, prompts[i], &table);
  }
  int next = 0;
  for (auto _ : state) {
    BlockTable table = manager->NewTable();
    const auto& prompt = prompts[next++ % num_prompts];
    if (manager->AttachPrefix(0, prompt, prompt.size(), &table) !=
        static_cast<int>(prompt.size())) {
      state.SkipWithError("miss");
    }
  }
  state.SetItemsProcessed(state.iterations() * kPromptBlocks);
}
BENCHMARK(BM_AttachPrefix)->Arg(64)->Arg(4'096)->Arg(32'768);

// Reserve, Commit and release of a prompt nobody has sent before, in a pool full of cached blocks:
// each block evicts.
void BM_ReserveCommitEvict(benchmark::State& state) {
  auto manager = MakeManager(state.range(0));
  std::vector<int32_t> prompt = Prompt(0);
  int32_t salt = 0;
  for (auto _ : state) {
    prompt[0] = --salt;
    BlockTable table = manager->NewTable();
    manager->Reserve(&table, prompt.size());
    manager->Commit(0, prompt, &table);
  }
  state.SetItemsProcessed(state.iterations() * kPromptBlocks);
}
BENCHMARK(BM_ReserveCommitEvict)->Arg(4'096)->Arg(32'768);

// Items are decode steps: one token more, mostly within a block.
void BM_DecodeStep(benchmark::State& state) {
  auto manager = MakeManager(4'096);
  const std::vector<int32_t> tokens = Prompt(0);
  BlockTable table = manager->NewTable();
  for (auto _ : state) {
    if (table.num_tokens() == static_cast<int>(tokens.size())) manager->Truncate(&table, 0);
    const int end = table.num_tokens() + 1;
    manager->Reserve(&table, end);
    manager->Commit(0, absl::MakeConstSpan(tokens).first(end), &table);
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_DecodeStep);

// Bytes are payload: 48 blocks of 1 MiB, a session of 1536 tokens.
void BM_ExportBlocks(benchmark::State& state) {
  auto manager = MakeManager(48, /*large=*/true);
  std::vector<int32_t> tokens = Prompt(0);
  tokens.resize(48 * kBlockTokens);
  BlockTable table = manager->NewTable();
  manager->Reserve(&table, tokens.size());
  for (const BlockId block : table.blocks(0)) manager->arena()->PoisonBlock(0, block);
  manager->Commit(0, tokens, &table);
  for (auto _ : state) benchmark::DoNotOptimize(manager->ExportBlocks(table).data());
  state.SetBytesProcessed(state.iterations() * 48 * manager->layout().block_bytes());
}
BENCHMARK(BM_ExportBlocks)->Unit(benchmark::kMillisecond);

// From the page cache, checksums verified, into the arena.
void BM_RestoreIntoArena(benchmark::State& state) {
  const testing::TemporaryDirectory directory;
  auto manager = MakeManager(96, /*large=*/true);
  auto spill =
      *KvSpill::Open({.directory = directory.path().string(), .max_directory_bytes = 1 << 30});
  std::vector<int32_t> tokens = Prompt(0);
  tokens.resize(48 * kBlockTokens);
  BlockTable table = manager->NewTable();
  manager->Reserve(&table, tokens.size());
  manager->Commit(0, tokens, &table);
  spill->SpillAsync("s", "", tokens, manager->ExportBlocks(table));
  spill->Flush();
  table.Clear();
  manager->EvictCache(0);
  for (auto _ : state) {
    const auto restored = spill->Restore("s", [&](const SpilledSequence& sequence) {
      return manager->ReserveForImport(&table, sequence.tokens.size());
    });
    if (!restored.ok()) state.SkipWithError("not restored");
    table.Clear();
  }
  state.SetBytesProcessed(state.iterations() * 48 * manager->layout().block_bytes());
}
BENCHMARK(BM_RestoreIntoArena)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace kvasir
