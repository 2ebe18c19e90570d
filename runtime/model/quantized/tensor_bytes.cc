#include "runtime/model/quantized/tensor_bytes.h"

#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/formats/dequantize.h"

namespace kvasir {

absl::Status CheckTensor(const TensorBytes& tensor, absl::string_view dtype,
                         absl::Span<const int64_t> shape) {
  if (tensor.dtype == dtype && absl::MakeConstSpan(tensor.shape) == shape) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "tensor ", tensor.name, " is ", tensor.dtype, " [", absl::StrJoin(tensor.shape, ", "),
      "], but with quantization_config and the tensors beside it it must be ", dtype, " [",
      absl::StrJoin(shape, ", "), "]"));
}

absl::StatusOr<std::vector<float>> ReadScales(const TensorBytes& tensor) {
  WeightFormat format;
  const bool exponents = tensor.dtype == "F8_E8M0";
  if (tensor.dtype == "F32" || exponents) {
    format = WeightFormat::kF32;
  } else if (tensor.dtype == "BF16") {
    format = WeightFormat::kBf16;
  } else if (tensor.dtype == "F16") {
    format = WeightFormat::kF16;
  } else {
    return absl::UnimplementedError(absl::StrCat("tensor ", tensor.name, " has scales of type ",
                                                 tensor.dtype,
                                                 "; F32, BF16, F16 and F8_E8M0 are read"));
  }
  int64_t count = 1;
  for (const int64_t size : tensor.shape) count *= size;
  std::vector<float> scales(static_cast<size_t>(count));
  if (!exponents) Dequantize(format, tensor.data, count, scales.data());
  for (int64_t i = 0; exponents && i < count; ++i) {
    const uint8_t exponent = tensor.data[i];
    scales[i] = exponent == 0xff ? NAN : std::ldexp(1.0f, exponent - 127);
  }
  for (size_t i = 0; i < scales.size(); ++i) {
    if (!std::isfinite(scales[i])) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, " has the scale ",
                                                     scales[i], " at position ", i,
                                                     "; the file is damaged"));
    }
  }
  return scales;
}

}  // namespace kvasir
