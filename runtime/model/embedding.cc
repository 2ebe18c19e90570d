#include "runtime/model/embedding.h"

#include <algorithm>
#include <cstring>

#include "base/bf16.h"
#include "base/check.h"
#include "base/parallel.h"

namespace kvasir {
namespace {

template <typename T>
void Widen(const uint8_t* stored, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, stored + i * sizeof(T), sizeof(T));  // may be unaligned
    out[i] = ToFloat(value);
  }
}

}  // namespace

void WidenToFloat(const void* stored, DataType type, int64_t count, float* out) {
  const uint8_t* bytes = static_cast<const uint8_t*>(stored);
  switch (type) {
    case DataType::kF32:
      std::memcpy(out, bytes, count * sizeof(float));
      break;
    case DataType::kBf16:
      Widen<bf16>(bytes, count, out);
      break;
    case DataType::kF16:
      Widen<f16>(bytes, count, out);
      break;
  }
}

Embedding::Embedding(const StoredMatrix& table, ComputeType compute_type)
    : type_(table.type == DataType::kF32 && compute_type != ComputeType::kF32 ? DataType::kBf16
                                                                              : table.type),
      vocab_size_(table.rows),
      hidden_size_(table.cols),
      data_(static_cast<size_t>(table.rows * table.cols) * DataTypeBytes(type_)) {
  const size_t stored_row_bytes = hidden_size_ * DataTypeBytes(table.type);
  const size_t row_bytes = hidden_size_ * DataTypeBytes(type_);
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

void Embedding::Lookup(absl::Span<const TokenId> tokens, MatrixView out) const {
  const size_t row_bytes = hidden_size_ * DataTypeBytes(type_);
  // Rows per task such that a decode step stays in the caller and a prefill chunk is split.
  constexpr size_t kRowsPerTask = 64;
  ParallelFor((tokens.size() + kRowsPerTask - 1) / kRowsPerTask, [&](size_t task, int) {
    const size_t end = std::min(tokens.size(), (task + 1) * kRowsPerTask);
    for (size_t row = task * kRowsPerTask; row < end; ++row) {
      KVASIR_CHECK(tokens[row] >= 0 && tokens[row] < vocab_size_);
      WidenToFloat(data_.data() + tokens[row] * row_bytes, type_, hidden_size_, out.row(row));
    }
  });
}

}  // namespace kvasir
