#include "runtime/model/activations.h"

#include <algorithm>
#include <cstddef>

namespace kvasir {

Activations::Activations(const ModelSpec& spec, ComputeType compute_type, int max_rows)
    : normed(compute_type),
      attended(compute_type),
      gated(compute_type),
      hidden_size_(spec.hidden_size),
      vocab_size_(spec.vocab_size) {
  // The widest of all layers.
  int64_t projected = spec.embedding.size, values = 0, attention_out = 0, width = 0;
  for (const LayerSpec& layer : spec.layers) {
    width = std::max<int64_t>(width, layer.feed_forward.dense.width);
    const AttentionSpec* attention = layer.attention();
    if (attention == nullptr || attention->latent) continue;  // with buffers of their own
    const int64_t value_size = int64_t{attention->kv_heads} * attention->v_head_dim;
    projected =
        std::max<int64_t>(projected, (attention->output_gate ? 2 : 1) * attention->query_size() +
                                         attention->kv_size() + value_size);
    if (attention->v_is_k) values = std::max(values, value_size);
    attention_out =
        std::max(attention_out, int64_t{attention->query_heads} * attention->v_head_dim);
  }
  const size_t rows = static_cast<size_t>(RoundUpRows(max_rows));
  residual_.Resize(rows * hidden_size_);
  contributed_.Resize(rows * hidden_size_);
  projected_.Resize(rows * projected);
  values_.Resize(rows * values);
  gate_up_.Resize(rows * 2 * width);
  // Room for the largest step at once, so that no later step allocates.
  normed.Resize(max_rows, hidden_size_);
  attended.Resize(max_rows, attention_out);
  gated.Resize(max_rows, width);
}

MatrixView Activations::Logits(int64_t rows) {
  logits_.Resize(static_cast<size_t>(RoundUpRows(rows)) * vocab_size_);
  return View(logits_, rows, vocab_size_);
}

}  // namespace kvasir
