#include "runtime/model/quantized/quantized_tensors.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/parallel.h"
#include "base/status_macros.h"
#include "runtime/formats/dequantize.h"
#include "runtime/model/quantized/mxfp4_rows.h"
#include "runtime/model/quantized/nvfp4_rows.h"
#include "runtime/model/quantized/packed_int4_rows.h"
#include "runtime/model/quantized/scaled_bytes_rows.h"

namespace kvasir {
namespace {

using Method = QuantizationConfig::Method;

// Rows per task: readers of GPTQ and AWQ read columns of words, of which a cache line has 16.
constexpr int64_t kRowsPerTask = 64;

// Scales of activations and of the K/V cache: both are quantised here by what they hold.
constexpr const char* kCalibration[] = {
    ".input_scale", ".input_global_scale", ".output_scale", ".k_scale", ".v_scale",
    ".q_scale",     ".input_zero_point"};

bool IsCalibration(const std::string& name) {
  return std::any_of(std::begin(kCalibration), std::end(kCalibration),
                     [&](const char* suffix) { return absl::EndsWith(name, suffix); });
}

// Rows of the reader that the part consists of; nullopt when it is no whole rows.
std::optional<std::vector<int64_t>> RowsOf(const RowReader& reader, const StoredPart& part) {
  if (part.add != 0 || part.exponential || part.cols != reader.cols) return std::nullopt;
  const int64_t cols_apart = reader.transposed ? reader.rows : 1;
  if (part.cols != 1 && part.col_stride != cols_apart) return std::nullopt;
  const int64_t plane = reader.rows * reader.cols;
  const int64_t stacked = part.offset / plane * reader.rows;
  const int64_t within = part.offset % plane;
  std::vector<int64_t> rows(static_cast<size_t>(part.rows));
  for (int64_t r = 0; r < part.rows; ++r) {
    int64_t at = within + (part.row_order.empty() ? r : part.row_order[r]) * part.row_stride;
    if (!reader.transposed) {
      if (at % reader.cols != 0) return std::nullopt;
      at /= reader.cols;
    }
    if (at < 0 || at >= reader.rows) return std::nullopt;
    rows[r] = stacked + at;
  }
  return rows;
}

// Reads rows into `out`, each as the reader's format has it. InvalidArgument: NaN.
absl::Status ReadRows(const RowReader& reader, absl::Span<const int64_t> rows,
                      const std::string& name, uint8_t* out) {
  const int64_t row_bytes = RowBytes(reader.format, reader.cols);
  const auto count = static_cast<int64_t>(rows.size());
  std::atomic<int64_t> bad{-1};
  ParallelFor(static_cast<size_t>((count + kRowsPerTask - 1) / kRowsPerTask),
              [&](size_t task, int) {
                const int64_t begin = static_cast<int64_t>(task) * kRowsPerTask;
                const int64_t end = std::min(count, begin + kRowsPerTask);
                for (int64_t r = begin; r < end; ++r) {
                  if (!reader.Read(rows[r], out + r * row_bytes)) bad = rows[r];
                }
              });
  if (bad < 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("weight ", name, " has a number that is none (NaN) in row ",
                   bad.load() % reader.rows, "; the file is damaged"));
}

// All values in f32, where models think they are: for parts that are no rows.
absl::StatusOr<AlignedBuffer<float>> AllValues(const RowReader& reader, const std::string& name) {
  const int64_t row_bytes = RowBytes(reader.format, reader.cols);
  AlignedBuffer<float> values(static_cast<size_t>(reader.stack * reader.rows * reader.cols));
  std::vector<int64_t> rows(static_cast<size_t>(reader.rows));
  AlignedBuffer<uint8_t> stored(static_cast<size_t>(reader.rows * row_bytes));
  for (int64_t plane = 0; plane < reader.stack; ++plane) {
    for (int64_t r = 0; r < reader.rows; ++r) rows[r] = plane * reader.rows + r;
    KVASIR_RETURN_IF_ERROR(ReadRows(reader, rows, name, stored.data()));
    float* out = values.data() + plane * reader.rows * reader.cols;
    ParallelFor(static_cast<size_t>(reader.rows), [&](size_t index, int) {
      const auto r = static_cast<int64_t>(index);
      std::vector<float> row(static_cast<size_t>(reader.cols));
      Dequantize(reader.format, stored.data() + r * row_bytes, reader.cols, row.data());
      for (int64_t c = 0; c < reader.cols; ++c) {
        const int64_t input = reader.input_order.empty() ? c : reader.input_order[c];
        out[reader.transposed ? input * reader.rows + r : r * reader.cols + input] =
            row[c] * reader.factor;
      }
    });
  }
  return values;
}

}  // namespace

absl::StatusOr<std::unique_ptr<QuantizedTensors>> QuantizedTensors::Create(
    const QuantizationConfig& config, std::unique_ptr<Checkpoint> checkpoint) {
  std::unique_ptr<QuantizedTensors> tensors(new QuantizedTensors(std::move(checkpoint)));
  KVASIR_RETURN_IF_ERROR(tensors->AddModules(config));
  return tensors;
}

absl::Status QuantizedTensors::AddModules(const QuantizationConfig& config) {
  for (const auto& [name, tensor] : checkpoint_->tensors()) {
    const std::string& dtype = tensor.entry.dtype;
    absl::string_view base = name;
    bool is_module = false;
    switch (config.method) {
      case Method::kGptq:
      case Method::kAwq:
        is_module = absl::ConsumeSuffix(&base, ".qweight");
        break;
      case Method::kPackedInt4:
      case Method::kPackedMxfp4:
      case Method::kPackedNvfp4:
        is_module = absl::ConsumeSuffix(&base, ".weight_packed");
        break;
      case Method::kNvfp4:
        is_module = dtype == "U8" && absl::ConsumeSuffix(&base, ".weight");
        break;
      case Method::kScaledBytes:
        is_module = (dtype == "I8" || dtype == "F8_E4M3") && absl::ConsumeSuffix(&base, ".weight");
        break;
      case Method::kMxfp4:
        is_module = absl::ConsumeSuffix(&base, "_blocks");
        break;
      case Method::kNone:
        break;
    }
    if (is_module) KVASIR_RETURN_IF_ERROR(AddModule(config, name, std::string(base)));
  }
  if (modules_.empty()) {
    return absl::InvalidArgumentError(
        "config.json has a quantization_config, but no tensor of the checkpoint is stored as it "
        "says; remove the key if the weights are plain");
  }
  return absl::OkStatus();
}

absl::StatusOr<TensorBytes> QuantizedTensors::Bytes(const std::string& name,
                                                    const std::string& wanted_by) const {
  const auto it = checkpoint_->tensors().find(name);
  if (it == checkpoint_->tensors().end()) {
    return absl::NotFoundError(absl::StrCat("tensor ", name, ", which belongs to ", wanted_by,
                                            ", is missing from the checkpoint"));
  }
  return TensorBytes{name, it->second.entry.dtype, it->second.entry.shape,
                     checkpoint_->Bytes(it->second).data()};
}

absl::Status QuantizedTensors::AddModule(const QuantizationConfig& config,
                                         const std::string& tensor, const std::string& base) {
  Module module;
  const auto take = [&](const std::string& name) {
    module.tensors.push_back(name);
    return Bytes(name, tensor);
  };
  const auto has = [this](const std::string& name) { return checkpoint_->Has(name); };
  std::string shown = absl::StrCat(base, ".weight");
  if (config.method == Method::kMxfp4) {
    shown = base;
    KVASIR_ASSIGN_OR_RETURN(const TensorBytes blocks, take(tensor));
    KVASIR_ASSIGN_OR_RETURN(const TensorBytes scales, take(absl::StrCat(base, "_scales")));
    KVASIR_ASSIGN_OR_RETURN(module.reader, ReadMxfp4(blocks, scales));
  } else if (config.method == Method::kPackedMxfp4) {
    KVASIR_ASSIGN_OR_RETURN(const TensorBytes blocks, take(tensor));
    KVASIR_ASSIGN_OR_RETURN(const TensorBytes scales, take(absl::StrCat(base, ".weight_scale")));
    KVASIR_ASSIGN_OR_RETURN(module.reader, ReadPackedMxfp4(blocks, scales));
  } else if (config.method == Method::kPackedNvfp4 || config.method == Method::kNvfp4) {
    const bool divides = config.method == Method::kPackedNvfp4;
    KVASIR_ASSIGN_OR_RETURN(const TensorBytes codes, take(tensor));
    KVASIR_ASSIGN_OR_RETURN(const TensorBytes scales, take(absl::StrCat(base, ".weight_scale")));
    const char* const of_all = divides ? ".weight_global_scale" : ".weight_scale_2";
    KVASIR_ASSIGN_OR_RETURN(const TensorBytes whole, Bytes(absl::StrCat(base, of_all), tensor));
    consumed_.insert(whole.name);
    KVASIR_ASSIGN_OR_RETURN(module.reader, ReadNvfp4(codes, scales, whole, divides));
  } else if (config.method == Method::kScaledBytes) {
    KVASIR_ASSIGN_OR_RETURN(const TensorBytes numbers, take(tensor));
    const std::string inverse = absl::StrCat(base, ".weight_scale_inv");
    KVASIR_ASSIGN_OR_RETURN(const TensorBytes scales,
                            take(has(inverse) ? inverse : absl::StrCat(base, ".weight_scale")));
    KVASIR_ASSIGN_OR_RETURN(module.reader, ReadScaledBytes(config, numbers, scales));
  } else {
    const bool compressed = config.method == Method::kPackedInt4;
    PackedInt4Tensors parts;
    KVASIR_ASSIGN_OR_RETURN(parts.codes, take(tensor));
    KVASIR_ASSIGN_OR_RETURN(parts.scales,
                            take(absl::StrCat(base, compressed ? ".weight_scale" : ".scales")));
    const std::string zeros = absl::StrCat(base, compressed ? ".weight_zero_point" : ".qzeros");
    if (!compressed || has(zeros)) {
      KVASIR_ASSIGN_OR_RETURN(parts.zeros, take(zeros));
    }
    const std::string order = absl::StrCat(base, compressed ? ".weight_g_idx" : ".g_idx");
    if (has(order)) {
      KVASIR_ASSIGN_OR_RETURN(parts.group_of_input, take(order));
    }
    if (const std::string shape = absl::StrCat(base, ".weight_shape"); compressed && has(shape)) {
      KVASIR_ASSIGN_OR_RETURN(parts.shape, Bytes(shape, tensor));
      consumed_.insert(shape);
    }
    KVASIR_ASSIGN_OR_RETURN(module.reader, ReadPackedInt4(config, parts));
  }
  consumed_.insert(module.tensors.begin(), module.tensors.end());
  if (checkpoint_->Has(shown) && shown != tensor) {
    return absl::InvalidArgumentError(
        absl::StrCat("the checkpoint has both ", shown, " and ", tensor, "; one of them must go"));
  }
  modules_.emplace(shown, std::move(module));
  return absl::OkStatus();
}

bool QuantizedTensors::Has(const std::string& name) const {
  return modules_.count(name) > 0 || (consumed_.count(name) == 0 && checkpoint_->Has(name));
}

std::vector<std::string> QuantizedTensors::Names() const {
  std::vector<std::string> names;
  for (const auto& [name, module] : modules_) names.push_back(name);
  for (const std::string& name : checkpoint_->Names()) {
    if (consumed_.count(name) == 0 && !IsCalibration(name)) names.push_back(name);
  }
  return names;
}

absl::Status QuantizedTensors::Check(const std::string& name,
                                     absl::Span<const int64_t> shape) const {
  const auto it = modules_.find(name);
  if (it == modules_.end()) return checkpoint_->Check(name, shape);
  const RowReader& reader = *it->second.reader;
  if (absl::MakeConstSpan(reader.shape) == shape) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("tensor ", it->second.tensors.front(), " stands for a weight of shape [",
                   absl::StrJoin(reader.shape, ", "), "], but config.json asks for [",
                   absl::StrJoin(shape, ", "), "]"));
}

absl::StatusOr<PartValues> QuantizedTensors::Get(const WeightId& id, const StoredPart& part) {
  const auto it = modules_.find(part.name);
  if (it == modules_.end()) return checkpoint_->Get(id, part);
  KVASIR_RETURN_IF_ERROR(Check(part.name, part.shape));
  const RowReader& reader = *it->second.reader;
  PartValues values;
  if (const auto rows = RowsOf(reader, part)) {
    values.owned = AlignedBuffer<uint8_t>(rows->size() * RowBytes(reader.format, reader.cols));
    KVASIR_RETURN_IF_ERROR(ReadRows(reader, *rows, part.name, values.owned.data()));
    values.matrix = {values.owned.data(),
                     reader.format,
                     part.rows,
                     part.cols,
                     reader.input_order.empty() ? nullptr : reader.input_order.data(),
                     reader.factor};
    return values;
  }
  KVASIR_ASSIGN_OR_RETURN(const AlignedBuffer<float> floats, AllValues(reader, part.name));
  WeightFormat format = WeightFormat::kF32;
  values.owned = GatherPart(part, floats.data(), &format);
  values.matrix = {values.owned.data(), format, part.rows, part.cols};
  return values;
}

void QuantizedTensors::Release(const StoredPart& part) {
  const auto it = modules_.find(part.name);
  if (it == modules_.end()) return checkpoint_->Release(part);
  // Pages that another part still needs come back from the page cache.
  const RowReader& reader = *it->second.reader;
  const int64_t plane = part.offset / (reader.rows * reader.cols);
  for (const std::string& name : it->second.tensors) {
    checkpoint_->ReleaseSlice(name, plane, reader.stack);
  }
}

}  // namespace kvasir
