#include "runtime/model/embedding.h"

#include <algorithm>
#include <cstring>

#include "base/bf16.h"
#include "base/check.h"
#include "base/parallel.h"
#include "runtime/formats/dequantize.h"

namespace kvasir {

void WidenToFloat(const void* stored, WeightFormat type, int64_t count, float* out) {
  Dequantize(type, stored, count, out);
}

Embedding::Embedding(const StoredMatrix& table, ComputeType compute_type)
    : type_(table.type == WeightFormat::kF32 && compute_type != ComputeType::kF32
                ? WeightFormat::kBf16
                : table.type),
      vocab_size_(table.rows),
      hidden_size_(table.cols),
      factor_(table.factor),
      data_(static_cast<size_t>(table.rows * RowBytes(type_, table.cols))) {
  const size_t stored_row_bytes = RowBytes(table.type, hidden_size_);
  const size_t row_bytes = RowBytes(type_, hidden_size_);
  constexpr int64_t kRowsPerTask = 256;  // a few hundred KB: enough to pay for handing out a task
  ParallelFor((vocab_size_ + kRowsPerTask - 1) / kRowsPerTask, [&](size_t task, int) {
    const int64_t begin = static_cast<int64_t>(task) * kRowsPerTask;
    const int64_t end = std::min(vocab_size_, begin + kRowsPerTask);
    for (int64_t row = begin; row < end; ++row) {
      const uint8_t* from = static_cast<const uint8_t*>(table.data) + row * stored_row_bytes;
      uint8_t* to = data_.data() + row * row_bytes;
      if (type_ == table.type) {
        std::memcpy(to, from, row_bytes);
      } else {
        for (int64_t i = 0; i < hidden_size_; ++i) {
          float value;
          std::memcpy(&value, from + i * sizeof(float), sizeof(float));
          const bf16 rounded = ToBf16(value);
          std::memcpy(to + i * sizeof(bf16), &rounded, sizeof(bf16));
        }
      }
    }
  });
}

Embedding::Embedding(const Linear* product)
    : product_(product),
      vocab_size_(product->out_features()),
      hidden_size_(product->in_features()) {
  KVASIR_CHECK(product->has_rows());
}

void Embedding::Lookup(absl::Span<const TokenId> tokens, MatrixView out) const {
  const size_t row_bytes = RowBytes(type_, hidden_size_);
  // Rows per task such that a decode step stays in the caller and a prefill chunk is split.
  constexpr size_t kRowsPerTask = 64;
  ParallelFor((tokens.size() + kRowsPerTask - 1) / kRowsPerTask, [&](size_t task, int) {
    const size_t end = std::min(tokens.size(), (task + 1) * kRowsPerTask);
    for (size_t row = task * kRowsPerTask; row < end; ++row) {
      KVASIR_CHECK(tokens[row] >= 0 && tokens[row] < vocab_size_);
      if (product_ != nullptr) {
        product_->ReadRow(tokens[row], out.row(row));
      } else {
        const uint8_t* stored = data_.data() + tokens[row] * row_bytes;
        StoredRow({stored, type_, 1, hidden_size_, nullptr, factor_}, 0, out.row(row));
      }
    }
  });
}

}  // namespace kvasir
