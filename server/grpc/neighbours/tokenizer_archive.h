// A model's tokenizer as one file that can be sent: what routers unpack to tokenise as the daemon
// does. Pure but for reading the files.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvasir {

struct TokenizerArchive {
  std::string zip;     // stored, not compressed
  std::string sha256;  // of zip, in hexadecimal
};

// The files of a Hugging Face folder that make its tokenizer and its chat template. Unimplemented
// where there are none, as in a GGUF file; ResourceExhausted beyond 128 MiB; else what reading
// said.
absl::StatusOr<TokenizerArchive> ArchiveTokenizer(const std::string& model_path,
                                                  absl::string_view model_name);

}  // namespace kvasir
