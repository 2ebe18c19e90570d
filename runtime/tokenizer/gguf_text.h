// Tokenizer and chat template out of a GGUF file's metadata: what a Hugging Face folder has in
// tokenizer.json and chat_template.jinja. The file is mapped for the length of the call only.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/tokenizer/chat_template.h"
#include "runtime/tokenizer/tokenizer.h"

namespace kvasir {

struct GgufText {
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;  // null: the file has none
};

// `path`: the file, or any part of a split one. `template_override`, when not empty, is a Jinja
// file that takes the place of the file's template. Errors: those of GgufFile::Open,
// Tokenizer::FromGguf and ChatTemplate; InvalidArgument naming a tokenizer.ggml key that is missing
// or of a wrong type.
absl::StatusOr<GgufText> LoadGgufText(const std::string& path,
                                      const std::string& template_override);

// What tokenizer.ggml.pre calls splitting texts by these patterns, each match a piece of its own,
// and then, with `gpt2_pattern`, by GPT-2's; empty = it has no name that files are read by.
std::string GgufSplitName(const std::vector<std::string>& patterns, bool gpt2_pattern,
                          bool ignore_merges);

}  // namespace kvasir
