#include "runtime/model/activations.h"

#include <algorithm>
#include <cstddef>

namespace kvasir {
namespace {

int MaxWidth(const ModelSpec& spec) {
  int width = 0;
  for (const LayerSpec& layer : spec.layers)
    width = std::max(width, layer.feed_forward.dense.width);
  return width;
}

}  // namespace

Activations::Activations(const ModelSpec& spec, ComputeType compute_type, int max_rows)
    : normed(compute_type),
      attended(compute_type),
      gated(compute_type),
      hidden_size_(spec.hidden_size),
      intermediate_size_(MaxWidth(spec)),
      vocab_size_(spec.vocab_size) {
  int64_t projected = 0, query_size = 0;
  for (int layer = 0; layer < spec.num_layers(); ++layer) {
    const AttentionSpec& attention = spec.attention(layer);
    query_size = std::max<int64_t>(query_size, attention.query_size());
    projected = std::max<int64_t>(projected, attention.query_size() + 2 * attention.kv_size());
  }
  const size_t rows = static_cast<size_t>(RoundUpRows(max_rows));
  residual_.Resize(rows * hidden_size_);
  projected_.Resize(rows * projected);
  gate_up_.Resize(rows * 2 * intermediate_size_);
  // Room for the largest step at once, so that no later step allocates.
  normed.Resize(max_rows, hidden_size_);
  attended.Resize(max_rows, query_size);
  gated.Resize(max_rows, intermediate_size_);
}

MatrixView Activations::Logits(int64_t rows) {
  logits_.Resize(static_cast<size_t>(RoundUpRows(rows)) * vocab_size_);
  return View(logits_, rows, vocab_size_);
}

}  // namespace kvasir
