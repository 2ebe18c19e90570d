#include "runtime/model/quantized/mxfp4_rows.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "runtime/formats/block_writer.h"

namespace kvasir {
namespace {

constexpr int64_t kBlock = 32;
constexpr int64_t kBlockBytes = 16;
constexpr uint8_t kExponentNan = 0xff;

class Mxfp4Rows : public RowReader {
 public:
  bool Read(int64_t row, uint8_t* out) const override {
    const int64_t count = cols / kBlock;
    for (int64_t b = 0; b < count; ++b) {
      const uint8_t* from = blocks + (row * count + b) * kBlockBytes;
      const uint8_t exponent = exponents[row * count + b];
      if (exponent == kExponentNan) return false;
      uint8_t codes[kBlock];
      for (int64_t j = 0; j < kBlockBytes; ++j) {
        codes[2 * j] = from[j] & 15;
        codes[2 * j + 1] = from[j] >> 4;
      }
      WriteMxfp4(exponent, codes, out);
      out += Info(format).block_bytes;
    }
    return true;
  }

  const uint8_t* blocks = nullptr;
  const uint8_t* exponents = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RowReader>> ReadMxfp4(const TensorBytes& blocks,
                                                     const TensorBytes& scales) {
  const std::vector<int64_t>& shape = blocks.shape;
  if (blocks.dtype != "U8" || shape.size() != 4 || shape[0] < 1 || shape[1] < 1 || shape[2] < 1 ||
      shape[3] != kBlockBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", blocks.name, " is ", blocks.dtype, " [", absl::StrJoin(shape, ", "),
                     "], but must be U8 [experts, rows, inputs / 32, 16]"));
  }
  KVASIR_RETURN_IF_ERROR(CheckTensor(scales, "U8", {shape[0], shape[1], shape[2]}));
  auto reader = std::make_unique<Mxfp4Rows>();
  reader->format = WeightFormat::kMXFP4;
  reader->stack = shape[0];
  reader->rows = shape[1];
  reader->cols = shape[2] * kBlock;
  reader->shape = {reader->stack, reader->cols, reader->rows};
  reader->transposed = true;
  reader->blocks = blocks.data;
  reader->exponents = scales.data;
  return std::unique_ptr<RowReader>(std::move(reader));
}

absl::StatusOr<std::unique_ptr<RowReader>> ReadPackedMxfp4(const TensorBytes& codes,
                                                           const TensorBytes& scales) {
  const std::vector<int64_t>& shape = codes.shape;
  if (codes.dtype != "U8" || shape.size() != 2 || shape[0] < 1 || shape[1] < kBlockBytes ||
      shape[1] % kBlockBytes != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", codes.name, " is ", codes.dtype, " [", absl::StrJoin(shape, ", "),
                     "], but must be U8 [rows, inputs / 2] with whole blocks of 32 inputs"));
  }
  KVASIR_RETURN_IF_ERROR(CheckTensor(scales, "U8", {shape[0], shape[1] / kBlockBytes}));
  auto reader = std::make_unique<Mxfp4Rows>();
  reader->format = WeightFormat::kMXFP4;
  reader->rows = shape[0];
  reader->cols = shape[1] * 2;
  reader->shape = {reader->rows, reader->cols};
  reader->blocks = codes.data;
  reader->exponents = scales.data;
  return std::unique_ptr<RowReader>(std::move(reader));
}

}  // namespace kvasir
