#include "runtime/model/quantized/nvfp4_rows.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/e4m3.h"
#include "base/status_macros.h"
#include "runtime/formats/block_writer.h"

namespace kvasir {
namespace {

constexpr int64_t kGroup = 16;
constexpr int64_t kBlock = 64;
constexpr uint8_t kSign = 0x80;
constexpr uint8_t kCodeSign = 8;

class Nvfp4Rows : public RowReader {
 public:
  bool Read(int64_t row, uint8_t* out) const override {
    const uint8_t* from = codes + row * cols / 2;
    const uint8_t* scale = scales + row * cols / kGroup;
    for (int64_t begin = 0; begin < cols; begin += kBlock) {
      uint8_t block_codes[kBlock] = {}, block_scales[kBlock / kGroup] = {};
      const int64_t end = std::min(cols, begin + kBlock);
      for (int64_t k = begin; k < end; ++k) {
        const uint8_t of_group = scale[k / kGroup];
        if (IsE4m3Nan(of_group)) return false;
        // A negative scale turns its codes' signs.
        const uint8_t code = k % 2 == 0 ? from[k / 2] & 15 : from[k / 2] >> 4;
        block_codes[k - begin] = (of_group & kSign) != 0 ? code ^ kCodeSign : code;
        block_scales[(k - begin) / kGroup] = of_group & ~kSign;
      }
      WriteNvfp4(block_scales, block_codes, out);
      out += Info(format).block_bytes;
    }
    return true;
  }

  const uint8_t* codes = nullptr;
  const uint8_t* scales = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RowReader>> ReadNvfp4(const TensorBytes& codes,
                                                     const TensorBytes& scales,
                                                     const TensorBytes& whole, bool divides) {
  const std::vector<int64_t>& shape = codes.shape;
  if (codes.dtype != "U8" || shape.size() != 2 || shape[0] < 1 || shape[1] < 1 ||
      shape[1] * 2 % kGroup != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", codes.name, " is ", codes.dtype, " [", absl::StrJoin(shape, ", "),
                     "], but must be U8 [rows, inputs / 2] with whole groups of 16 inputs"));
  }
  KVASIR_RETURN_IF_ERROR(CheckTensor(scales, "F8_E4M3", {shape[0], shape[1] * 2 / kGroup}));
  if (!whole.shape.empty()) KVASIR_RETURN_IF_ERROR(CheckTensor(whole, "F32", {1}));
  KVASIR_ASSIGN_OR_RETURN(const std::vector<float> number, ReadScales(whole));
  const float factor = divides ? 1.0f / number[0] : number[0];
  if (!std::isfinite(factor)) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", whole.name, " is ", number[0],
                                                   ", by which nothing can be divided"));
  }
  auto reader = std::make_unique<Nvfp4Rows>();
  reader->format = WeightFormat::kNVFP4;
  reader->rows = shape[0];
  reader->cols = shape[1] * 2;
  reader->shape = {reader->rows, reader->cols};
  reader->factor = factor;
  reader->codes = codes.data;
  reader->scales = scales.data;
  return std::unique_ptr<RowReader>(std::move(reader));
}

}  // namespace kvasir
