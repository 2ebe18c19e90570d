#include "runtime/tokenizer/tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mmap_file.h"
#include "base/status_macros.h"
#include "runtime/tokenizer/incremental_detokenizer.h"
#include "runtime/tokenizer/tokenizer_json.h"
#include "runtime/tokenizer/utf8.h"

namespace kvasir {
namespace {

// The largest real tokenizer.json (Gemma 3) has 33 MB; parsed, a file takes some ten times its
// size.
constexpr size_t kMaxFileBytes = size_t{256} << 20;

absl::StatusOr<MmapFile> OpenJson(const std::string& path) {
  KVASIR_ASSIGN_OR_RETURN(MmapFile file, MmapFile::Open(path));
  if (file.bytes().size() > kMaxFileBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, " has ", file.bytes().size(),
                                                   " bytes; the limit is ", kMaxFileBytes,
                                                   ". Is it the right file?"));
  }
  return file;
}

absl::string_view TextOf(const MmapFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
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

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<const TokenizerParts> parts) : parts_(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& folder) {
  absl::StatusOr<MmapFile> tokenizer_file = OpenJson(folder + "/tokenizer.json");
  if (absl::IsNotFound(tokenizer_file.status())) {
    return absl::NotFoundError(absl::StrCat(tokenizer_file.status().message(),
                                            ". A folder with only tokenizer.model or vocab.txt "
                                            "must be converted to tokenizer.json first"));
  }
  KVASIR_RETURN_IF_ERROR(tokenizer_file.status());
  absl::StatusOr<MmapFile> config_file = OpenJson(folder + "/tokenizer_config.json");
  if (absl::IsNotFound(config_file.status())) config_file = MmapFile();
  KVASIR_RETURN_IF_ERROR(config_file.status());
  auto tokenizer = FromJson(TextOf(*tokenizer_file), TextOf(*config_file));
  if (!tokenizer.ok()) {
    return absl::Status(tokenizer.status().code(),
                        absl::StrCat(tokenizer_file->path(), ": ", tokenizer.status().message()));
  }
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(
    absl::string_view tokenizer_json, absl::string_view tokenizer_config_json) {
  KVASIR_ASSIGN_OR_RETURN(auto parts, ParseTokenizer(tokenizer_json, tokenizer_config_json));
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(parts)));
}

absl::StatusOr<std::vector<TokenId>> Tokenizer::Encode(absl::string_view text,
                                                       const EncodeOptions& options) const {
  KVASIR_RETURN_IF_ERROR(CheckText(text));
  std::vector<TokenId> ids;
  ids.reserve(text.size() / 3 + 16);  // English has some four bytes to a token
  const PostProcessor& post = parts_->post_processor;
  if (options.add_special_tokens) ids.insert(ids.end(), post.prefix.begin(), post.prefix.end());
  for (const AddedTokens::Section& section :
       parts_->raw_added_tokens.Split(text, options.parse_special_tokens)) {
    if (section.token.has_value()) {
      ids.push_back(*section.token);
      continue;
    }
    const TextSpan span = section.span;
    KVASIR_RETURN_IF_ERROR(EncodeSection(text.substr(span.begin, span.end - span.begin),
                                         /*at_text_start=*/span.begin == 0, options, &ids));
  }
  if (options.add_special_tokens) ids.insert(ids.end(), post.suffix.begin(), post.suffix.end());
  return ids;
}

absl::Status Tokenizer::EncodeSection(absl::string_view text, bool at_text_start,
                                      const EncodeOptions& options,
                                      std::vector<TokenId>* ids) const {
  std::string normalized(text);
  if (parts_->normalizer != nullptr) {
    KVASIR_RETURN_IF_ERROR(parts_->normalizer->Apply(&normalized));
  }
  for (const AddedTokens::Section& section :
       parts_->normalized_added_tokens.Split(normalized, options.parse_special_tokens)) {
    if (section.token.has_value()) {
      ids->push_back(*section.token);
      continue;
    }
    const TextSpan span = section.span;
    PreTokens tokens;
    tokens.text = normalized.substr(span.begin, span.end - span.begin);
    tokens.pieces = {{0, span.end - span.begin}};
    if (parts_->pre_tokenizer != nullptr) {
      KVASIR_RETURN_IF_ERROR(
          parts_->pre_tokenizer->Apply(at_text_start && span.begin == 0, &tokens));
    }
    KVASIR_RETURN_IF_ERROR(parts_->model->Encode(tokens, ids));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Tokenizer::Decode(absl::Span<const TokenId> ids,
                                              bool skip_special_tokens) const {
  std::string text;
  IncrementalDetokenizer detokenizer(this, skip_special_tokens);
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size()) {
      return absl::InvalidArgumentError(absl::StrCat("token id ", ids[i], " at position ", i,
                                                     " is outside the vocabulary, [0, ",
                                                     vocab_size(), ")"));
    }
    text += detokenizer.Append(ids[i]);
  }
  text += detokenizer.Flush();
  return text;
}

int Tokenizer::vocab_size() const { return parts_->vocabulary.size(); }

bool Tokenizer::IsSpecial(TokenId id) const {
  return id >= 0 && id < vocab_size() && parts_->is_special[id];
}

std::optional<TokenId> Tokenizer::bos_token_id() const { return parts_->bos_token_id; }
std::optional<TokenId> Tokenizer::eos_token_id() const { return parts_->eos_token_id; }

std::optional<TokenId> Tokenizer::TokenToId(absl::string_view token) const {
  return parts_->vocabulary.IdOf(token);
}

absl::string_view Tokenizer::IdToToken(TokenId id) const { return parts_->vocabulary.NameOf(id); }

absl::string_view Tokenizer::TokenBytes(TokenId id) const {
  if (id < 0 || id >= vocab_size()) return {};
  const uint32_t begin = parts_->token_bytes_offset[id];
  return absl::string_view(parts_->token_bytes)
      .substr(begin, parts_->token_bytes_offset[id + 1] - begin);
}

}  // namespace kvasir
