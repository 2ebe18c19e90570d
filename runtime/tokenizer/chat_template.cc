#include "runtime/tokenizer/chat_template.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/mmap_file.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer/text_call.h"

namespace kvasir {
namespace {

namespace fs = std::filesystem;

// Real templates have up to 20 KB, configs with their added tokens up to 300 KB.
constexpr size_t kMaxFileBytes = size_t{16} << 20;

// Empty when there is no such file; one that holds nothing is half a download.
absl::StatusOr<std::string> ReadOptional(const std::string& path) {
  absl::StatusOr<MmapFile> file = MmapFile::Open(path);
  if (absl::IsNotFound(file.status())) return std::string();
  KVASIR_RETURN_IF_ERROR(file.status());
  if (file->bytes().size() > kMaxFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", file->bytes().size(), " bytes; the limit is ", kMaxFileBytes));
  }
  if (file->bytes().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is empty; download it again, or remove it"));
  }
  return std::string(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
}

// The files additional_chat_templates/NAME.jinja, in order of name.
absl::Status ReadAdditional(const std::string& folder, std::vector<ChatTemplate::Named>* files) {
  std::error_code error;
  std::vector<fs::path> paths;
  for (fs::directory_iterator it(folder + "/additional_chat_templates", error), end;
       !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".jinja") paths.push_back(it->path());
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot list ", folder, "/additional_chat_templates: ", error.message()));
  }
  std::sort(paths.begin(), paths.end());
  for (const fs::path& path : paths) {
    KVASIR_ASSIGN_OR_RETURN(std::string source, ReadOptional(path.string()));
    files->emplace_back(path.stem().string(), std::move(source));
  }
  return absl::OkStatus();
}

// The text of the templates that the library has taken: those of files, else of the first JSON that
// has one, as a text or as a list of {name, template}.
std::string AllSources(const std::vector<ChatTemplate::Named>& files,
                       absl::string_view tokenizer_config, absl::string_view chat_template_json) {
  std::string all;
  for (const auto& [name, source] : files) absl::StrAppend(&all, source, "\n");
  for (const absl::string_view file : {tokenizer_config, chat_template_json}) {
    if (!all.empty()) break;
    const auto json = nlohmann::json::parse(file.begin(), file.end(), nullptr,
                                            /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("chat_template")) continue;
    const auto& given = json.at("chat_template");
    if (given.is_string()) all = given.get<std::string>();
    if (!given.is_array()) continue;
    for (const auto& each : given) {
      if (!each.is_object() || !each.contains("template")) continue;
      const auto& source = each.at("template");
      if (source.is_string()) absl::StrAppend(&all, source.get<std::string>(), "\n");
    }
  }
  return all;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Load(const std::string& folder,
                                                                 const std::string& override_file,
                                                                 const Tokenizer& tokenizer) {
  std::vector<Named> files;
  std::string legacy;
  if (!override_file.empty()) {
    KVASIR_ASSIGN_OR_RETURN(std::string source, ReadOptional(override_file));
    if (source.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the chat template ", override_file, " is not there"));
    }
    files.emplace_back("default", std::move(source));
  } else {
    KVASIR_ASSIGN_OR_RETURN(std::string source, ReadOptional(folder + "/chat_template.jinja"));
    if (!source.empty()) files.emplace_back("default", std::move(source));
    KVASIR_RETURN_IF_ERROR(ReadAdditional(folder, &files));
    KVASIR_ASSIGN_OR_RETURN(legacy, ReadOptional(folder + "/chat_template.json"));
  }
  KVASIR_ASSIGN_OR_RETURN(const std::string config,
                          ReadOptional(folder + "/tokenizer_config.json"));
  return Make(files, config, legacy, tokenizer);
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::FromSources(
    const std::vector<Named>& templates, absl::string_view tokenizer_config_json,
    const Tokenizer& tokenizer) {
  return Make(templates, tokenizer_config_json, "", tokenizer);
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Make(
    const std::vector<Named>& files, absl::string_view tokenizer_config,
    absl::string_view chat_template_json, const Tokenizer& tokenizer) {
  std::vector<KvasirTextNamedTemplate> views;
  for (const auto& [name, source] : files) views.push_back({ViewOf(name), ViewOf(source)});
  KvasirTextChat* handle = nullptr;
  TextBuffer error;
  const KvasirTextCode code =
      kvasir_text_chat_new(views.data(), views.size(), ViewOf(tokenizer_config),
                           ViewOf(chat_template_json), tokenizer.handle(), &handle, error.out());
  if (code != KVASIR_TEXT_OK) return TextStatus(code, error);
  return std::unique_ptr<ChatTemplate>(
      new ChatTemplate(handle, AllSources(files, tokenizer_config, chat_template_json)));
}

absl::StatusOr<ChatTemplate::Prompt> ChatTemplate::Render(absl::string_view conversation_json,
                                                          absl::string_view local_time) const {
  TextBuffer text, error;
  KvasirTextSpans plain = {};
  const KvasirTextCode code =
      kvasir_text_chat_render(handle_.get(), ViewOf(conversation_json), ViewOf(local_time),
                              text.out(), &plain, error.out());
  if (code != KVASIR_TEXT_OK) return TextStatus(code, error);
  Prompt prompt;
  prompt.text = std::string(text.view());
  prompt.plain.assign(plain.data, plain.data + plain.size);
  kvasir_text_spans_free(&plain);
  return prompt;
}

std::string LocalTimeText(absl::Time time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%S", time, absl::LocalTimeZone());
}

absl::Status CheckLocalTime(absl::string_view text) {
  TextBuffer error;
  const KvasirTextCode code = kvasir_text_check_time(ViewOf(text), error.out());
  return code == KVASIR_TEXT_OK ? absl::OkStatus() : TextStatus(code, error);
}

}  // namespace kvasir
