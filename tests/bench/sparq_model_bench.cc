#include "tests/bench/sparq_model_bench.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/model/decoder.h"
#include "runtime/model/embedding.h"
#include "runtime/model/hf_config.h"
#include "runtime/model/weights.h"
#include "runtime/ops/sparse/sparq_attention.h"
#include "tests/bench/sparq_pool.h"

namespace kvasir::bench {
namespace {

[[noreturn]] void Die(const std::string& message) {
  std::fprintf(stderr, "kvasir-sparq-bench: %s\n", message.c_str());
  std::exit(2);
}

template <typename T>
T OrDie(absl::StatusOr<T> value) {
  if (!value.ok()) Die(std::string(value.status().message()));
  return *std::move(value);
}

ModelSpec ReadSpec(const ModelBenchOptions& options) {
  std::ifstream file(options.shape);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) Die("cannot read " + options.shape);
  ModelSpec spec = OrDie(ParseHfConfig(text.str(), ""));
  if (options.layers > 0) spec.layers.assign(options.layers, spec.layers.front());
  for (int layer = 0; layer < spec.num_layers(); ++layer) {
    AttentionSpec& attention = std::get<AttentionSpec>(spec.layers[layer].mixer);
    if (options.layers > 0) attention.kv_owner = layer;
    if (options.kv_heads > 0) attention.kv_heads = options.kv_heads;
  }
  if (spec.query_heads() % spec.attention(0).kv_heads != 0)
    Die("--kv_heads must divide the shape's query heads");
  if (options.positions > spec.max_positions) {
    Die("--positions is beyond the shape's context of " + std::to_string(spec.max_positions));
  }
  return spec;
}

}  // namespace

ModelComparison CompareModel(const ModelBenchOptions& options) {
  const ModelSpec spec = ReadSpec(options);
  constexpr int kBlockTokens = 32;
  const KvLayout layout =
      OrDie(spec.MakeKvLayout(KvElementType::kBf16, kBlockTokens, options.keys));
  Model::Options load;
  load.compute_type = options.weights;
  const std::unique_ptr<Model> model = OrDie(Model::Random(spec, load, /*seed=*/1));
  SparqPool pool(layout, options.positions, options.streams);
  Decoder decoder(model.get(), pool.arena(), options.streams);

  SparseParams params;
  params.rank = std::max(1, spec.head_dim() / 8);
  params.top_k = std::max(128, options.positions / 16);
  params.local_window = 32;
  params.mean_value = spec.query_heads() == spec.attention(0).kv_heads;
  const ResolvedSparq method(
      ResolvedSparq::LayerParams(static_cast<size_t>(spec.num_layers()), params), 0);
  const TokenId token = 1;
  const auto step = [&](int position, bool sparse) {
    std::vector<BatchSequence> batch(options.streams);
    std::vector<std::vector<BlockId>> tables(options.streams);
    for (int s = 0; s < options.streams; ++s) {
      batch[s].tokens = {&token, 1};
      batch[s].first_position = position;
      tables[s].assign(pool.blocks(s).begin(), pool.blocks(s).end());
      batch[s].blocks = absl::MakeConstSpan(&tables[s], 1);
      batch[s].num_logits = 1;
      batch[s].method = sparse ? &method : nullptr;
    }
    return Milliseconds([&] { decoder.Forward(batch); });
  };
  const int first = options.positions - options.steps;
  step(first, false);
  step(first, true);
  std::vector<double> dense, sparq, ratios;
  for (int position = first; position < options.positions; ++position) {
    dense.push_back(step(position, false));
    sparq.push_back(step(position, true));
    ratios.push_back(dense.back() / sparq.back());
  }

  ModelComparison result;
  result.layers = spec.num_layers();
  result.kv_heads = spec.attention(0).kv_heads;
  result.dense = Summarize(std::move(dense));
  result.sparq = Summarize(std::move(sparq));
  result.ratio = Summarize(std::move(ratios));
  // Of the table of embeddings a step reads one row, unless it is the output's too.
  result.weight_bytes = static_cast<double>(model->weight_bytes());
  if (!spec.head.tied)
    result.weight_bytes -= static_cast<double>(model->weights().embedding->bytes());
  result.dense_bytes =
      static_cast<double>(options.streams) * options.positions * layout.read_bytes_per_token();
  for (int layer = 0; layer < spec.num_layers(); ++layer) {
    result.sparq_bytes += static_cast<double>(options.streams) *
                          SparqBytesRead(layout, layer, options.positions, params);
  }
  result.model =
      (result.weight_bytes + result.dense_bytes) / (result.weight_bytes + result.sparq_bytes);
  return result;
}

}  // namespace kvasir::bench
