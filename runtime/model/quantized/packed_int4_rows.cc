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
    if (format == WeightFormat::kF32) {
      ReadPlain(row, out);
      return true;
    }
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

  // By scales and zero points, which are read. `order`: see input_order.
  void ChooseFormat(std::vector<int32_t> order) {
    bool symmetric = true;
    for (int64_t row = 0; row < rows && symmetric; ++row) {
      for (int64_t g = 0; g < groups; ++g) symmetric = symmetric && Zero(row, g) == middle();
    }
    const bool wide = std::any_of(scales.begin(), scales.end(),
                                  [](float scale) { return ToFloat(ToF16(scale)) != scale; });
    const int64_t own_group = OwnGroup(group == cols ? 0 : group);
    if (bits != 8) {
      format = FormatOf(own_group, symmetric && bits == 4, wide);
    } else if (symmetric && own_group == 128) {
      format = WeightFormat::kInt8Group128;
    } else if (symmetric && !wide) {
      format = WeightFormat::kQ8_0;
    } else {
      format = WeightFormat::kF32;
      plain_order_ = std::move(order);  // undone while reading
      return;
    }
    input_order = std::move(order);
  }

  // The zero point of symmetric codes.
  int middle() const { return 1 << (bits - 1); }

  int bits = 4;
  Method method = Method::kGptq;
  uint32_t zeros_add = 0;       // to each word of zero points
  bool zeros_add_each = false;  // 1 to each, of three bits
  int64_t group = 0;            // inputs
  int64_t groups = 0;
  TensorBytes codes_;
  const uint8_t* zeros = nullptr;  // or all in the middle
  bool zeros_are_bytes = false;    // [rows][groups], signed, as older compressed-tensors have them
  std::vector<float> scales;

 private:
  uint8_t Field(uint32_t word, int64_t place) const {
    return static_cast<uint8_t>(word >> (bits * place) & ((1u << bits) - 1));
  }

  // Field `index` of a stream of bits in words, to each of which `add` is added. Codes of three
  // bits cross from one word into the next.
  template <typename Word>
  uint8_t FieldOf(int64_t index, const Word& word, uint32_t add) const {
    const int64_t at = index * bits;
    uint64_t both = static_cast<uint32_t>(word(at / 32) + add);
    if (at % 32 + bits > 32) both |= uint64_t{word(at / 32 + 1)} << 32;
    return static_cast<uint8_t>(both >> (at % 32) & ((1u << bits) - 1));
  }

  uint8_t Code(int64_t row, int64_t col) const {
    switch (method) {
      case Method::kGptq:
        return FieldOf(
            col, [&](int64_t word) { return codes_.Word(word * rows + row); }, 0);
      case Method::kAwq:
        return Field(codes_.Word(col * (rows / 8) + row / 8), kAwqPlace[row % 8]);
      default:
        return FieldOf(
            col, [&](int64_t word) { return codes_.Word(row * RowWords(cols) + word); }, 0);
    }
  }

  // Words that hold the fields of `count` codes.
  int64_t RowWords(int64_t count) const { return (count * bits + 31) / 32; }

  void ReadPlain(int64_t row, uint8_t* out) const {
    std::vector<float> values(static_cast<size_t>(cols));
    for (int64_t c = 0; c < cols; ++c) {
      const int64_t input = plain_order_.empty() ? c : plain_order_[c];
      const int64_t g = c / group;
      values[input] =
          scales[ScaleIndex(row, g)] * static_cast<float>(Code(row, input) - Zero(row, g));
    }
    std::memcpy(out, values.data(), values.size() * sizeof(float));
  }

  int64_t ScaleIndex(int64_t row, int64_t g) const {
    return method == Method::kPackedInt4 ? row * groups + g : g * rows + row;
  }

  uint8_t Zero(int64_t row, int64_t g) const {
    if (zeros == nullptr) return static_cast<uint8_t>(middle());
    if (zeros_are_bytes) return static_cast<uint8_t>(zeros[row * groups + g] + middle());
    const auto word = [&](int64_t index) {
      uint32_t value;
      std::memcpy(&value, zeros + 4 * index, sizeof(value));
      return value;
    };
    switch (method) {
      case Method::kAwq:
        return Field(word(g * (rows / 8) + row / 8), kAwqPlace[row % 8]);
      case Method::kGptq: {
        const int64_t first = g * RowWords(rows);
        const auto of_group = [&](int64_t index) { return word(first + index); };
        const uint8_t zero = FieldOf(row, of_group, zeros_add);
        return zeros_add_each ? static_cast<uint8_t>((zero + 1) & 7) : zero;
      }
      default:
        return FieldOf(
            row, [&](int64_t index) { return word(index * groups + g); }, zeros_add);
    }
  }

  std::vector<int32_t> plain_order_;  // of f32
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

// The bits of a code, where there are several in the checkpoint: by the widths of tensors that have
// the same number of outputs or inputs, in codes and in numbers.
absl::StatusOr<int> ReadBits(const QuantizationConfig& config, const PackedInt4Tensors& tensors) {
  if (config.bits.size() == 1) return config.bits.front();
  const bool gptq = config.method == Method::kGptq;
  const std::optional<TensorBytes>& packed = gptq ? tensors.zeros : tensors.codes;
  int64_t count = 0;
  if (gptq && tensors.scales.shape.size() == 2) count = tensors.scales.shape[1];
  if (!gptq && tensors.shape && tensors.shape->dtype == "I64" &&
      tensors.shape->shape == std::vector<int64_t>{2}) {
    std::memcpy(&count, tensors.shape->data + sizeof(count), sizeof(count));
  }
  for (const int bits : config.bits) {
    if (count > 0 && count <= kMaxInputs && packed && packed->shape.size() == 2 &&
        packed->shape[1] == (count * bits + 31) / 32) {
      return bits;
    }
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "tensor ", tensors.codes.name, ": which of quantization_config's numbers of bits (",
      absl::StrJoin(config.bits, ", "), ") it has cannot be told from the shapes beside it"));
}

// Outputs and inputs by the shapes of codes.
absl::Status ReadShape(Method method, const PackedInt4Tensors& tensors, PackedInt4Rows* reader) {
  const TensorBytes& codes = tensors.codes;
  const int bits = reader->bits;
  // Codes that fill whole words.
  const int64_t words = bits == 3 ? 3 : 1, per_words = 32 * words / bits;
  if (codes.dtype != "I32" || codes.shape.size() != 2 || codes.shape[0] < 1 || codes.shape[1] < 1 ||
      codes.shape[0] > kMaxInputs || codes.shape[1] > kMaxInputs) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", codes.name, " is ", codes.dtype, " [",
                                                   absl::StrJoin(codes.shape, ", "),
                                                   "], but packed codes must be an I32 matrix"));
  }
  switch (method) {
    case Method::kGptq:
      reader->rows = codes.shape[1];
      reader->cols = codes.shape[0] / words * per_words;
      break;
    case Method::kAwq:
      reader->rows = codes.shape[1] * per_words;
      reader->cols = codes.shape[0];
      break;
    default:
      reader->rows = codes.shape[0];
      reader->cols = codes.shape[1] * per_words;
  }
  if (reader->cols < 1 || reader->cols > kMaxInputs || reader->rows > kMaxOutputs ||
      codes.shape[0] % (method == Method::kGptq ? words : 1) != 0 ||
      (method != Method::kPackedInt4 && reader->rows % per_words != 0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", codes.name, " [", absl::StrJoin(codes.shape, ", "), "] stands for ",
        reader->rows, " outputs and ", reader->cols, " inputs of ", bits,
        " bits; outputs must be a multiple of ", per_words, ", both at most ", kMaxInputs));
  }
  reader->shape = {reader->rows, reader->cols};
  return absl::OkStatus();
}

// The group size among the config's that the scales' shape agrees with.
absl::Status ReadGroups(const QuantizationConfig& config, const TensorBytes& scales,
                        PackedInt4Rows* reader) {
  const bool by_row = reader->method == Method::kPackedInt4;
  std::vector<int64_t> tried;
  reader->group = 0;
  for (const int64_t size : config.group_sizes) {
    const int64_t group = size == 0 ? reader->cols : size;
    const int64_t groups = (reader->cols + group - 1) / group;
    const int64_t shape[] = {by_row ? reader->rows : groups, by_row ? groups : reader->rows};
    tried.push_back(size == 0 ? -1 : size);
    if (absl::MakeConstSpan(scales.shape) != absl::MakeConstSpan(shape)) continue;
    const bool other = reader->group != 0 && std::min(group, reader->cols) != reader->group;
    if (other) {
      return absl::UnimplementedError(absl::StrCat(
          "tensor ", scales.name, " has ", groups, " groups of ", reader->cols, " inputs, which ",
          "fits groups of ", reader->group, " and of ", group,
          " of quantization_config; served: ", "sizes that the number of groups tells apart"));
    }
    reader->group = std::min(group, reader->cols);
    reader->groups = groups;
  }
  if (reader->group != 0) return absl::OkStatus();
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
  KVASIR_ASSIGN_OR_RETURN(reader->bits, ReadBits(config, tensors));
  reader->codes_ = tensors.codes;
  KVASIR_RETURN_IF_ERROR(ReadShape(config.method, tensors, reader.get()));
  KVASIR_RETURN_IF_ERROR(ReadGroups(config, tensors.scales, reader.get()));
  KVASIR_ASSIGN_OR_RETURN(reader->scales, ReadScales(tensors.scales));
  if (tensors.zeros) {
    const int64_t words = (reader->rows * reader->bits + 31) / 32;
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
          CheckZeroBytes(*tensors.zeros, reader->bits, reader->rows * reader->groups));
    }
    // Writers subtract from whole words, so a zero point of 0 borrows from its neighbour: adding to
    // whole words undoes that.
    if (config.zeros_less_one) {
      reader->zeros_add_each = reader->bits == 3;
      if (reader->bits != 3) reader->zeros_add = UINT32_MAX / ((1u << reader->bits) - 1);
    }
  }
  std::vector<int32_t> order;
  if (tensors.group_of_input) {
    KVASIR_ASSIGN_OR_RETURN(order, SortByGroup(*tensors.group_of_input, *reader));
  } else if (config.needs_order && reader->groups > 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", tensors.codes.name,
        " was quantised in an order of its inputs that the "
        "checkpoint does not have (quantization_config asks for it: desc_act, actorder; the "
        "tensor g_idx or weight_g_idx is missing); the file is incomplete"));
  }
  reader->ChooseFormat(std::move(order));
  return std::unique_ptr<RowReader>(std::move(reader));
}

}  // namespace kvasir
