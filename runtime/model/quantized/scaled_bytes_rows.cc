#include "runtime/model/quantized/scaled_bytes_rows.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/e4m3.h"
#include "base/status_macros.h"
#include "runtime/formats/block_writer.h"

namespace kvasir {
namespace {

class ScaledBytesRows : public RowReader {
 public:
  bool Read(int64_t row, uint8_t* out) const override {
    const WeightFormatInfo& info = Info(format);
    const uint8_t* from = numbers + row * cols;
    if (info.e4m3 && std::any_of(from, from + cols, IsE4m3Nan)) return false;
    for (int64_t c = 0; c < cols; c += info.block_elements) {
      uint8_t codes[kMaxBlockElements] = {};
      std::copy_n(from + c, std::min<int64_t>(info.block_elements, cols - c), codes);
      const float scale = scales[row / block_rows * scale_cols + c / block_cols];
      WriteGroup(info, scale, 0, codes, out);
      out += info.block_bytes;
    }
    return true;
  }

  const uint8_t* numbers = nullptr;
  std::vector<float> scales;  // [ceil(rows / block_rows)][scale_cols]
  int64_t block_rows = 1;
  int64_t block_cols = 1;
  int64_t scale_cols = 1;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RowReader>> ReadScaledBytes(const QuantizationConfig& config,
                                                           const TensorBytes& numbers,
                                                           const TensorBytes& scales) {
  const bool fp8 = numbers.dtype == "F8_E4M3";
  if (!(fp8 ? config.has_fp8 : config.has_int8)) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", numbers.name, " is ", numbers.dtype,
                     ", which quantization_config does not announce"));
  }
  if (numbers.shape.size() != 2 || numbers.shape[0] < 1 || numbers.shape[1] < 1) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", numbers.name, " has shape [",
                                                   absl::StrJoin(numbers.shape, ", "),
                                                   "], but must be a matrix"));
  }
  auto reader = std::make_unique<ScaledBytesRows>();
  reader->format = fp8 ? WeightFormat::kE4m3Group128 : WeightFormat::kInt8Group128;
  reader->rows = numbers.shape[0];
  reader->cols = numbers.shape[1];
  reader->shape = numbers.shape;
  reader->numbers = numbers.data;
  const auto is = [&](const std::vector<int64_t>& shape) { return scales.shape == shape; };
  const auto blocks = [](int64_t size, int64_t block) { return (size + block - 1) / block; };
  reader->block_cols = reader->cols;
  if (config.block_rows > 0 &&
      is({blocks(reader->rows, config.block_rows), blocks(reader->cols, config.block_cols)})) {
    reader->block_rows = config.block_rows;
    reader->block_cols = config.block_cols;
    reader->scale_cols = scales.shape[1];
  } else if (is({}) || is({1}) || is({1, 1})) {
    reader->block_rows = reader->rows;
  } else if (!is({reader->rows}) && !is({reader->rows, 1})) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", scales.name, " has shape [", absl::StrJoin(scales.shape, ", "),
        "], but must have one scale, one for each of ", reader->rows, " rows",
        config.block_rows > 0 ? absl::StrCat(", or one for each block of ", config.block_rows,
                                             " x ", config.block_cols)
                              : std::string()));
  }
  KVASIR_ASSIGN_OR_RETURN(reader->scales, ReadScales(scales));
  return std::unique_ptr<RowReader>(std::move(reader));
}

}  // namespace kvasir
