#include "runtime/conversion/gguf_output.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "runtime/conversion/encode_rows.h"
#include "runtime/conversion/gguf_metadata.h"
#include "runtime/conversion/gguf_vocabulary.h"
#include "runtime/conversion/output_file.h"
#include "runtime/formats/gguf_file.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/gguf/gguf_config.h"
#include "runtime/model/gguf/gguf_names.h"
#include "runtime/model/gguf/gguf_tensors.h"
#include "runtime/model/hf_config.h"
#include "runtime/model/loading/tensor_inventory.h"

namespace kvasir {
namespace {

constexpr char kRopeDivisors[] = "rope_freqs.weight";

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

// See the head of gguf_output.h.
WeightFormat FormatOf(const WeightId& id, int64_t cols, WeightFormat format) {
  if (cols == 1) return WeightFormat::kF32;
  if (!Info(format).is_block()) return format;
  const bool table = id.role == WeightRole::kEmbedding || id.role == WeightRole::kHead;
  if (table) format = WeightFormat::kQ8_0;
  if (cols % Info(format).block_elements != 0) format = WeightFormat::kQ8_0;
  return cols % Info(format).block_elements == 0 ? format : WeightFormat::kBf16;
}

}  // namespace

absl::StatusOr<GgufOutput> GgufOutput::Plan(const ConvertedWeights* weights,
                                            std::optional<WeightFormat> format) {
  GgufOutput output(weights);
  const ModelSpec& spec = weights->target().spec;
  KVASIR_ASSIGN_OR_RETURN(const std::string architecture, GgufArchitectureOf(spec));
  KVASIR_ASSIGN_OR_RETURN(const Architecture entry, FindGgufArchitecture(architecture));
  KVASIR_ASSIGN_OR_RETURN(const TensorMap map,
                          TensorMap::Create(GgufNames(entry.gguf), spec, nullptr));
  GgufHeaderWriter header;
  AddGgufMetadata(spec, architecture, &header);
  header.AddString("general.name",
                   std::filesystem::weakly_canonical(weights->source().folder).filename().string());
  const SourceModel& source = weights->source();
  const auto stored = [&](const WeightId& id) { return source.TypeOf(source.map->NameOf(id)); };
  header.AddU32("general.file_type",
                FileType(format.value_or(stored({WeightRole::kEmbedding, -1}))));
  KVASIR_RETURN_IF_ERROR(AddGgufVocabulary(source.folder, spec, &header));

  output.rope_divisors_ = GgufRopeDivisors(spec);
  if (!output.rope_divisors_.empty()) {
    const auto count = static_cast<int64_t>(output.rope_divisors_.size());
    header.AddTensor(kRopeDivisors, {count}, TensorType::kF32, count * 4);
    output.tensor_bytes_ += count * 4;
  }
  for (const WeightShape& weight : WeightShapes(spec)) {
    const MappedWeight& mapped = map.At(weight.id);
    KVASIR_CHECK(mapped.parts.size() == 1);
    Tensor tensor;
    tensor.id = weight.id;
    tensor.part = mapped.parts[0];
    tensor.format = FormatOf(weight.id, weight.cols, format.value_or(stored(weight.id)));
    tensor.bytes = weight.rows * RowBytes(tensor.format, weight.cols);
    header.AddTensor(tensor.part.name, tensor.part.shape, TypeOf(tensor.format), tensor.bytes);
    output.tensor_bytes_ += tensor.bytes;
    output.tensors_.push_back(std::move(tensor));
  }
  output.header_ = header.Header();
  output.data_bytes_ = header.data_bytes();
  return output;
}

absl::Status GgufOutput::Write(const std::string& path, const WrittenBytes& written) const {
  KVASIR_RETURN_IF_ERROR(WriteTensors(path, written));
  return Check(path);
}

absl::Status GgufOutput::WriteTensors(const std::string& path, const WrittenBytes& written) const {
  KVASIR_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(path));
  KVASIR_RETURN_IF_ERROR(file.Write(header_));
  const auto pad = [&](int64_t bytes) {
    return file.Write(std::string(static_cast<size_t>(GgufPadded(bytes) - bytes), '\0'));
  };
  const auto write = [&](absl::Span<const uint8_t> bytes) -> absl::Status {
    KVASIR_RETURN_IF_ERROR(file.Write(bytes));
    if (!written || written(static_cast<int64_t>(bytes.size()))) return absl::OkStatus();
    return absl::CancelledError("the conversion was stopped; nothing was kept");
  };
  if (!rope_divisors_.empty()) {
    const size_t bytes = rope_divisors_.size() * sizeof(float);
    KVASIR_RETURN_IF_ERROR(
        write(absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(rope_divisors_.data()), bytes)));
    KVASIR_RETURN_IF_ERROR(pad(static_cast<int64_t>(bytes)));
  }
  for (const Tensor& tensor : tensors_) {
    const int64_t cols = tensor.part.cols;
    std::vector<float> all;  // where rows change places
    KVASIR_RETURN_IF_ERROR(
        weights_.Stream(tensor.id, [&](absl::Span<const float> values) -> absl::Status {
          if (tensor.part.row_order.empty()) {
            return write(EncodeRows(tensor.format, values, cols));
          }
          all.insert(all.end(), values.begin(), values.end());
          return absl::OkStatus();
        }));
    if (!all.empty()) {
      KVASIR_RETURN_IF_ERROR(
          write(EncodeRows(tensor.format, InStoredOrder(tensor.part, all), cols)));
    }
    KVASIR_RETURN_IF_ERROR(pad(tensor.bytes));
  }
  return file.Finish();
}

absl::Status GgufOutput::Check(const std::string& path) const {
  KVASIR_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(path));
  KVASIR_ASSIGN_OR_RETURN(const GgufConfig config, ReadGgufConfig(file));
  KVASIR_ASSIGN_OR_RETURN(ModelSpec read,
                          ParseHfConfig(config.config.dump(), config.generation_config.dump()));
  KVASIR_RETURN_IF_ERROR(CheckSameModel(weights_.target().spec, read));
  const GgufTensors tensors(&file);
  KVASIR_ASSIGN_OR_RETURN(const Architecture entry, FindGgufArchitecture(file.architecture()));
  const TensorNames names = GgufNames(entry.gguf);
  const auto has = [&](const std::string& name) { return tensors.Has(name); };
  KVASIR_ASSIGN_OR_RETURN(TensorMap map, TensorMap::Create(names, read, has));
  AdoptBiases(tensors, map, &read);
  KVASIR_ASSIGN_OR_RETURN(map, TensorMap::Create(names, read, has));
  KVASIR_RETURN_IF_ERROR(CheckTensors(tensors, map, read));
  return CheckSameTokens(weights_.source().folder, path);
}

}  // namespace kvasir
