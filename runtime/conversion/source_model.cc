#include "runtime/conversion/source_model.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/mmap_file.h"
#include "base/status_macros.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/embedding.h"
#include "runtime/model/hf_config.h"
#include "runtime/model/json_fields.h"
#include "runtime/model/loading/tensor_inventory.h"
#include "runtime/model/quantized/quantization_config.h"

namespace kvasir {
namespace {

namespace fs = std::filesystem;

absl::Status CheckFolder(const std::string& folder) {
  std::error_code error;
  const fs::file_status status = fs::status(folder, error);
  if (!fs::exists(status)) {
    return absl::NotFoundError(absl::StrCat("there is no model at ", folder));
  }
  if (fs::is_directory(status)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(folder,
                   " is no folder; conversions start from a Hugging Face folder (config.json, "
                   "*.safetensors, tokenizer.json)"));
}

absl::StatusOr<std::string> ReadText(const std::string& path) {
  KVASIR_ASSIGN_OR_RETURN(const MmapFile file, MmapFile::Open(path));
  return std::string(file.bytes().begin(), file.bytes().end());
}

absl::Status CheckConvertible(const SourceModel& source, const std::string& config_path) {
  // Wherever it stands, and whether it could be served or not.
  const absl::StatusOr<QuantizationConfig> quantization = LoadQuantizationConfig(source.folder);
  if (!quantization.ok() || quantization->method != QuantizationConfig::Method::kNone) {
    return absl::UnimplementedError(
        absl::StrCat(config_path,
                     ": quantization_config is set; conversions start from weights in "
                     "bf16, f16 or f32: use the unquantised checkpoint"));
  }
  KVASIR_ASSIGN_OR_RETURN(const Architecture architecture,
                          FindArchitecture(config_path, source.spec.architecture, ""));
  if (!architecture.inside_another) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat(config_path, ": ", source.spec.architecture,
                   " holds a language model beside other media, whose tensors a conversion would "
                   "drop; use the checkpoint of the language model alone"));
}

}  // namespace

absl::StatusOr<SourceModel> SourceModel::Open(const std::string& folder) {
  KVASIR_RETURN_IF_ERROR(CheckFolder(folder));
  SourceModel source;
  source.folder = folder;
  const std::string config_path = absl::StrCat(folder, "/config.json");
  KVASIR_ASSIGN_OR_RETURN(const std::string config, ReadText(config_path));
  // Bounds and form first; then once more for the order of the keys.
  KVASIR_RETURN_IF_ERROR(ParseJsonObject(config, config_path, kMaxConfigBytes).status());
  source.config = nlohmann::ordered_json::parse(config, nullptr, /*allow_exceptions=*/false);
  const std::string generation_path = absl::StrCat(folder, "/generation_config.json");
  std::error_code ignored;
  if (fs::exists(generation_path, ignored)) {
    KVASIR_ASSIGN_OR_RETURN(source.generation_config, ReadText(generation_path));
  }
  KVASIR_ASSIGN_OR_RETURN(source.spec, ParseHfConfig(config, source.generation_config));
  KVASIR_RETURN_IF_ERROR(CheckConvertible(source, config_path));
  KVASIR_ASSIGN_OR_RETURN(source.checkpoint, Checkpoint::Open(folder));
  const auto has = [&](const std::string& name) { return source.Has(name); };
  KVASIR_ASSIGN_OR_RETURN(source.map, MapTensors(source.spec, has));
  AdoptBiases(*source.checkpoint, *source.map, &source.spec);
  KVASIR_ASSIGN_OR_RETURN(source.map, MapTensors(source.spec, has));
  KVASIR_RETURN_IF_ERROR(CheckTensors(*source.checkpoint, *source.map, source.spec));
  return source;
}

int64_t SourceModel::weight_bytes() const {
  int64_t bytes = 0;
  for (const auto& [name, shape] : map->StoredShapes()) {
    const SafetensorsEntry& entry = checkpoint->tensors().find(name)->second.entry;
    bytes += static_cast<int64_t>(entry.end - entry.begin);
  }
  return bytes;
}

WeightFormat SourceModel::TypeOf(const std::string& tensor) const {
  const auto it = checkpoint->tensors().find(tensor);
  KVASIR_CHECK(it != checkpoint->tensors().end());
  return *it->second.entry.weight_type();
}

absl::StatusOr<std::vector<float>> SourceModel::Rows(const WeightId& id, int64_t begin,
                                                     int64_t end) const {
  const MappedWeight& weight = map->At(id);
  std::vector<float> values(static_cast<size_t>((end - begin) * weight.cols));
  float* to = values.data();
  int64_t part_begin = 0;
  for (const StoredPart& part : weight.parts) {
    const int64_t first = std::max(begin, part_begin) - part_begin;
    const int64_t last = std::min(end, part_begin + part.rows) - part_begin;
    part_begin += part.rows;
    if (first >= last) continue;
    StoredPart rows = part;
    rows.rows = last - first;
    if (part.row_order.empty()) {
      rows.offset += first * part.row_stride;
    } else {
      rows.row_order.assign(part.row_order.begin() + first, part.row_order.begin() + last);
    }
    KVASIR_ASSIGN_OR_RETURN(const PartValues got, checkpoint->Get(id, rows));
    const int64_t count = rows.rows * rows.cols;
    WidenToFloat(got.matrix.data, got.matrix.type, count, to);
    to += count;
    checkpoint->Release(rows);
  }
  return values;
}

}  // namespace kvasir
