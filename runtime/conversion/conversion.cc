#include "runtime/conversion/conversion.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/mapped_pages.h"
#include "base/status_macros.h"
#include "runtime/conversion/converted_weights.h"
#include "runtime/conversion/gguf_output.h"
#include "runtime/conversion/output_file.h"
#include "runtime/conversion/side_files.h"
#include "runtime/conversion/source_model.h"
#include "runtime/conversion/staged_output.h"
#include "runtime/model/loading/model_package.h"

namespace kvasir {
namespace {

bool IsGguf(const ConversionRequest& request) { return absl::EndsWith(request.output, ".gguf"); }

absl::Status CheckRequest(const ConversionRequest& request) {
  if (request.sharing.empty() && !request.weights && !request.integer_bits && !IsGguf(request)) {
    return absl::InvalidArgumentError(
        "nothing to convert: ask for kv_heads, cla, mlkv, weights, or an output NAME.gguf");
  }
  if (request.sharing.empty() && request.sharing.layers) {
    return absl::InvalidArgumentError("a way to merge layers needs cla or mlkv");
  }
  if (request.shard_bytes < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("shard_bytes is ", request.shard_bytes, ", but must be at least 1"));
  }
  if (request.shard_bytes != ConversionRequest().shard_bytes && IsGguf(request)) {
    return absl::InvalidArgumentError(
        absl::StrCat("shard_bytes is ", request.shard_bytes,
                     ", but a GGUF file is written as one; leave it out"));
  }
  if (request.weights && Info(*request.weights).is_block() && !IsGguf(request)) {
    return absl::InvalidArgumentError(
        absl::StrCat("weights of type ", Info(*request.weights).name,
                     " exist in GGUF files only; name the output NAME.gguf, not ", request.output));
  }
  if (request.integer_bits && IsGguf(request)) {
    return absl::InvalidArgumentError(
        absl::StrCat("weights of type int", *request.integer_bits,
                     " are written into folders; in a GGUF file take q8_0, q4_0 or q4_k"));
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelFigures> FiguresOf(const ModelSpec& spec, int64_t weight_bytes) {
  ModelFigures figures;
  figures.architecture = spec.architecture;
  figures.sharing = spec.SharingName();
  for (int layer = 0; layer < spec.num_layers(); ++layer) {
    const AttentionSpec* const attention = spec.layers[layer].attention();
    if (attention == nullptr || !spec.stores(layer)) continue;
    if (figures.kv_layers++ == 0) figures.kv_heads = attention->kv_heads;
  }
  figures.parameters = spec.num_parameters();
  figures.weight_bytes = weight_bytes;
  KVASIR_ASSIGN_OR_RETURN(const KvLayout layout,
                          spec.MakeKvLayout(KvElementType::kBf16, KvLayoutSpec().block_tokens));
  figures.kv_bytes_per_token_resident = static_cast<int64_t>(layout.resident_bytes_per_token());
  figures.kv_bytes_per_token_read = static_cast<int64_t>(layout.read_bytes_per_token());
  return figures;
}

// Both names of the key: "dtype" since transformers 5, which reads the older one too.
void SetType(WeightFormat type, nlohmann::ordered_json* config) {
  const char* const name = type == WeightFormat::kF32   ? "float32"
                           : type == WeightFormat::kF16 ? "float16"
                                                        : "bfloat16";
  if (config->contains("dtype")) (*config)["dtype"] = name;
  if (config->contains("torch_dtype") || !config->contains("dtype")) {
    (*config)["torch_dtype"] = name;
  }
}

absl::Status CheckSource(const ReadsCheck& reads, const ConversionRequest& request) {
  return reads.Status(absl::StrCat("a file in ", request.source),
                      "; convert it again when it is whole");
}

absl::StatusOr<ConversionReport> ConvertToFolder(const ConversionRequest& request,
                                                 const SourceModel& source, TargetModel target,
                                                 const ConversionProgress& progress) {
  const ReadsCheck reads;
  const ConvertedWeights weights(&source, &target, request.sharing);
  FolderTypes types;
  types.plain = request.weights;
  if (request.integer_bits) {
    KVASIR_ASSIGN_OR_RETURN(types.integers, ChooseIntegers(target, *request.integer_bits));
  }
  const SafetensorsOutput tensors(&weights, types, request.shard_bytes);
  if (request.weights) SetType(*request.weights, &target.config);
  if (types.integers) {
    target.config["quantization_config"] =
        QuantizationConfigOf(*types.integers, tensors.left_out());
  }
  KVASIR_ASSIGN_OR_RETURN(const std::vector<SideFile> side_files, ListSideFiles(request.source));
  int64_t needed_bytes = tensors.tensor_bytes() + (int64_t{1} << 20);  // headers and config.json
  for (const SideFile& file : side_files) needed_bytes += file.bytes;

  KVASIR_ASSIGN_OR_RETURN(StagedOutput output,
                          StagedOutput::Begin(request.output, StagedOutput::Kind::kFolder,
                                              request.force, request.source, needed_bytes));
  KVASIR_RETURN_IF_ERROR(CopySideFiles(request.source, side_files, output.folder()));
  KVASIR_RETURN_IF_ERROR(WriteFile(output.folder() + "/config.json", target.config.dump(2) + "\n"));
  int64_t done = 0;
  KVASIR_RETURN_IF_ERROR(tensors.Write(output.folder(), [&](int64_t bytes) {
    done += bytes;
    return !progress || progress(done, tensors.tensor_bytes());
  }));
  KVASIR_RETURN_IF_ERROR(CheckSource(reads, request));
  // What a loader will ask of it.
  KVASIR_RETURN_IF_ERROR(ModelPackage::Open(output.folder()).status());
  ConversionReport report;
  KVASIR_ASSIGN_OR_RETURN(report.source, FiguresOf(source.spec, source.weight_bytes()));
  KVASIR_ASSIGN_OR_RETURN(report.result, FiguresOf(target.spec, tensors.tensor_bytes()));
  report.tensors = static_cast<int64_t>(tensors.num_tensors());
  report.files = static_cast<int64_t>(tensors.num_files());
  KVASIR_RETURN_IF_ERROR(output.Commit());
  return report;
}

absl::StatusOr<ConversionReport> ConvertToGguf(const ConversionRequest& request,
                                               const SourceModel& source, const TargetModel& target,
                                               const ConversionProgress& progress) {
  const ReadsCheck reads;
  const ConvertedWeights weights(&source, &target, request.sharing);
  KVASIR_ASSIGN_OR_RETURN(const GgufOutput gguf, GgufOutput::Plan(&weights, request.weights));
  KVASIR_ASSIGN_OR_RETURN(StagedOutput output,
                          StagedOutput::Begin(request.output, StagedOutput::Kind::kFile,
                                              request.force, request.source, gguf.file_bytes()));
  int64_t done = 0;
  KVASIR_RETURN_IF_ERROR(gguf.Write(output.file(), [&](int64_t bytes) {
    done += bytes;
    return !progress || progress(done, gguf.tensor_bytes());
  }));
  KVASIR_RETURN_IF_ERROR(CheckSource(reads, request));
  ConversionReport report;
  KVASIR_ASSIGN_OR_RETURN(report.source, FiguresOf(source.spec, source.weight_bytes()));
  KVASIR_ASSIGN_OR_RETURN(report.result, FiguresOf(target.spec, gguf.tensor_bytes()));
  report.tensors = static_cast<int64_t>(gguf.num_tensors());
  report.files = 1;
  KVASIR_RETURN_IF_ERROR(output.Commit());
  return report;
}

}  // namespace

absl::StatusOr<ConversionReport> Convert(const ConversionRequest& request,
                                         const ConversionProgress& progress) {
  KVASIR_RETURN_IF_ERROR(CheckRequest(request));
  KVASIR_ASSIGN_OR_RETURN(const SourceModel source, SourceModel::Open(request.source));
  KVASIR_ASSIGN_OR_RETURN(TargetModel target, PlanTarget(source, request.sharing));
  if (IsGguf(request)) return ConvertToGguf(request, source, target, progress);
  return ConvertToFolder(request, source, std::move(target), progress);
}

}  // namespace kvasir
