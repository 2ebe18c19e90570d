#include "runtime/conversion/gguf_output.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "runtime/conversion/encode_rows.h"
#include "runtime/conversion/gguf_metadata.h"
#include "runtime/conversion/gguf_vocabulary.h"
#include "runtime/conversion/output_file.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/gguf/gguf_names.h"
#include "runtime/model/loading/model_package.h"

namespace kvasir {
namespace {

TensorType TypeOf(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return TensorType::kF32;
    case WeightFormat::kF16:
      return TensorType::kF16;
    case WeightFormat::kBf16:
      return TensorType::kBF16;
    case WeightFormat::kQ8_0:
      return TensorType::kQ8_0;
    case WeightFormat::kQ4_0:
      return TensorType::kQ4_0;
    default:
      KVASIR_CHECK(format == WeightFormat::kQ4_K);
      return TensorType::kQ4_K;
  }
}

// The format's label for a file that is mostly of one type.
uint32_t FileType(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return 0;
    case WeightFormat::kF16:
      return 1;
    case WeightFormat::kQ4_0:
      return 2;
    case WeightFormat::kQ8_0:
      return 7;
    case WeightFormat::kQ4_K:
      return 14;
    default:
      return 32;
  }
}

// What readers of the format take as F32 only.
bool IsPlain(const WeightId& id) {
  using enum WeightRole;
  return id.bias || id.role == kRouter || id.role == kPositions || id.role == kConv;
}

// Whether a piece is whole rows of its tensor in their order, which can be written as they come.
bool IsInOrder(const StoredPart& part) {
  return part.row_order.empty() && (part.col_stride == 1 || part.cols == 1) &&
         (part.row_stride == part.cols || part.rows == 1);
}

}  // namespace

int64_t GgufOutput::Tensor::bytes() const {
  const int64_t values = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies());
  return values / row_values() * RowBytes(format, row_values());
}

absl::StatusOr<std::vector<GgufOutput::Tensor>> GgufOutput::LayOut(const ModelSpec& spec,
                                                                   const GgufDialect& dialect) {
  KVASIR_ASSIGN_OR_RETURN(const TensorMap map,
                          TensorMap::Create(GgufNames(dialect, spec), spec, nullptr));
  std::vector<Tensor> tensors;
  std::map<std::string, size_t> places;
  for (const WeightShape& weight : WeightShapes(spec)) {
    const MappedWeight& mapped = map.At(weight.id);
    KVASIR_CHECK(mapped.parts.size() == 1 && mapped.parts[0].add == 0);
    const StoredPart& part = mapped.parts[0];
    const auto [it, added] = places.try_emplace(part.name, tensors.size());
    if (added) tensors.push_back({part.name, part.shape, WeightFormat::kF32, {}});
    tensors[it->second].pieces.push_back({weight.id, part});
  }
  for (Tensor& tensor : tensors) {
    std::sort(tensor.pieces.begin(), tensor.pieces.end(),
              [](const Piece& a, const Piece& b) { return a.part.offset < b.part.offset; });
    int64_t end = 0;
    for (const Piece& piece : tensor.pieces) {
      KVASIR_CHECK(piece.part.offset == end);
      end += piece.part.rows * piece.part.cols;
    }
  }
  return tensors;
}

// See the head of gguf_output.h.
WeightFormat GgufOutput::FormatOf(const Tensor& tensor, std::optional<WeightFormat> format) const {
  const WeightId& id = tensor.pieces[0].id;
  const int64_t cols = tensor.row_values();
  // A norm per head is a table too.
  const bool vector = tensor.shape.size() == 1 || tensor.pieces[0].part.cols == 1;
  if (vector || IsPlain(id)) return WeightFormat::kF32;
  if (!format) {
    const SourceModel& source = weights_.source();
    for (const Piece& piece : tensor.pieces) {
      const WeightFormat own = source.TypeOf(source.map->NameOf(piece.id));
      if (format && own != *format) return WeightFormat::kF32;
      format = own;
    }
  }
  WeightFormat result = *format;
  if (!Info(result).is_block()) return result;
  const bool table = id.role == WeightRole::kEmbedding || id.role == WeightRole::kHead;
  if (table) result = WeightFormat::kQ8_0;
  if (cols % Info(result).block_elements != 0) result = WeightFormat::kQ8_0;
  return cols % Info(result).block_elements == 0 ? result : WeightFormat::kBf16;
}

absl::StatusOr<GgufOutput> GgufOutput::Plan(const ConvertedWeights* weights,
                                            std::optional<WeightFormat> format) {
  GgufOutput output(weights);
  const TargetModel& target = weights->target();
  const SourceModel& source = weights->source();
  KVASIR_ASSIGN_OR_RETURN(const Architecture architecture, GgufArchitectureOf(target.spec));
  KVASIR_ASSIGN_OR_RETURN(output.tensors_, LayOut(target.spec, architecture.gguf));
  GgufHeaderWriter header;
  AddGgufMetadata(target.spec, target.config, architecture, &header);
  header.AddString("general.name",
                   std::filesystem::weakly_canonical(source.folder).filename().string());
  const WeightFormat table = source.TypeOf(source.map->NameOf({WeightRole::kEmbedding, -1}));
  header.AddU32("general.file_type", FileType(format.value_or(table)));
  KVASIR_RETURN_IF_ERROR(AddGgufVocabulary(source.folder, target.spec, target.config, &header));

  output.rope_tensors_ = GgufRopeTensors(target.spec);
  for (const auto& [name, divisors] : output.rope_tensors_) {
    const auto count = static_cast<int64_t>(divisors.size());
    header.AddTensor(name, {count}, TensorType::kF32, count * 4);
    output.tensor_bytes_ += count * 4;
  }
  for (Tensor& tensor : output.tensors_) {
    tensor.format = output.FormatOf(tensor, format);
    header.AddTensor(tensor.name, tensor.shape, TypeOf(tensor.format), tensor.bytes());
    output.tensor_bytes_ += tensor.bytes();
  }
  output.header_ = header.Header();
  output.data_bytes_ = header.data_bytes();
  return output;
}

absl::Status GgufOutput::Write(const std::string& path, const WrittenBytes& written) const {
  KVASIR_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(path));
  KVASIR_RETURN_IF_ERROR(file.Write(header_));
  int64_t rope_bytes = 0;
  for (const auto& [name, divisors] : rope_tensors_) {
    std::string bytes(reinterpret_cast<const char*>(divisors.data()),
                      divisors.size() * sizeof(float));
    rope_bytes += static_cast<int64_t>(bytes.size());
    bytes.resize(static_cast<size_t>(GgufPadded(static_cast<int64_t>(bytes.size()))));
    KVASIR_RETURN_IF_ERROR(file.Write(bytes));
  }
  KVASIR_RETURN_IF_ERROR(file.Extend(file_bytes()));
  KVASIR_RETURN_IF_ERROR(Check(path));
  const auto stopped = absl::CancelledError("the conversion was stopped; nothing was kept");
  if (written && !written(rope_bytes)) return stopped;
  for (const Tensor& tensor : tensors_) {
    KVASIR_RETURN_IF_ERROR(WriteTensor(tensor, &file, written));
  }
  return file.Finish();
}

absl::Status GgufOutput::WriteTensor(const Tensor& tensor, OutputFile* file,
                                     const WrittenBytes& written) const {
  const auto write = [&](absl::Span<const float> values) -> absl::Status {
    // Of a vector a piece is less than the tensor's row.
    const int64_t cols = std::min(tensor.row_values(), static_cast<int64_t>(values.size()));
    const std::vector<uint8_t> bytes = EncodeRows(tensor.format, values, cols);
    KVASIR_RETURN_IF_ERROR(file->Write(bytes));
    if (!written || written(static_cast<int64_t>(bytes.size()))) return absl::OkStatus();
    return absl::CancelledError("the conversion was stopped; nothing was kept");
  };
  for (const Piece& piece : tensor.pieces) {
    const bool in_order = IsInOrder(piece.part);
    std::vector<float> all;
    KVASIR_RETURN_IF_ERROR(
        weights_.Stream(piece.id, [&](absl::Span<const float> values) -> absl::Status {
          // Of a vector, whose rows have one value, a stream may end inside the tensor's row.
          if (in_order && piece.part.cols == tensor.row_values()) return write(values);
          all.insert(all.end(), values.begin(), values.end());
          return absl::OkStatus();
        }));
    if (!all.empty()) KVASIR_RETURN_IF_ERROR(write(InStoredOrder(piece.part, all)));
  }
  return file->Write(
      std::string(static_cast<size_t>(GgufPadded(tensor.bytes()) - tensor.bytes()), '\0'));
}

absl::Status GgufOutput::Check(const std::string& path) const {
  KVASIR_ASSIGN_OR_RETURN(const ModelPackage read, ModelPackage::Open(path));
  KVASIR_RETURN_IF_ERROR(CheckSameModel(weights_.target().spec, read.spec));
  return CheckSameTokens(weights_.source().folder, path);
}

}  // namespace kvasir
