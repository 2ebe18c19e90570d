#include "runtime/model/quantized/packed_int4_rows.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "runtime/formats/block_writer.h"

namespace kvasir {
namespace {

using Method = QuantizationConfig::Method;

constexpr int64_t kMaxInputs = int64_t{1} << 24;
constexpr int64_t kMaxOutputs = int64_t{1} << 24;

// AWQ: where output r of eight stands in the word, so that a GPU unpacks pairs of 16 bits at once.
constexpr int kAwqPlace[8] = {0, 4, 1, 5, 2, 6, 3, 7};

// The largest of our groups that stored groups of `group` inputs (0 = all) are made of.
int64_t OwnGroup(int64_t group) {
  for (const int64_t size : {128, 64}) {
    if (group % size == 0) return size;
  }
  return 32;
}

WeightFormat FormatOf(int64_t own_group, bool symmetric, bool wide) {
  using enum WeightFormat;
  const int size = own_group == 128 ? 2 : own_group == 64 ? 1 : 0;
  constexpr WeightFormat kFormats[3][3] = {{kInt4Group32, kInt4Group64, kInt4Group128},
                                           {kInt4Zero32, kInt4Zero64, kInt4Zero128},
                                           {kInt4Wide32, kInt4Wide64, kInt4Wide128}};
  return kFormats[wide ? 2 : symmetric ? 0 : 1][size];
}

class PackedInt4Rows : public RowReader {
 public:
  bool Read(int64_t row, uint8_t* out) const override {
    const WeightFormatInfo& info = Info(format);
    std::vector<uint8_t> codes(
        static_cast<size_t>((cols + kMaxBlockElements) / kMaxBlockElements * kMaxBlockElements));
    for (int64_t c = 0; c < cols; ++c) {
      codes[c] = Code(row, input_order.empty() ? c : input_order[c]);
      if (bits == 8) codes[c] ^= 0x80;  // signed, as these formats have them
    }
    for (int64_t c = 0; c < cols; c += info.block_elements) {
      const int64_t g = c / group;
      const float scale = scales[ScaleIndex(row, g)];
      if (format == WeightFormat::kQ8_0) {
        WriteQ8_0(scale, codes.data() + c, out);
      } else {
        WriteGroup(info, scale, Zero(row, g), codes.data() + c, out);
      }
      out += info.block_bytes;
    }
    return true;
  }

  // By scales and zero points, which are read.
  absl::Status ChooseFormat(const std::string& name) {
    bool symmetric = true;
    for (int64_t row = 0; row < rows && symmetric; ++row) {
      for (int64_t g = 0; g < groups; ++g) symmetric = symmetric && Zero(row, g) == middle();
    }
    const bool wide = std::any_of(scales.begin(), scales.end(),
                                  [](float scale) { return ToFloat(ToF16(scale)) != scale; });
    const int64_t own_group = OwnGroup(group == cols ? 0 : group);
    if (bits == 4) {
      format = FormatOf(own_group, symmetric, wide);
    } else if (!symmetric) {
      return absl::UnimplementedError(
          absl::StrCat("tensor ", name, " has codes of eight bits with zero points other than ",
                       middle(), "; served: symmetric ones, and four bits with zero points"));
    } else if (own_group == 128) {
      format = WeightFormat::kInt8Group128;
    } else if (!wide) {
      format = WeightFormat::kQ8_0;
    } else {
      return absl::UnimplementedError(
          absl::StrCat("tensor ", name, " has codes of eight bits in groups of ", group,
                       " with scales that f16 does not hold; served: such scales for groups of a "
                       "multiple of 128"));
    }
    return absl::OkStatus();
  }

  int64_t codes_per_word() const { return 32 / bits; }
  // The zero point of symmetric codes.
  int middle() const { return 1 << (bits - 1); }

  int bits = 4;
  Method method = Method::kGptq;
  uint32_t zeros_add = 0;  // to each word of zero points
  int64_t group = 0;       // inputs
  int64_t groups = 0;
  TensorBytes codes_;
  const uint8_t* zeros = nullptr;  // or all in the middle
  bool zeros_are_bytes = false;    // [rows][groups], signed, as older compressed-tensors have them
  std::vector<float> scales;

 private:
  uint8_t Field(uint32_t word, int64_t place) const {
    return static_cast<uint8_t>(word >> (bits * place) & ((1u << bits) - 1));
  }

  uint8_t Code(int64_t row, int64_t col) const {
    const int64_t per_word = codes_per_word();
    switch (method) {
      case Method::kGptq:
        return Field(codes_.Word(col / per_word * rows + row), col % per_word);
      case Method::kAwq:
        return Field(codes_.Word(col * (rows / per_word) + row / per_word),
                     kAwqPlace[row % per_word]);
      default:
        return Field(codes_.Word(row * ((cols + per_word - 1) / per_word) + col / per_word),
                     col % per_word);
    }
  }

  int64_t ScaleIndex(int64_t row, int64_t g) const {
    return method == Method::kPackedInt4 ? row * groups + g : g * rows + row;
  }

  uint8_t Zero(int64_t row, int64_t g) const {
    if (zeros == nullptr) return static_cast<uint8_t>(middle());
    if (zeros_are_bytes) return static_cast<uint8_t>(zeros[row * groups + g] + middle());
    const int64_t per_word = codes_per_word();
    const int64_t index = method == Method::kPackedInt4 ? row / per_word * groups + g
                                                        : g * (rows / per_word) + row / per_word;
    uint32_t word;
    std::memcpy(&word, zeros + 4 * index, sizeof(word));
    const int64_t place = method == Method::kAwq ? kAwqPlace[row % per_word] : row % per_word;
    return Field(word + zeros_add, place);
  }
};

// The order of inputs that brings each group's together, in the groups' order; empty when they are
// already.
absl::StatusOr<std::vector<int32_t>> SortByGroup(const TensorBytes& tensor,
                                                 const PackedInt4Rows& reader) {
  KVASIR_RETURN_IF_ERROR(CheckTensor(tensor, "I32", {reader.cols}));
  std::vector<int32_t> order(static_cast<size_t>(reader.cols));
  std::iota(order.begin(), order.end(), 0);
  std::vector<int32_t> group_of(order.size());
  std::vector<int64_t> sizes(static_cast<size_t>(reader.groups));
  for (int64_t c = 0; c < reader.cols; ++c) {
    group_of[c] = static_cast<int32_t>(tensor.Word(c));
    if (group_of[c] < 0 || group_of[c] >= reader.groups) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", tensor.name, " puts input ", c, " into group ", group_of[c],
                       ", but there are groups 0 to ", reader.groups - 1, "; the file is damaged"));
    }
    ++sizes[group_of[c]];
  }
  for (int64_t g = 0; g < reader.groups; ++g) {
    const int64_t wanted = std::min(reader.group, reader.cols - g * reader.group);
    if (sizes[g] != wanted) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, " gives group ", g,
                                                     " ", sizes[g],
                                                     " inputs; quantization_config asks "
                                                     "for ",
                                                     wanted));
    }
  }
  if (std::is_sorted(group_of.begin(), group_of.end())) return std::vector<int32_t>();
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return group_of[a] < group_of[b]; });
  return order;
}

// Outputs and inputs by the shapes of codes.
absl::Status ReadShape(Method method, const PackedInt4Tensors& tensors, PackedInt4Rows* reader) {
  const TensorBytes& codes = tensors.codes;
  const int64_t per_word = reader->codes_per_word();
  if (codes.dtype != "I32" || codes.shape.size() != 2 || codes.shape[0] < 1 || codes.shape[1] < 1 ||
      codes.shape[0] > kMaxInputs || codes.shape[1] > kMaxInputs) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", codes.name, " is ", codes.dtype, " [",
                                                   absl::StrJoin(codes.shape, ", "),
                                                   "], but packed codes must be an I32 matrix"));
  }
  switch (method) {
    case Method::kGptq:
      reader->rows = codes.shape[1];
      reader->cols = codes.shape[0] * per_word;
      break;
    case Method::kAwq:
      reader->rows = codes.shape[1] * per_word;
      reader->cols = codes.shape[0];
      break;
    default:
      reader->rows = codes.shape[0];
      reader->cols = codes.shape[1] * per_word;
  }
  if (reader->cols > kMaxInputs || reader->rows > kMaxOutputs ||
      (method != Method::kPackedInt4 && reader->rows % per_word != 0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", codes.name, " [", absl::StrJoin(codes.shape, ", "), "] stands for ",
        reader->rows, " outputs and ", reader->cols, " inputs; outputs must be a multiple of ",
        per_word, ", both at most ", kMaxInputs));
  }
  reader->shape = {reader->rows, reader->cols};
  return absl::OkStatus();
}

// The group size among the config's that the scales' shape agrees with.
absl::Status ReadGroups(const QuantizationConfig& config, const TensorBytes& scales,
                        PackedInt4Rows* reader) {
  const bool by_row = reader->method == Method::kPackedInt4;
  std::vector<int64_t> tried;
  for (const int64_t size : config.group_sizes) {
    const int64_t group = size == 0 ? reader->cols : size;
    const int64_t groups = (reader->cols + group - 1) / group;
    const int64_t shape[] = {by_row ? reader->rows : groups, by_row ? groups : reader->rows};
    tried.push_back(size == 0 ? -1 : size);
    if (absl::MakeConstSpan(scales.shape) != absl::MakeConstSpan(shape)) continue;
    reader->group = group;
    reader->groups = groups;
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "tensor ", scales.name, " has shape [", absl::StrJoin(scales.shape, ", "), "], which fits ",
      reader->rows, " outputs and ", reader->cols, " inputs with no group_size of ",
      "quantization_config (", absl::StrJoin(tried, ", "), ")"));
}

absl::Status CheckZeroBytes(const TensorBytes& zeros, int bits, int64_t count) {
  const int limit = 1 << (bits - 1);
  for (int64_t i = 0; i < count; ++i) {
    const int zero = static_cast<int8_t>(zeros.data[i]);
    if (zero >= -limit && zero < limit) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", zeros.name, " has the zero point ", zero, " at position ", i, "; codes of ",
        bits, " bits want ", -limit, " to ", limit - 1, ". The file is damaged"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<RowReader>> ReadPackedInt4(const QuantizationConfig& config,
                                                          const PackedInt4Tensors& tensors) {
  auto reader = std::make_unique<PackedInt4Rows>();
  reader->method = config.method;
  reader->bits = config.bits;
  reader->codes_ = tensors.codes;
  KVASIR_RETURN_IF_ERROR(ReadShape(config.method, tensors, reader.get()));
  KVASIR_RETURN_IF_ERROR(ReadGroups(config, tensors.scales, reader.get()));
  KVASIR_ASSIGN_OR_RETURN(reader->scales, ReadScales(tensors.scales));
  if (tensors.zeros) {
    const int64_t per_word = reader->codes_per_word();
    const int64_t words = (reader->rows + per_word - 1) / per_word;
    const bool by_row = config.method == Method::kPackedInt4;
    reader->zeros_are_bytes = by_row && tensors.zeros->dtype == "I8";
    KVASIR_RETURN_IF_ERROR(CheckTensor(*tensors.zeros, reader->zeros_are_bytes ? "I8" : "I32",
                                       {reader->zeros_are_bytes ? reader->rows
                                        : by_row                ? words
                                                                : reader->groups,
                                        by_row ? reader->groups : words}));
    reader->zeros = tensors.zeros->data;
    if (reader->zeros_are_bytes) {
      KVASIR_RETURN_IF_ERROR(
          CheckZeroBytes(*tensors.zeros, config.bits, reader->rows * reader->groups));
    }
    // Writers subtract from whole words, so a zero point of 0 borrows from its neighbour: adding to
    // whole words undoes that.
    reader->zeros_add = !config.zeros_less_one ? 0 : config.bits == 4 ? 0x11111111u : 0x01010101u;
  }
  if (tensors.group_of_input) {
    KVASIR_ASSIGN_OR_RETURN(reader->input_order, SortByGroup(*tensors.group_of_input, *reader));
  }
  KVASIR_RETURN_IF_ERROR(reader->ChooseFormat(tensors.codes.name));
  return std::unique_ptr<RowReader>(std::move(reader));
}

}  // namespace kvasir
