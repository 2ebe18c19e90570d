#include "runtime/model/gguf/gguf_tensors.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
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

// All of a tensor in f32.
AlignedBuffer<float> DequantizeTensor(const StoredPart& part, WeightFormat format,
                                      const uint8_t* stored) {
  const int64_t cols = part.shape.back();
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < part.shape.size(); ++i) rows *= part.shape[i];
  AlignedBuffer<float> values(static_cast<size_t>(rows * cols));
  ParallelFor(static_cast<size_t>(rows), [&](size_t row, int) {
    Dequantize(format, stored + static_cast<int64_t>(row) * RowBytes(format, cols), cols,
               values.data() + static_cast<int64_t>(row) * cols);
  });
  return values;
}

}  // namespace

std::vector<std::string> GgufTensors::Names() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : file_.tensors()) names.emplace_back(name);
  return names;
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
  return absl::OkStatus();
}

absl::StatusOr<PartValues> GgufTensors::Get(const WeightId&, const StoredPart& part) {
  KVASIR_RETURN_IF_ERROR(Check(part.name, part.shape));
  const GgufFile::Tensor& tensor = *file_.Find(part.name);
  WeightFormat format = *ToWeightFormat(tensor.info.type.type);
  const uint8_t* stored = file_.Bytes(tensor).data();
  PartValues values;
  if (IsWholeRows(part) && part.contiguous()) {
    const int64_t first_row = part.offset / part.cols;
    values.matrix = {stored + first_row * RowBytes(format, part.cols), format, part.rows,
                     part.cols};
  } else if (IsWholeRows(part)) {
    values.owned = GatherRows(part, format, stored);
    values.matrix = {values.owned.data(), format, part.rows, part.cols};
  } else if (Info(format).is_block()) {
    const AlignedBuffer<float> floats = DequantizeTensor(part, format, stored);
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
