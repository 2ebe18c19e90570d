#include "runtime/model/activations.h"

#include <algorithm>
#include <cstddef>

namespace kvasir {

Activations::Activations(const ModelSpec& spec, ComputeType compute_type, int max_rows)
    : normed(compute_type),
      attended(compute_type),
      gated(compute_type),
      hidden_size_(spec.hidden_size),
      intermediate_size_(spec.intermediate_size),
      vocab_size_(spec.vocab_size) {
  const int64_t query_size = int64_t{spec.num_query_heads} * spec.head_dim;
  const int64_t max_kv_size =
      int64_t{*std::max_element(spec.kv_heads.begin(), spec.kv_heads.end())} * spec.head_dim;
  const size_t rows = static_cast<size_t>(RoundUpRows(max_rows));
  residual_.Resize(rows * hidden_size_);
  projected_.Resize(rows * (query_size + 2 * max_kv_size));
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
