// Tokenizer: text to token ids and back, by the field's own library (text/kvasir_text.h).
//
// Encode() is added tokens -> normalizer -> pre-tokenizer -> model -> post-processor, Decode() the
// decoder, all as the model's files say. Owned by the loaded model, borrowed by services and
// detokenizers. Immutable after loading: every method is const and may be called from any thread,
// and none blocks.
//
// It does not render chat templates (chat_template.h) and does not apply the Python wrapper's
// `clean_up_tokenization_spaces`: what the model wrote is what Decode() gives.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "runtime/tokenizer/token_id.h"
#include "text/kvasir_text.h"

namespace kvasir {

// A vocabulary as GGUF metadata has it (tokenizer.ggml.*). Borrows all of it.
struct GgufVocabulary {
  absl::string_view model;  // "gpt2", "llama", "gemma4", "t5"
  absl::string_view pre;    // how a gpt2 text is split: "llama-bpe", "qwen2", ...; may be empty
  std::vector<absl::string_view> tokens;  // by id, UTF-8
  absl::Span<const float> scores;         // [tokens] or empty
  absl::Span<const int32_t> token_types;  // [tokens] or empty
  std::vector<absl::string_view> merges;  // "left right"
  absl::string_view precompiled_charsmap;
  std::optional<TokenId> bos_id, eos_id, unk_id, sep_id, cls_id, pad_id, mask_id;
  std::optional<bool> add_bos, add_eos, add_space_prefix, remove_extra_whitespaces;
};

class Tokenizer {
 public:
  // Longest text Encode() takes: twice gRPC's default message limit, so the transport's limit is
  // met first. The library needs some 40 bytes of memory for each while it works.
  static constexpr size_t kMaxTextBytes = size_t{8} << 20;

  // Loads `folder`/tokenizer.json, or tokenizer.model (SentencePiece) where there is none, and
  // tokenizer_config.json beside it when it is there. Errors: NotFound (neither is there),
  // otherwise those of FromJson with the file's path in front.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& folder);

  // `tokenizer_config_json` may be empty. Errors: InvalidArgument when the JSON is broken, lies or
  // contradicts itself.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(
      absl::string_view tokenizer_json, absl::string_view tokenizer_config_json);

  // The contents of a SentencePiece tokenizer.model. Errors: as FromJson; Unimplemented for word
  // and character models.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromSentencePiece(
      absl::string_view model, absl::string_view tokenizer_config_json);

  // Errors: InvalidArgument when the arrays contradict each other; Unimplemented for another model
  // or a `pre` that is not known.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromGguf(const GgufVocabulary& vocabulary);

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Bytes [begin, end) of a text.
  using TextSpan = KvasirTextSpan;

  struct EncodeOptions {
    // Adds what the file's post-processor adds (usually BOS in front); without one that adds, what
    // tokenizer_config's add_bos_token and add_eos_token say.
    bool add_special_tokens = true;
    // Recognises the names of special tokens ("<|endoftext|>") inside the text. False reads them as
    // ordinary characters: the right choice for text from outside.
    bool parse_special_tokens = false;
    // With parse_special_tokens: spans in which they are ordinary characters all the same, in
    // ascending order and apart from each other.
    std::vector<TextSpan> plain = {};
    // Asked now and then, when set; true ends the call with Cancelled.
    std::function<bool()> cancelled = {};
  };

  // Takes time in proportion to the text. Errors: InvalidArgument for invalid UTF-8 (message has
  // the byte offset), for text longer than kMaxTextBytes, and for text on which the file's split
  // pattern backtracks beyond its limit; Cancelled.
  absl::StatusOr<std::vector<TokenId>> Encode(absl::string_view text,
                                              const EncodeOptions& options) const;

  // Text of a whole sequence. Bytes that are not UTF-8 become U+FFFD. An id inside the range
  // without a token (a hole in the vocabulary) has no text. Errors: InvalidArgument for an id
  // outside [0, vocab_size()).
  absl::StatusOr<std::string> Decode(absl::Span<const TokenId> ids, bool skip_special_tokens) const;

  // 1 + the largest id, added tokens included. A model's embedding may have more rows (padding).
  int vocab_size() const { return static_cast<int>(table_.num_tokens); }

  // False for holes in the vocabulary and ids out of range.
  bool Has(TokenId id) const { return Flag(id, KVASIR_TEXT_TOKEN_PRESENT); }
  bool IsSpecial(TokenId id) const { return Flag(id, KVASIR_TEXT_TOKEN_SPECIAL); }

  // Named by tokenizer_config.json or the vocabulary; absent when neither names one that exists.
  std::optional<TokenId> bos_token_id() const;
  std::optional<TokenId> eos_token_id() const;

  // `token` as it stands in the vocabulary ("Ġthe", "▁the", "<|endoftext|>").
  std::optional<TokenId> TokenToId(absl::string_view token) const;

  // The inverse of TokenToId; empty for holes and ids out of range.
  absl::string_view IdToToken(TokenId id) const;

  // The bytes the token stands for in running text (" the"), special tokens included. May be part
  // of a UTF-8 character. Empty for holes and ids out of range. Lives as long as the Tokenizer.
  absl::string_view TokenBytes(TokenId id) const;

  // For other parts of the text library; lives as long as the Tokenizer.
  const KvasirTextTokenizer* handle() const { return handle_.get(); }

 private:
  struct Free {
    void operator()(KvasirTextTokenizer* tokenizer) const { kvasir_text_tokenizer_free(tokenizer); }
  };

  explicit Tokenizer(KvasirTextTokenizer* handle);

  bool Flag(TokenId id, int flag) const {
    return id >= 0 && id < vocab_size() && (table_.flags[id] & flag) != 0;
  }

  const std::unique_ptr<KvasirTextTokenizer, Free> handle_;
  const KvasirTextTokenTable table_;  // views into handle_
};

}  // namespace kvasir
