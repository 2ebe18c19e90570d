#include "runtime/model/gguf/gguf_tensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/parallel.h"
#include "base/status_macros.h"
#include "runtime/formats/dequantize.h"

namespace kvasir {
namespace {

// Whether the part is whole rows of the stored tensor.
bool IsWholeRows(const StoredPart& part) {
  const int64_t stored_cols = part.shape.back();
  return part.add == 0 && !part.exponential && part.cols == stored_cols &&
         (part.col_stride == 1 || part.cols == 1) && part.offset % stored_cols == 0 &&
         (part.row_stride % stored_cols == 0 || part.rows == 1);
}

// Whole rows, in the part's order.
AlignedBuffer<uint8_t> GatherRows(const StoredPart& part, WeightFormat format,
                                  const uint8_t* stored) {
  const int64_t row_bytes = RowBytes(format, part.cols);
  const int64_t first = part.offset / part.cols, step = part.row_stride / part.cols;
  AlignedBuffer<uint8_t> rows(static_cast<size_t>(part.rows * row_bytes));
  ParallelFor(static_cast<size_t>(part.rows), [&](size_t index, int) {
    const auto r = static_cast<int64_t>(index);
    const int64_t row = part.row_order.empty() ? r : part.row_order[r];
    std::memcpy(rows.data() + r * row_bytes, stored + (first + row * step) * row_bytes, row_bytes);
  });
  return rows;
}

// All of a tensor in f32, each value times `factor`.
AlignedBuffer<float> DequantizeTensor(const StoredPart& part, WeightFormat format,
                                      const uint8_t* stored, float factor) {
  const int64_t cols = part.shape.back();
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < part.shape.size(); ++i) rows *= part.shape[i];
  AlignedBuffer<float> values(static_cast<size_t>(rows * cols));
  ParallelFor(static_cast<size_t>(rows), [&](size_t row, int) {
    const auto r = static_cast<int64_t>(row);
    StoredRow({stored, format, rows, cols, nullptr, factor}, r, values.data() + r * cols);
  });
  return values;
}

constexpr absl::string_view kWeight = ".weight";
constexpr absl::string_view kScale = ".scale";

}  // namespace

std::vector<std::string> GgufTensors::Names() const {
  std::vector<std::string> names;
  const auto belongs = [&](absl::string_view name, absl::string_view suffix) {
    if (!absl::EndsWith(name, suffix)) return false;
    name.remove_suffix(suffix.size());
    const GgufFile::Tensor* weight = file_.Find(absl::StrCat(name, kWeight));
    return weight != nullptr && weight->info.type.type == TensorType::kNVFP4;
  };
  for (const auto& [name, tensor] : file_.tensors()) {
    if (!belongs(name, kScale) && !belongs(name, ".input_scale")) names.emplace_back(name);
  }
  return names;
}

absl::StatusOr<float> GgufTensors::Factor(const GgufFile::Tensor& tensor, int64_t offset) const {
  if (tensor.info.type.type != TensorType::kNVFP4) return 1.0f;
  absl::string_view base = tensor.info.name;
  const GgufFile::Tensor* scale =
      absl::ConsumeSuffix(&base, kWeight) ? file_.Find(absl::StrCat(base, kScale)) : nullptr;
  if (scale == nullptr) return 1.0f;
  const std::vector<int64_t>& shape = tensor.info.shape;
  const int64_t experts = shape.size() == 3 ? shape[0] : 1;
  const int64_t count = scale->info.shape.size() == 1 ? scale->info.shape[0] : 0;
  if (scale->info.type.type != TensorType::kF32 || (count != 1 && count != experts)) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", scale->info.name, " is ", scale->info.type.name, " [",
                     absl::StrJoin(scale->info.shape, ", "), "], but must be F32 [1]",
                     experts > 1 ? absl::StrCat(" or [", experts, "]") : "", ": the factor of ",
                     tensor.info.name));
  }
  std::vector<float> factors(static_cast<size_t>(count));
  Dequantize(WeightFormat::kF32, file_.Bytes(*scale).data(), count, factors.data());
  for (const float factor : factors) {
    if (std::isfinite(factor)) continue;
    return absl::InvalidArgumentError(absl::StrCat("tensor ", scale->info.name,
                                                   " holds the factor ", factor,
                                                   "; the file is damaged, fetch it again"));
  }
  return factors[count > 1 ? offset / (shape[1] * shape[2]) : 0];
}

absl::Status GgufTensors::Check(const std::string& name, absl::Span<const int64_t> shape) const {
  const GgufFile::Tensor* tensor = file_.Find(name);
  if (tensor == nullptr) {
    return absl::NotFoundError(absl::StrCat("tensor ", name, " is missing from the GGUF file"));
  }
  if (absl::MakeConstSpan(tensor->info.shape) != shape) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", name, " has shape [", absl::StrJoin(tensor->info.shape, ", "),
                     "], but the file's metadata asks for [", absl::StrJoin(shape, ", "), "]"));
  }
  if (!ToWeightFormat(tensor->info.type.type)) {
    return absl::UnimplementedError(absl::StrCat(
        "tensor ", name, " is stored as ", tensor->info.type.name,
        ", which is not computed with; take a file with Q4_K, IQ4_XS or larger types"));
  }
  return Factor(*tensor, 0).status();
}

absl::StatusOr<PartValues> GgufTensors::Get(const WeightId&, const StoredPart& part) {
  KVASIR_RETURN_IF_ERROR(Check(part.name, part.shape));
  const GgufFile::Tensor& tensor = *file_.Find(part.name);
  WeightFormat format = *ToWeightFormat(tensor.info.type.type);
  KVASIR_ASSIGN_OR_RETURN(const float factor, Factor(tensor, part.offset));
  const uint8_t* stored = file_.Bytes(tensor).data();
  PartValues values;
  if (IsWholeRows(part) && part.contiguous()) {
    const int64_t first_row = part.offset / part.cols;
    values.matrix = {stored + first_row * RowBytes(format, part.cols),
                     format,
                     part.rows,
                     part.cols,
                     /*input_order=*/nullptr,
                     factor};
  } else if (IsWholeRows(part)) {
    values.owned = GatherRows(part, format, stored);
    values.matrix = {values.owned.data(), format, part.rows, part.cols, nullptr, factor};
  } else if (Info(format).is_block()) {
    const AlignedBuffer<float> floats = DequantizeTensor(part, format, stored, factor);
    format = WeightFormat::kF32;
    values.owned = GatherPart(part, floats.data(), &format);
    values.matrix = {values.owned.data(), format, part.rows, part.cols};
  } else {
    values.owned = GatherPart(part, stored, &format);
    values.matrix = {values.owned.data(), format, part.rows, part.cols};
  }
  return values;
}

void GgufTensors::Release(const StoredPart& part) {
  const GgufFile::Tensor* tensor = file_.Find(part.name);
  // Pieces of one tensor are few, or stacked experts that are read in order: the pages that another
  // piece still needs come back from the page cache.
  if (tensor != nullptr) file_.Release(*tensor);
}

}  // namespace kvasir
