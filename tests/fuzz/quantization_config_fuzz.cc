// Any bytes as config.json's quantization_config, and the folder's tensors that follow from it: the
// first bytes choose a form, the rest are the key's text.

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "base/check.h"
#include "runtime/model/quantized/mxfp4_rows.h"
#include "runtime/model/quantized/nvfp4_rows.h"
#include "runtime/model/quantized/packed_int4_rows.h"
#include "runtime/model/quantized/quantization_config.h"
#include "runtime/model/quantized/scaled_bytes_rows.h"

namespace {

using kvasir::TensorBytes;

// Tensors of few bytes, whose shapes the input chooses; data is as large as the shape says.
struct SmallTensor {
  TensorBytes tensor;
  std::string bytes;

  SmallTensor(const char* name, const char* dtype, int element, uint8_t a, uint8_t b) {
    tensor.name = name;
    tensor.dtype = dtype;
    tensor.shape = {a % 9, b % 33};
    bytes.assign(static_cast<size_t>(a % 9) * (b % 33) * element, static_cast<char>(a ^ b));
    tensor.data = reinterpret_cast<const uint8_t*>(bytes.data());
  }
};

void ReadRows(const kvasir::RowReader& reader) {
  std::string row(static_cast<size_t>(kvasir::RowBytes(reader.format, reader.cols)), '\0');
  for (int64_t r = 0; r < reader.stack * reader.rows; ++r) {
    reader.Read(r, reinterpret_cast<uint8_t*>(row.data()));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 8) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 8, size - 8);
  nlohmann::json config;
  config["quantization_config"] = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (config["quantization_config"].is_discarded()) return 0;
  const auto parsed = kvasir::ParseQuantizationConfig(config);
  if (!parsed.ok()) {
    KVASIR_CHECK(!parsed.status().message().empty());
    return 0;
  }
  using Method = kvasir::QuantizationConfig::Method;
  if (parsed->method == Method::kScaledBytes) {
    KVASIR_CHECK(parsed->block_cols % 128 == 0);
    const SmallTensor numbers("numbers", parsed->has_fp8 ? "F8_E4M3" : "I8", 1, data[0], data[1]);
    const SmallTensor scales("scales", "F32", 4, data[2], data[3]);
    const auto reader = kvasir::ReadScaledBytes(*parsed, numbers.tensor, scales.tensor);
    if (reader.ok()) ReadRows(**reader);
  } else if (parsed->method == Method::kPackedMxfp4) {
    const SmallTensor codes("codes", "U8", 1, data[0], data[1]);
    const SmallTensor scales("scales", "U8", 1, data[2], data[3]);
    const auto reader = kvasir::ReadPackedMxfp4(codes.tensor, scales.tensor);
    if (reader.ok()) ReadRows(**reader);
  } else if (parsed->method == Method::kPackedNvfp4 || parsed->method == Method::kNvfp4) {
    const SmallTensor codes("codes", "U8", 1, data[0], data[1]);
    const SmallTensor scales("scales", "F8_E4M3", 1, data[2], data[3]);
    SmallTensor whole("whole", "F32", 4, 1, 1);
    whole.tensor.shape = {1};
    whole.bytes.assign(reinterpret_cast<const char*>(data) + 4, 4);
    whole.tensor.data = reinterpret_cast<const uint8_t*>(whole.bytes.data());
    const bool divides = parsed->method == Method::kPackedNvfp4;
    const auto reader = kvasir::ReadNvfp4(codes.tensor, scales.tensor, whole.tensor, divides);
    if (reader.ok()) ReadRows(**reader);
  } else if (parsed->method != Method::kNone && parsed->method != Method::kMxfp4) {
    KVASIR_CHECK(!parsed->group_sizes.empty());
    for (const int64_t group : parsed->group_sizes) KVASIR_CHECK(group >= 0 && group % 32 == 0);
    const SmallTensor codes("codes", "I32", 4, data[0], data[1]);
    const SmallTensor scales("scales", "F16", 2, data[2], data[3]);
    const SmallTensor zeros("zeros", "I32", 4, data[4], data[5]);
    SmallTensor groups("groups", "I32", 4, 1, data[6]);
    groups.tensor.shape = {data[6] % 33};
    kvasir::PackedInt4Tensors tensors;
    tensors.codes = codes.tensor;
    tensors.scales = scales.tensor;
    if ((data[7] & 1) != 0) tensors.zeros = zeros.tensor;
    if ((data[7] & 2) != 0) tensors.group_of_input = groups.tensor;
    const auto reader = kvasir::ReadPackedInt4(*parsed, tensors);
    if (reader.ok()) ReadRows(**reader);
  }
  return 0;
}
