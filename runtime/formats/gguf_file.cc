#include "runtime/formats/gguf_file.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

constexpr absl::string_view kSuffix = ".gguf";
constexpr int kMaxParts = 1024;  // a terabyte in pieces of a gigabyte

// NAME-00002-of-00003.gguf.
struct PartName {
  std::string stem;  // with its folder, without the number
  int part = 0;      // from 1
  int parts = 0;
};

std::optional<PartName> ParsePartName(absl::string_view path) {
  constexpr size_t kTail = 15;  // "-00002-of-00003"
  if (!absl::EndsWith(path, kSuffix)) return std::nullopt;
  path.remove_suffix(kSuffix.size());
  if (path.size() < kTail) return std::nullopt;
  const absl::string_view tail = path.substr(path.size() - kTail);
  PartName name;
  if (tail[0] != '-' || tail.substr(6, 4) != "-of-" ||
      !absl::SimpleAtoi(tail.substr(1, 5), &name.part) ||
      !absl::SimpleAtoi(tail.substr(10, 5), &name.parts) || name.part < 1 ||
      name.part > name.parts || name.parts > kMaxParts) {
    return std::nullopt;
  }
  name.stem = std::string(path.substr(0, path.size() - kTail));
  return name;
}

}  // namespace

std::vector<std::string> GgufParts(const std::string& path) {
  const std::optional<PartName> name = ParsePartName(path);
  if (!name) return {path};
  std::vector<std::string> parts;
  for (int part = 1; part <= name->parts; ++part) {
    parts.push_back(absl::StrFormat("%s-%05d-of-%05d.gguf", name->stem, part, name->parts));
  }
  return parts;
}

absl::StatusOr<GgufFile> GgufFile::Open(const std::string& path) {
  GgufFile file;
  const std::vector<std::string> parts = GgufParts(path);
  for (size_t part = 0; part < parts.size(); ++part) {
    std::error_code ignored;
    if (parts[part] != path && !std::filesystem::exists(parts[part], ignored)) {
      return absl::NotFoundError(absl::StrCat("part ", part + 1, " of ", parts.size(),
                                              " is missing: ", parts[part],
                                              "; put all parts into one folder"));
    }
    KVASIR_RETURN_IF_ERROR(file.AddPart(parts[part]));
    if (part == 0) KVASIR_RETURN_IF_ERROR(file.CheckPurpose());
  }
  KVASIR_RETURN_IF_ERROR(file.CheckParts(parts.size()));
  KVASIR_ASSIGN_OR_RETURN(const std::optional<absl::string_view> architecture,
                          file.metadata().String("general.architecture"));
  if (!architecture || architecture->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " does not say its general.architecture; convert the original again"));
  }
  file.architecture_ = std::string(*architecture);
  return file;
}

absl::Status GgufFile::AddPart(const std::string& path) {
  KVASIR_ASSIGN_OR_RETURN(MmapFile mapped, MmapFile::Open(path));
  files_.push_back(std::move(mapped));
  KVASIR_ASSIGN_OR_RETURN(GgufHeader header, ParseGgufHeader(files_.back().bytes(), path));
  const int part = static_cast<int>(headers_.size());
  for (const GgufTensor& tensor : header.tensors) {
    if (!tensors_.emplace(tensor.name, Tensor{tensor, part}).second) {
      return absl::AlreadyExistsError(absl::StrCat(path, ": tensor ", QuoteForeign(tensor.name),
                                                   " stands in an earlier part too"));
    }
  }
  headers_.push_back(std::move(header));
  return absl::OkStatus();
}

absl::Status GgufFile::CheckPurpose() const {
  const std::string& path = files_.front().path();
  KVASIR_ASSIGN_OR_RETURN(const std::optional<absl::string_view> type,
                          metadata().String("general.type"));
  KVASIR_ASSIGN_OR_RETURN(const std::optional<absl::string_view> architecture,
                          metadata().String("general.architecture"));
  if (type == "adapter") {
    return absl::UnimplementedError(absl::StrCat(
        path, " is a LoRA adapter, not a model; merge it into its model and convert that"));
  }
  if (type == "mmproj" || architecture == "clip") {
    return absl::UnimplementedError(
        absl::StrCat(path,
                     " is the image or sound projector of a model, not the model; give the "
                     "other file"));
  }
  if (type == "imatrix" || architecture == "imatrix") {
    return absl::UnimplementedError(
        absl::StrCat(path, " is an importance matrix for quantising, not a model"));
  }
  if (type && type != "model") {
    return absl::UnimplementedError(
        absl::StrCat(path, " has general.type ", QuoteForeign(*type), "; only models are served"));
  }
  return absl::OkStatus();
}

absl::Status GgufFile::CheckParts(size_t wanted_parts) const {
  for (size_t part = 0; part < headers_.size(); ++part) {
    const std::string& path = files_[part].path();
    const GgufMetadata& keys = headers_[part].metadata;
    KVASIR_ASSIGN_OR_RETURN(const std::optional<int64_t> count,
                            keys.Integer("split.count", 0, kMaxParts));
    KVASIR_ASSIGN_OR_RETURN(const std::optional<int64_t> number,
                            keys.Integer("split.no", 0, kMaxParts));
    const auto stated = static_cast<size_t>(std::max<int64_t>(count.value_or(1), 1));
    if (stated != wanted_parts) {
      return absl::InvalidArgumentError(absl::StrCat(path, " says it is one of ", stated,
                                                     " parts, but its name says ", wanted_parts,
                                                     "; keep the names NAME-00001-of-0000N.gguf"));
    }
    if (static_cast<size_t>(number.value_or(0)) != part) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " says it is part ", *number + 1, ", but its name says ", part + 1));
    }
  }
  KVASIR_ASSIGN_OR_RETURN(const std::optional<int64_t> tensors,
                          metadata().Integer("split.tensors.count", 0, INT32_MAX));
  if (tensors && static_cast<size_t>(*tensors) != tensors_.size()) {
    return absl::InvalidArgumentError(absl::StrCat(files_.front().path(),
                                                   " says that all parts "
                                                   "hold ",
                                                   *tensors, " tensors; they hold ",
                                                   tensors_.size()));
  }
  return absl::OkStatus();
}

const GgufFile::Tensor* GgufFile::Find(absl::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

absl::Span<const uint8_t> GgufFile::Bytes(const Tensor& tensor) const {
  return files_[tensor.part].bytes().subspan(tensor.info.begin, tensor.info.bytes);
}

void GgufFile::Release(const Tensor& tensor) const {
  files_[tensor.part].Release(tensor.info.begin, tensor.info.bytes);
}

size_t GgufFile::file_bytes() const {
  size_t bytes = 0;
  for (const MmapFile& file : files_) bytes += file.bytes().size();
  return bytes;
}

}  // namespace kvasir
