#include "runtime/tokenizer/tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mmap_file.h"
#include "base/status_macros.h"
#include "runtime/tokenizer/text_call.h"
#include "runtime/tokenizer/utf8.h"

namespace kvasir {
namespace {

// The largest real tokenizer.json (Gemma 3) has 33 MB; parsed, a file takes some ten times its
// size.
constexpr size_t kMaxFileBytes = size_t{256} << 20;

// Absent when there is no such file.
absl::StatusOr<std::optional<MmapFile>> OpenOptional(const std::string& path) {
  absl::StatusOr<MmapFile> file = MmapFile::Open(path);
  if (absl::IsNotFound(file.status())) return std::nullopt;
  KVASIR_RETURN_IF_ERROR(file.status());
  if (file->bytes().size() > kMaxFileBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, " has ", file->bytes().size(),
                                                   " bytes; the limit is ", kMaxFileBytes,
                                                   ". Is it the right file?"));
  }
  return *std::move(file);
}

absl::string_view TextOf(const std::optional<MmapFile>& file) {
  if (!file.has_value()) return {};
  return {reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()};
}

std::vector<KvasirTextView> ViewsOf(const std::vector<absl::string_view>& texts) {
  std::vector<KvasirTextView> views;
  views.reserve(texts.size());
  for (const absl::string_view text : texts) views.push_back(ViewOf(text));
  return views;
}

absl::Status CheckText(absl::string_view text) {
  if (text.size() > Tokenizer::kMaxTextBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("text has ", text.size(), " bytes; the limit is ", Tokenizer::kMaxTextBytes,
                     ". Send a shorter text, or token ids"));
  }
  if (const std::optional<size_t> offset = FindInvalidUtf8(text)) {
    return absl::InvalidArgumentError(absl::StrCat("text is not valid UTF-8 at byte ", *offset,
                                                   " of ", text.size(),
                                                   ". Encode it as UTF-8, or send token ids"));
  }
  return absl::OkStatus();
}

std::optional<TokenId> IdOrNone(int32_t id) {
  return id < 0 ? std::nullopt : std::optional<TokenId>(id);
}

}  // namespace

Tokenizer::Tokenizer(KvasirTextTokenizer* handle)
    : handle_(handle), table_(kvasir_text_tokenizer_table(handle)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& folder) {
  std::string path = folder + "/tokenizer.json";
  KVASIR_ASSIGN_OR_RETURN(std::optional<MmapFile> file, OpenOptional(path));
  const bool is_json = file.has_value();
  if (!is_json) {
    path = folder + "/tokenizer.model";
    KVASIR_ASSIGN_OR_RETURN(file, OpenOptional(path));
  }
  if (!file.has_value()) {
    return absl::NotFoundError(
        absl::StrCat(folder, " has neither tokenizer.json nor tokenizer.model"));
  }
  KVASIR_ASSIGN_OR_RETURN(const std::optional<MmapFile> config,
                          OpenOptional(folder + "/tokenizer_config.json"));
  auto tokenizer = is_json ? FromJson(TextOf(file), TextOf(config))
                           : FromSentencePiece(TextOf(file), TextOf(config));
  if (!tokenizer.ok()) {
    return absl::Status(tokenizer.status().code(),
                        absl::StrCat(path, ": ", tokenizer.status().message()));
  }
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(
    absl::string_view tokenizer_json, absl::string_view tokenizer_config_json) {
  KvasirTextTokenizer* handle = nullptr;
  TextBuffer error;
  const KvasirTextCode code = kvasir_text_tokenizer_from_json(
      ViewOf(tokenizer_json), ViewOf(tokenizer_config_json), &handle, error.out());
  if (code != KVASIR_TEXT_OK) return TextStatus(code, error);
  return std::unique_ptr<Tokenizer>(new Tokenizer(handle));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromSentencePiece(
    absl::string_view model, absl::string_view tokenizer_config_json) {
  KvasirTextTokenizer* handle = nullptr;
  TextBuffer error;
  const KvasirTextCode code = kvasir_text_tokenizer_from_sentencepiece(
      ViewOf(model), ViewOf(tokenizer_config_json), &handle, error.out());
  if (code != KVASIR_TEXT_OK) return TextStatus(code, error);
  return std::unique_ptr<Tokenizer>(new Tokenizer(handle));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromGguf(const GgufVocabulary& vocabulary) {
  const std::vector<KvasirTextView> tokens = ViewsOf(vocabulary.tokens);
  const std::vector<KvasirTextView> merges = ViewsOf(vocabulary.merges);
  const auto flag = [](const std::optional<bool>& set) -> int8_t {
    return set.has_value() ? *set : -1;
  };
  KvasirTextVocabulary view = {};
  view.model = ViewOf(vocabulary.model);
  view.pre = ViewOf(vocabulary.pre);
  view.tokens = tokens.data();
  view.num_tokens = tokens.size();
  view.scores = vocabulary.scores.data();
  view.num_scores = vocabulary.scores.size();
  view.token_types = vocabulary.token_types.data();
  view.num_token_types = vocabulary.token_types.size();
  view.merges = merges.data();
  view.num_merges = merges.size();
  view.precompiled_charsmap = ViewOf(vocabulary.precompiled_charsmap);
  view.bos_id = vocabulary.bos_id.value_or(-1);
  view.eos_id = vocabulary.eos_id.value_or(-1);
  view.unk_id = vocabulary.unk_id.value_or(-1);
  view.sep_id = vocabulary.sep_id.value_or(-1);
  view.cls_id = vocabulary.cls_id.value_or(-1);
  view.pad_id = vocabulary.pad_id.value_or(-1);
  view.mask_id = vocabulary.mask_id.value_or(-1);
  view.add_bos = flag(vocabulary.add_bos);
  view.add_eos = flag(vocabulary.add_eos);
  view.add_space_prefix = flag(vocabulary.add_space_prefix);
  view.remove_extra_whitespaces = flag(vocabulary.remove_extra_whitespaces);
  view.ignore_merges = -1;
  KvasirTextTokenizer* handle = nullptr;
  TextBuffer error;
  const KvasirTextCode code = kvasir_text_tokenizer_from_vocabulary(&view, &handle, error.out());
  if (code != KVASIR_TEXT_OK) return TextStatus(code, error);
  return std::unique_ptr<Tokenizer>(new Tokenizer(handle));
}

absl::StatusOr<std::vector<TokenId>> Tokenizer::Encode(absl::string_view text,
                                                       const EncodeOptions& options) const {
  KVASIR_RETURN_IF_ERROR(CheckText(text));
  KvasirTextEncodeOptions view = {};
  view.add_special_tokens = options.add_special_tokens;
  view.parse_special_tokens = options.parse_special_tokens;
  view.plain = options.plain.data();
  view.num_plain = options.plain.size();
  if (options.cancelled) {
    view.cancelled = [](void* context) {
      return (*static_cast<const std::function<bool()>*>(context))();
    };
    view.context = const_cast<std::function<bool()>*>(&options.cancelled);
  }
  KvasirTextInts ids = {};
  TextBuffer error;
  const KvasirTextCode code =
      kvasir_text_encode(handle_.get(), ViewOf(text), &view, &ids, error.out());
  if (code != KVASIR_TEXT_OK) return TextStatus(code, error);
  std::vector<TokenId> result(ids.data, ids.data + ids.size);
  kvasir_text_ints_free(&ids);
  return result;
}

absl::StatusOr<std::string> Tokenizer::Decode(absl::Span<const TokenId> ids,
                                              bool skip_special_tokens) const {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size()) {
      return absl::InvalidArgumentError(absl::StrCat("token id ", ids[i], " at position ", i,
                                                     " is outside the vocabulary, [0, ",
                                                     vocab_size(), ")"));
    }
  }
  TextBuffer text, error;
  const KvasirTextCode code = kvasir_text_decode(handle_.get(), ids.data(), ids.size(),
                                                 skip_special_tokens, text.out(), error.out());
  if (code != KVASIR_TEXT_OK) return TextStatus(code, error);
  return std::string(text.view());
}

std::optional<TokenId> Tokenizer::bos_token_id() const { return IdOrNone(table_.bos_id); }
std::optional<TokenId> Tokenizer::eos_token_id() const { return IdOrNone(table_.eos_id); }

std::optional<TokenId> Tokenizer::TokenToId(absl::string_view token) const {
  return IdOrNone(kvasir_text_token_id(handle_.get(), ViewOf(token)));
}

absl::string_view Tokenizer::IdToToken(TokenId id) const {
  if (id < 0 || id >= vocab_size()) return {};
  const uint32_t begin = table_.name_offsets[id];
  return {table_.names + begin, table_.name_offsets[id + 1] - begin};
}

absl::string_view Tokenizer::TokenBytes(TokenId id) const {
  if (id < 0 || id >= vocab_size()) return {};
  const uint32_t begin = table_.byte_offsets[id];
  return {table_.bytes + begin, table_.byte_offsets[id + 1] - begin};
}

}  // namespace kvasir
