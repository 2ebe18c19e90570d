#include "hub/file_selection.h"

#include <fnmatch.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/json_nesting.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr char kConfig[] = "config.json";
// Of a repository with many: small, and close to the full weights; what others take too.
constexpr char kDefaultType[] = "Q4_K_M";
constexpr size_t kMaxNamesInMessage = 30;

// What the tokenizer, the chat template and the configuration are read from, and what clients that
// ask the daemon for the model's tokenizer get.
constexpr const char* kSideFiles[] = {
    "config.json",
    "generation_config.json",
    "quantize_config.json",
    "hf_quant_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
};
constexpr char kTemplateFolder[] = "additional_chat_templates/";

using Listing = std::map<std::string, RepoFile>;

absl::string_view BaseName(absl::string_view path) { return path.substr(path.rfind('/') + 1); }

std::string Names(std::vector<std::string> names) {
  const size_t more = names.size() - std::min(names.size(), kMaxNamesInMessage);
  names.resize(names.size() - more);
  return absl::StrCat(absl::StrJoin(names, ", "),
                      more > 0 ? absl::StrCat(" and ", more, " more") : "");
}

// NAME-00002-of-00005.gguf.
struct Part {
  absl::string_view stem;
  int number = 0;
  int count = 0;
};

std::optional<Part> AsPart(absl::string_view path) {
  constexpr size_t kSuffix = sizeof("-00001-of-00001.gguf") - 1;
  if (path.size() <= kSuffix) return std::nullopt;
  const absl::string_view suffix = path.substr(path.size() - kSuffix);
  Part part{path.substr(0, path.size() - kSuffix)};
  if (suffix[0] != '-' || suffix.substr(6, 4) != "-of-" || suffix.substr(15) != ".gguf" ||
      !absl::SimpleAtoi(suffix.substr(1, 5), &part.number) ||
      !absl::SimpleAtoi(suffix.substr(10, 5), &part.count)) {
    return std::nullopt;
  }
  return part;
}

// The files that can be loaded alone, by path: single ones and first parts. What belongs to a
// picture encoder or to making quantized files is no model.
std::vector<std::string> GgufModels(const Listing& listing) {
  std::vector<std::string> paths;
  for (const auto& [path, file] : listing) {
    const std::string name = absl::AsciiStrToLower(BaseName(path));
    if (!absl::EndsWith(path, ".gguf") || absl::StrContains(name, "mmproj") ||
        absl::StrContains(name, "imatrix")) {
      continue;
    }
    const std::optional<Part> part = AsPart(path);
    if (!part.has_value() || part->number == 1) paths.push_back(path);
  }
  return paths;
}

// Whether `word` stands in the file's name between characters that separate: Q4_K is none of
// Q4_K_M.
bool HasWord(absl::string_view path, absl::string_view word) {
  const std::string name = absl::AsciiStrToLower(BaseName(path));
  const std::string wanted = absl::AsciiStrToLower(word);
  const auto separates = [&](size_t at) {
    return at >= name.size() || name[at] == '-' || name[at] == '.' || name[at] == '/';
  };
  for (size_t at = name.find(wanted); at != std::string::npos; at = name.find(wanted, at + 1)) {
    if ((at == 0 || separates(at - 1)) && separates(at + wanted.size())) return true;
  }
  return false;
}

bool Matches(const std::string& path, const std::string& pattern) {
  if (pattern.find_first_of("*?[") != std::string::npos) {
    const std::string name(BaseName(path));
    return fnmatch(pattern.c_str(), path.c_str(), 0) == 0 ||
           fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
  }
  return path == pattern || BaseName(path) == pattern || HasWord(path, pattern);
}

absl::StatusOr<FileSelection> GgufSelection(const std::string& repo, const Listing& listing,
                                            const std::string& path) {
  FileSelection selection;
  selection.gguf = path;
  const std::optional<Part> first = AsPart(path);
  for (int i = 1; i <= (first.has_value() ? first->count : 1); ++i) {
    const std::string name =
        first.has_value() ? absl::StrFormat("%s-%05d-of-%05d.gguf", first->stem, i, first->count)
                          : path;
    const auto it = listing.find(name);
    if (it == listing.end()) {
      return absl::NotFoundError(absl::StrCat(repo, " has ", path, " but not ", name));
    }
    selection.files.push_back(it->second);
    selection.weight_bytes += it->second.size_bytes;
  }
  return selection;
}

absl::StatusOr<FileSelection> SelectGguf(const std::string& repo, const Listing& listing,
                                         const std::string& pattern) {
  const std::vector<std::string> models = GgufModels(listing);
  const std::string wanted = pattern.empty() ? kDefaultType : pattern;
  std::vector<std::string> matching;
  for (const std::string& path : models) {
    if (Matches(path, wanted)) matching.push_back(path);
  }
  // A name in full means that file, whatever else it is a word of.
  if (std::find(models.begin(), models.end(), pattern) != models.end()) matching = {pattern};
  if (pattern.empty() && models.size() == 1) matching = models;
  if (matching.size() == 1) {
    KVASIR_ASSIGN_OR_RETURN(FileSelection selection,
                            GgufSelection(repo, listing, matching.front()));
    for (const std::string& path : models) {
      if (pattern.empty() && path != matching.front()) selection.others.push_back(path);
    }
    return selection;
  }
  if (matching.size() > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(matching.size(), " files of ", repo, " match '", wanted,
                     "': ", Names(matching), "; name one, as in hf:", repo, ":", matching.front()));
  }
  if (models.empty()) {
    return absl::NotFoundError(
        absl::StrCat(repo, " has no GGUF file, so nothing matches '", wanted, "'"));
  }
  const std::string remedy = absl::StrCat("; it has ", Names(models),
                                          "; choose one, as in hf:", repo, ":", models.front());
  if (pattern.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(repo, " has ", models.size(), " GGUF files and none is ", wanted, remedy));
  }
  return absl::NotFoundError(
      absl::StrCat("no GGUF file of ", repo, " matches '", pattern, "'", remedy));
}

// The files that the index of the weights names.
absl::StatusOr<std::set<std::string>> ShardsOf(absl::string_view index, const std::string& repo) {
  const auto fault = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(kIndex, " of ", repo, " ", what));
  };
  // A weight_map is two deep.
  if (JsonNestingDepth(index) > 16) return fault("nests too deep");
  const auto json = nlohmann::json::parse(index, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
    return fault("has no weight_map");
  }
  std::set<std::string> shards;
  for (const auto& file : json["weight_map"]) {
    if (!file.is_string()) return fault("maps a tensor to what is no file name");
    shards.insert(file.get<std::string>());
  }
  if (shards.empty()) return fault("names no file");
  return shards;
}

absl::Status AddWeights(const std::string& repo, const Listing& listing, const FileReader& read,
                        FileSelection* selection) {
  std::set<std::string> weights = {kSingle};
  if (listing.count(kSingle) == 0) {
    const RepoFile& index = listing.at(kIndex);
    KVASIR_ASSIGN_OR_RETURN(const std::string text, read(index));
    selection->files.push_back(index);
    KVASIR_ASSIGN_OR_RETURN(weights, ShardsOf(text, repo));
  }
  for (const std::string& name : weights) {
    const auto it = listing.find(name);
    if (it == listing.end()) {
      return absl::NotFoundError(
          absl::StrCat(kIndex, " of ", repo, " names ", name, ", which is not there"));
    }
    selection->files.push_back(it->second);
    selection->weight_bytes += it->second.size_bytes;
  }
  return absl::OkStatus();
}

// What stands there in place of weights that can be loaded.
std::string OtherFormats(const Listing& listing) {
  std::set<std::string> found;
  for (const auto& [path, file] : listing) {
    for (const char* ending : {".bin", ".pth", ".pt", ".onnx", ".msgpack", ".h5", ".ckpt"}) {
      if (absl::EndsWith(path, ending)) found.insert(absl::StrCat("*", ending));
    }
    if (absl::EndsWith(path, ".safetensors")) found.insert(path);
  }
  if (found.empty()) return "";
  return absl::StrCat(" but ", absl::StrJoin(found, ", "));
}

}  // namespace

absl::StatusOr<FileSelection> SelectFiles(const std::string& repo, std::vector<RepoFile> files,
                                          const std::string& pattern, const FileReader& read) {
  Listing listing;
  for (RepoFile& file : files) {
    std::string path = file.path;
    listing.emplace(std::move(path), std::move(file));
  }
  const bool safetensors = listing.count(kSingle) > 0 || listing.count(kIndex) > 0;
  if (!pattern.empty() || (!safetensors && !GgufModels(listing).empty())) {
    return SelectGguf(repo, listing, pattern);
  }
  if (!safetensors) {
    return absl::NotFoundError(absl::StrCat(repo, " has neither ", kSingle, " nor ", kIndex,
                                            " nor a GGUF file", OtherFormats(listing),
                                            "; other formats are not loaded"));
  }
  if (listing.count(kConfig) == 0) {
    return absl::NotFoundError(
        absl::StrCat(repo, " has weights but no ", kConfig, ", so it is no model by itself"));
  }
  if (listing.count("tokenizer.json") == 0 && listing.count("tokenizer.model") == 0) {
    return absl::NotFoundError(absl::StrCat(
        repo, " has neither tokenizer.json nor tokenizer.model; other tokenizers are not read"));
  }
  FileSelection selection;
  for (const char* name : kSideFiles) {
    if (const auto it = listing.find(name); it != listing.end())
      selection.files.push_back(it->second);
  }
  for (const auto& [path, file] : listing) {
    if (absl::StartsWith(path, kTemplateFolder) && absl::EndsWith(path, ".jinja")) {
      selection.files.push_back(file);
    }
  }
  KVASIR_RETURN_IF_ERROR(AddWeights(repo, listing, read, &selection));
  return selection;
}

}  // namespace kvasir
