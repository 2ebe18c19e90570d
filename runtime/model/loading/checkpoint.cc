#include "runtime/model/loading/checkpoint.h"

#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "runtime/model/json_fields.h"

namespace kvasir {
namespace {

// The index of a model of 100 layers has about 100 KB.
constexpr size_t kMaxIndexBytes = size_t{16} << 20;
// Each shard is a mapping; real models have at most a few hundred.
constexpr size_t kMaxShards = 2048;

// A plain file name in the folder itself: an index from strangers must not reach other files.
bool IsPlainShardName(const std::string& name) {
  return absl::EndsWith(name, ".safetensors") &&
         name.find_first_of(std::string("/\\\0", 3)) == std::string::npos && name.front() != '.' &&
         name.size() <= 255;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& folder) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint);
  const std::string single = absl::StrCat(folder, "/model.safetensors");
  const std::string index = absl::StrCat(folder, "/model.safetensors.index.json");
  const absl::Status added = checkpoint->Add(single);
  if (added.ok()) return checkpoint;
  if (!absl::IsNotFound(added)) return added;
  if (absl::IsNotFound(MmapFile::Open(index).status())) {
    return absl::NotFoundError(absl::StrCat(
        folder,
        " has neither model.safetensors nor model.safetensors.index.json; other weight "
        "formats must be converted to safetensors first"));
  }
  KVASIR_RETURN_IF_ERROR(checkpoint->AddShards(folder, index));
  return checkpoint;
}

absl::Status Checkpoint::Add(const std::string& path) {
  KVASIR_ASSIGN_OR_RETURN(MmapFile file, MmapFile::Open(path));
  KVASIR_ASSIGN_OR_RETURN(SafetensorsHeader header, ParseSafetensorsHeader(file.bytes(), path));
  const int index = static_cast<int>(files_.size());
  files_.push_back(std::move(file));
  for (auto& [name, entry] : header) {
    const auto [it, inserted] = tensors_.try_emplace(name, Tensor{std::move(entry), index});
    if (!inserted) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor ", name, " stands in both ", files_[it->second.file].path(), " and ", path));
    }
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::AddShards(const std::string& folder, const std::string& index_path) {
  KVASIR_ASSIGN_OR_RETURN(const nlohmann::json index, ReadJsonObject(index_path, kMaxIndexBytes));
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object() || map->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(index_path, ": weight_map must be an object from tensor names to files"));
  }
  std::map<std::string, int> shards;  // file name -> index into files_
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string() || file.get_ref<const std::string&>().empty() ||
        !IsPlainShardName(file.get_ref<const std::string&>())) {
      return absl::InvalidArgumentError(
          absl::StrCat(index_path, ": tensor ", tensor,
                       " must name a *.safetensors file in the same folder, without a path"));
    }
    const std::string& name = file.get_ref<const std::string&>();
    if (shards.count(name) > 0) continue;
    if (shards.size() == kMaxShards) {
      return absl::InvalidArgumentError(
          absl::StrCat(index_path, " names more than ", kMaxShards, " files"));
    }
    const std::string path = absl::StrCat(folder, "/", name);
    shards.emplace(name, static_cast<int>(files_.size()));
    const absl::Status added = Add(path);
    if (absl::IsNotFound(added)) {
      return absl::NotFoundError(absl::StrCat("shard ", path, ", which ", index_path,
                                              " names for tensor ", tensor,
                                              ", is missing; fetch it"));
    }
    KVASIR_RETURN_IF_ERROR(added);
  }
  for (const auto& [tensor, file] : map->items()) {
    const std::string& name = file.get_ref<const std::string&>();
    const auto it = tensors_.find(tensor);
    if (it == tensors_.end() || it->second.file != shards[name]) {
      return absl::InvalidArgumentError(
          absl::StrCat(index_path, " says that tensor ", tensor, " is in ", name, ", but it is ",
                       it == tensors_.end() ? std::string("nowhere")
                                            : absl::StrCat("in ", files_[it->second.file].path())));
    }
  }
  return absl::OkStatus();
}

absl::Span<const uint8_t> Checkpoint::Bytes(const Tensor& tensor) const {
  return files_[tensor.file].bytes().subspan(tensor.entry.begin,
                                             tensor.entry.end - tensor.entry.begin);
}

uint64_t Checkpoint::file_bytes() const {
  uint64_t bytes = 0;
  for (const MmapFile& file : files_) bytes += file.bytes().size();
  return bytes;
}

std::vector<std::string> Checkpoint::Names() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  return names;
}

absl::Status Checkpoint::Check(const std::string& name, absl::Span<const int64_t> shape) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    return absl::NotFoundError(absl::StrCat("tensor ", name, " is missing from the checkpoint (",
                                            files_.front().path(), ")"));
  }
  const SafetensorsEntry& entry = it->second.entry;
  if (absl::MakeConstSpan(entry.shape) != shape) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", name, " has shape [", absl::StrJoin(entry.shape, ", "),
                     "], but config.json asks for [", absl::StrJoin(shape, ", "), "]"));
  }
  if (!entry.weight_type()) {
    return absl::UnimplementedError(absl::StrCat("tensor ", name, " is stored as ", entry.dtype,
                                                 "; BF16, F16 and F32 are supported, convert it"));
  }
  return absl::OkStatus();
}

absl::StatusOr<PartValues> Checkpoint::Get(const WeightId&, const StoredPart& part) {
  KVASIR_RETURN_IF_ERROR(Check(part.name, part.shape));
  const Tensor& tensor = tensors_.find(part.name)->second;
  const uint8_t* stored = files_[tensor.file].bytes().data() + tensor.entry.begin;
  WeightFormat type = *tensor.entry.weight_type();
  PartValues values;
  if (part.contiguous()) {
    values.matrix = {stored + part.offset * ElementBytes(type), type, part.rows, part.cols};
  } else {
    values.owned = GatherPart(part, stored, &type);
    values.matrix = {values.owned.data(), type, part.rows, part.cols};
  }
  return values;
}

void Checkpoint::Release(const StoredPart& part) {
  const auto it = tensors_.find(part.name);
  if (it == tensors_.end()) return;
  const SafetensorsEntry& entry = it->second.entry;
  size_t begin = entry.begin;
  size_t size = entry.end - entry.begin;
  if (part.contiguous()) {
    // A piece of a large tensor: the others are still to come.
    const size_t element = ElementBytes(*entry.weight_type());
    begin += static_cast<size_t>(part.offset) * element;
    size = static_cast<size_t>(part.rows * part.cols) * element;
  }
  files_[it->second.file].Release(begin, size);
}

void Checkpoint::ReleaseSlice(const std::string& name, int64_t index, int64_t count) {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) return;
  const size_t size = (it->second.entry.end - it->second.entry.begin) / static_cast<size_t>(count);
  files_[it->second.file].Release(it->second.entry.begin + static_cast<size_t>(index) * size, size);
}

}  // namespace kvasir
