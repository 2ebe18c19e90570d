#include "runtime/conversion/safetensors_output.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "base/bf16.h"
#include "base/status_macros.h"
#include "runtime/conversion/encode_rows.h"
#include "runtime/conversion/output_file.h"
#include "runtime/model/embedding.h"

namespace kvasir {
namespace {

using Json = nlohmann::ordered_json;

// Bytes copied, or values converted, between two looks at whether to stop.
constexpr int64_t kPieceBytes = int64_t{16} << 20;

const char* DtypeName(WeightFormat type) {
  return type == WeightFormat::kF32 ? "F32" : type == WeightFormat::kF16 ? "F16" : "BF16";
}

// The products of attention and feed-forward.
bool IsProduct(WeightRole role) {
  using enum WeightRole;
  switch (role) {
    case kQuery:
    case kKey:
    case kValue:
    case kOutput:
    case kGate:
    case kUp:
    case kDown:
    case kExpertGate:
    case kExpertUp:
    case kExpertDown:
    case kSharedGate:
    case kSharedUp:
    case kSharedDown:
      return true;
    default:
      return false;
  }
}

bool IsTable(WeightRole role) {
  return role == WeightRole::kEmbedding || role == WeightRole::kPositions ||
         role == WeightRole::kPerLayerTable;
}

// Whether a weight is a stored matrix of its own, its rows in whatever order.
bool IsWholeMatrix(const MappedWeight& weight) {
  if (weight.parts.size() != 1 || weight.cols == 1) return false;
  StoredPart part = weight.parts[0];
  part.row_order.clear();
  return part.contiguous() && part.offset == 0 && part.shape.size() == 2 &&
         part.shape[0] == part.rows;
}

std::string ModuleOf(const std::string& tensor) {
  return std::string(absl::StripSuffix(tensor, ".weight"));
}

// A whole stored tensor as one part.
StoredPart WholeTensor(const std::string& name, const std::vector<int64_t>& shape) {
  StoredPart part;
  part.name = name;
  part.shape = shape;
  part.rows = 1;
  for (const int64_t dimension : shape) part.rows *= dimension;
  return part;
}

// Numbers its bytes as they pass.
class Sink {
 public:
  Sink(OutputFile* file, const WrittenBytes& written) : file_(*file), written_(written) {}

  absl::Status Write(absl::Span<const uint8_t> bytes) {
    while (!bytes.empty()) {
      const auto piece = bytes.subspan(0, kPieceBytes);
      KVASIR_RETURN_IF_ERROR(file_.Write(piece));
      bytes.remove_prefix(piece.size());
      if (written_ && !written_(static_cast<int64_t>(piece.size()))) {
        return absl::CancelledError("the conversion was stopped; nothing was kept");
      }
    }
    return absl::OkStatus();
  }

  absl::Status Write(WeightFormat type, absl::Span<const float> values) {
    return Write(EncodeRows(type, values, 1));
  }

 private:
  OutputFile& file_;
  const WrittenBytes& written_;
};

absl::Status CopyTensor(const SourceModel& source, const std::string& name,
                        const std::vector<int64_t>& shape, WeightFormat type, Sink* sink) {
  const StoredPart whole = WholeTensor(name, shape);
  const WeightFormat stored = source.TypeOf(name);
  const int64_t step = kPieceBytes / 4;
  for (int64_t begin = 0; begin < whole.rows; begin += step) {
    StoredPart piece = whole;
    piece.offset = begin;
    piece.rows = std::min(step, whole.rows - begin);
    KVASIR_ASSIGN_OR_RETURN(const PartValues got, source.checkpoint->Get({}, piece));
    if (stored == type) {
      KVASIR_RETURN_IF_ERROR(
          sink->Write(absl::MakeConstSpan(static_cast<const uint8_t*>(got.matrix.data),
                                          static_cast<size_t>(piece.rows) * ElementBytes(type))));
    } else {
      std::vector<float> values(static_cast<size_t>(piece.rows));
      WidenToFloat(got.matrix.data, stored, piece.rows, values.data());
      KVASIR_RETURN_IF_ERROR(sink->Write(type, values));
    }
    source.checkpoint->Release(piece);
  }
  return absl::OkStatus();
}

// Codes, scales and, of four bits, the shape.
absl::Status WriteIntegers(const ConvertedWeights& weights, const WeightId& id,
                           const IntegerFormat& format, Sink* sink) {
  const StoredPart& part = weights.target().map->At(id).parts[0];
  std::vector<float> all;  // where rows change places
  std::vector<uint16_t> scales;
  const auto write = [&](absl::Span<const float> values) -> absl::Status {
    const IntegerRows rows = ToIntegers(format, values, part.cols);
    scales.insert(scales.end(), rows.scales.begin(), rows.scales.end());
    return sink->Write(rows.codes);
  };
  KVASIR_RETURN_IF_ERROR(weights.Stream(id, [&](absl::Span<const float> values) -> absl::Status {
    if (part.row_order.empty()) return write(values);
    all.insert(all.end(), values.begin(), values.end());
    return absl::OkStatus();
  }));
  if (!all.empty()) KVASIR_RETURN_IF_ERROR(write(InStoredOrder(part, all)));
  KVASIR_RETURN_IF_ERROR(sink->Write(absl::MakeConstSpan(
      reinterpret_cast<const uint8_t*>(scales.data()), scales.size() * sizeof(uint16_t))));
  if (format.bits == 8) return absl::OkStatus();
  const int64_t shape[] = {part.rows, part.cols};
  return sink->Write(absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(shape), sizeof(shape)));
}

}  // namespace

absl::StatusOr<IntegerFormat> ChooseIntegers(const TargetModel& target, int bits) {
  IntegerFormat format{.bits = bits, .group = bits == 8 ? 0 : 128};
  for (const auto& [id, weight] : target.map->weights()) {
    if (id.bias || !IsProduct(id.role)) continue;
    if (!IsWholeMatrix(weight)) {
      return absl::UnimplementedError(
          absl::StrCat("int", bits, " weights of ", target.spec.architecture, ": tensor ",
                       weight.parts[0].name, " is no matrix of its own; take bf16"));
    }
    while (format.group > 32 && weight.cols % format.group != 0) format.group /= 2;
    if (format.group > 0 && weight.cols % format.group != 0) {
      return absl::UnimplementedError(
          absl::StrCat("int4 weights: the rows of ", weight.parts[0].name, " have ", weight.cols,
                       " values, no multiple of 32; take int8 or bf16"));
    }
  }
  return format;
}

SafetensorsOutput::SafetensorsOutput(const ConvertedWeights* weights, const FolderTypes& types,
                                     int64_t shard_bytes)
    : weights_(*weights), types_(types) {
  const TensorMap& map = *weights_.target().map;
  std::map<std::string, WeightId> merged, products;
  for (const auto& [id, weight] : map.weights()) {
    const std::string& name = weight.parts[0].name;
    if (weights_.IsMerged(id)) merged.emplace(name, id);
    if (!types_.integers || id.bias || weight.cols == 1) continue;
    if (IsProduct(id.role)) {
      products.emplace(name, id);
    } else if (!IsTable(id.role)) {
      left_out_.push_back(ModuleOf(name));
    }
  }
  if (weights_.target().spec.head.tied) left_out_.push_back("lm_head");
  int64_t shard_size = 0;
  for (const auto& [name, shape] : map.StoredShapes()) {
    const bool is_merged = merged.count(name) > 0;
    std::optional<WeightId> id;
    if (is_merged) id = merged.at(name);
    if (products.count(name) > 0) id = products.at(name);
    Weight weight = Describe(name, shape, id, is_merged);
    int64_t bytes = 0;
    for (const Tensor& tensor : weight.tensors) bytes += tensor.bytes;
    if (shards_.empty() || shard_size + bytes > shard_bytes) {
      shards_.emplace_back();
      shard_size = 0;
    }
    shard_size += bytes;
    tensor_bytes_ += bytes;
    shards_.back().push_back(std::move(weight));
  }
}

SafetensorsOutput::Weight SafetensorsOutput::Describe(const std::string& name,
                                                      const std::vector<int64_t>& shape,
                                                      const std::optional<WeightId>& id,
                                                      bool merged) const {
  Weight weight;
  weight.integers = types_.integers && id && !id->bias && IsProduct(id->role);
  if (weight.integers || merged) weight.computed = id;
  if (!weight.integers) {
    weight.type = types_.plain.value_or(weights_.source().TypeOf(name));
    const int64_t values = WholeTensor(name, shape).rows;
    weight.tensors = {{name, DtypeName(weight.type), shape,
                       values * static_cast<int64_t>(ElementBytes(weight.type))}};
    return weight;
  }
  const IntegerFormat& format = *types_.integers;
  const int64_t rows = shape[0], cols = shape[1], scales = format.scales(cols);
  const int64_t code_bytes = rows * format.code_bytes(cols);
  const Tensor scale = {
      name + "_scale", "BF16", {rows, scales}, rows * scales * static_cast<int64_t>(sizeof(bf16))};
  if (format.bits == 8) {
    weight.tensors = {{name, "I8", shape, code_bytes}, scale};
  } else {
    weight.tensors = {{name + "_packed", "I32", {rows, cols / 8}, code_bytes},
                      scale,
                      {name + "_shape", "I64", {2}, 2 * static_cast<int64_t>(sizeof(int64_t))}};
  }
  return weight;
}

size_t SafetensorsOutput::num_tensors() const {
  size_t count = 0;
  for (const Shard& shard : shards_) {
    for (const Weight& weight : shard) count += weight.tensors.size();
  }
  return count;
}

std::string SafetensorsOutput::FileName(size_t shard) const {
  if (shards_.size() == 1) return "model.safetensors";
  return absl::StrFormat("model-%05d-of-%05d.safetensors", shard + 1, shards_.size());
}

absl::Status SafetensorsOutput::Write(const std::string& folder,
                                      const WrittenBytes& written) const {
  Json index = {{"metadata", {{"total_size", tensor_bytes_}}}, {"weight_map", Json::object()}};
  for (size_t i = 0; i < shards_.size(); ++i) {
    KVASIR_RETURN_IF_ERROR(WriteShard(absl::StrCat(folder, "/", FileName(i)), shards_[i], written));
    for (const Weight& weight : shards_[i]) {
      for (const Tensor& tensor : weight.tensors) index["weight_map"][tensor.name] = FileName(i);
    }
  }
  if (shards_.size() == 1) return absl::OkStatus();
  return WriteFile(absl::StrCat(folder, "/model.safetensors.index.json"), index.dump(2) + "\n");
}

absl::Status SafetensorsOutput::WriteShard(const std::string& path, const Shard& shard,
                                           const WrittenBytes& written) const {
  Json header = {{"__metadata__", {{"format", "pt"}}}};
  int64_t end = 0;
  for (const Weight& weight : shard) {
    for (const Tensor& tensor : weight.tensors) {
      header[tensor.name] = {{"dtype", tensor.dtype},
                             {"shape", tensor.shape},
                             {"data_offsets", {end, end + tensor.bytes}}};
      end += tensor.bytes;
    }
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data is aligned
  std::string length;
  for (int i = 0; i < 8; ++i) length.push_back(static_cast<char>(text.size() >> (8 * i)));

  KVASIR_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(path));
  KVASIR_RETURN_IF_ERROR(file.Write(length + text));
  Sink sink(&file, written);
  for (const Weight& weight : shard) {
    const Tensor& first = weight.tensors.front();
    if (weight.integers) {
      KVASIR_RETURN_IF_ERROR(WriteIntegers(weights_, *weight.computed, *types_.integers, &sink));
    } else if (weight.computed) {
      const StoredPart& part = weights_.target().map->At(*weight.computed).parts[0];
      KVASIR_RETURN_IF_ERROR(weights_.Stream(*weight.computed, [&](absl::Span<const float> values) {
        return sink.Write(weight.type, InStoredOrder(part, values));
      }));
    } else {
      KVASIR_RETURN_IF_ERROR(
          CopyTensor(weights_.source(), first.name, first.shape, weight.type, &sink));
    }
  }
  return file.Finish();
}

}  // namespace kvasir
