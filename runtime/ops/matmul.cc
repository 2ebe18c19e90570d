#include "runtime/ops/matmul.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "runtime/kernels/amx_attention_kernels.h"
#include "runtime/kernels/convert.h"
#include "runtime/ops/layers/activation.h"
#include "runtime/ops/onednn_matmul.h"
#include "runtime/ops/panel_linear.h"
#include "runtime/ops/quantized/quantized_matmul.h"

namespace kvasir {

ComputeType EffectiveComputeType(ComputeType wanted) {
  return wanted == ComputeType::kBf16 && !OneDnnHasBf16() ? ComputeType::kF32 : wanted;
}

int64_t RoundUpRows(int64_t rows) {
  const auto up = [rows](int64_t step) { return (rows + step - 1) / step * step; };
  if (rows <= 2) return rows;
  if (rows <= 4) return 4;
  if (rows <= 64) return up(8);
  if (rows <= 128) return up(16);
  if (rows <= 512) return up(32);
  return up(128);
}

int64_t ReadableRows(int64_t rows) {
  return std::max(RoundUpRows(rows), static_cast<int64_t>(RoundUpAmx(rows)));
}

void MatmulInput::Resize(int64_t rows, int64_t cols) {
  rows_ = rows;
  cols_ = cols;
  const int64_t padded_rows = ReadableRows(rows);
  const size_t element_bytes = compute_type_ == ComputeType::kF32    ? 4
                               : compute_type_ == ComputeType::kBf16 ? 2
                                                                     : 1;
  data_.Resize(padded_rows * cols * element_bytes);
  if (compute_type_ == ComputeType::kInt8) row_scales_.Resize(padded_rows);
}

void MatmulInput::SetRow(int64_t row, const float* values) {
  switch (compute_type_) {
    case ComputeType::kF32:
      std::memcpy(reinterpret_cast<float*>(data_.data()) + row * cols_, values,
                  cols_ * sizeof(float));
      break;
    case ComputeType::kBf16:
      FromFloats(values, cols_, reinterpret_cast<bf16*>(data_.data()) + row * cols_);
      break;
    case ComputeType::kInt8:
      row_scales_[row] = QuantizeU8(values, cols_, data_.data() + row * cols_);
      break;
  }
}

void Linear::RunGated(const MatmulInput& x, Activation activation, MatrixView scratch,
                      MatmulInput* out) {
  Run(x, scratch, /*accumulate=*/false);
  Activate(activation, /*gated=*/true, scratch, out);
}

void Linear::ReadRow(int64_t, float*) const { KVASIR_CHECK(has_rows()); }

absl::StatusOr<std::unique_ptr<Linear>> Linear::Create(absl::Span<const StoredMatrix> parts,
                                                       absl::Span<const StoredMatrix> biases,
                                                       ComputeType compute_type) {
  if (parts.empty())
    return absl::InvalidArgumentError("a linear layer needs at least one weight matrix");
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].data == nullptr || parts[i].rows < 1 || parts[i].cols < 1 ||
        parts[i].cols != parts[0].cols) {
      return absl::InvalidArgumentError(absl::StrCat(
          "weight ", i, " of a linear layer has shape [", parts[i].rows, ", ", parts[i].cols,
          "]; want at least one row, and ", parts[0].cols, " columns as the first weight has"));
    }
  }
  if (!biases.empty() && biases.size() != parts.size()) {
    return absl::InvalidArgumentError(absl::StrCat("a linear layer of ", parts.size(),
                                                   " weights has ", biases.size(),
                                                   " biases; want none or one for each"));
  }
  for (size_t i = 0; i < biases.size(); ++i) {
    if (biases[i].data != nullptr && biases[i].rows * biases[i].cols != parts[i].rows) {
      return absl::InvalidArgumentError(
          absl::StrCat("bias ", i, " of a linear layer has ", biases[i].rows * biases[i].cols,
                       " elements; its weight has ", parts[i].rows, " rows"));
    }
  }
  if (IsQuantized(parts)) return CreateQuantizedLinear(parts, biases, compute_type);
  if (SuitsPanels(parts, compute_type)) return CreatePanelLinear(parts, biases, compute_type);
  return CreateOneDnnLinear(parts, biases, EffectiveComputeType(compute_type));
}

}  // namespace kvasir
