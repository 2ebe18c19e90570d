// Tokenizer: text to token ids and back, from a Hugging Face tokenizer.json.
//
// Encode() is added tokens -> normalizer -> pre-tokenizer -> model (BPE or Unigram) ->
// post-processor; Decode() is the decoder chain of the file. Owned by the loaded model, borrowed by
// services and detokenizers. Immutable after loading: every method is const and may be called from
// any thread, and none blocks.
//
// It does not render chat templates (chat_template.h) and does not apply the Python wrapper's
// `clean_up_tokenization_spaces`: what the model wrote is what Decode() gives.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "runtime/tokenizer/token_id.h"

namespace kvasir {

struct TokenizerParts;  // tokenizer_json.h

class Tokenizer {
 public:
  // Longest text Encode() takes: twice gRPC's default message limit, so the transport's limit is
  // met first, and small enough that 32-bit offsets are safe in every stage.
  static constexpr size_t kMaxTextBytes = size_t{8} << 20;

  // Largest vocabulary accepted from a file. Real ones end near 2^18; the bound keeps a lying id
  // from allocating a table of gigabytes.
  static constexpr int kMaxVocabSize = 1 << 21;

  // Loads `folder`/tokenizer.json, and tokenizer_config.json beside it when it is there. Errors:
  // NotFound (no tokenizer.json), otherwise those of FromJson with the file's path in front.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& folder);

  // `tokenizer_config_json` may be empty. Errors: InvalidArgument when the JSON is broken, lies or
  // contradicts itself; Unimplemented when a component's type is not supported. Both name the
  // component.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(
      absl::string_view tokenizer_json, absl::string_view tokenizer_config_json);

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  struct EncodeOptions {
    // Adds what the file's post-processor adds (usually BOS in front); without a template, what
    // tokenizer_config's add_bos_token and add_eos_token say.
    bool add_special_tokens = true;
    // Recognises the names of special tokens ("<|endoftext|>") inside the text. False reads them as
    // ordinary characters: the right choice for text from outside.
    bool parse_special_tokens = false;
  };

  // Errors: InvalidArgument for invalid UTF-8 (message has the byte offset), for text longer than
  // kMaxTextBytes, and for text on which the file's split pattern backtracks beyond its limit.
  absl::StatusOr<std::vector<TokenId>> Encode(absl::string_view text,
                                              const EncodeOptions& options) const;

  // Text of a whole sequence. Bytes that are not UTF-8 become U+FFFD, one per maximal invalid part.
  // An id inside the range without a token (a hole in the vocabulary) has no text. Errors:
  // InvalidArgument for an id outside [0, vocab_size()).
  absl::StatusOr<std::string> Decode(absl::Span<const TokenId> ids, bool skip_special_tokens) const;

  // 1 + the largest id, added tokens included. A model's embedding may have more rows (padding).
  int vocab_size() const;

  // False for ids out of range.
  bool IsSpecial(TokenId id) const;

  // Named by tokenizer_config.json; absent when it names none, or one the vocabulary lacks.
  std::optional<TokenId> bos_token_id() const;
  std::optional<TokenId> eos_token_id() const;

  // `token` as it stands in the vocabulary ("Ġthe", "▁the", "<|endoftext|>").
  std::optional<TokenId> TokenToId(absl::string_view token) const;

  // The inverse of TokenToId; empty for holes and ids out of range.
  absl::string_view IdToToken(TokenId id) const;

  // The bytes the token stands for in running text (" the"), special tokens included. May be part
  // of a UTF-8 character. Empty for holes and ids out of range. Lives as long as the Tokenizer.
  absl::string_view TokenBytes(TokenId id) const;

 private:
  friend class IncrementalDetokenizer;

  explicit Tokenizer(std::unique_ptr<const TokenizerParts> parts);

  absl::Status EncodeSection(absl::string_view text, bool at_text_start,
                             const EncodeOptions& options, std::vector<TokenId>* ids) const;

  const std::unique_ptr<const TokenizerParts> parts_;
};

}  // namespace kvasir
